package main

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/log"

	"shoal.dev/shoal/internal/engine/containerd/shimdata"
)

// hub offers a container's streams to whoever connects to its socket: the daemon, once for each attached client. With
// nobody there, nothing waits.
type hub struct {
	l          *net.UnixListener // nil: nothing is offered
	stdin      *os.File          // nil: none
	closeStdin func()            // closes the runtime's own end

	mu        sync.Mutex
	listeners map[*listener]struct{}
	rushed    bool           // the container has ended: it waits for nobody
	over      bool           // all output was sent
	written   sync.WaitGroup // listeners' writers

	input sync.Mutex // one frame at a time goes into stdin
}

type listener struct {
	conn  *net.UnixConn
	queue *shimdata.Queue
}

// offer opens the socket, and a FIFO for input if the container is to have one.
func (c *kept) offer(r *taskapi.CreateTaskRequest, closeStdin func()) (*hub, error) {
	h := &hub{closeStdin: closeStdin, listeners: map[*listener]struct{}{}}
	if c.target.Stdin {
		path := filepath.Join(r.Bundle, "stdin.fifo")
		if err := syscall.Mkfifo(path, 0o600); err != nil && !errors.Is(err, os.ErrExist) {
			return nil, err
		}
		// For reading, too: so it opens before the runtime has its end.
		f, err := os.OpenFile(path, os.O_RDWR|syscall.O_NONBLOCK, 0)
		if err != nil {
			return nil, err
		}
		h.stdin, r.Stdin = f, path
	}
	if c.target.Attach == "" {
		return h, nil
	}
	if err := os.Remove(c.target.Attach); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, errors.Join(err, h.closeInput())
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: c.target.Attach, Net: "unix"})
	if err != nil {
		return nil, errors.Join(err, h.closeInput())
	}
	h.l = l
	go h.accept()
	return h, nil
}

func (h *hub) accept() {
	for {
		conn, err := h.l.AcceptUnix()
		if err != nil {
			return // the container has ended
		}
		l := &listener{conn: conn, queue: shimdata.NewQueue()}
		h.mu.Lock()
		if h.over {
			h.mu.Unlock()
			conn.Close()
			return
		}
		if h.rushed {
			l.queue.Rush()
		}
		l.queue.Push(shimdata.AppendFrame(nil, shimdata.FrameHello, shimdata.Hello(time.Now())))
		h.listeners[l] = struct{}{}
		h.written.Go(func() { h.write(l) })
		h.mu.Unlock()
		go h.read(l)
	}
}

// write sends a listener its frames until it leaves or the container has ended.
func (h *hub) write(l *listener) {
	defer func() {
		l.queue.Drop()
		h.mu.Lock()
		delete(h.listeners, l)
		h.mu.Unlock()
		l.conn.Close()
	}()
	for {
		b, more := l.queue.Pop()
		if !more {
			_, _ = l.conn.Write(shimdata.AppendFrame(nil, shimdata.FrameEnd, nil)) // or it has left
			return
		}
		if _, err := l.conn.Write(b); err != nil {
			return
		}
	}
}

// read takes a listener's input until it leaves.
func (h *hub) read(l *listener) {
	defer func() {
		l.queue.Drop()
		l.conn.Close()
	}()
	buf := make([]byte, shimdata.MaxFrame)
	for {
		kind, data, err := shimdata.ReadFrame(l.conn, buf)
		if err != nil {
			return
		}
		switch kind {
		case shimdata.FrameStdin:
			if h.stdin == nil {
				continue
			}
			h.input.Lock()
			_, _ = h.stdin.Write(data) // fails when the input was closed
			h.input.Unlock()
		case shimdata.FrameEnd:
			if h.stdin != nil {
				h.input.Lock()
				_ = h.closeInput()
				h.input.Unlock()
				h.closeStdin()
			}
		}
	}
}

func (h *hub) closeInput() error {
	if h.stdin == nil {
		return nil
	}
	return h.stdin.Close() // the second time it fails, and matters not
}

// send gives all listeners a part of a stream. It waits for those that are far behind.
func (h *hub) send(kind byte, data []byte) {
	h.mu.Lock()
	if len(h.listeners) == 0 {
		h.mu.Unlock()
		return
	}
	to := make([]*listener, 0, len(h.listeners))
	for l := range h.listeners {
		to = append(to, l)
	}
	h.mu.Unlock()
	b := shimdata.AppendFrame(nil, kind, data)
	for _, l := range to {
		l.queue.Push(b) // unless it has left
	}
}

// rush lets the container wait for nobody any more: it has ended, and its last output must come through.
func (h *hub) rush() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.rushed = true
	for l := range h.listeners {
		l.queue.Rush()
	}
}

// end is called when all output was sent. It returns when the listeners have got it, or after the time given.
func (h *hub) end(patience time.Duration) {
	if h.l != nil {
		h.l.Close() // and removes the socket
	}
	h.mu.Lock()
	h.over = true
	for l := range h.listeners {
		l.queue.Finish()
		_ = l.conn.SetWriteDeadline(time.Now().Add(patience))
	}
	h.mu.Unlock()
	h.written.Wait()
	_ = h.closeInput()
}

// tap passes on what it reads from a stream to the hub as well.
type tap struct {
	r    io.Reader
	h    *hub
	kind byte
}

func (t tap) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	if n > 0 {
		t.h.send(t.kind, p[:n])
	}
	return n, err
}

// copy writes a stream to the log and to those who listen until it ends.
func (c *kept) copy(stream string, r io.Reader) error {
	from := tap{r: r, h: c.hub, kind: shimdata.FrameStdout}
	if stream == "stderr" {
		from.kind = shimdata.FrameStderr
	}
	if c.log == nil {
		_, err := io.Copy(io.Discard, struct{ io.Reader }{from})
		return err
	}
	return c.log.Copy(stream, from)
}

// closeStdin closes the runtime's end of a container's input, so that the container sees the end.
func (k *keeper) closeStdin(id string) {
	ctx, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	if _, err := k.TTRPCTaskService.CloseIO(ctx, &taskapi.CloseIORequest{ID: id, Stdin: true}); err != nil {
		log.L.WithError(err).Debugf("closing the input of container %s", id)
	}
}
