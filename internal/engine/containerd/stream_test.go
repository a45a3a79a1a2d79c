package containerd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"shoal.dev/shoal/internal/engine"
)

// up runs a shell script in a container until the test ends.
func (l *lab) up(t *testing.T, spec engine.Spec, text string) string {
	t.Helper()
	if spec.Config == nil {
		spec.Config = &container.Config{}
	}
	spec.Config.Image, spec.Config.Cmd = "busybox:test", []string{"sh", "-c", text}
	if spec.HostConfig == nil {
		spec.HostConfig = &container.HostConfig{}
	}
	spec.HostConfig.NetworkMode = "none"
	id, _, err := l.engine.Create(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.engine.Remove(context.Background(), id, true); err != nil && !errdefs.IsNotFound(err) {
			t.Error(err)
		}
	})
	if err := l.engine.Start(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	return id
}

// both takes standard output and standard error, which are written at the same time.
type both struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *both) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *both) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// run runs a command in a container to its end.
func (l *lab) run(t *testing.T, name string, r container.ExecCreateRequest, o engine.ExecStart, in io.Reader) (string, int) {
	t.Helper()
	r.AttachStdin, r.AttachStdout, r.AttachStderr = in != nil, true, true
	id, err := l.engine.CreateExec(t.Context(), name, r)
	if err != nil {
		t.Fatal(err)
	}
	var out both
	o.Open = func() (engine.Streams, error) { return engine.Streams{Stdin: in, Stdout: &out, Stderr: &out}, nil }
	if err := l.engine.StartExec(t.Context(), id, o); err != nil {
		fmt.Fprintln(&out, err)
	}
	i, err := l.engine.InspectExec(t.Context(), id)
	if err != nil || i.ExitCode == nil {
		t.Fatalf("inspect: %+v, %v", i, err)
	}
	return out.String(), *i.ExitCode
}

func TestExecSettings(t *testing.T) {
	l := real(t)
	id := l.up(t, engine.Spec{Config: &container.Config{User: "fish", Env: []string{"A=1", "B=2"}, WorkingDir: "/tmp"}}, "sleep 1000")
	caps := "grep -E 'CapEff|CapBnd' /proc/self/status | busybox tr -d '\\n'"
	const ordinary = "CapEff:\t00000000a80425fbCapBnd:\t00000000a80425fb"
	for _, c := range []struct {
		name string
		r    container.ExecCreateRequest
		o    engine.ExecStart
		want string
		code int
	}{
		{"the container's own", container.ExecCreateRequest{Cmd: []string{"sh", "-c", "id; pwd; echo $A $B; exit 3"}}, engine.ExecStart{},
			"uid=1000(fish) gid=1000(fish) groups=1000(fish),2000(water)\n/tmp\n1 2\n", 3},
		{"others", container.ExecCreateRequest{Cmd: []string{"sh", "-c", "id; pwd; echo $A $B $C $HOME"}, User: "root", WorkingDir: "/etc", Env: []string{"B=3", "C=4"}}, engine.ExecStart{},
			"uid=0(root) gid=0(root) groups=0(root)\n/etc\n1 3 4 /root\n", 0},
		{"a number", container.ExecCreateRequest{Cmd: []string{"sh", "-c", "id -u; id -g"}, User: "7:8"}, engine.ExecStart{}, "7\n8\n", 0},
		{"nobody", container.ExecCreateRequest{Cmd: []string{"id"}, User: "shark"}, engine.ExecStart{}, "unable to find user shark: no matching entries in passwd file\n", 126},
		{"no capabilities without root", container.ExecCreateRequest{Cmd: []string{"sh", "-c", caps}}, engine.ExecStart{}, strings.Replace(ordinary, "a80425fb", "00000000", 1), 0},
		{"root's", container.ExecCreateRequest{Cmd: []string{"sh", "-c", caps}, User: "0"}, engine.ExecStart{}, ordinary, 0},
		{"a terminal", container.ExecCreateRequest{Cmd: []string{"sh", "-c", "test -t 0 && busybox stty size; echo $TERM"}, Tty: true}, engine.ExecStart{ConsoleSize: &[2]uint{33, 77}}, "33 77\r\nxterm\r\n", 0},
		{"not executable", container.ExecCreateRequest{Cmd: []string{"/etc"}}, engine.ExecStart{},
			"OCI runtime exec failed: exec failed: unable to start container process: exec: \"/etc\": permission denied: unknown\n", 126},
		{"killed", container.ExecCreateRequest{Cmd: []string{"sh", "-c", "kill -9 $$"}}, engine.ExecStart{}, "", 137},
	} {
		t.Run(c.name, func(t *testing.T) {
			var in io.Reader
			if c.r.Tty {
				r, w := io.Pipe()
				defer w.Close()
				in = r
			}
			out, code := l.run(t, id, c.r, c.o, in)
			if out != c.want || code != c.code {
				t.Errorf("%q, %d; want %q, %d", out, code, c.want, c.code)
			}
		})
	}
	out, code := l.run(t, id, container.ExecCreateRequest{Cmd: []string{"sh", "-c", caps}, User: "0", Privileged: true}, engine.ExecStart{}, nil)
	if code != 0 || strings.Contains(out, "a80425fb") {
		t.Errorf("privileged: %q, %d", out, code)
	}
	if left, _ := filepath.Glob(filepath.Join(l.engine.cfg.State, "e", "*")); len(left) > 0 {
		t.Errorf("streams are left: %q", left)
	}
}

