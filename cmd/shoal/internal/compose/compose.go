// Package compose adds `compose validate`, which reads Compose files as `stack deploy` does and says, by line, what is
// wrong in them and what a deploy would not do.
//
// It decides which line a finding is about. What a Compose file may say is docker/cli's part: its schema, its loader and
// its lists of keys are asked. It speaks to no daemon.
package compose

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/distribution/reference"
	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/docker/cli/cli/compose/loader"
	"github.com/docker/cli/cli/compose/schema"
	"github.com/docker/cli/cli/compose/types"
	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
)

// maxFile is how many bytes a Compose file may have.
const maxFile = 4 << 20

// AddCommands puts the command below root.
func AddCommands(root *cobra.Command, dockerCLI command.Cli) {
	parent := &cobra.Command{
		Use: "compose", Short: "Look at Compose files", Args: cli.NoArgs,
		RunE: command.ShowHelp(dockerCLI.Err()), DisableFlagsInUseLine: true,
	}
	parent.AddCommand(&cobra.Command{
		Use:   "validate FILE [FILE...]",
		Short: "Say what is wrong in Compose files, and what of them a stack does not have",
		Long: `Say what is wrong in Compose files, and what of them a stack does not have, each with its line.

The exit code is 1 if a deploy of the files would be refused. Keys that a deploy ignores are no error.`,
		Args:                  cli.RequiresMinArgs(1),
		DisableFlagsInUseLine: true,
		RunE: func(_ *cobra.Command, args []string) error {
			found, err := validate(args, dockerCLI.In(), environment())
			if err != nil {
				return err
			}
			refused := 0
			for _, f := range found {
				fmt.Fprintln(dockerCLI.Out(), f)
				if f.fatal {
					refused++
				}
			}
			if refused > 0 {
				return cli.StatusError{StatusCode: 1, Status: fmt.Sprintf("%d of %d findings are errors", refused, len(found))}
			}
			return nil
		},
	})
	root.AddCommand(parent)
}

// finding is one thing that is said of a file.
type finding struct {
	file  string
	line  int // 0: of the whole file
	text  string
	fatal bool
}

func (f finding) String() string {
	where, what := f.file, "warning"
	if f.line > 0 {
		where += ":" + strconv.Itoa(f.line)
	}
	if f.fatal {
		what = "error"
	}
	return where + ": " + what + ": " + f.text
}

// source is a file that is YAML.
type source struct {
	name string
	root *yaml.Node
	dict map[string]any
}

// validate gives the findings of files that are merged in their order. An error is for a file that cannot be read.
func validate(names []string, stdin io.Reader, env map[string]string) ([]finding, error) {
	var out []finding
	var files []source
	for _, name := range names {
		text, err := readFile(name, stdin)
		if err != nil {
			return nil, err
		}
		s, err := parseFile(name, text)
		if err != nil {
			out = append(out, finding{name, lineOf(err), strings.TrimPrefix(err.Error(), "yaml: "), true})
			continue
		}
		files = append(files, s)
	}
	for _, s := range files {
		out = append(out, s.keys()...)
	}
	if len(files) == len(names) {
		out = append(out, load(files, env)...)
	}
	slices.SortStableFunc(out, func(a, b finding) int {
		return cmp.Or(cmp.Compare(slices.Index(names, a.file), slices.Index(names, b.file)), cmp.Compare(a.line, b.line))
	})
	return out, nil
}

func readFile(name string, stdin io.Reader) ([]byte, error) {
	r := stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		r = f
	}
	text, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = fmt.Errorf("%s has more than %d bytes", name, maxFile)
	}
	return text, err
}

func parseFile(name string, text []byte) (source, error) {
	s := source{name: name, root: &yaml.Node{}}
	if err := yaml.Unmarshal(text, s.root); err != nil {
		return s, err
	}
	var err error
	s.dict, err = loader.ParseYAML(text)
	return s, err
}

var yamlLine = regexp.MustCompile(`line (\d+)`)

// lineOf is the line that an error of the YAML parser names.
func lineOf(err error) int {
	if m := yamlLine.FindStringSubmatch(err.Error()); m != nil {
		n, _ := strconv.Atoi(m[1])
		return n
	}
	return 0
}

// keys finds the keys of services that a deploy refuses or ignores.
func (s source) keys() (out []finding) {
	for name, service := range pairs(child(s.root, "services")) {
		for key, node := range pairs(service) {
			path := "services." + name.Value + "." + key.Value
			switch {
			case types.ForbiddenProperties[key.Value] != "":
				out = append(out, finding{s.name, key.Line, path + " is refused: " + types.ForbiddenProperties[key.Value], true})
			case key.Value == "build":
				out = append(out, finding{s.name, key.Line, path + " is ignored: build and push the image, and name it by `image`", false})
			case slices.Contains(types.UnsupportedProperties, key.Value):
				out = append(out, finding{s.name, key.Line, path + " is ignored: a service has no such setting", false})
			case types.DeprecatedProperties[key.Value] != "":
				out = append(out, finding{s.name, key.Line, path + " is ignored: " + types.DeprecatedProperties[key.Value], false})
			case key.Value == "depends_on":
				out = append(out, finding{s.name, key.Line, path + " is ignored: services of a stack start in any order", false})
				out = append(out, s.depends(name.Value, node)...)
			}
		}
	}
	return out
}

