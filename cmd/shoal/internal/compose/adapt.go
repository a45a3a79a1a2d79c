package compose

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/cli/cli/compose/template"
)

// The labels by which services understand what Compose files say and docker/cli passes over; see Shoal's package cluster.
const (
	labelPrivileged = "shoal.privileged"
	labelDevices    = "shoal.devices"
	labelDependsOn  = "shoal.depends-on"
)

// conditions are those of the long form of depends_on.
var conditions = []string{"service_started", "service_healthy", "service_completed_successfully"}

// problem is why files are not deployed.
type problem struct {
	path []string // of the key that it is about
	text string
}

// adaptation is files on their way to what docker/cli deploys.
type adaptation struct {
	files    []map[string]any
	env      map[string]string
	active   []string
	problems []problem
	changed  bool
	off      map[string][]string // services that no active profile has, with theirs
	needs    map[string][]need
}

// need is a dependency.
type need struct {
	service, condition string
	required           bool
}

// Adapt says what the files, which are merged in their order, mean in what docker/cli deploys to a swarm: it rewrites
// depends_on, devices, privileged, restart and profiles, and refuses build. It says whether it changed anything; an error
// names all that it refuses, and the files are of no use then.
func Adapt(files []map[string]any, profiles []string, env map[string]string) (changed bool, err error) {
	a := adapt(files, profiles, env)
	var errs []error
	for _, p := range a.problems {
		errs = append(errs, errors.New(p.text))
	}
	return a.changed, errors.Join(errs...)
}

func adapt(files []map[string]any, profiles []string, env map[string]string) *adaptation {
	a := &adaptation{files: files, env: env, active: slices.Clone(profiles), off: map[string][]string{}, needs: map[string][]need{}}
	for p := range strings.SplitSeq(env["COMPOSE_PROFILES"], ",") {
		a.active = append(a.active, strings.TrimSpace(p))
	}
	a.profiles()
	for _, name := range a.names() {
		a.build(name)
		a.dependencies(name)
		a.access(name)
		a.restart(name)
	}
	a.cycles()
	a.label()
	return a
}

func (a *adaptation) refuse(text string, path ...string) {
	a.problems = append(a.problems, problem{append([]string{"services"}, path...), text})
}

// each yields the parts of a service, a file each.
func (a *adaptation) each(name string) func(func(map[string]any) bool) {
	return func(yield func(map[string]any) bool) {
		for _, f := range a.files {
			services, _ := f["services"].(map[string]any)
			if s, ok := services[name].(map[string]any); ok && !yield(s) {
				return
			}
		}
	}
}

// names are those of all services, sorted.
func (a *adaptation) names() []string {
	all := map[string]bool{}
	for _, f := range a.files {
		services, _ := f["services"].(map[string]any)
		for name := range services {
			all[name] = true
		}
	}
	return slices.Sorted(maps.Keys(all))
}

// take removes a service's key from all files and returns its values.
func (a *adaptation) take(name, key string) (values []any) {
	for s := range a.each(name) {
		if v, ok := s[key]; ok {
			values = append(values, v)
			delete(s, key)
			a.changed = true
		}
	}
	return values
}

// text is a scalar with its variables filled in.
func (a *adaptation) text(v any) string {
	s := fmt.Sprint(v)
	out, err := template.Substitute(s, func(k string) (string, bool) { v, ok := a.env[k]; return v, ok })
	if err != nil {
		return s // whoever reads it says what is wrong
	}
	return out
}

// profiles takes away the services of profiles that are not active.
func (a *adaptation) profiles() {
	for _, name := range a.names() {
		var of []string
		for _, v := range a.take(name, "profiles") {
			list, ok := v.([]any)
			if !ok {
				a.refuse(fmt.Sprintf("services.%s.profiles must be a list", name), name)
			}
			for _, p := range list {
				of = append(of, a.text(p))
			}
		}
		if len(of) == 0 || slices.Contains(a.active, "*") || slices.ContainsFunc(of, func(p string) bool { return slices.Contains(a.active, p) }) {
			continue
		}
		a.off[name] = of
		for _, f := range a.files {
			if services, ok := f["services"].(map[string]any); ok {
				delete(services, name)
			}
		}
	}
}

func (a *adaptation) build(name string) {
	for s := range a.each(name) {
		if _, ok := s["build"]; ok {
			a.refuse(fmt.Sprintf("services.%s.build: a swarm builds no images: build it, push it to a registry that every node reaches, and name it by `image`", name), name, "build")
			return
		}
	}
}

