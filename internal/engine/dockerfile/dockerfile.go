// Package dockerfile reads the instructions of a Dockerfile that set an image's configuration, as `docker commit -c` and
// `docker import -c` take them.
//
// It decides which instructions may stand there and what each does to a configuration. It owns nothing and runs nothing:
// it builds no image.
package dockerfile

import (
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"shoal.dev/shoal/internal/engine/ledger"
)

// allowed are the instructions that change a configuration and nothing else.
var allowed = []string{"cmd", "entrypoint", "env", "expose", "healthcheck", "label", "onbuild", "stopsignal", "user", "volume", "workdir"}

// maxChanges is how many bytes changes may have together; a Dockerfile of real images has a few KiB.
const maxChanges = 1 << 20

// Apply returns a copy of c with changes made to it, in their order; c itself stays as it is. What cannot be read is
// InvalidArgument with Docker's words, and then nothing is returned.
func Apply(c *container.Config, changes []string) (*container.Config, error) {
	out := clone(c)
	text := strings.Join(changes, "\n")
	if strings.TrimSpace(text) == "" {
		return out, nil
	}
	if len(text) > maxChanges {
		return nil, bad("the changes have %d bytes, more than %d", len(text), maxChanges)
	}
	file, err := parser.Parse(strings.NewReader(text))
	if err != nil {
		return nil, bad("%s", err)
	}
	for _, n := range file.AST.Children {
		if !slices.Contains(allowed, strings.ToLower(n.Value)) {
			return nil, bad("%s is not a valid change command", n.Value)
		}
	}
	lex := shell.NewLex(file.EscapeToken)
	for _, n := range file.AST.Children {
		command, err := instructions.ParseCommand(n)
		if err != nil {
			return nil, bad("%s", err)
		}
		if x, ok := command.(instructions.SupportsSingleWordExpansion); ok {
			err := x.Expand(func(word string) (string, error) {
				s, _, err := lex.ProcessWord(word, shell.EnvsFromSlice(out.Env))
				return s, err
			})
			if err != nil {
				return nil, bad("%s", err)
			}
		}
		if err := apply(out, command); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func bad(format string, args ...any) error {
	return ledger.Errorf(errdefs.ErrInvalidArgument, format, args...)
}

// clone copies what apply changes in place.
func clone(c *container.Config) *container.Config {
	out := *c
	out.Env, out.OnBuild = slices.Clone(c.Env), slices.Clone(c.OnBuild)
	out.Labels, out.Volumes, out.ExposedPorts = maps.Clone(c.Labels), maps.Clone(c.Volumes), maps.Clone(c.ExposedPorts)
	return &out
}

func apply(c *container.Config, command instructions.Command) error {
	switch i := command.(type) {
	case *instructions.EnvCommand:
		for _, kv := range i.Env {
			c.Env = slices.DeleteFunc(c.Env, func(s string) bool { return strings.HasPrefix(s, kv.Key+"=") })
			c.Env = append(c.Env, kv.Key+"="+kv.Value)
		}
	case *instructions.LabelCommand:
		for _, kv := range i.Labels {
			put(&c.Labels, kv.Key, kv.Value)
		}
	case *instructions.CmdCommand:
		c.Cmd = inShell(c, i.ShellDependantCmdLine)
	case *instructions.EntrypointCommand:
		c.Entrypoint, c.Cmd = inShell(c, i.ShellDependantCmdLine), nil
	case *instructions.UserCommand:
		c.User = i.User
	case *instructions.WorkdirCommand:
		if path.IsAbs(i.Path) {
			c.WorkingDir = path.Clean(i.Path)
		} else {
			c.WorkingDir = path.Join("/", c.WorkingDir, i.Path)
		}
	case *instructions.VolumeCommand:
		for _, v := range i.Volumes {
			if v == "" {
				return bad("VOLUME specified can not be an empty string")
			}
			put(&c.Volumes, v, struct{}{})
		}
	case *instructions.ExposeCommand:
		return expose(c, i.Ports)
	case *instructions.StopSignalCommand:
		if _, err := ledger.ParseSignal(i.Signal); err != nil {
			return err
		}
		c.StopSignal = i.Signal
	case *instructions.HealthCheckCommand:
		c.Healthcheck = i.Health
	case *instructions.OnbuildCommand:
		c.OnBuild = append(c.OnBuild, i.Expression)
	}
	return nil
}

func put[V any](m *map[string]V, key string, value V) {
	if *m == nil {
		*m = map[string]V{}
	}
	(*m)[key] = value
}

// inShell is a command line, as an argument of the shell if it was not written as a list.
func inShell(c *container.Config, l instructions.ShellDependantCmdLine) []string {
	if !l.PrependShell {
		return l.CmdLine
	}
	sh := []string(c.Shell)
	if len(sh) == 0 {
		sh = []string{"/bin/sh", "-c"}
	}
	return append(slices.Clone(sh), l.CmdLine...)
}

func expose(c *container.Config, ports []string) error {
	for _, p := range ports {
		r, err := network.ParsePortRange(p)
		if err != nil {
			return bad("%s", err)
		}
		for n := range r.All() {
			if c.ExposedPorts == nil {
				c.ExposedPorts = network.PortSet{}
			}
			c.ExposedPorts[n] = struct{}{}
		}
	}
	return nil
}
