package fake

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"golang.org/x/sys/unix"

	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/engine/ledger"
	"shoal.dev/shoal/internal/engine/volume"
)

// run is what a container does.
type run struct {
	log      []engine.LogLine
	grown    chan struct{} // closed when log has grown, and at the end
	steps    []string      // still to do
	stubborn bool
	timer    *time.Timer // of a step that waits for a time
	begin    int         // counts starts and ends, so that a timer of an earlier one does nothing
	input    []byte      // not read yet
	noInput  bool        // no more will come
}

// Start implements engine.Containers.
func (e *Engine) Start(ctx context.Context, name string) error {
	c, unlock, err := e.ledger.Lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	if c.State.Status == container.StatePaused {
		return ledger.Errorf(errdefs.ErrConflict, "cannot start a paused container, try unpause instead")
	}
	if c.Active() {
		return nil
	}
	return e.start(ctx, c, false)
}

// start starts c, whose lock the caller holds. byPolicy is for a restart that no user asked for.
func (e *Engine) start(ctx context.Context, c *ledger.Container, byPolicy bool) error {
	if err := pause(ctx, e.StartTime); err != nil {
		return err
	}
	n := *c
	n.State = c.Started(time.Now(), byPolicy)
	e.mu.Lock()
	err := e.failStarts
	if err == nil && len(c.Files) > 0 && e.files[c.ID] == nil {
		err = ledger.FilesGone(c)
	}
	e.nextPid++
	n.State.Pid = e.nextPid
	e.mu.Unlock()
	if err == nil {
		err = e.ledger.CanJoin(c)
	}
	if err == nil && e.usesSandbox(c) {
		var a engine.Attachment
		var sandbox engine.Sandbox
		if a, err = c.Attachment(); err == nil {
			sandbox, err = e.Sandboxes.Attach(ctx, c.ID, a)
		}
		if err != nil {
			err = fmt.Errorf("failed to set up container networking: %w", err)
		} else {
			n = *n.Placed(sandbox)
		}
		e.ledger.ReportEndpoints(c.ID, engine.Sandbox{}, n.State.Sandbox)
	}
	if err == nil {
		err = e.volumes.Mount(ctx, c.ID, c.Mounts)
	}
	if err != nil {
		if e.usesSandbox(c) {
			_ = e.Sandboxes.Detach(ctx, c.ID) // the start's error is the one to tell
			e.ledger.ReportEndpoints(c.ID, n.State.Sandbox, engine.Sandbox{})
		}
		f := *c
		if f.State.Status == container.StateRestarting {
			f.State.Status = container.StateExited
		}
		f.State.Error, f.State.ExitCode = err.Error(), 128
		if !errdefs.IsUnavailable(err) {
			e.mu.Lock()
			delete(e.files, c.ID)
			e.mu.Unlock()
		}
		e.ledger.Put(&f)
		if c.HostConfig.AutoRemove {
			e.drop(c, true)
		}
		return err
	}
	e.ledger.Put(&n, ledger.Action{Name: "start"})
	e.watchHealth(&n)
	e.mu.Lock()
	r := e.runs[c.ID]
	if r == nil {
		r = &run{grown: make(chan struct{})}
		e.runs[c.ID] = r
	}
	r.steps, r.stubborn = steps(c.Argv()), false
	r.input, r.noInput = nil, !c.Config.OpenStdin
	r.begin++
	e.mu.Unlock()
	e.advance(c.ID, r, r.begin)
	return nil
}

func (e *Engine) usesSandbox(c *ledger.Container) bool {
	return e.Sandboxes != nil && c.HostConfig.NetworkMode.IsPrivate() && !c.HostConfig.NetworkMode.IsNone()
}

// pause waits for d, or for ctx.
func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func steps(argv []string) []string {
	list := strings.Split(strings.Join(argv, " "), ";")
	for i := range list {
		list[i] = strings.TrimSpace(list[i])
	}
	known := func(s string) bool {
		verb, _, _ := strings.Cut(s, " ")
		return slices.Contains([]string{"print", "warn", "sleep", "stubborn", "exit", "oom", "cat"}, verb)
	}
	if !slices.ContainsFunc(list, known) {
		return []string{"sleep"}
	}
	return list
}

// advance does a container's steps up to the next one that waits.
func (e *Engine) advance(id string, r *run, begin int) {
	e.mu.Lock()
	for r.begin == begin {
		if len(r.steps) == 0 {
			e.mu.Unlock()
			e.end(id, 0, false)
			return
		}
		verb, arg, _ := strings.Cut(r.steps[0], " ")
		r.steps = r.steps[1:]
		switch verb {
		case "print", "warn":
			stream := map[string]string{"print": "stdout", "warn": "stderr"}[verb]
			r.log = append(r.log, engine.LogLine{Stream: stream, Time: time.Now(), Line: []byte(arg + "\n")})
			close(r.grown)
			r.grown = make(chan struct{})
		case "cat":
			if len(r.input) > 0 {
				r.log = append(r.log, engine.LogLine{Stream: "stdout", Time: time.Now(), Line: r.input})
				r.input = nil
				close(r.grown)
				r.grown = make(chan struct{})
			}
			if !r.noInput {
				r.steps = append([]string{"cat"}, r.steps...)
				e.mu.Unlock()
				return
			}
		case "stubborn":
			r.stubborn = true
		case "sleep":
			if d, err := time.ParseDuration(arg); err == nil {
				r.timer = time.AfterFunc(d, func() { e.advance(id, r, begin) })
			}
			e.mu.Unlock()
			return
		case "oom":
			e.mu.Unlock()
			e.end(id, 137, true)
			return
		case "exit":
			code, _ := strconv.Atoi(arg)
			e.mu.Unlock()
			e.end(id, code, false)
			return
		}
	}
	e.mu.Unlock()
}