// depends finds dependencies of a service on what is not there, and of a service on itself by way of others.
func (s source) depends(service string, node *yaml.Node) (out []finding) {
	all := child(s.root, "services")
	for _, on := range named(node) {
		if child(all, on.Value) == nil {
			out = append(out, finding{s.name, on.Line, fmt.Sprintf("service %q depends on undefined service %q", service, on.Value), true})
		} else if way := path(all, on.Value, service, nil); way != nil {
			out = append(out, finding{s.name, on.Line, "dependency cycle: " + strings.Join(append([]string{service}, way...), " -> "), true})
		}
	}
	return out
}

// path is a way along dependencies from one service to another.
func path(services *yaml.Node, from, to string, seen []string) []string {
	if from == to {
		return []string{to}
	}
	if slices.Contains(seen, from) {
		return nil
	}
	for _, on := range named(child(child(services, from), "depends_on")) {
		if way := path(services, on.Value, to, append(slices.Clip(seen), from)); way != nil {
			return append([]string{from}, way...)
		}
	}
	return nil
}

// load reads the files as a deploy does.
func load(files []source, env map[string]string) []finding {
	d := types.ConfigDetails{Environment: env, WorkingDir: "."}
	if dir, err := filepath.Abs(filepath.Dir(files[0].name)); err == nil && files[0].name != "-" {
		d.WorkingDir = dir
	}
	for _, s := range files {
		d.ConfigFiles = append(d.ConfigFiles, types.ConfigFile{Filename: s.name, Config: s.dict})
	}
	d.Version = schema.Version(files[0].dict)
	cfg, err := loader.Load(d)
	if forbidden := (*loader.ForbiddenPropertiesError)(nil); errors.As(err, &forbidden) {
		return nil // they are found by their keys
	}
	if err != nil {
		return []finding{blame(files, err.Error())}
	}
	var out []finding
	for _, svc := range cfg.Services {
		at := []string{"services", svc.Name}
		if svc.Image == "" {
			out = append(out, locate(files, at, fmt.Sprintf("invalid image reference for service %s: no image specified", svc.Name)))
		} else if _, err := reference.ParseAnyReference(svc.Image); err != nil {
			out = append(out, locate(files, append(at, "image"), fmt.Sprintf("invalid image reference for service %s: %s", svc.Name, err)))
		}
		for name := range svc.Networks {
			if _, ok := cfg.Networks[name]; !ok && name != "default" {
				out = append(out, locate(files, append(at, "networks"), fmt.Sprintf("undefined network %q", name)))
			}
		}
		for _, ref := range svc.Secrets {
			if _, ok := cfg.Secrets[ref.Source]; !ok {
				out = append(out, locate(files, append(at, "secrets"), fmt.Sprintf("undefined secret %q", ref.Source)))
			}
		}
		for _, ref := range svc.Configs {
			if _, ok := cfg.Configs[ref.Source]; !ok {
				out = append(out, locate(files, append(at, "configs"), fmt.Sprintf("undefined config %q", ref.Source)))
			}
		}
		for _, v := range svc.Volumes {
			if _, ok := cfg.Volumes[v.Source]; !ok && v.Type == "volume" && v.Source != "" {
				out = append(out, locate(files, append(at, "volumes"), fmt.Sprintf("undefined volume %q", v.Source)))
			}
		}
	}
	return out
}

var (
	schemaPath = regexp.MustCompile(`^([a-z]+(?:\.[^ .]+)+)\b`)
	extraKey   = regexp.MustCompile(`additional property '([^']+)'`)
)

// blame finds the line that an error of the loader is about by the path that its text has.
func blame(files []source, text string) finding {
	m := schemaPath.FindStringSubmatch(text)
	if m == nil {
		return finding{files[0].name, 0, text, true}
	}
	at := strings.Split(m[1], ".")
	if extra := extraKey.FindStringSubmatch(text); extra != nil {
		at = append(at, extra[1])
	}
	return locate(files, at, text)
}

// locate is a finding at the deepest part of the path that the last of the files has.
func locate(files []source, path []string, text string) finding {
	best, depth := finding{files[0].name, 0, text, true}, 0
	for _, s := range files {
		node := s.root
		for i, key := range path {
			k, v := entry(node, key)
			if v == nil {
				break
			}
			if node = v; i+1 >= depth {
				best, depth = finding{s.name, k.Line, text, true}, i+1
			}
		}
	}
	return best
}

// environment is what files are filled in with.
func environment() map[string]string {
	env := map[string]string{}
	for _, v := range os.Environ() {
		k, v, _ := strings.Cut(v, "=")
		env[k] = v
	}
	return env
}
