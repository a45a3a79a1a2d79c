package containerd

import (
	"context"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
)

// collectDelay is how long garbage waits, so that one collection serves many removals.
const collectDelay = 500 * time.Millisecond

// collect frees what nothing refers to any more, and returns when that is done.
func (e *Engine) collect(ctx context.Context) error {
	ls := e.client.LeasesService()
	l, err := ls.Create(ctx, leases.WithRandomID(), leases.WithExpiration(time.Minute))
	if err != nil {
		return err
	}
	return ls.Delete(ctx, l, leases.SynchronousDelete)
}

// litter says that there is something to collect soon.
func (e *Engine) litter() {
	select {
	case e.garbage <- struct{}{}:
	default: // a collection is due already
	}
}

// collectGarbage collects after removals, until ctx ends. containerd's own scheduler cannot be left to it: it drops
// what is removed while a collection deletes files, and then waits for the next removal of something else.
func (e *Engine) collectGarbage(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-e.garbage:
		}
		wait := time.NewTimer(collectDelay)
		select {
		case <-ctx.Done():
			wait.Stop()
			return
		case <-wait.C:
		}
		if err := e.collect(ctx); err != nil && ctx.Err() == nil {
			e.cfg.Log.Warn("cannot free what removed containers held; the next removal tries again", "error", err)
		}
	}
}
