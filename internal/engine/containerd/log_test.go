package containerd

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"

	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/engine/ledger"
)

func logs(driver string, opts ...string) container.HostConfig {
	c := container.LogConfig{Type: driver, Config: map[string]string{}}
	for _, o := range opts {
		k, v, _ := strings.Cut(o, "=")
		c.Config[k] = v
	}
	return container.HostConfig{LogConfig: c}
}

// A container's log is turned over, and compressed, and a follower misses nothing that a turn took away.
func TestLogRotation(t *testing.T) {
	l := real(t)
	for name, h := range map[string]container.HostConfig{
		"json-file":  logs("json-file", "max-size=8k", "max-file=20"),
		"compressed": logs("json-file", "max-size=8k", "max-file=20", "compress=true"),
		"local":      logs("local", "max-size=8k", "max-file=20"),
		"ahead":      logs("local", "max-size=8k", "max-file=20", "mode=non-blocking"),
	} {
		t.Run(name, func(t *testing.T) {
			id := l.made(t, engine.Spec{
				Config:     &container.Config{Cmd: []string{"sh", "-c", "i=0; while [ $i -lt 400 ]; do echo line $i; i=$((i+1)); done; echo -n unfinished"}},
				HostConfig: &h,
			})
			if err := l.engine.Start(t.Context(), id); err != nil {
				t.Fatal(err)
			}
			for _, follow := range []bool{true, false} {
				n := 0
				err := l.engine.Logs(t.Context(), id, engine.LogOptions{Stdout: true, Follow: follow, Tail: -1}, func(line engine.LogLine) error {
					want := fmt.Sprintf("line %d\n", n)
					if n == 400 {
						want = "unfinished"
					}
					if string(line.Line) != want {
						return fmt.Errorf("got %q; want %q", line.Line, want)
					}
					n++
					return nil
				})
				if err != nil || n != 401 {
					t.Errorf("read %d lines, following %v, %v; want 401", n, follow, err)
				}
			}
			var tail []string
			err := l.engine.Logs(t.Context(), id, engine.LogOptions{Stdout: true, Tail: 300}, func(line engine.LogLine) error {
				tail = append(tail, string(line.Line))
				return nil
			})
			if err != nil || len(tail) != 300 || tail[0] != "line 101\n" {
				t.Errorf("the tail has %d lines, %v", len(tail), err)
			}
			files, err := filepath.Glob(filepath.Join(l.dir, "root", "containers", id, "*log*"))
			if err != nil || len(files) < 3 {
				t.Errorf("log files %q, %v; want several", files, err)
			}
			for _, f := range files {
				if st, err := os.Stat(f); err != nil || st.Size() > 70<<10 {
					t.Errorf("%s: %v, %v", f, st, err)
				}
				if zipped := strings.HasSuffix(f, ".gz"); zipped != (name != "json-file" && !strings.HasSuffix(f, ".log")) {
					t.Errorf("%s: is it compressed?", f)
				}
			}
		})
	}
}

