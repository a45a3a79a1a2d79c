package enginetest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"shoal.dev/shoal/internal/engine"
)

// client is somebody who is connected to streams.
type client struct {
	in       *io.PipeWriter
	streams  engine.Streams
	out, err safeBuffer
	opened   chan struct{}
	done     chan error
}

// safeBuffer may be read while it is written.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}
func (b *safeBuffer) String() string { b.mu.Lock(); defer b.mu.Unlock(); return b.b.String() }

func newClient() *client {
	r, w := io.Pipe()
	c := &client{in: w, opened: make(chan struct{}), done: make(chan error, 1)}
	c.streams = engine.Streams{Stdin: r, Stdout: &c.out, Stderr: &c.err}
	return c
}

func (c *client) open() (engine.Streams, error) {
	close(c.opened)
	return c.streams, nil
}

// attach returns when the client is attached.
func (s *suite) attach(name string, o engine.AttachOptions) *client {
	s.Helper()
	c := newClient()
	o.Open, o.Stdout, o.Stderr = c.open, true, true
	go func() { c.done <- s.Engine.Attach(s.ctx, name, o) }()
	s.Cleanup(func() { c.in.Close() })
	select {
	case <-c.opened:
	case err := <-c.done:
		select {
		case <-c.opened: // it had so little to say that it has ended already
			c.done <- err
		default:
			s.Fatalf("attach: %v", err)
		}
	}
	return c
}

func (s *suite) ended(c *client) {
	s.Helper()
	select {
	case err := <-c.done:
		if err != nil {
			s.Errorf("the streams ended with %v", err)
		}
	case <-s.ctx.Done():
		s.Fatal("the streams do not end")
	}
}

func (s *suite) exec(name string, r container.ExecCreateRequest) string {
	s.Helper()
	id, err := s.Engine.CreateExec(s.ctx, name, r)
	if err != nil {
		s.Fatalf("create exec: %v", err)
	}
	return id
}

// start runs an exec to its end, with this input, and gives its output and exit code.
func (s *suite) startExec(id, input string) (out, errOut string, code int) {
	s.Helper()
	c := newClient()
	go func() {
		io.WriteString(c.in, input)
		c.in.Close()
	}()
	if err := s.Engine.StartExec(s.ctx, id, engine.ExecStart{Open: c.open}); err != nil {
		s.Fatalf("start exec: %v", err)
	}
	i, err := s.Engine.InspectExec(s.ctx, id)
	if err != nil || i.Running || i.ExitCode == nil {
		s.Fatalf("inspect exec after its end: %+v, %v", i, err)
	}
	return c.out.String(), c.err.String(), *i.ExitCode
}

func exec(s *suite) {
	name := s.sleeper(engine.Spec{})
	all := container.ExecCreateRequest{AttachStdin: true, AttachStdout: true, AttachStderr: true}
	cmd := func(steps ...string) container.ExecCreateRequest {
		r := all
		r.Cmd = s.Command(steps...)
		return r
	}
	id := s.exec(name, cmd("print hello", "warn oh", "exit 3"))
	s.same("ExecIDs", s.inspect(name).ExecIDs, []string{id})
	i, err := s.Engine.InspectExec(s.ctx, id)
	if err != nil {
		s.Fatal(err)
	}
	s.same("before the start", []any{i.Running, i.ExitCode == nil, i.ContainerID, i.OpenStdin}, []any{false, true, name, true})
	out, errOut, code := s.startExec(id, "")
	s.same("exec", []any{out, errOut, code}, []any{"hello\n", "oh\n", 3})
	s.same("ExecIDs after the end", len(s.inspect(name).ExecIDs), 0)
	s.refused(s.Engine.StartExec(s.ctx, id, engine.ExecStart{Detach: true}), errdefs.IsConflict, "exec command "+id+" has already run")

	// Input, to its end, and a lot of it.
	input := strings.Repeat("0123456789abcde\n", 40000)
	out, _, code = s.startExec(s.exec(name, cmd("cat", "exit 4")), input)
	if out != input || code != 4 {
		s.Errorf("cat gave %d of %d bytes back and ended with %d", len(out), len(input), code)
	}
	// What is not asked for is not there.
	r := cmd("cat", "print x", "warn y")
	r.AttachStdin, r.AttachStderr = false, false
	out, errOut, code = s.startExec(s.exec(name, r), "lost")
	s.same("only stdout", []any{out, errOut, code}, []any{"x\n", "", 0})

	none := cmd()
	none.Cmd = nil
	_, err = s.Engine.CreateExec(s.ctx, name, none)
	s.refused(err, errdefs.IsInvalidArgument, "No exec command specified")
	bad := cmd("exit 0")
	bad.DetachKeys = "ctrl-"
	_, err = s.Engine.CreateExec(s.ctx, name, bad)
	s.refused(err, errdefs.IsInvalidArgument, "Invalid escape keys (ctrl-) provided")
	_, err = s.Engine.CreateExec(s.ctx, "nobody", cmd("exit 0"))
	s.refused(err, errdefs.IsNotFound, "No such container: nobody")
	_, err = s.Engine.InspectExec(s.ctx, "nothing")
	s.refused(err, errdefs.IsNotFound, "No such exec instance: nothing")
	s.refused(s.Engine.StartExec(s.ctx, "nothing", engine.ExecStart{}), errdefs.IsNotFound, "No such exec instance: nothing")
	s.refused(s.Engine.ResizeExec(s.ctx, "nothing", 1, 1), errdefs.IsNotFound, "No such exec instance: nothing")

	late := s.exec(name, cmd("exit 0"))
	if err := s.Engine.Kill(s.ctx, name, ""); err != nil {
		s.Fatal(err)
	}
	s.refused(s.Engine.StartExec(s.ctx, late, engine.ExecStart{Detach: true}), errdefs.IsConflict, "container "+name+" is not running")
	_, err = s.Engine.CreateExec(s.ctx, name, cmd("exit 0"))
	s.refused(err, errdefs.IsConflict, "container "+name+" is not running")
}

