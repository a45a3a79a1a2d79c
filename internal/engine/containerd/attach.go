package containerd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/engine/containerd/shimdata"
	"shoal.dev/shoal/internal/engine/escape"
	"shoal.dev/shoal/internal/engine/ledger"
)

// greetTime is how long a shim, which is a process of this host, may take to answer.
const greetTime = 10 * time.Second

// line is a connection to a container's shim, which has greeted.
type line struct {
	conn  net.Conn
	since time.Time // output from then on comes through it
	queue *shimdata.Queue
}

// waiting are attachments to containers that do not run yet, and those to containers that do. The zero value holds none.
type waiting struct {
	mu    sync.Mutex
	byID  map[string]map[chan *line]struct{} // each of size 1; nil is sent if the container will not run
	lines map[*line]string                   // those that talk, with their containers
}

func (w *waiting) talks(l *line, id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.lines == nil {
		w.lines = map[*line]string{}
	}
	w.lines[l] = id
}

func (w *waiting) silent(l *line) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.lines, l)
}

// rush takes what the shim of a container that has ended still has for clients, however slow they are: the shim goes.
func (w *waiting) rush(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for l, of := range w.lines {
		if of == id {
			l.queue.Rush()
		}
	}
}

func (w *waiting) add(id string) chan *line {
	ch := make(chan *line, 1)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.byID == nil {
		w.byID = map[string]map[chan *line]struct{}{}
	}
	if w.byID[id] == nil {
		w.byID[id] = map[chan *line]struct{}{}
	}
	w.byID[id][ch] = struct{}{}
	return ch
}

// leave takes an attachment out, and closes the connection that it may have got meanwhile.
func (w *waiting) leave(id string, ch chan *line) {
	w.mu.Lock()
	delete(w.byID[id], ch)
	if len(w.byID[id]) == 0 {
		delete(w.byID, id)
	}
	w.mu.Unlock()
	select {
	case l := <-ch:
		if l != nil {
			l.conn.Close()
		}
	default:
	}
}

func (w *waiting) take(id string) map[chan *line]struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	list := w.byID[id]
	delete(w.byID, id)
	return list
}

// connectWaiting connects those who wait for a container to its shim, so that they hear its first byte.
func (e *Engine) connectWaiting(ctx context.Context, id string) {
	for ch := range e.waiting.take(id) {
		l, err := e.dialShim(ctx, id)
		if err != nil {
			e.cfg.Log.Warn("cannot attach to a container that starts", "container", id, "error", err)
		}
		ch <- l
	}
}

// dismissWaiting tells those who wait for a container that it will not run.
func (e *Engine) dismissWaiting(id string) {
	for ch := range e.waiting.take(id) {
		ch <- nil
	}
}

// attachPath is the socket of a container's shim for those who attach. It is as long as a shim's own.
func (c *Config) attachPath(id string) string { return filepath.Join(c.State, "a", id) }

// dialShim connects to a container's shim. It returns nil without an error if there is none: the container has ended.
func (e *Engine) dialShim(ctx context.Context, id string) (*line, error) {
	ctx, cancel := context.WithTimeout(ctx, greetTime)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", e.cfg.attachPath(id))
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	end, _ := ctx.Deadline()
	_ = conn.SetReadDeadline(end)
	kind, data, err := shimdata.ReadFrame(conn, make([]byte, shimdata.MaxFrame))
	if err != nil || kind != shimdata.FrameHello {
		conn.Close()
		if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
			return nil, nil
		}
		return nil, fmt.Errorf("the shim of container %s greets with %d: %w", id[:12], kind, err)
	}
	_ = conn.SetReadDeadline(time.Time{})
	at, err := shimdata.HelloTime(data)
	if err != nil {
		conn.Close()
		return nil, err
	}
	return &line{conn: conn, since: at, queue: shimdata.NewQueue()}, nil
}

