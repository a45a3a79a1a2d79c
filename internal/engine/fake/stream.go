package fake

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/engine/escape"
	"shoal.dev/shoal/internal/engine/ledger"
)

// Attach implements engine.Attachments.
func (e *Engine) Attach(ctx context.Context, name string, o engine.AttachOptions) error {
	c, err := e.ledger.Find(name)
	if err != nil {
		return err
	}
	keys, err := escape.Parse(o.DetachKeys)
	if err != nil {
		return ledger.Errorf(errdefs.ErrInvalidArgument, "Invalid detach keys (%s) provided", o.DetachKeys)
	}
	e.mu.Lock()
	r := e.runs[c.ID]
	if r == nil {
		r = &run{grown: make(chan struct{})}
		e.runs[c.ID] = r
	}
	next, last := len(r.log), r.begin
	if o.Logs {
		next = 0
	}
	if now, err := e.ledger.Find(c.ID); err == nil && !now.Running() {
		last++ // it starts first
	}
	e.mu.Unlock()
	s, err := o.Open()
	if err != nil {
		return err
	}
	left := make(chan error, 1)
	if o.Stdin && s.Stdin != nil {
		go func() { left <- e.input(c, r, s.Stdin, keys) }()
	}
	for {
		e.mu.Lock()
		lines, grown, ended := slices.Clone(r.log[next:]), r.grown, r.begin > last
		next = len(r.log)
		e.mu.Unlock()
		for _, l := range lines {
			to := map[string]io.Writer{"stdout": s.Stdout, "stderr": s.Stderr}[l.Stream]
			if l.Stream == "stdout" && !o.Stdout || l.Stream == "stderr" && !o.Stderr || to == nil {
				continue
			}
			if _, err := to.Write(l.Line); err != nil {
				return nil // the client has gone
			}
		}
		if ended || !o.Stream {
			return nil
		}
		select {
		case <-grown:
		case err := <-left:
			if left = nil; err == nil {
				e.ledger.Report(c, "detach", nil)
			}
			if !errors.Is(err, errOver) {
				return nil
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

var errOver = errors.New("the input is over")

// input feeds a container. It returns nil after the detach keys and errOver if the container was told of the end.
func (e *Engine) input(c *ledger.Container, r *run, from io.Reader, keys []byte) error {
	if c.Config.Tty {
		from = escape.NewReader(from, keys)
	}
	buf := make([]byte, 4096)
	for {
		n, err := from.Read(buf)
		once := err != nil && c.Config.StdinOnce && !c.Config.Tty
		e.mu.Lock()
		r.input = append(r.input, buf[:n]...)
		r.noInput = r.noInput || once
		begin, cats := r.begin, len(r.steps) > 0 && r.steps[0] == "cat"
		e.mu.Unlock()
		if cats {
			e.advance(c.ID, r, begin)
		}
		switch {
		case errors.Is(err, escape.ErrDetached):
			return nil
		case once:
			return errOver
		case err != nil:
			return err
		}
	}
}

// Resize implements engine.Attachments.
func (e *Engine) Resize(_ context.Context, name string, _, _ uint) error {
	c, err := e.ledger.Find(name)
	if err != nil {
		return err
	}
	if !c.Running() {
		return ledger.Errorf(errdefs.ErrConflict, "container %s is not running", c.ID)
	}
	return nil
}

// CreateExec implements engine.Execs.
func (e *Engine) CreateExec(_ context.Context, name string, r container.ExecCreateRequest) (string, error) {
	ex, err := e.execs.Add(e.ledger, name, r)
	if err != nil {
		return "", err
	}
	return ex.ID, nil
}

// InspectExec implements engine.Execs.
func (e *Engine) InspectExec(_ context.Context, id string) (*container.ExecInspectResponse, error) {
	ex, err := e.execs.Find(id)
	if err != nil {
		return nil, err
	}
	return ex.Inspect(), nil
}

// ResizeExec implements engine.Execs.
func (e *Engine) ResizeExec(_ context.Context, id string, _, _ uint) error {
	_, err := e.execs.Find(id)
	return err
}

// StartExec implements engine.Execs. The command is of the same kind as a container's; one that begins with "missing"
// is not found.
func (e *Engine) StartExec(ctx context.Context, id string, o engine.ExecStart) error {
	ex, err := e.execs.Begin(e.ledger, id)
	if err != nil {
		return err
	}
	s, err := ex.Open(e.ledger, o)
	if err != nil {
		return err
	}
	if strings.HasPrefix(ex.Request.Cmd[0], "missing") {
		ex.Failed(127)
		return ledger.Errorf(errdefs.ErrInvalidArgument, "OCI runtime exec failed: exec failed: unable to start container process: "+
			"exec: %q: executable file not found in $PATH: unknown", ex.Request.Cmd[0])
	}
	ex.Started(1000)
	ended := make(chan error, 1)
	go func() {
		code, err := e.runExec(context.Background(), ex, s)
		ex.End(e.ledger, code, map[string]string{"exitCode": strconv.Itoa(code)})
		if errors.Is(err, escape.ErrDetached) {
			e.ledger.Report(ex.Container, "exec_detach", map[string]string{"execID": ex.ID})
		}
		ended <- nil
	}()
	if o.Detach {
		return nil
	}
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// runExec does a command's steps. At the end of ctx it is killed.
func (e *Engine) runExec(ctx context.Context, ex *ledger.Exec, s engine.Streams) (code int, err error) {
	say := func(w io.Writer, line []byte) {
		if w != nil {
			_, _ = w.Write(line) // a client that has gone does not stop a command
		}
	}
	for _, step := range steps(ex.Request.Cmd) {
		verb, arg, _ := strings.Cut(step, " ")
		switch verb {
		case "print":
			say(s.Stdout, fmt.Appendln(nil, arg))
		case "warn":
			say(s.Stderr, fmt.Appendln(nil, arg))
		case "cat":
			if s.Stdin == nil {
				continue
			}
			from := s.Stdin
			if ex.Request.Tty {
				from = escape.NewReader(from, ex.Keys)
			}
			var all bytes.Buffer
			_, err = all.ReadFrom(from)
			say(s.Stdout, all.Bytes())
		case "exit":
			code, _ = strconv.Atoi(arg)
			return code, err
		case "sleep":
			sctx, cancel := context.WithCancel(ctx)
			if d, err := time.ParseDuration(arg); err == nil {
				sctx, cancel = context.WithTimeout(ctx, d)
			}
			gone, werr := e.ledger.Wait(sctx, ex.Container.ID, container.WaitConditionNotRunning)
			if werr == nil {
				werr = (<-gone).Err
			}
			cancel()
			if werr == nil || ctx.Err() != nil {
				return 137, err // with its container
			}
		}
	}
	return 0, err
}
