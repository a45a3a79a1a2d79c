package containerd

import (
	"context"
	"fmt"
	"os"
	"strconv"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/moby/moby/api/types/container"
	"golang.org/x/sys/unix"

	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/engine/ledger"
)

// ending is what the ledger needs to end containers.
func (e *Engine) ending() ledger.Ending {
	return ledger.Ending{
		Save:   func(ctx context.Context, c *ledger.Container) error { return e.save(e.scope(ctx), c, nil) },
		Signal: e.signal,
	}
}

// Stop implements engine.Containers.
func (e *Engine) Stop(ctx context.Context, name string, o engine.StopOptions) error {
	return e.ledger.Stop(ctx, name, o, e.ending())
}

// Kill implements engine.Containers.
func (e *Engine) Kill(ctx context.Context, name, signal string) error {
	return e.ledger.Kill(ctx, name, signal, e.ending())
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
	// With the record the snapshot loses what keeps it.
	defer e.litter()
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