// Attach implements engine.Attachments.
func (e *Engine) Attach(ctx context.Context, name string, o engine.AttachOptions) error {
	c, err := e.ledger.Find(name)
	if err != nil {
		return err
	}
	switch c.State.Status {
	case container.StatePaused:
		return ledger.Errorf(errdefs.ErrConflict, "container %s is paused, unpause the container before attach", name)
	case container.StateRestarting:
		return ledger.Errorf(errdefs.ErrConflict, "container %s is restarting, wait until the container is running", name)
	}
	keys, err := escape.Parse(o.DetachKeys)
	if err != nil {
		return ledger.Errorf(errdefs.ErrInvalidArgument, "Invalid detach keys (%s) provided", o.DetachKeys)
	}
	if o.Logs && c.HostConfig.LogConfig.Type != "json-file" {
		return ledger.Errorf(errdefs.ErrNotImplemented, "configured logging driver does not support reading")
	}
	if !o.Stream {
		s, err := o.Open()
		if err != nil {
			return err
		}
		return e.replay(ctx, c, o, s, time.Time{})
	}
	// Those who wait are in the list before the state is looked at, and a start looks at the list after it has set the
	// state: nobody is missed.
	ch := e.waiting.add(c.ID)
	defer e.waiting.leave(c.ID, ch)
	var l *line
	now, err := e.ledger.Find(c.ID)
	if err != nil {
		return err
	}
	if now.Running() {
		e.waiting.leave(c.ID, ch)
		if l, err = e.dialShim(ctx, c.ID); err != nil {
			return fmt.Errorf("attach to container %s: %w", c.ID[:12], err)
		}
		if l != nil {
			defer l.conn.Close()
		}
	}
	e.ledger.Report(c, "attach", nil)
	s, err := o.Open()
	if err != nil {
		return err
	}
	until := time.Time{}
	if l != nil {
		until = l.since
	}
	if o.Logs {
		if err := e.replay(ctx, c, o, s, until); err != nil {
			return err
		}
	}
	if l == nil && !now.Running() {
		select {
		case l = <-ch:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if l != nil {
			defer l.conn.Close()
		}
	}
	if l == nil {
		return nil // it will not run, or has ended since it was looked at
	}
	return e.converse(ctx, c, o, s, l, keys)
}

// replay writes what the container's log holds, up to a time unless that is zero.
func (e *Engine) replay(ctx context.Context, c *ledger.Container, o engine.AttachOptions, s engine.Streams, until time.Time) error {
	lo := engine.LogOptions{Stdout: o.Stdout, Stderr: o.Stderr, Until: until, Tail: -1}
	if !lo.Stdout && !lo.Stderr {
		return nil
	}
	return e.Logs(ctx, c.ID, lo, func(ll engine.LogLine) error {
		w := s.Stdout
		if ll.Stream == "stderr" {
			w = s.Stderr
		}
		if w == nil {
			return nil
		}
		_, err := w.Write(ll.Line)
		return err
	})
}

// converse passes streams both ways until one of them ends the attachment.
func (e *Engine) converse(ctx context.Context, c *ledger.Container, o engine.AttachOptions, s engine.Streams, l *line, keys []byte) error {
	stop := context.AfterFunc(ctx, func() { l.conn.Close(); l.queue.Drop() })
	defer stop()
	defer l.queue.Drop()
	e.waiting.talks(l, c.ID)
	defer e.waiting.silent(l)
	out := make(chan error, 1)
	go l.fill()
	go func() { out <- l.output(o, s) }()
	left := make(chan error, 1)
	if o.Stdin && s.Stdin != nil && c.Config.OpenStdin {
		once := c.Config.StdinOnce && !c.Config.Tty
		go func() { left <- l.input(s.Stdin, c.Config.Tty, once, keys) }()
	}
	for {
		select {
		case err := <-out:
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return err
		case err := <-left:
			if errors.Is(err, errStdinOver) {
				left = nil
				continue // its output is still wanted
			}
			if err == nil {
				e.ledger.Report(c, "detach", nil)
			}
			return nil
		}
	}
}

// fill takes frames from the shim until it has no more, which is also so if it was killed: its container is, too.
func (l *line) fill() {
	defer l.queue.Finish()
	buf := make([]byte, shimdata.MaxFrame)
	for {
		kind, data, err := shimdata.ReadFrame(l.conn, buf)
		if err != nil || kind == shimdata.FrameEnd || !l.queue.Push(append([]byte{kind}, data...)) {
			return
		}
	}
}

// output passes on what the container writes until it has ended or the client has gone.
func (l *line) output(o engine.AttachOptions, s engine.Streams) error {
	for {
		b, more := l.queue.Pop()
		if !more {
			return nil
		}
		var w io.Writer
		switch {
		case b[0] == shimdata.FrameStdout && o.Stdout:
			w = s.Stdout
		case b[0] == shimdata.FrameStderr && o.Stderr:
			w = s.Stderr
		}
		if w == nil {
			continue
		}
		if _, err := w.Write(b[1:]); err != nil {
			return nil // the client has gone
		}
	}
}

// input passes on what the client sends. It returns nil after the detach keys, errStdinOver if the container was told
// that no more will come, and another error if the client has gone or sends no more.
func (l *line) input(r io.Reader, tty, once bool, keys []byte) error {
	if tty {
		r = escape.NewReader(r, keys)
	}
	buf := make([]byte, 16<<10)
	var frame []byte
	for {
		n, err := r.Read(buf)
		if n > 0 {
			frame = shimdata.AppendFrame(frame[:0], shimdata.FrameStdin, buf[:n])
			if _, err := l.conn.Write(frame); err != nil {
				return errStdinOver // the container has ended, which its output will say
			}
		}
		switch {
		case err == nil:
		case errors.Is(err, escape.ErrDetached):
			return nil
		case once:
			_, _ = l.conn.Write(shimdata.AppendFrame(frame[:0], shimdata.FrameEnd, nil))
			return errStdinOver
		default:
			return err
		}
	}
}
