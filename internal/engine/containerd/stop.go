package containerd

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/moby/moby/api/types/container"
	"golang.org/x/sys/unix"

	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/engine/ledger"
)

// killGrace is how long a container may take to disappear after SIGKILL.
const killGrace = 30 * time.Second

// Stop implements engine.Containers.
func (e *Engine) Stop(ctx context.Context, name string, o engine.StopOptions) error {
	c, err := e.ledger.Find(name)
	if err != nil {
		return err
	}
	signal, grace, err := ledger.StopSettings(c, o)
	if err != nil {
		return err
	}
	waited := c.State.Status == container.StateRestarting
	if c, err = e.halt(ctx, c); err != nil || !c.Running() {
		if err == nil && waited {
			e.ledger.Report(c, "stop", nil)
		}
		return err
	}
	// Waiting begins before the signal, and without the container's lock, which its end takes.
	wctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done, err := e.ledger.Wait(wctx, c.ID, container.WaitConditionNotRunning)
	if err != nil {
		return err
	}
	if err := e.signal(ctx, c, signal); err != nil {
		return err
	}
	var deadline <-chan time.Time
	if grace >= 0 {
		t := time.NewTimer(grace)
		defer t.Stop()
		deadline = t.C
	}
	select {
	case r := <-done:
		if r.Err != nil {
			return r.Err
		}
	case <-deadline:
		if err := e.signal(ctx, c, unix.SIGKILL); err != nil {
			return err
		}
		if err := e.awaitKilled(ctx, c, done); err != nil {
			return err
		}
	}
	if n, err := e.ledger.Find(c.ID); err == nil {
		e.ledger.Report(n, "stop", nil)
	}
	return nil
}

func (e *Engine) awaitKilled(ctx context.Context, c *ledger.Container, done <-chan engine.WaitResult) error {
	t := time.NewTimer(killGrace)
	defer t.Stop()
	select {
	case r := <-done:
		return r.Err
	case <-t.C:
		return ledger.Errorf(context.DeadlineExceeded, "container %s has not gone %s after it was killed", c.ID[:12], killGrace)
	}
}

// Kill implements engine.Containers.
func (e *Engine) Kill(ctx context.Context, name, signal string) error {
	if signal == "" {
		signal = "SIGKILL"
	}
	s, err := ledger.ParseSignal(signal)
	if err != nil {
		return err
	}
	c, err := e.ledger.Find(name)
	if err != nil {
		return err
	}
	if !c.Active() {
		return ledger.Errorf(errdefs.ErrConflict, "cannot kill container: %s: container %s is not running", name, c.ID)
	}
	if ledger.Ends(c, s) {
		if c, err = e.halt(ctx, c); err != nil || !c.Running() {
			return err
		}
	}
	if s != unix.SIGKILL {
		return e.signal(ctx, c, s)
	}
	// Docker returns from a SIGKILL when the container is gone.
	done, err := e.ledger.Wait(ctx, c.ID, container.WaitConditionNotRunning)
	if err != nil {
		return err
	}
	if err := e.signal(ctx, c, s); err != nil {
		return err
	}
	return e.awaitKilled(ctx, c, done)
}

// signal sends a signal to the container's first process. That it has ended meanwhile is no error.
func (e *Engine) signal(ctx context.Context, c *ledger.Container, s unix.Signal) error {
	e.ledger.Report(c, "kill", map[string]string{"signal": strconv.Itoa(int(s))})
	_, err := e.tasks.Kill(e.scope(ctx), &tasks.KillRequest{ContainerID: c.ID, Signal: uint32(s)})
	if err = errgrpc.ToNative(err); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("cannot kill container %s: %w", c.ID[:12], err)
	}
	if n, err := e.ledger.Find(c.ID); err == nil && n.State.Status == container.StatePaused && ledger.Ends(n, s) {
		if err := e.Unpause(ctx, c.ID); err != nil && !errdefs.IsConflict(err) && !errdefs.IsNotFound(err) { // the signal arrives when it goes on
			return err
		}
	}
	return nil
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
	if c.Active() && !force {
		unlock()
		return ledger.Running(c)
	}
	for c.Running() {
		unlock() // its end takes the lock
		if err := e.Kill(ctx, c.ID, "SIGKILL"); err != nil && !errdefs.IsConflict(err) {
			return err
		}
		if c, unlock, err = e.ledger.Lock(ctx, c.ID); err != nil {
			if errdefs.IsNotFound(err) {
				return nil // it was to go at its end
			}
			return err
		}
	}
	defer unlock()
	ctx = e.scope(ctx)
	if e.usesSandbox(c) {
		if err := e.cfg.Sandboxes.Detach(ctx, c.ID); err != nil {
			return fmt.Errorf("detach container %s from the network: %w", c.ID[:12], err)
		}
	}
	// With the record the snapshot loses what keeps it; containerd's collector takes it soon.
	if err := e.containers.Delete(ctx, c.ID); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("remove container %s: %w", c.ID[:12], err)
	}
	e.dropFiles(c)
	e.releaseVolumes(ctx, c, volumes)
	e.ledger.Drop(c.ID)
	e.execs.Drop(c.ID)
	e.dismissWaiting(c.ID)
	return os.RemoveAll(c.Dir)
}