// dependencies reads both forms of depends_on.
func (a *adaptation) dependencies(name string) {
	var all []need
	for _, v := range a.take(name, "depends_on") {
		switch v := v.(type) {
		case []any:
			for _, on := range v {
				all = append(all, need{a.text(on), conditions[0], true})
			}
		case map[string]any:
			for _, on := range slices.Sorted(maps.Keys(v)) {
				n := need{on, conditions[0], true}
				long, ok := v[on].(map[string]any)
				if !ok {
					a.refuse(fmt.Sprintf("services.%s.depends_on.%s must be a mapping", name, on), name, "depends_on", on)
				}
				if c, ok := long["condition"]; ok {
					n.condition = a.text(c)
				}
				if r, ok := long["required"].(bool); ok {
					n.required = r
				}
				if !slices.Contains(conditions, n.condition) {
					a.refuse(fmt.Sprintf("services.%s.depends_on.%s.condition %q is none of %s", name, on, n.condition, strings.Join(conditions, ", ")), name, "depends_on", on, "condition")
				}
				all = append(all, n)
			}
		default:
			a.refuse(fmt.Sprintf("services.%s.depends_on must be a list or a mapping", name), name, "depends_on")
		}
	}
	known := a.names()
	for _, n := range all {
		of, off := a.off[n.service]
		switch {
		case slices.Contains(known, n.service):
			// What a later file says of a service counts.
			a.needs[name] = append(slices.DeleteFunc(a.needs[name], func(o need) bool { return o.service == n.service }), n)
		case !n.required:
		case off:
			a.refuse(fmt.Sprintf("service %q depends on service %q, whose profiles are not active: use --profile %s", name, n.service, of[0]), name, "depends_on", n.service)
		default:
			a.refuse(fmt.Sprintf("service %q depends on undefined service %q", name, n.service), name, "depends_on", n.service)
		}
	}
}

// cycles refuses dependencies of services on themselves.
func (a *adaptation) cycles() {
	done := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(a.needs)) {
		if way := a.way(name, nil, done); way != nil {
			a.refuse("dependency cycle: "+strings.Join(way, " -> "), way[0], "depends_on", way[1])
		}
	}
}

// way is a cycle that is found from a service on.
func (a *adaptation) way(name string, before []string, done map[string]bool) []string {
	if i := slices.Index(before, name); i >= 0 {
		return append(slices.Clone(before[i:]), name)
	}
	if done[name] {
		return nil
	}
	done[name] = true
	for _, n := range a.needs[name] {
		if way := a.way(n.service, append(slices.Clip(before), name), done); way != nil {
			return way
		}
	}
	return nil
}

// access turns devices and privileged into labels. A manager refuses them where the swarm does not allow them.
func (a *adaptation) access(name string) {
	var devices []string
	for _, v := range a.take(name, "devices") {
		list, _ := v.([]any)
		for _, d := range list {
			text, ok := d.(string)
			if !ok {
				a.refuse(fmt.Sprintf("services.%s.devices: %v is not HOST[:CONTAINER[:PERMISSIONS]]", name, d), name, "devices")
			}
			devices = append(devices, text)
		}
	}
	if len(devices) > 0 {
		a.setLabel(name, labelDevices, strings.Join(devices, ","))
	}
	for _, v := range a.take(name, "privileged") {
		on, err := strconv.ParseBool(a.text(v))
		if err != nil {
			a.refuse(fmt.Sprintf("services.%s.privileged must be true or false", name), name, "privileged")
		}
		if on {
			a.setLabel(name, labelPrivileged, "true")
		}
	}
}

// restart is deploy.restart_policy where that is not given.
func (a *adaptation) restart(name string) {
	values := a.take(name, "restart")
	if len(values) == 0 {
		return
	}
	job, given := false, false
	var last map[string]any
	for s := range a.each(name) {
		deploy, _ := s["deploy"].(map[string]any)
		_, has := deploy["restart_policy"]
		given = given || has
		mode, _ := deploy["mode"].(string)
		job = job || strings.HasSuffix(mode, "-job")
		last = s
	}
	text := a.text(values[len(values)-1])
	kind, count, counted := strings.Cut(text, ":")
	policy := map[string]any{}
	switch {
	case kind == "no" && !counted, text == "false":
		policy["condition"] = "none"
	case (kind == "always" || kind == "unless-stopped") && !counted:
		policy["condition"] = "any"
	case kind == "on-failure":
		policy["condition"] = kind
		if n, err := strconv.ParseUint(count, 10, 31); err == nil {
			policy["max_attempts"] = int(n)
		} else if counted {
			a.refuse(fmt.Sprintf("services.%s.restart: invalid restart policy %q: the number of attempts must be a number", name, text), name, "restart")
		}
	default:
		a.refuse(fmt.Sprintf("services.%s.restart: invalid restart policy %q", name, text), name, "restart")
	}
	if given || job && policy["condition"] == "any" {
		return // a job that has completed is not restarted
	}
	if deploy := deployOf(last); deploy != nil {
		deploy["restart_policy"] = policy
	}
}

// deployOf is a service's `deploy`, made if there is none; nil if it is no mapping, which the loader refuses.
func deployOf(s map[string]any) map[string]any {
	if s["deploy"] == nil {
		s["deploy"] = map[string]any{}
	}
	deploy, _ := s["deploy"].(map[string]any)
	return deploy
}

// label writes the dependencies.
func (a *adaptation) label() {
	for name, needs := range a.needs {
		var terms []string
		for _, n := range needs {
			terms = append(terms, n.service+":"+n.condition)
		}
		a.setLabel(name, labelDependsOn, strings.Join(terms, ","))
	}
}

// setLabel gives a service a label, in the last of the files that have the service.
func (a *adaptation) setLabel(name, label, value string) {
	var last map[string]any
	for s := range a.each(name) {
		last = s
	}
	deploy := deployOf(last)
	if deploy == nil {
		return
	}
	switch labels := deploy["labels"].(type) {
	case []any:
		deploy["labels"] = append(labels, label+"="+value)
	case map[string]any:
		labels[label] = value
	case nil:
		deploy["labels"] = map[string]any{label: value}
	}
}