func execMissing(s *suite) {
	name := s.sleeper(engine.Spec{})
	id := s.exec(name, container.ExecCreateRequest{Cmd: []string{"missing-program"}, AttachStdout: true})
	c := newClient()
	err := s.Engine.StartExec(s.ctx, id, engine.ExecStart{Open: c.open})
	if want := `OCI runtime exec failed: exec failed: unable to start container process: exec: "missing-program": executable file not found in $PATH: unknown`; err == nil || err.Error() != want {
		s.Errorf("error %v; want %s", err, want)
	}
	i, err := s.Engine.InspectExec(s.ctx, id)
	if err != nil || i.Running || i.ExitCode == nil || *i.ExitCode != 127 {
		s.Errorf("inspect: %+v, %v; want exit code 127", i, err)
	}
}

// execBroken is a client whose connection cannot be taken over: the exec can be started again.
func execBroken(s *suite) {
	name := s.sleeper(engine.Spec{})
	id := s.exec(name, container.ExecCreateRequest{Cmd: s.Command("print x", "exit 5"), AttachStdout: true})
	boom := errors.New("boom")
	if err := s.Engine.StartExec(s.ctx, id, engine.ExecStart{Open: func() (engine.Streams, error) { return engine.Streams{}, boom }}); !errors.Is(err, boom) {
		s.Errorf("error %v; want boom", err)
	}
	out, _, code := s.startExec(id, "")
	s.same("second start", []any{out, code}, []any{"x\n", 5})
}

func execDetach(s *suite) {
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	events := s.Engine.Events(ctx)
	name := s.sleeper(engine.Spec{})
	id := s.exec(name, container.ExecCreateRequest{Cmd: s.Command("exit 6")})
	if err := s.Engine.StartExec(s.ctx, id, engine.ExecStart{Detach: true}); err != nil {
		s.Fatal(err)
	}
	var got []string
	for e := range events {
		if e.ID != name || !strings.HasPrefix(e.Action, "exec_") {
			continue
		}
		action, _, _ := strings.Cut(e.Action, ":")
		s.same("execID of "+action, e.Attributes["execID"], id)
		if got = append(got, action); action == "exec_die" {
			s.same("exitCode", e.Attributes["exitCode"], "6")
			break
		}
	}
	s.same("events", got, []string{"exec_create", "exec_start", "exec_die"})
	i, err := s.Engine.InspectExec(s.ctx, id)
	if err != nil || i.ExitCode == nil || *i.ExitCode != 6 {
		s.Errorf("inspect: %+v, %v; want exit code 6", i, err)
	}
}

// execOutlives is a client that goes while its command runs on.
func execOutlives(s *suite) {
	name := s.sleeper(engine.Spec{})
	id := s.exec(name, container.ExecCreateRequest{Cmd: s.Command("print x", "sleep"), AttachStdout: true})
	ctx, cancel := context.WithCancel(s.ctx)
	c := newClient()
	go func() { c.done <- s.Engine.StartExec(ctx, id, engine.ExecStart{Open: c.open}) }()
	s.until("the command has said something", func() bool { return c.out.String() == "x\n" })
	cancel()
	if err := <-c.done; !errors.Is(err, context.Canceled) {
		s.Errorf("start: %v; want that it was cancelled", err)
	}
	i, err := s.Engine.InspectExec(s.ctx, id)
	if err != nil || !i.Running || i.Pid == 0 {
		s.Errorf("the command does not run on: %+v, %v", i, err)
	}
	s.refused(s.Engine.StartExec(s.ctx, id, engine.ExecStart{Detach: true}), errdefs.IsConflict, "exec command "+id+" is already running")
	if err := s.Engine.Kill(s.ctx, name, ""); err != nil {
		s.Fatal(err)
	}
	s.until("it ended with its container", func() bool {
		i, err := s.Engine.InspectExec(s.ctx, id)
		return err == nil && !i.Running && i.ExitCode != nil && *i.ExitCode == 137
	})
}

