package apitest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"shoal.dev/shoal/internal/engine"
)

// Exec is a command of [Engine]. "cat" writes what it reads, "missing" is not found, and whatever else writes its name
// to stdout and "warned" to stderr and ends with 3.
type Exec struct {
	Request container.ExecCreateRequest
	Size    [2]uint // that it was last resized to
	Start   engine.ExecStart
	code    atomic.Pointer[int]
	name    string
}

func (f *Engine) CreateExec(_ context.Context, name string, r container.ExecCreateRequest) (string, error) {
	c, err := f.find(name)
	if err != nil {
		return "", err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if !c.running {
		return "", errdefs.ErrConflict.WithMessage("container " + c.id + " is not running")
	}
	if f.Execs == nil {
		f.Execs = map[string]*Exec{}
	}
	id := fmt.Sprintf("exec%d", len(f.Execs)+1)
	f.Execs[id] = &Exec{Request: r, name: c.id}
	return id, nil
}

func (f *Engine) exec(id string) (*Exec, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if x := f.Execs[id]; x != nil {
		return x, nil
	}
	return nil, errdefs.ErrNotFound.WithMessage("No such exec instance: " + id)
}

func (f *Engine) StartExec(_ context.Context, id string, o engine.ExecStart) error {
	x, err := f.exec(id)
	if err != nil {
		return err
	}
	if x.code.Load() != nil {
		return errdefs.ErrConflict.WithMessage("exec command " + id + " has already run")
	}
	x.Start = o
	code := 3
	defer x.code.Store(&code)
	s := engine.Streams{Stdout: io.Discard, Stderr: io.Discard}
	if !o.Detach {
		if s, err = o.Open(); err != nil {
			return err
		}
	}
	switch x.Request.Cmd[0] {
	case "missing":
		code = 127
		return errors.New(`OCI runtime exec failed: exec failed: unable to start container process: exec: "missing": executable file not found in $PATH: unknown`)
	case "cat":
		code = 0
		_, err = io.Copy(s.Stdout, s.Stdin)
	default:
		_, err = fmt.Fprintln(s.Stdout, strings.Join(x.Request.Cmd, " "))
		if _, werr := fmt.Fprintln(s.Stderr, "warned"); err == nil {
			err = werr
		}
	}
	x.code.Store(&code)
	return err
}

func (f *Engine) ResizeExec(_ context.Context, id string, height, width uint) error {
	x, err := f.exec(id)
	if err == nil {
		x.Size = [2]uint{height, width}
	}
	return err
}

func (f *Engine) InspectExec(_ context.Context, id string) (*container.ExecInspectResponse, error) {
	x, err := f.exec(id)
	if err != nil {
		return nil, err
	}
	return &container.ExecInspectResponse{ID: id, ContainerID: x.name, ExitCode: x.code.Load(),
		ProcessConfig: &container.ExecProcessConfig{Entrypoint: x.Request.Cmd[0], Arguments: x.Request.Cmd[1:]}}, nil
}

// Attach writes the engine's Lines, then what it reads, and ends when the input does.
func (f *Engine) Attach(_ context.Context, name string, o engine.AttachOptions) error {
	if _, err := f.find(name); err != nil {
		return err
	}
	if o.DetachKeys == "bad" {
		return errdefs.ErrInvalidArgument.WithMessage("Invalid detach keys (bad) provided")
	}
	s, err := o.Open()
	if err != nil {
		return err
	}
	for _, l := range f.Lines {
		w := s.Stdout
		if l.Stream == "stderr" {
			w = s.Stderr
		}
		if _, err := w.Write(l.Line); err != nil {
			return err
		}
	}
	if o.Stdin {
		_, err = io.Copy(s.Stdout, s.Stdin)
	}
	return err
}

func (f *Engine) Resize(_ context.Context, name string, height, width uint) error {
	c, err := f.find(name)
	if err != nil {
		return err
	}
	if !c.running {
		return errdefs.ErrConflict.WithMessage("container " + c.id + " is not running")
	}
	c.Size = [2]uint{height, width}
	return nil
}
