// Package template expands the templates that a service's specification and the payloads of secrets and configs may
// have: `{{.Service.Name}}`, `{{.Node.Hostname}}`, `{{.Task.Slot}}` and, in payloads, `{{env "X"}}`, `{{secret "x"}}`
// and `{{config "y"}}`.
//
// It decides which fields are templates, what they may refer to and how much one may compute. It owns nothing and
// touches nothing: the same task, node and files give the same result. An error never shows a secret's bytes.
package template

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"text/template"

	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
)

// Node is what templates know of the node that a task runs on.
type Node struct {
	ID, Hostname, OS, Architecture string
}

// Files gives the payloads of the secrets and configs that a task uses, by ID.
type Files struct {
	Secret, Config func(id string) (data []byte, ok bool)
}

// facts is what a template sees; the names are Swarm's.
type facts struct {
	Service struct {
		ID, Name string
		Labels   map[string]string
	}
	Node struct {
		ID, Hostname string
		Platform     struct{ Architecture, OS string }
	}
	Task struct{ ID, Name, Slot string }
}

func factsOf(t *cluster.Task, n Node) *facts {
	f := &facts{}
	f.Service.ID, f.Service.Name, f.Service.Labels = t.ServiceID, t.ServiceName, t.Labels
	f.Node.ID, f.Node.Hostname = n.ID, n.Hostname
	f.Node.Platform.Architecture, f.Node.Platform.OS = n.Architecture, n.OS
	f.Task.ID, f.Task.Slot = t.ID, n.ID // a task of a global service is known by its node
	if t.Slot != 0 {
		f.Task.Slot = strconv.Itoa(t.Slot)
	}
	f.Task.Name = t.ServiceName + "." + f.Task.Slot + "." + t.ID
	return f
}

// Container returns the task's container specification with its environment, host name and mounts expanded. The
// task's own is not changed; what has no template is shared with it.
func Container(t *cluster.Task, n Node) (*swarm.ContainerSpec, error) {
	c := *t.Spec.ContainerSpec
	f := factsOf(t, n)
	var err error
	if c.Env, err = expandEnv(f, c.Env); err != nil {
		return nil, fmt.Errorf("expanding env failed: %w", err)
	}
	if c.Mounts, err = expandMounts(f, c.Mounts); err != nil {
		return nil, fmt.Errorf("expanding mounts failed: %w", err)
	}
	if c.Hostname, err = expand(f, c.Hostname, nil); err != nil {
		return nil, fmt.Errorf("expanding hostname failed: %w", err)
	}
	return &c, nil
}

// Check says what is wrong with the templates of a specification, as far as that can be known without a task.
func Check(spec *swarm.ServiceSpec) error {
	if spec.TaskTemplate.ContainerSpec == nil {
		return nil
	}
	t := &cluster.Task{ServiceName: spec.Name}
	t.ID, t.ServiceID, t.Slot, t.Labels, t.Spec = "taskid", "serviceid", 1, spec.Labels, spec.TaskTemplate
	_, err := Container(t, Node{ID: "nodeid", Hostname: "nodehostname", OS: "os", Architecture: "architecture"})
	return err
}

func expandEnv(f *facts, env []string) ([]string, error) {
	if !templated(env...) {
		return env, nil
	}
	out := make([]string, len(env))
	for i, kv := range env {
		key, value, has := strings.Cut(kv, "=")
		if out[i] = kv; !has {
			continue
		}
		v, err := expand(f, value, nil)
		if err != nil {
			return nil, fmt.Errorf("expanding env %q: %w", kv, err)
		}
		out[i] = key + "=" + v
	}
	return out, nil
}