// attachBefore is what `docker run` does: attach, then start. Nothing may be missing.
func attachBefore(s *suite) {
	id := s.create(engine.Spec{}, "print one", "warn two", "exit 3")
	c := s.attach(id, engine.AttachOptions{Stream: true})
	s.start(id)
	s.ended(c)
	s.same("streams", []string{c.out.String(), c.err.String()}, []string{"one\n", "two\n"})
	s.same("exit code", s.wait(id), 3)
	s.same("the log has it, too", slices.Sorted(slices.Values(s.lines(id, both))), []string{"err: two", "out: one"})
	// A second run, with the log of the first.
	c = s.attach(id, engine.AttachOptions{Stream: true, Logs: true})
	s.start(id)
	s.ended(c)
	s.same("with the log", []string{c.out.String(), c.err.String()}, []string{"one\none\n", "two\ntwo\n"})
	s.wait(id)
	c = s.attach(id, engine.AttachOptions{Logs: true})
	s.ended(c)
	s.same("only the log", []string{c.out.String(), c.err.String()}, []string{"one\none\n", "two\ntwo\n"})
}

func attachStdin(s *suite) {
	spec := engine.Spec{Config: &container.Config{OpenStdin: true, StdinOnce: true}}
	id := s.create(spec, "cat", "exit 7")
	c := s.attach(id, engine.AttachOptions{Stream: true, Stdin: true})
	s.start(id)
	input := strings.Repeat("0123456789abcde\n", 40000)
	if _, err := io.WriteString(c.in, input); err != nil {
		s.Fatal(err)
	}
	c.in.Close()
	s.ended(c)
	if got := c.out.String(); got != input {
		s.Errorf("cat gave %d of %d bytes back", len(got), len(input))
	}
	s.same("exit code", s.wait(id), 7)
}

// attachTwice is a container whose input stays open when a client ends its own.
func attachTwice(s *suite) {
	spec := engine.Spec{Config: &container.Config{OpenStdin: true}}
	id := s.create(spec, "print ready", "cat")
	s.start(id)
	s.ready(id, 1)
	listener := s.attach(id, engine.AttachOptions{Stream: true})
	for _, word := range []string{"first\n", "second\n"} {
		c := s.attach(id, engine.AttachOptions{Stream: true, Stdin: true})
		if _, err := io.WriteString(c.in, word); err != nil {
			s.Fatal(err)
		}
		s.until("the container answers", func() bool { return c.out.String() == word })
		c.in.Close()
		s.ended(c)
		s.same("still running", s.inspect(id).State.Running, true)
	}
	if err := s.Engine.Kill(s.ctx, id, ""); err != nil {
		s.Fatal(err)
	}
	s.ended(listener)
	s.same("who only listened heard all", listener.out.String(), "first\nsecond\n")
}

func attachDetach(s *suite) {
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	events := s.Engine.Events(ctx)
	spec := engine.Spec{Config: &container.Config{OpenStdin: true, Tty: true}}
	id := s.create(spec, "print ready", "cat")
	s.start(id)
	s.ready(id, 1)
	if err := s.Engine.Resize(s.ctx, id, 30, 100); err != nil {
		s.Errorf("resize: %v", err)
	}
	c := s.attach(id, engine.AttachOptions{Stream: true, Stdin: true, DetachKeys: "ctrl-x,y"})
	if _, err := io.WriteString(c.in, "ab\n\x18y"); err != nil {
		s.Fatal(err)
	}
	s.ended(c)
	s.same("still running", s.inspect(id).State.Running, true)
	for e := range events {
		if e.ID == id && e.Action == "detach" {
			break
		}
	}
	bad := newClient()
	s.refused(s.Engine.Attach(s.ctx, id, engine.AttachOptions{Stream: true, DetachKeys: "ab", Open: bad.open}), errdefs.IsInvalidArgument, "Invalid detach keys (ab) provided")
	s.refused(s.Engine.Attach(s.ctx, "nobody", engine.AttachOptions{Open: bad.open}), errdefs.IsNotFound, "No such container: nobody")
	if err := s.Engine.Kill(s.ctx, id, ""); err != nil {
		s.Fatal(err)
	}
	s.refused(s.Engine.Resize(s.ctx, id, 1, 1), errdefs.IsConflict, "container "+id+" is not running")
}

// attachRemoved is a client that waits for a container that goes instead of starting.
func attachRemoved(s *suite) {
	id := s.create(engine.Spec{}, "exit 0")
	c := s.attach(id, engine.AttachOptions{Stream: true})
	if err := s.Engine.Remove(s.ctx, id, true); err != nil {
		s.Fatal(err)
	}
	s.ended(c)
}
