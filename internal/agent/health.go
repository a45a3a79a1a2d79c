package agent

import (
	"context"
	"sync/atomic"
	"time"

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

const (
	// listenWithin is how long a container that nobody checks has for its first socket. Most need some milliseconds; one
	// that never listens, or only later, is not held up any longer, since Docker does not wait at all.
	listenWithin = time.Second
	// listenAgain is the time between two looks.
	listenAgain = 5 * time.Millisecond
)

// listens waits until the container of a task listens that is to get connections from the routing mesh as soon as it runs, so
// that none is refused. A health check knows better, if there is one.
func (r *runner) listens(up context.Context, in *container.InspectResponse) {
	if r.a.cfg.Listens == nil || in.State.Health != nil || !meshAddr(r.spec()).IsValid() {
		return
	}
	r.report(swarm.TaskStateStarting, "starting", "", running(in))
	ctx, cancel := context.WithTimeout(up, listenWithin)
	defer cancel()
	for {
		// That it cannot be told is no reason to wait: the container may have ended.
		if ok, err := r.a.cfg.Listens(in.State.Pid); ok || err != nil || pause(ctx, listenAgain) != nil {
			return
		}
	}
}
