package containerd

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"text/template/parse"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"

	"shoal.dev/shoal/internal/engine/containerd/shimdata"
	"shoal.dev/shoal/internal/engine/ledger"
)

// The log drivers. "local" differs from "json-file" in its defaults: it keeps five files of 20 MB and compresses all
// but the newest, as Docker's does.
const (
	logJSON  = "json-file"
	logLocal = "local"
	logNone  = "none"
)

// bufferSize is how much of its output a container with mode=non-blocking may be ahead of the disk, in bytes; Docker's.
const bufferSize = 1 << 20

// mergedLog is the log configuration with the daemon's defaults filled in.
func (e *Engine) mergedLog(c container.LogConfig) container.LogConfig {
	def := e.cfg.LogDriver
	if def == "" {
		def = logJSON
	}
	if c.Type == "" {
		c.Type = def
	}
	merged := map[string]string{}
	if c.Type == def {
		maps.Copy(merged, e.cfg.LogOpts)
	}
	maps.Copy(merged, c.Config)
	c.Config = merged
	return c
}

// checkLog refuses a log configuration that Docker refuses.
func checkLog(c container.LogConfig) error {
	_, err := logTarget(&ledger.Container{Config: &container.Config{}, HostConfig: &container.HostConfig{LogConfig: c}})
	return err
}

// logTarget is how the shim is to log c's output. Where, is for the caller to say.
func logTarget(c *ledger.Container) (t shimdata.Target, err error) {
	bad := func(format string, args ...any) (shimdata.Target, error) {
		return shimdata.Target{}, ledger.Errorf(errdefs.ErrInvalidArgument, format, args...)
	}
	driver, opts := c.HostConfig.LogConfig.Type, c.HostConfig.LogConfig.Config
	t.MaxFile = 1
	if driver == logNone {
		return t, nil
	}
	mode := container.LogMode(opts["mode"])
	switch mode {
	case container.LogModeUnset, container.LogModeBlocking, container.LogModeNonBlock:
	default:
		return bad("logger: logging mode not supported: %s", mode)
	}
	if mode == container.LogModeNonBlock {
		t.Buffer = bufferSize
	}
	if s, ok := opts["max-buffer-size"]; ok {
		if mode != container.LogModeNonBlock {
			return bad("logger: max-buffer-size option is only supported with 'mode=%s'", container.LogModeNonBlock)
		}
		if t.Buffer, err = units.RAMInBytes(s); err != nil || t.Buffer <= 0 {
			return bad("error parsing option max-buffer-size: invalid size: '%s'", s)
		}
	}
	words := "unknown log opt '%s' for json-file log driver"
	switch driver {
	case "", logJSON:
	case logLocal:
		words = "unknown log opt '%s' for log driver local"
		t.MaxSize, t.MaxFile, t.Compress = 20<<20, 5, true
	default:
		return bad("logger: no log driver named '%s' is registered", driver)
	}
	for _, k := range slices.Sorted(maps.Keys(opts)) {
		v := opts[k]
		switch k {
		case "max-size":
			if t.MaxSize, err = units.FromHumanSize(v); err != nil {
				return bad("invalid value for max-size: %s: %s", v, err)
			}
			if t.MaxSize <= 0 {
				return bad("max-size must be a positive number")
			}
		case "max-file":
			if t.MaxFile, err = strconv.Atoi(v); err != nil {
				return bad("invalid value for max-file: %s: %s", v, err)
			}
			if t.MaxFile < 1 || t.MaxFile > mostLogFiles {
				return bad("max-file cannot be less than 1 or more than %d", mostLogFiles)
			}
		case "compress":
			if t.Compress, err = strconv.ParseBool(v); err != nil {
				return bad("invalid boolean value for compress: %s", err)
			}
		case "labels", "labels-regex", "env", "env-regex", "tag", "mode", "max-buffer-size":
		default:
			return bad(words, k)
		}
	}
	switch {
	case t.MaxSize == 0 && t.MaxFile > 1:
		return bad("max-file cannot be set without max-size")
	case t.Compress && driver == logLocal && t.MaxFile == 1:
		return bad("compression cannot be enabled when max file count is 1")
	case t.Compress && (t.MaxFile == 1 || t.MaxSize == 0):
		return bad("compress cannot be true when max-file is less than 2 or max-size is not set")
	}
	attrs, err := logAttrs(c, opts)
	if err != nil {
		return bad("%s", err)
	}
	if len(attrs) > 0 {
		t.Attrs, err = json.Marshal(attrs)
	}
	return t, err
}

// mostLogFiles bounds the work of one rotation, which renames them all.
const mostLogFiles = 1000

