package ledger

import (
	"context"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"golang.org/x/sys/unix"

	"shoal.dev/shoal/internal/engine"
)

// killGrace is how long a container may take to disappear after SIGKILL.
const killGrace = 30 * time.Second

// Ending is what of a container's end only the engine that runs it can bring about.
type Ending struct {
	// Save keeps a container's record over a death of the daemon. Nil keeps none.
	Save func(context.Context, *Container) error
	// Signal reports a signal and sends it to the first process. That the container has ended meanwhile is no error.
	Signal func(context.Context, *Container, unix.Signal) error
}

// Stop is engine.Containers' Stop.
func (l *Ledger) Stop(ctx context.Context, name string, o engine.StopOptions, by Ending) error {
	c, err := l.Find(name)
	if err != nil {
		return err
	}
	signal, grace, err := StopSettings(c, o)
	if err != nil {
		return err
	}
	waited := c.State.Status == container.StateRestarting
	if c, err = l.halt(ctx, c, by); err != nil || !c.Running() {
		if err == nil && waited {
			l.Report(c, "stop", nil)
		}
		return err
	}
	// Waiting begins before the signal, and without the container's lock, which its end takes.
	wctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done, err := l.Wait(wctx, c.ID, container.WaitConditionNotRunning)
	if err != nil {
		return err
	}
	if err := by.Signal(ctx, c, signal); err != nil {
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
		if err := by.Signal(ctx, c, unix.SIGKILL); err != nil {
			return err
		}
		if err := awaitKilled(c, done); err != nil {
			return err
		}
	}
	if n, err := l.Find(c.ID); err == nil {
		l.Report(n, "stop", nil)
	}
	return nil
}

// Kill is engine.Containers' Kill.
func (l *Ledger) Kill(ctx context.Context, name, signal string, by Ending) error {
	if signal == "" {
		signal = "SIGKILL"
	}
	s, err := ParseSignal(signal)
	if err != nil {
		return err
	}
	c, err := l.Find(name)
	if err != nil {
		return err
	}
	if !c.Active() {
		return Errorf(errdefs.ErrConflict, "cannot kill container: %s: container %s is not running", name, c.ID)
	}
	if Ends(c, s) {
		if c, err = l.halt(ctx, c, by); err != nil || !c.Running() {
			return err
		}
	}
	if s != unix.SIGKILL {
		return by.Signal(ctx, c, s)
	}
	// Docker returns from a SIGKILL when the container is gone.
	done, err := l.Wait(ctx, c.ID, container.WaitConditionNotRunning)
	if err != nil {
		return err
	}
	if err := by.Signal(ctx, c, s); err != nil {
		return err
	}
	return awaitKilled(c, done)
}

func awaitKilled(c *Container, done <-chan engine.WaitResult) error {
	t := time.NewTimer(killGrace)
	defer t.Stop()
	select {
	case r := <-done:
		return r.Err
	case <-t.C:
		return Errorf(context.DeadlineExceeded, "container %s has not gone %s after it was killed", c.ID[:12], killGrace)
	}
}

// halt takes down that a user wants the end of a container, so that no policy restarts it, also after a death of the
// daemon, and returns it as it is then.
func (l *Ledger) halt(ctx context.Context, c *Container, by Ending) (*Container, error) {
	if !c.Active() || c.HostConfig.RestartPolicy.IsNone() {
		return c, nil
	}
	c, unlock, err := l.Lock(ctx, c.ID)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if !c.Active() {
		return c, nil
	}
	n := Halted(c)
	if by.Save != nil {
		if err := by.Save(ctx, n); err != nil {
			return nil, err
		}
	}
	l.Put(n)
	return n, nil
}

// Restart is engine.Life's Restart on an engine.
func (l *Ledger) Restart(ctx context.Context, e engine.Containers, name string, o engine.StopOptions) error {
	c, unlock, err := l.Lock(ctx, name)
	if err != nil {
		return err
	}
	if c.HostConfig.AutoRemove && c.Running() {
		n := *c
		n.State.Keep = true
		l.Put(&n)
	}
	unlock()
	if err := e.Stop(ctx, c.ID, o); err != nil {
		return err
	}
	if err := e.Start(ctx, c.ID); err != nil {
		return err
	}
	if c, err := l.Find(c.ID); err == nil {
		l.Report(c, "restart", nil)
	}
	return nil
}
