package containerd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"
	"github.com/opencontainers/runtime-spec/specs-go"

	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/engine/ledger"
)

func TestAddInit(t *testing.T) {
	file := filepath.Join(t.TempDir(), "init")
	if err := os.WriteFile(file, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	yes, no := true, false
	for _, tc := range []struct {
		name string
		cfg  Config
		host container.HostConfig
		want bool
		err  string
	}{
		{"not asked for", Config{InitPath: file}, container.HostConfig{}, false, ""},
		{"asked for", Config{InitPath: file}, container.HostConfig{Init: &yes}, true, ""},
		{"the daemon's default", Config{InitPath: file, Init: true}, container.HostConfig{}, true, ""},
		{"not although it is the default", Config{InitPath: file, Init: true}, container.HostConfig{Init: &no}, false, ""},
		{"in the host's PID namespace", Config{InitPath: file}, container.HostConfig{Init: &yes, PidMode: "host"}, false, ""},
		{"in another's PID namespace", Config{InitPath: file}, container.HostConfig{Init: &yes, PidMode: "container:x"}, false, ""},
		{"not there", Config{InitPath: file + "x"}, container.HostConfig{Init: &yes}, false, "install shoal-init"},
		{"a folder", Config{InitPath: filepath.Dir(file)}, container.HostConfig{Init: &yes}, false, "install shoal-init"},
		{"not there and not asked for", Config{}, container.HostConfig{}, false, ""},
	} {
		e := &Engine{cfg: tc.cfg}
		s := &specs.Spec{Process: &specs.Process{Args: []string{"a", "b"}}}
		err := e.addInit(&ledger.Container{HostConfig: &tc.host}, s)
		if tc.err != "" {
			if err == nil || !strings.Contains(err.Error(), tc.err) {
				t.Errorf("%s: %v", tc.name, err)
			}
			continue
		}
		want := []string{"a", "b"}
		if tc.want {
			want = []string{"/sbin/docker-init", "--", "a", "b"}
		}
		if d := cmp.Diff(want, s.Process.Args); d != "" || err != nil || (len(s.Mounts) == 1) != tc.want {
			t.Errorf("%s: %v, %v\n%s", tc.name, err, s.Mounts, d)
		}
	}
}

func withInit(c *container.Config) engine.Spec {
	yes := true
	return engine.Spec{Config: c, HostConfig: &container.HostConfig{Init: &yes}}
}

func TestInit(t *testing.T) {
	l := real(t)
	sh := func(text string) *container.Config { return &container.Config{Cmd: []string{"sh", "-c", text}} }
	for _, tc := range []struct {
		name string
		cfg  *container.Config
		edit func(*container.HostConfig)
		code int
		want string // a regular expression of all the output
	}{
		{"command line", sh(`cat /proc/1/cmdline | tr '\0' ' '; echo; exit 7`), nil, 7, `/sbin/docker-init -- sh -c cat .*\n`},
		{"read-only", sh(`touch /sbin/docker-init 2>&1; grep -c "/sbin/docker-init .* ro," /proc/mounts`), nil, 0, `touch: .*(Read-only|read-only).*\n1\n`},
		{"on a read-only root", sh(`echo $$`), func(h *container.HostConfig) { h.ReadonlyRootfs = true }, 0, `[1-9][0-9]?\n`},
		{"as a user", &container.Config{User: "fish", Cmd: []string{"sh", "-c", "id -u; cat /proc/1/status | grep Uid"}}, nil, 0, `1000\nUid:\s+1000\s.*\n`},
		{"little memory", sh("echo well"), func(h *container.HostConfig) { h.Memory = 6 << 20 }, 0, `well\n`},
		{"few processes", sh("echo well; true | true"), func(h *container.HostConfig) { n := int64(20); h.PidsLimit = &n }, 0, `well\n`},
		{"limits and signals as without", sh(`ulimit -n; grep -E "SigIgn|SigBlk" /proc/self/status`), nil, 0, `1024\nSigBlk:\s0+\nSigIgn:\s[08]+4\n`}, // SIGQUIT, by the shell; what is above is ignored by whoever runs the tests
		{"ended by a signal", sh("kill -9 $$"), nil, 137, ``},
		{"no such command", &container.Config{Cmd: []string{"nothing"}}, nil, 127, `\[FATAL docker-init\] exec nothing failed: no such file or directory\n`},
		{"no such file", &container.Config{Cmd: []string{"/nothing"}}, nil, 127, `\[FATAL docker-init\] exec /nothing failed: no such file or directory\n`},
		{"not executable", &container.Config{Cmd: []string{"/etc/passwd"}}, nil, 126, `\[FATAL docker-init\] exec /etc/passwd failed: permission denied\n`},
		{"a terminal's", &container.Config{Tty: true, Cmd: []string{"sh", "-c", `cat /proc/$$/stat | (read a b c d pgrp s tty tp rest; [ $pgrp = $tp ] && echo foreground); grep -E "SigIgn|SigBlk" /proc/$$/status; ulimit -n; exit 5`}}, nil, 5,
			`foreground\r\nSigBlk:\s0+\r\nSigIgn:\s[08]+4\r\n1024\r\n`},
		{"a terminal's command that is not there", &container.Config{Tty: true, Cmd: []string{"/nothing"}}, nil, 127, `\[FATAL docker-init\] exec /nothing failed: no such file or directory\r\n`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			spec := withInit(tc.cfg)
			if tc.edit != nil {
				tc.edit(spec.HostConfig)
			}
			code, out := l.output(t, spec)
			if code != tc.code || !regexp.MustCompile("^"+tc.want+"$").MatchString(out) {
				t.Errorf("ended with %d after %q", code, out)
			}
		})
	}
}

