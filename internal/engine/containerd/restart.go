package containerd

import (
	"context"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"

	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/engine/ledger"
)

// resumesAtOnce is how many containers start at the same time when the daemon does.
const resumesAtOnce = 4

// resume starts what the daemon is to start with, and removes what was to go when it ended while no daemon looked.
func (e *Engine) resume(ctx context.Context, g *errgroup.Group) {
	slots := make(chan struct{}, resumesAtOnce)
	all := e.ledger.All()
	started := map[string]chan struct{}{} // closed when a container has been started, or could not be
	for _, c := range all {
		if c.StartsWithDaemon() {
			started[c.ID] = make(chan struct{})
		}
	}
	for _, c := range all {
		switch {
		case c.HostConfig.AutoRemove && !c.Active() && !c.State.FinishedAt.IsZero():
			g.Go(func() error { e.autoRemove(ctx, c.ID); return nil })
		case c.StartsWithDaemon():
			g.Go(func() error {
				defer close(started[c.ID])
				for _, id := range ledger.Donors(c) { // first those whose namespaces it joins
					if first := started[id]; first != nil && id != c.ID {
						select {
						case <-first:
						case <-ctx.Done():
							return nil
						}
					}
				}
				slots <- struct{}{}
				defer func() { <-slots }()
				if err := e.Start(ctx, c.ID); err != nil && ctx.Err() == nil && !errdefs.IsNotFound(err) {
					e.cfg.Log.Warn("cannot start a container with the daemon", "container", c.ID, "error", err)
				}
				return nil
			})
		case c.Again(c):
			g.Go(func() error { e.again(ctx, c.ID); return nil })
		}
	}
}

// again starts a container that its policy restarts, after its delay, unless a user was quicker. For any other it
// does nothing.
func (e *Engine) again(ctx context.Context, id string) {
	planned, err := e.ledger.Find(id)
	if err != nil || !planned.Again(planned) {
		return
	}
	t := time.NewTimer(planned.State.Backoff)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
		return
	}
	c, unlock, err := e.ledger.Lock(ctx, id)
	if err != nil {
		return
	}
	defer unlock()
	if !c.Again(planned) {
		return
	}
	if err := e.startLocked(ctx, c, true); err != nil && ctx.Err() == nil {
		e.cfg.Log.Warn("cannot restart a container", "container", id, "error", err)
	}
}

func (e *Engine) autoRemove(ctx context.Context, id string) {
	if err := e.Purge(ctx, id, true); err != nil && !errdefs.IsNotFound(err) {
		e.cfg.Log.Warn("cannot remove a container that is to go at its end", "container", id, "error", err)
	}
}

// Restart implements engine.Life.
func (e *Engine) Restart(ctx context.Context, name string, o engine.StopOptions) error {
	return e.ledger.Restart(ctx, e, name, o)
}
