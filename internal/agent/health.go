package agent

import (
	"context"
	"sync/atomic"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/swarm"
)

// unhealthyContainer is why a task failed whose container its health check condemned; Docker's words.
const unhealthyContainer = "dockerexec: unhealthy container"

// verdict is what became of a container's health checks.
type verdict struct{ bad atomic.Bool }

// watchHealth follows the health of a container that runs: its task runs once it is healthy, and it is stopped when it
// is unhealthy. The function that is returned ends that; it must be called.
func (r *runner) watchHealth(ctx context.Context) (v *verdict, end func()) {
	v = &verdict{}
	ctx, cancel := context.WithCancel(ctx)
	over := make(chan struct{})
	go func() {
		defer close(over)
		r.followHealth(ctx, v)
	}()
	return v, func() {
		cancel()
		<-over
	}
}

func (r *runner) followHealth(ctx context.Context, v *verdict) {
	known := container.HealthStatus("")
	for again := engineAgain; ; {
		now, err := r.a.cfg.Engine.WaitHealth(ctx, r.container, known)
		switch {
		case ctx.Err() != nil || errdefs.IsNotFound(err):
			return
		case err != nil:
			r.log.Warn("cannot follow the health of the container", "container", r.container, "error", err, "again", again)
			if pause(ctx, again) != nil {
				return
			}
			again = min(2*again, engineAgainMax)
			continue
		}
		again, known = engineAgain, now
		switch now {
		case container.NoHealthcheck:
			return
		case container.Healthy:
			r.report(swarm.TaskStateRunning, "started", "", nil)
		case container.Unhealthy:
			// Docker fails the task when the container has gone, so that the next one has its slot, its ports and its volumes
			// for itself.
			v.bad.Store(true)
			r.log.Warn("the container is unhealthy and is stopped", "container", r.container)
			r.quit(ctx)
			return
		}
	}
}