// states are the states and names of a container's processes, as "S sleep".
func states(t *testing.T, id string) []string {
	t.Helper()
	var all []string
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range procs {
		cg, _ := os.ReadFile(p + "/cgroup")
		stat, _ := os.ReadFile(p + "/stat")
		if _, rest, ok := strings.Cut(string(stat), "("); ok && strings.Contains(string(cg), id) {
			name, rest, _ := strings.Cut(rest, ") ")
			all = append(all, rest[:1]+" "+name)
		}
	}
	slices.Sort(all)
	return all
}

func TestInitReapsOrphans(t *testing.T) {
	l := real(t)
	for _, init := range []bool{false, true} {
		t.Run(fmt.Sprint("init=", init), func(t *testing.T) {
			id := l.made(t, engine.Spec{Config: &container.Config{Cmd: []string{"sleep", "1000"}}, HostConfig: &container.HostConfig{Init: &init}})
			if err := l.engine.Start(t.Context(), id); err != nil {
				t.Fatal(err)
			}
			for range 5 {
				l.run(t, id, container.ExecCreateRequest{Cmd: []string{"sh", "-c", "sleep 0.2 >/dev/null 2>&1 &"}}, engine.ExecStart{}, nil)
			}
			want := []string{"S sleep", "Z sleep", "Z sleep", "Z sleep", "Z sleep", "Z sleep"}
			if init {
				want = []string{"S docker-init", "S sleep"}
			}
			if !poll(10*time.Second, func() bool { return slices.Equal(states(t, id), want) }) {
				t.Errorf("processes %q", states(t, id))
			}
		})
	}
}