func expandMounts(f *facts, mounts []mount.Mount) ([]mount.Mount, error) {
	out := make([]mount.Mount, 0, len(mounts))
	for _, m := range mounts {
		var err error
		if m.Source, err = expand(f, m.Source, nil); err != nil {
			return nil, fmt.Errorf("expanding mount source %q: %w", m.Source, err)
		}
		if m.Target, err = expand(f, m.Target, nil); err != nil {
			return nil, fmt.Errorf("expanding mount target %q: %w", m.Target, err)
		}
		if m.VolumeOptions != nil {
			v := *m.VolumeOptions
			if v.Labels, err = expandMap(f, v.Labels); err != nil {
				return nil, fmt.Errorf("expanding volume labels: %w", err)
			}
			if v.DriverConfig != nil {
				d := *v.DriverConfig
				if d.Options, err = expandMap(f, d.Options); err != nil {
					return nil, fmt.Errorf("expanding volume driver config: %w", err)
				}
				v.DriverConfig = &d
			}
			m.VolumeOptions = &v
		}
		out = append(out, m)
	}
	return out, nil
}

func expandMap(f *facts, in map[string]string) (map[string]string, error) {
	if in == nil {
		return nil, nil
	}
	out := make(map[string]string, len(in))
	for k, v := range in {
		var err error
		if out[k], err = expand(f, v, nil); err != nil {
			return nil, fmt.Errorf("expanding map entry %q=%q: %w", k, v, err)
		}
	}
	return out, nil
}

func templated(texts ...string) bool {
	for _, s := range texts {
		if strings.Contains(s, "{{") {
			return true
		}
	}
	return false
}

// errHidden stands for an error whose text may hold a part of a secret.
var errHidden = errors.New("the template is not valid, or refers to what the task does not have (the reason is not shown, because it may hold a part of a secret)")

// Secret expands the payload of a secret that the task uses.
func Secret(t *cluster.Task, n Node, f Files, payload []byte) ([]byte, error) {
	b, _, err := expandPayload(t, n, f, payload)
	if err != nil {
		return nil, errHidden
	}
	return b, nil
}

// Config expands the payload of a config that the task uses.
func Config(t *cluster.Task, n Node, f Files, payload []byte) ([]byte, error) {
	b, secret, err := expandPayload(t, n, f, payload)
	if err != nil && secret {
		return nil, errHidden
	}
	return b, err
}

// expandPayload also says whether the template has read a secret.
func expandPayload(t *cluster.Task, n Node, f Files, payload []byte) (out []byte, secret bool, err error) {
	c, err := Container(t, n)
	if err != nil {
		return nil, false, err
	}
	s, err := expand(factsOf(t, n), string(payload), template.FuncMap{
		"secret": func(target string) (string, error) {
			secret = true
			for _, r := range c.Secrets {
				if r.File == nil || r.File.Name != target {
					continue
				}
				if b, ok := f.Secret(r.SecretID); ok {
					return string(b), nil
				}
			}
			return "", fmt.Errorf("secret target %s not found", target)
		},
		"config": func(target string) (string, error) {
			for _, r := range c.Configs {
				if r.File == nil || r.File.Name != target {
					continue
				}
				if b, ok := f.Config(r.ConfigID); ok {
					return string(b), nil
				}
			}
			return "", fmt.Errorf("config target %s not found", target)
		},
		"env": func(name string) string {
			for _, kv := range c.Env {
				if k, v, has := strings.Cut(kv, "="); has && k == name {
					return v
				}
			}
			return ""
		},
	})
	return []byte(s), secret, err
}

// expand runs one template.
func expand(f *facts, text string, more template.FuncMap) (string, error) {
	if !templated(text) {
		return text, nil
	}
	w := &work{left: maxWork}
	tmpl, err := template.New("expansion").Option("missingkey=error").Funcs(w.functions()).Funcs(more).Parse(text)
	if err != nil {
		return "", err
	}
	w.count(tmpl)
	out := &bounded{}
	if err := tmpl.Execute(out, f); err != nil {
		return "", err
	}
	return out.b.String(), nil
}

// bounded keeps what a template writes, up to a limit.
type bounded struct{ b bytes.Buffer }

func (o *bounded) Write(p []byte) (int, error) {
	if o.b.Len()+len(p) > maxOutput {
		return 0, errTooLarge
	}
	return o.b.Write(p)
}
