package ledger

import (
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"shoal.dev/shoal/internal/engine"
)

// filters are those of GET /containers/json that mean something here. A container passes if it passes every key, and
// a key if it passes one of its values, or all of them for labels.
var filters = map[string]func(l *Ledger, c *Container, value string) (bool, error){
	"id":   func(_ *Ledger, c *Container, v string) (bool, error) { return strings.HasPrefix(c.ID, v), nil },
	"name": func(_ *Ledger, c *Container, v string) (bool, error) { return matchName(c.Name, v) },
	"label": func(_ *Ledger, c *Container, v string) (bool, error) {
		return MatchLabel(c.Config.Labels, v), nil
	},
	"is-task": func(_ *Ledger, c *Container, v string) (bool, error) {
		want, err := strconv.ParseBool(v)
		if err != nil {
			return false, Errorf(errdefs.ErrInvalidArgument, "invalid filter 'is-task=[%s]'", v)
		}
		_, is := c.Config.Labels[labelTask]
		return is == want, nil
	},
	"status": func(_ *Ledger, c *Container, v string) (bool, error) {
		if err := container.ValidateContainerState(container.ContainerState(v)); err != nil {
			return false, Errorf(errdefs.ErrInvalidArgument, "invalid filter 'status=%s': %s", v, err)
		}
		return c.State.Status == container.ContainerState(v), nil
	},
	"exited": func(_ *Ledger, c *Container, v string) (bool, error) {
		code, err := strconv.Atoi(v)
		if err != nil {
			return false, Errorf(errdefs.ErrInvalidArgument, "invalid filter 'exited=%s'", v)
		}
		return c.State.Status == container.StateExited && c.State.ExitCode == code, nil
	},
	"health": func(_ *Ledger, c *Container, v string) (bool, error) {
		if err := container.ValidateHealthStatus(container.HealthStatus(v)); err != nil {
			return false, Errorf(errdefs.ErrInvalidArgument, "invalid filter 'health=%s': %s", v, err)
		}
		return c.Health() == container.HealthStatus(v), nil
	},
	"before": func(l *Ledger, c *Container, v string) (bool, error) {
		o, err := l.Find(v)
		return err == nil && c.Created.Before(o.Created), err
	},
	"since": func(l *Ledger, c *Container, v string) (bool, error) {
		o, err := l.Find(v)
		return err == nil && c.Created.After(o.Created), err
	},
	"expose": func(_ *Ledger, c *Container, v string) (bool, error) {
		return matchPort(v, slices.Collect(maps.Keys(c.Config.ExposedPorts)))
	},
	"publish": func(_ *Ledger, c *Container, v string) (bool, error) {
		return matchPort(v, slices.Collect(maps.Keys(c.HostConfig.PortBindings)))
	},
	"isolation": func(_ *Ledger, _ *Container, v string) (bool, error) { // Linux knows one
		return container.Isolation(v).IsDefault(), nil
	},
	"network": func(_ *Ledger, c *Container, v string) (bool, error) {
		for name, e := range endpoints(c) { // a name, an ID or the beginning of one
			if name == v || v != "" && strings.HasPrefix(e.NetworkID, v) {
				return true, nil
			}
		}
		return false, nil
	},
	"volume": func(_ *Ledger, c *Container, v string) (bool, error) {
		return slices.ContainsFunc(c.Mounts, func(m container.MountPoint) bool {
			return m.Name == v || m.Source == v || m.Destination == v
		}), nil
	},
}

// List implements engine.Containers. imageIDs resolves the values of the filter "ancestor" to the IDs of the images
// that they mean.
func (l *Ledger) List(o engine.ListOptions, imageIDs func(ref string) []string) ([]container.Summary, error) {
	for key := range o.Filters {
		if filters[key] == nil && key != "ancestor" {
			return nil, Errorf(errdefs.ErrInvalidArgument, "invalid filter '%s'", key)
		}
	}
	all := o.All || o.Limit > 0 || len(o.Filters["status"])+len(o.Filters["before"])+len(o.Filters["since"]) > 0
	ancestors := map[string]bool{}
	for _, ref := range o.Filters["ancestor"] {
		for _, id := range imageIDs(ref) {
			ancestors[id] = true
		}
	}
	list := []container.Summary{}
	for _, c := range l.All() {
		if !all && !c.Active() {
			continue
		}
		if len(o.Filters["ancestor"]) > 0 && !ancestors[c.ImageID] {
			continue
		}
		ok, err := l.pass(c, o.Filters)
		if err != nil {
			return nil, err
		}
		if !ok {
			continue
		}
		list = append(list, Summary(c))
		if o.Limit > 0 && len(list) == o.Limit {
			break
		}
	}
	return list, nil
}

func (l *Ledger) pass(c *Container, want map[string][]string) (bool, error) {
	for key, values := range want {
		if key == "ancestor" || len(values) == 0 {
			continue
		}
		passed := 0
		for _, v := range values {
			ok, err := filters[key](l, c, v)
			if err != nil {
				return false, err
			}
			if ok {
				passed++
			}
		}
		if passed == 0 || key == "label" && passed < len(values) {
			return false, nil
		}
	}
	return true, nil
}

// matchPort says whether a port is among those that a filter means: PORT[-PORT][/PROTOCOL].
func matchPort(v string, have []network.Port) (bool, error) {
	want, err := network.ParsePortRange(v)
	if err != nil {
		return false, Errorf(errdefs.ErrInvalidArgument, "invalid filter: %s", err)
	}
	return slices.ContainsFunc(have, func(p network.Port) bool {
		return p.Proto() == want.Proto() && p.Num() >= want.Start() && p.Num() <= want.End()
	}), nil
}

// matchName says whether a name matches a pattern; Docker allows regular expressions and a slash before the name.
func matchName(name, pattern string) (bool, error) {
	re, err := regexp.Compile(pattern)
	if err != nil {
		return false, Errorf(errdefs.ErrInvalidArgument, "invalid filter 'name=%s': %s", pattern, err)
	}
	return re.MatchString(name) || re.MatchString("/"+name), nil
}

// MatchLabel says whether labels hold what "key" or "key=value" asks for.
func MatchLabel(labels map[string]string, want string) bool {
	key, value, exact := strings.Cut(want, "=")
	got, has := labels[key]
	return has && (!exact || got == value)
}

// NetworkName is the name of the network that a mode means.
func NetworkName(m container.NetworkMode) string {
	if m == "" || m == "default" {
		return "bridge"
	}
	return string(m)
}
