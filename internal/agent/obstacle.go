package agent

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/moby/moby/api/types/swarm"
)

// obstacleEvery is how often it is asked what drops the packets of tasks.
const obstacleEvery = 5 * time.Second

// obstacle is what drops the task's packets, if it has any that others send it.
func (r *runner) obstacle() string {
	if t := r.spec(); len(t.NetworksAttachments) == 0 && len(t.HostPorts) == 0 {
		return ""
	}
	return r.a.cfg.Obstacle()
}

// watchObstacle tells of every task that runs what drops its packets, and when nothing does any more, until ctx ends.
func (a *Agent) watchObstacle(ctx context.Context) error {
	tick := time.NewTicker(obstacleEvery)
	defer tick.Stop()
	for said := a.cfg.Obstacle(); ; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		now := a.cfg.Obstacle()
		if now == said {
			continue
		}
		said = now
		a.mu.Lock()
		all := slices.Collect(maps.Values(a.tasks))
		a.mu.Unlock()
		for _, r := range all {
			if r.state() == swarm.TaskStateRunning { // one that has ended since stays so
				r.report(swarm.TaskStateRunning, r.message(), r.obstacle(), nil)
			}
		}
	}
}