// A line may be as long as a container likes, and what it writes need not be text, which json-file is: as with Docker, a byte
// that is none is replaced.
func TestLogOfAnyBytes(t *testing.T) {
	l := real(t)
	h := logs("json-file")
	script := `head -c 65535 /dev/zero | tr '\000' x; echo; printf '\377a\000\376b\n'; echo end`
	id := l.made(t, engine.Spec{Config: &container.Config{Cmd: []string{"sh", "-c", script}}, HostConfig: &h})
	if err := l.engine.Start(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	err := l.engine.Logs(t.Context(), id, engine.LogOptions{Stdout: true, Follow: true, Tail: -1}, func(line engine.LogLine) error {
		got.Write(line.Line)
		return nil
	})
	if want := strings.Repeat("x", 65535) + "\n\ufffda\x00\ufffdb\nend\n"; err != nil || got.String() != want {
		t.Errorf("%d bytes, %v; want %d; the end is %q", got.Len(), err, len(want), got.String()[max(0, got.Len()-20):])
	}
}

// What the options of the log say about each line, and where there is no log.
func TestLogOptions(t *testing.T) {
	l := real(t)
	c := &container.Config{Cmd: []string{"sh", "-c", "echo x"}, Labels: map[string]string{"colour": "red", "size": "big", "other": "1"}, Env: []string{"FISH=cod", "SHIP=a b"}}
	h := logs("json-file", "labels=colour,absent", "labels-regex=^si", "env=FISH", "env-regex=^SH", "tag={{.Name}}/{{.ID}}/{{.ImageName}}")
	id := l.made(t, engine.Spec{Name: "tagged", Config: c, HostConfig: &h})
	if err := l.engine.Start(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	var got []map[string]string
	err := l.engine.Logs(t.Context(), id, engine.LogOptions{Stdout: true, Follow: true, Tail: -1}, func(line engine.LogLine) error {
		got = append(got, line.Attrs)
		return nil
	})
	want := []map[string]string{{"colour": "red", "size": "big", "FISH": "cod", "SHIP": "a b", "tag": "tagged/" + id[:12] + "/busybox:test"}}
	if d := cmp.Diff(want, got); d != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, d)
	}
	for driver, path := range map[string]string{"json-file": filepath.Join(l.dir, "root", "containers", "ID", "ID-json.log"), "local": "", "none": ""} {
		h := logs(driver)
		id := l.made(t, engine.Spec{Config: &container.Config{Cmd: []string{"sh", "-c", "echo x"}}, HostConfig: &h})
		if i, err := l.engine.Inspect(t.Context(), id); err != nil || i.LogPath != strings.ReplaceAll(path, "ID", id) {
			t.Errorf("%s: LogPath %q, %v; want %q", driver, i.LogPath, err, path)
		}
		if err := l.engine.Start(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		err := l.engine.Logs(t.Context(), id, engine.LogOptions{Stdout: true, Tail: -1}, func(engine.LogLine) error { return nil })
		if driver == "none" && (!errdefs.IsNotImplemented(err) || err.Error() != "configured logging driver does not support reading") || driver != "none" && err != nil {
			t.Errorf("%s: %v", driver, err)
		}
	}
}

func TestLogTargets(t *testing.T) {
	for _, test := range []struct {
		c     container.HostConfig
		words string
	}{
		{logs("syslog"), "logger: no log driver named 'syslog' is registered"},
		{logs("journald", "tag=x"), "logger: no log driver named 'journald' is registered"},
		{logs("json-file", "colour=red"), "unknown log opt 'colour' for json-file log driver"},
		{logs("local", "colour=red"), "unknown log opt 'colour' for log driver local"},
		{logs("json-file", "max-size=much"), "invalid value for max-size: much"},
		{logs("json-file", "max-size=-1"), "max-size"},
		{logs("json-file", "max-file=0", "max-size=1k"), "max-file cannot be less than 1"},
		{logs("json-file", "max-file=x", "max-size=1k"), "invalid value for max-file: x"},
		{logs("json-file", "max-file=2"), "max-file cannot be set without max-size"},
		{logs("json-file", "compress=perhaps"), "invalid boolean value for compress"},
		{logs("json-file", "compress=true"), "compress cannot be true when max-file is less than 2 or max-size is not set"},
		{logs("local", "max-file=1"), "compression cannot be enabled when max file count is 1"},
		{logs("json-file", "mode=dreaming"), "logger: logging mode not supported: dreaming"},
		{logs("json-file", "max-buffer-size=1m"), "logger: max-buffer-size option is only supported with 'mode=non-blocking'"},
		{logs("json-file", "mode=non-blocking", "max-buffer-size=x"), "error parsing option max-buffer-size"},
		{logs("json-file", "labels-regex=("), "missing closing )"},
		{logs("json-file", "tag={{.Colour}}"), "Colour"},
		{logs("json-file", "tag={{range 9223372036854775807}}{{end}}"), "not supported in a tag"},
		{logs("json-file", `tag={{if true}}{{define "a"}}{{template "a"}}{{end}}{{end}}`), "log-tag"},
		{logs("json-file", `tag={{printf "%9000d" 1}}`), "the tag is longer than 4096 bytes"},
	} {
		if err := checkLog(test.c.LogConfig); err == nil || !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), test.words) {
			t.Errorf("%v: %v; want %q", test.c.LogConfig, err, test.words)
		}
	}
	for _, ok := range []container.HostConfig{logs("none", "what=ever"), logs("local", "compress=false", "max-file=1"), logs("json-file", "mode=blocking"), logs("")} {
		if err := checkLog(ok.LogConfig); err != nil {
			t.Errorf("%v: %v", ok.LogConfig, err)
		}
	}
	if got, err := logTarget(&ledger.Container{Config: &container.Config{}, HostConfig: &container.HostConfig{LogConfig: container.LogConfig{Type: "local"}}}); err != nil ||
		got.MaxSize != 20<<20 || got.MaxFile != 5 || !got.Compress {
		t.Errorf("local: %+v, %v", got, err)
	}
	e := &Engine{cfg: Config{LogDriver: "local", LogOpts: map[string]string{"max-size": "1m", "tag": "t"}}}
	for _, test := range []struct {
		c    container.LogConfig
		want container.LogConfig
	}{
		{container.LogConfig{}, container.LogConfig{Type: "local", Config: map[string]string{"max-size": "1m", "tag": "t"}}},
		{container.LogConfig{Type: "local", Config: map[string]string{"max-size": "2m"}}, container.LogConfig{Type: "local", Config: map[string]string{"max-size": "2m", "tag": "t"}}},
		{container.LogConfig{Type: "json-file"}, container.LogConfig{Type: "json-file", Config: map[string]string{}}},
	} {
		before := maps.Clone(test.c.Config)
		if d := cmp.Diff(test.want, e.mergedLog(test.c)); d != "" || !maps.Equal(before, test.c.Config) {
			t.Errorf("%v (-want +got):\n%s", test.c, d)
		}
	}
}

// A tag's template comes from whoever makes a container.
func FuzzLogTag(f *testing.F) {
	f.Add("{{.Name}}/{{.ID}}")
	f.Add(`{{truncate .FullID -1}}{{pad "x" 9 9}}{{split .Command " "}}`)
	f.Add(`{{define "a"}}{{template "a"}}{{end}}`)
	f.Fuzz(func(t *testing.T, text string) {
		c := &ledger.Container{ID: strings.Repeat("a", 64), Config: &container.Config{Cmd: []string{"x"}}, HostConfig: &container.HostConfig{}, Created: time.Unix(0, 0)}
		if tag, err := logTag(c, text); err == nil && len(tag) > longestTag {
			t.Errorf("%q: a tag of %d bytes", text, len(tag))
		}
	})
}