// TestExecUserFromInside is a container whose root replaced the list of users by a link to the host's.
func TestExecUserFromInside(t *testing.T) {
	l := real(t)
	secret := filepath.Join(t.TempDir(), "passwd")
	if err := os.WriteFile(secret, []byte("spy:x:4321:4321::/:/bin/sh\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, how := range map[string]string{
		"a link":   "ln -sf " + secret + " /etc/passwd",
		"dots":     "ln -sf ../../../../../../../.." + secret + " /etc/passwd",
		"magic":    "ln -sf /proc/1/root" + secret + " /etc/passwd",
		"a FIFO":   "busybox rm /etc/passwd; busybox mkfifo /etc/passwd",
		"a folder": "busybox rm /etc/passwd; busybox mkdir /etc/passwd",
	} {
		t.Run(name, func(t *testing.T) {
			id := l.up(t, engine.Spec{}, "busybox "+how+"; echo ready; sleep 1000")
			if !poll(10*time.Second, func() bool { return len(l.log(t, id)) > 0 }) {
				t.Fatal("it is not ready")
			}
			if out, code := l.run(t, id, container.ExecCreateRequest{Cmd: []string{"id"}, User: "spy"}, engine.ExecStart{}, nil); code != 126 || strings.Contains(out, "4321") {
				t.Errorf("%q, %d", out, code)
			}
		})
	}
}

// TestExecLeavesAProcess is a command that ends while a process that it began still holds its output.
func TestExecLeavesAProcess(t *testing.T) {
	l := real(t)
	id := l.up(t, engine.Spec{}, "sleep 1000")
	begin := time.Now()
	out, code := l.run(t, id, container.ExecCreateRequest{Cmd: []string{"sh", "-c", "sleep 500 & echo started"}}, engine.ExecStart{}, nil)
	if out != "started\n" || code != 0 {
		t.Errorf("%q, %d", out, code)
	}
	if took := time.Since(begin); took > 5*drainQuiet {
		t.Errorf("it took %s", took)
	}
}

// slow reads nothing until it is told to.
type slow struct {
	gate chan struct{}
	mu   sync.Mutex
	got  bytes.Buffer
}

func (s *slow) Write(b []byte) (int, error) {
	<-s.gate
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.got.Write(b)
}

// TestExecSlowClient takes its time after the command has ended, and gets all.
func TestExecSlowClient(t *testing.T) {
	l := real(t)
	id := l.up(t, engine.Spec{}, "sleep 1000")
	x, err := l.engine.CreateExec(t.Context(), id, container.ExecCreateRequest{Cmd: []string{"busybox", "seq", "1", "20000"}, AttachStdout: true})
	if err != nil {
		t.Fatal(err)
	}
	s := &slow{gate: make(chan struct{})}
	timer := time.AfterFunc(drainQuiet+time.Second, func() { close(s.gate) })
	defer timer.Stop()
	err = l.engine.StartExec(t.Context(), x, engine.ExecStart{Open: func() (engine.Streams, error) { return engine.Streams{Stdout: s}, nil }})
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(s.got.String(), "\n"); n != 20000 {
		t.Errorf("got %d of 20000 lines", n)
	}
}

// TestStuckClient reads nothing at all: the container waits for it, and is killed; its log is whole, and it ends.
func TestStuckClient(t *testing.T) {
	l := real(t)
	id, _, err := l.engine.Create(t.Context(), engine.Spec{Config: &container.Config{Image: "busybox:test", Cmd: []string{"busybox", "seq", "1", "2000000"}},
		HostConfig: &container.HostConfig{NetworkMode: "none"}})
	if err != nil {
		t.Fatal(err)
	}
	s := &slow{gate: make(chan struct{})}
	defer close(s.gate)
	opened, done := make(chan struct{}), make(chan error, 1)
	go func() {
		done <- l.engine.Attach(t.Context(), id, engine.AttachOptions{Stream: true, Stdout: true, Open: func() (engine.Streams, error) {
			close(opened)
			return engine.Streams{Stdout: s}, nil
		}})
	}()
	<-opened
	if err := l.engine.Start(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	size := 0
	poll(2*time.Second, func() bool { // it stands still when the client is a few MB behind
		now := len(l.log(t, id))
		same := now > 0 && now == size
		size = now
		return same
	})
	if i, err := l.engine.Inspect(t.Context(), id); err != nil || !i.State.Running {
		t.Fatalf("it did not wait for the client: %+v, %v", i.State, err)
	}
	begin := time.Now()
	if err := l.engine.Kill(t.Context(), id, "KILL"); err != nil {
		t.Fatal(err)
	}
	// The runtime in the shim waits 10 s for output, and then throws it away.
	if took := time.Since(begin); took > 8*time.Second {
		t.Errorf("it ended %s after it was killed: not all can be in the log", took)
	}
	log := l.log(t, id)
	n := 0
	for line := range strings.Lines(log) {
		n++
		if whole := strings.HasSuffix(line, "\n"); whole && line != fmt.Sprintln(n) {
			t.Fatalf("line %d of the log is %q", n, line)
		}
	}
	if len(log) < size {
		t.Errorf("the log shrank from %d to %d bytes", size, len(log))
	}
	if err := l.engine.Remove(t.Context(), id, false); err != nil {
		t.Error(err)
	}
	select {
	case err := <-done:
		t.Errorf("the attachment ended although its client hangs: %v", err)
	default:
	}
}

// TestAttachWithoutLog is the log driver none.
func TestAttachWithoutLog(t *testing.T) {
	l := real(t)
	id, _, err := l.engine.Create(t.Context(), engine.Spec{Config: &container.Config{Image: "busybox:test", Cmd: []string{"sh", "-c", "echo heard"}},
		HostConfig: &container.HostConfig{NetworkMode: "none", LogConfig: container.LogConfig{Type: "none"}}})
	if err != nil {
		t.Fatal(err)
	}
	defer l.engine.Remove(t.Context(), id, true)
	var out bytes.Buffer
	open := func() (engine.Streams, error) {
		return engine.Streams{Stdout: &out}, l.engine.Start(t.Context(), id)
	}
	if err := l.engine.Attach(t.Context(), id, engine.AttachOptions{Stream: true, Logs: true, Stdout: true, Open: open}); !errdefs.IsNotImplemented(err) {
		t.Errorf("with its log: %v", err)
	}
	if err := l.engine.Attach(t.Context(), id, engine.AttachOptions{Stream: true, Stdout: true, Open: open}); err != nil || out.String() != "heard\n" {
		t.Errorf("%q, %v", out.String(), err)
	}
	if left, err := os.Stat(l.engine.cfg.attachPath(id)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left: %v, %v", left, err)
	}
}

// TestAttachSlowClient is far behind when the container ends, and takes longer than anybody waits. It gets all, and the
// end is known meanwhile.
func TestAttachSlowClient(t *testing.T) {
	l := real(t)
	const lines = 300000 // 2 MB, more than one side holds
	id, _, err := l.engine.Create(t.Context(), engine.Spec{Config: &container.Config{Image: "busybox:test", Cmd: []string{"busybox", "seq", "1", fmt.Sprint(lines)}},
		HostConfig: &container.HostConfig{NetworkMode: "none"}})
	if err != nil {
		t.Fatal(err)
	}
	defer l.engine.Remove(context.Background(), id, true)
	s := &slow{gate: make(chan struct{})}
	ended, err := l.engine.Wait(t.Context(), id, container.WaitConditionNextExit)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		<-ended
		time.AfterFunc(7*time.Second, func() { close(s.gate) })
	}()
	open := func() (engine.Streams, error) { return engine.Streams{Stdout: s}, l.engine.Start(t.Context(), id) }
	if err := l.engine.Attach(t.Context(), id, engine.AttachOptions{Stream: true, Stdout: true, Open: open}); err != nil {
		t.Fatal(err)
	}
	for who, n := range map[string]int{"the client": strings.Count(s.got.String(), "\n"), "the log": strings.Count(l.log(t, id), "\n")} {
		if n != lines {
			t.Errorf("%s has %d of %d lines", who, n, lines)
		}
	}
}
