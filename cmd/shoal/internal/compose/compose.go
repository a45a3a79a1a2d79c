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
	var profiles []string
	check := &cobra.Command{
		Use:   "validate [OPTIONS] FILE [FILE...]",
		Short: "Say what is wrong in Compose files, and what of them a stack does not have",
		Long: `Say what is wrong in Compose files, and what of them a stack does not have, each with its line.

The exit code is 1 if a deploy of the files would be refused. Keys that a deploy ignores are no error.`,
		Args:                  cli.RequiresMinArgs(1),
		DisableFlagsInUseLine: true,
		RunE: func(_ *cobra.Command, args []string) error {
			found, err := validate(args, dockerCLI.In(), profiles, Environment())
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
	}
	check.Flags().StringArrayVar(&profiles, "profile", nil, `Profile of services to look at, too ("*" is all)`)
	parent.AddCommand(check)
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
func validate(names []string, stdin io.Reader, profiles []string, env map[string]string) ([]finding, error) {
	var out []finding
	var files []source
	for _, name := range names {
		text, err := ReadFile(name, stdin)
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
		out = append(out, load(files, profiles, env)...)
	}
	slices.SortStableFunc(out, func(a, b finding) int {
		return cmp.Or(cmp.Compare(slices.Index(names, a.file), slices.Index(names, b.file)), cmp.Compare(a.line, b.line))
	})
	return out, nil
}

// ReadFile reads a Compose file; "-" is standard input.
func ReadFile(name string, stdin io.Reader) ([]byte, error) {
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

// adapted are the keys that [Adapt] sees to.
var adapted = []string{"build", "depends_on", "devices", "privileged", "profiles", "restart"}

// keys finds the keys of services that a deploy refuses or ignores.
func (s source) keys() (out []finding) {
	for name, service := range pairs(child(s.root, "services")) {
		for key := range pairs(service) {
			path := "services." + name.Value + "." + key.Value
			switch {
			case types.ForbiddenProperties[key.Value] != "":
				out = append(out, finding{s.name, key.Line, path + " is refused: " + types.ForbiddenProperties[key.Value], true})
			case slices.Contains(adapted, key.Value): // what is wrong with it is found by loading
			case slices.Contains(types.UnsupportedProperties, key.Value):
				out = append(out, finding{s.name, key.Line, path + " is ignored: a service has no such setting", false})
			case types.DeprecatedProperties[key.Value] != "":
				out = append(out, finding{s.name, key.Line, path + " is ignored: " + types.DeprecatedProperties[key.Value], false})
			}
		}
	}
	return out
}

// load reads the files as a deploy does.
func load(files []source, profiles []string, env map[string]string) []finding {
	d := types.ConfigDetails{Environment: env, WorkingDir: "."}
	if dir, err := filepath.Abs(filepath.Dir(files[0].name)); err == nil && files[0].name != "-" {
		d.WorkingDir = dir
	}
	for _, s := range files {
		d.ConfigFiles = append(d.ConfigFiles, types.ConfigFile{Filename: s.name, Config: s.dict})
	}
	d.Version = schema.Version(files[0].dict)
	var out []finding
	dicts := make([]map[string]any, len(files))
	for i, s := range files {
		dicts[i] = s.dict
	}
	for _, p := range adapt(dicts, profiles, env).problems {
		out = append(out, locate(files, p.path, p.text))
	}
	cfg, err := loader.Load(d)
	if forbidden := (*loader.ForbiddenPropertiesError)(nil); errors.As(err, &forbidden) {
		return out // they are found by their keys
	}
	if err != nil {
		return append(out, blame(files, err.Error()))
	}
	for _, svc := range cfg.Services {
		at := []string{"services", svc.Name}
		if svc.Image == "" && !builds(files, svc.Name) {
			out = append(out, locate(files, at, fmt.Sprintf("invalid image reference for service %s: no image specified", svc.Name)))
		} else if _, err := reference.ParseAnyReference(svc.Image); svc.Image != "" && err != nil {
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

// builds says whether a service has an image that would be built.
func builds(files []source, name string) bool {
	return slices.ContainsFunc(files, func(s source) bool { return child(child(child(s.root, "services"), name), "build") != nil })
}

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

// Environment is what files are filled in with.
func Environment() map[string]string {
	env := map[string]string{}
	for _, v := range os.Environ() {
		k, v, _ := strings.Cut(v, "=")
		env[k] = v
	}
	return env
}