// logAttrs are what the options add to each line: chosen labels and variables of the container, and its tag.
func logAttrs(c *ledger.Container, opts map[string]string) (map[string]string, error) {
	attrs := map[string]string{}
	env := map[string]string{}
	for _, kv := range c.Config.Env {
		if k, v, ok := strings.Cut(kv, "="); ok {
			env[k] = v
		}
	}
	for _, x := range []struct {
		opt  string
		from map[string]string
	}{{"labels", c.Config.Labels}, {"env", env}} {
		for k := range strings.SplitSeq(opts[x.opt], ",") {
			if v, ok := x.from[k]; ok && k != "" {
				attrs[k] = v
			}
		}
		pattern := opts[x.opt+"-regex"]
		if pattern == "" {
			continue
		}
		re, err := regexp.Compile(pattern)
		if err != nil {
			return nil, err
		}
		for k, v := range x.from {
			if re.MatchString(k) {
				attrs[k] = v
			}
		}
	}
	if opts["tag"] == "" {
		return attrs, nil
	}
	tag, err := logTag(c, opts["tag"])
	if err != nil {
		return nil, err
	}
	if tag != "" {
		attrs["tag"] = tag
	}
	return attrs, nil
}

// logSubject is what the template of a tag may name; the methods and fields are Docker's.
type logSubject struct {
	Config                                          map[string]string
	ContainerID, ContainerName, ContainerEntrypoint string
	ContainerArgs                                   []string
	ContainerImageID, ContainerImageName            string
	ContainerCreated                                time.Time
	ContainerEnv                                    []string
	ContainerLabels                                 map[string]string
	LogPath, DaemonName                             string
}

func (s *logSubject) ID() string                { return short(s.ContainerID) }
func (s *logSubject) FullID() string            { return s.ContainerID }
func (s *logSubject) Name() string              { return s.ContainerName }
func (s *logSubject) ImageID() string           { return short(s.ContainerImageID) }
func (s *logSubject) ImageFullID() string       { return s.ContainerImageID }
func (s *logSubject) ImageName() string         { return s.ContainerImageName }
func (s *logSubject) Hostname() (string, error) { return os.Hostname() }
func (s *logSubject) Command() string {
	return strings.Join(append([]string{s.ContainerEntrypoint}, s.ContainerArgs...), " ")
}

func short(id string) string {
	id = strings.TrimPrefix(id, "sha256:")
	return id[:min(len(id), 12)]
}

// logTag fills in a tag's template. It may not repeat: a template comes from whoever creates the container, and must
// end soon.
func logTag(c *ledger.Container, text string) (string, error) {
	t, err := template.New("log-tag").Funcs(template.FuncMap{
		"json":  func(v any) (string, error) { b, err := json.Marshal(v); return string(b), err },
		"split": strings.Split, "join": strings.Join, "lower": strings.ToLower, "upper": strings.ToUpper,
		"truncate": func(s string, n int) string { return s[:max(0, min(len(s), n))] },
		"pad": func(s string, before, after int) (string, error) {
			if s == "" || before < 0 || after < 0 || before+after > longestTag {
				return s, nil
			}
			return strings.Repeat(" ", before) + s + strings.Repeat(" ", after), nil
		},
	}).Parse(text)
	if err != nil {
		return "", err
	}
	for _, part := range t.Templates() {
		if part.Tree != nil && repeats(part.Root) {
			return "", fmt.Errorf("template: log-tag: range, template and block are not supported in a tag")
		}
	}
	argv := c.Argv()
	s := &logSubject{Config: c.HostConfig.LogConfig.Config, ContainerID: c.ID, ContainerName: c.Name, ContainerImageID: c.ImageID,
		ContainerImageName: c.Config.Image, ContainerCreated: c.Created, ContainerEnv: c.Config.Env, ContainerLabels: c.Config.Labels,
		LogPath: c.LogPath(), DaemonName: "docker"}
	if len(argv) > 0 {
		s.ContainerEntrypoint, s.ContainerArgs = argv[0], argv[1:]
	}
	var out limited
	if err := t.Execute(&out, s); err != nil {
		return "", err
	}
	return string(out), nil
}

// repeats says whether a template contains what may run more than once.
func repeats(n parse.Node) bool {
	switch n := n.(type) {
	case *parse.ListNode:
		return n != nil && slices.ContainsFunc(n.Nodes, repeats)
	case *parse.IfNode:
		return repeats(n.List) || repeats(n.ElseList)
	case *parse.WithNode:
		return repeats(n.List) || repeats(n.ElseList)
	case *parse.RangeNode, *parse.TemplateNode:
		return true
	}
	return false
}

// longestTag bounds a tag, which is in every line of the log, in bytes.
const longestTag = 4096

// limited takes a tag's bytes and no more.
type limited []byte

func (l *limited) Write(p []byte) (int, error) {
	if len(*l)+len(p) > longestTag {
		return 0, fmt.Errorf("the tag is longer than %d bytes", longestTag)
	}
	*l = append(*l, p...)
	return len(p), nil
}