func TestInitPassesSignalsOn(t *testing.T) {
	l := real(t)
	run := func(t *testing.T, cmd ...string) string {
		t.Helper()
		id := l.made(t, withInit(&container.Config{Cmd: cmd}))
		if err := l.engine.Start(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		return id
	}
	says := func(t *testing.T, id, want string) {
		t.Helper()
		if !poll(10*time.Second, func() bool { return l.log(t, id) == want }) {
			t.Fatalf("it said %q, not %q", l.log(t, id), want)
		}
	}
	id := run(t, "sh", "-c", `for s in HUP INT QUIT USR1 USR2 WINCH CONT PIPE ALRM; do trap "echo $s" $s; done; trap "exit 3" TERM; echo ready; while :; do sleep 0.05; done`)
	want := "ready\n"
	says(t, id, want)
	for _, s := range []string{"HUP", "INT", "QUIT", "USR1", "USR2", "WINCH", "CONT", "PIPE", "ALRM"} {
		if err := l.engine.Kill(t.Context(), id, s); err != nil {
			t.Fatal(err)
		}
		want += s + "\n"
		says(t, id, want)
	}
	ended := func(t *testing.T, id string, code int) {
		t.Helper()
		if err := l.engine.Stop(t.Context(), id, engine.StopOptions{}); err != nil {
			t.Fatal(err)
		}
		i, err := l.engine.Inspect(t.Context(), id)
		if err != nil || i.State.ExitCode != code {
			t.Errorf("ended with %d, %v; want %d", i.State.ExitCode, err, code)
		}
	}
	ended(t, id, 3)
	// Without a handler of its own a command would, as the first process, not end by the signal.
	id = run(t, "sleep", "1000")
	if !poll(10*time.Second, func() bool { return slices.Contains(states(t, id), "S sleep") }) {
		t.Fatalf("processes %q", states(t, id))
	}
	ended(t, id, 143)
}

// On a terminal the command has the foreground: what is typed reaches it, and Ctrl-C reaches it once.
func TestInitOnATerminal(t *testing.T) {
	l := real(t)
	spec := withInit(&container.Config{Tty: true, OpenStdin: true,
		Cmd: []string{"sh", "-c", `trap "echo int" INT; echo ready; while ! read x; do :; done; echo got $x; exit 9`}})
	id := l.made(t, spec)
	in, typed := io.Pipe()
	defer typed.Close()
	var out both
	opened, done := make(chan struct{}), make(chan error, 1)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	go func() {
		done <- l.engine.Attach(ctx, id, engine.AttachOptions{Stdin: true, Stdout: true, Stream: true, Open: func() (engine.Streams, error) {
			close(opened)
			return engine.Streams{Stdin: in, Stdout: &out}, nil
		}})
	}()
	<-opened
	if err := l.engine.Start(ctx, id); err != nil {
		t.Fatal(err)
	}
	await := func(text string) {
		t.Helper()
		if !poll(10*time.Second, func() bool { return strings.Contains(out.String(), text) }) {
			t.Fatalf("%q was not said: %q; processes %q", text, out.String(), states(t, id))
		}
	}
	await("ready")
	for _, step := range []struct{ typed, said string }{{"\x03", "int\r\n"}, {"hello\r", "got hello"}} {
		if _, err := io.WriteString(typed, step.typed); err != nil {
			t.Fatal(err)
		}
		await(step.said)
	}
	if n := strings.Count(out.String(), "int"); n != 1 {
		t.Errorf("Ctrl-C came %d times: %q", n, out.String())
	}
	if err := <-done; err != nil && !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	ch, err := l.engine.Wait(ctx, id, container.WaitConditionNotRunning)
	if err != nil {
		t.Fatal(err)
	}
	if r := <-ch; r.Err != nil || r.ExitCode != 9 {
		t.Errorf("ended with %+v", r)
	}
}

func TestInitIsMissing(t *testing.T) {
	l := real(t)
	id := l.made(t, withInit(&container.Config{Cmd: []string{"true"}}))
	path := l.engine.cfg.InitPath
	if err := os.Rename(path, path+"-away"); err != nil {
		t.Fatal(err)
	}
	err := l.engine.Start(t.Context(), id)
	if err := os.Rename(path+"-away", path); err != nil {
		t.Fatal(err)
	}
	if !errdefs.IsInternal(err) || !strings.Contains(err.Error(), path) {
		t.Errorf("%v", err)
	}
	if err := l.engine.Start(t.Context(), id); err != nil {
		t.Errorf("when it is back: %v", err)
	}
}