// end ends a container's run. Of several who want to, the first decides.
func (e *Engine) end(id string, code int, oom bool) {
	e.mu.Lock()
	r := e.runs[id]
	c, err := e.ledger.Find(id)
	if err != nil || r == nil || !c.Running() {
		e.mu.Unlock()
		return
	}
	r.begin++
	if r.timer != nil {
		r.timer.Stop()
	}
	e.watches.Stop(id)
	n := ledger.Ended(c, code, time.Now(), oom)
	delete(e.files, id)
	e.ledger.Put(n, ledger.EndActions(n)...)
	close(r.grown)
	r.grown = make(chan struct{})
	if n.Again(n) {
		r.timer = time.AfterFunc(n.State.Backoff, func() { e.again(n) })
	}
	e.mu.Unlock()
	_ = e.volumes.Unmount(id, c.Mounts) // in memory it cannot fail
	if c.State.Sandbox.NetNS != "" {
		_ = e.Sandboxes.Detach(context.Background(), id)
		e.ledger.ReportEndpoints(id, c.State.Sandbox, engine.Sandbox{})
	}
	if c.HostConfig.AutoRemove && !c.State.Keep {
		e.drop(c, true)
	}
}

// again restarts a container as its policy wants, unless a user was quicker.
func (e *Engine) again(planned *ledger.Container) {
	c, unlock, err := e.ledger.Lock(context.Background(), planned.ID)
	if err != nil {
		return
	}
	defer unlock()
	if c.Again(planned) {
		_ = e.start(context.Background(), c, true) // its error is in the container's state
	}
}

func (e *Engine) drop(c *ledger.Container, volumes bool) {
	_ = e.volumes.Release(context.Background(), c.ID, c.Mounts, volumes, volume.Named(c.HostConfig)...) // in memory it cannot fail
	e.ledger.Drop(c.ID)
	e.execs.Drop(c.ID)
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.files, c.ID)
	delete(e.trees, c.ID)
	if r := e.runs[c.ID]; r != nil {
		if r.timer != nil {
			r.timer.Stop()
		}
		delete(e.runs, c.ID)
		r.begin += 2 // whoever waits for a start or an end has it
		close(r.grown)
		r.grown = make(chan struct{})
	}
}

// ending is what the ledger needs to end containers; there is nothing to keep.
func (e *Engine) ending() ledger.Ending {
	return ledger.Ending{Signal: func(_ context.Context, c *ledger.Container, s unix.Signal) error {
		e.signal(c, int(s))
		return nil
	}}
}

// Stop implements engine.Containers.
func (e *Engine) Stop(ctx context.Context, name string, o engine.StopOptions) error {
	return e.ledger.Stop(ctx, name, o, e.ending())
}

// Restart implements engine.Life.
func (e *Engine) Restart(ctx context.Context, name string, o engine.StopOptions) error {
	return e.ledger.Restart(ctx, e, name, o)
}

// signal ends a container as a program without a handler would, unless it is stubborn.
func (e *Engine) signal(c *ledger.Container, n int) {
	e.ledger.Report(c, "kill", map[string]string{"signal": strconv.Itoa(n)})
	e.mu.Lock()
	r := e.runs[c.ID]
	ignored := r != nil && r.stubborn && n != 9
	e.mu.Unlock()
	if ledger.Ends(c, unix.Signal(n)) {
		// As in the real one a frozen container goes on, or it could not end. The caller may hold its lock.
		if cur, err := e.ledger.Find(c.ID); err == nil {
			if n, err := ledger.Unpaused(cur); err == nil {
				e.ledger.Put(n, ledger.Action{Name: "unpause"})
			}
		}
	}
	if !ignored {
		e.end(c.ID, 128+n, false)
	}
}

// Kill implements engine.Containers.
func (e *Engine) Kill(ctx context.Context, name, signal string) error {
	return e.ledger.Kill(ctx, name, signal, e.ending())
}

// Remove implements engine.Containers.
func (e *Engine) Remove(ctx context.Context, name string, force bool) error {
	return e.remove(ctx, name, force, false)
}

// Purge implements engine.Containers.
func (e *Engine) Purge(ctx context.Context, name string, force bool) error {
	return e.remove(ctx, name, force, true)
}

func (e *Engine) remove(ctx context.Context, name string, force, volumes bool) error {
	c, unlock, err := e.ledger.Lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	if c.Active() && !force {
		return ledger.Running(c)
	}
	if c.Running() {
		h := ledger.Halted(c)
		e.ledger.Put(h)
		e.signal(h, 9)
	}
	if e.usesSandbox(c) {
		if err := e.Sandboxes.Detach(ctx, c.ID); err != nil {
			return err
		}
	}
	e.drop(c, volumes)
	return nil
}
