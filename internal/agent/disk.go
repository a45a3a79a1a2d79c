package agent

import (
	"context"
	"net/http"
	"time"

	"shoal.dev/shoal/internal/dispatch/protocol"
)

// diskEvery is how often it is asked whether the disk is too full for new tasks, or not any more.
const diskEvery = 5 * time.Second

func (a *Agent) diskFull() int {
	if a.cfg.DiskFull == nil {
		return 0
	}
	return a.cfg.DiskFull()
}

// reportDisk tells the manager when the disk becomes too full for new tasks and when it is not any more, until ctx ends.
// facts is what the manager was told last.
func (a *Agent) reportDisk(ctx context.Context, rt http.RoundTripper, facts *protocol.Facts) {
	tick := time.NewTicker(diskEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		now := *facts
		if now.DiskFull = a.diskFull(); now.DiskFull == facts.DiskFull {
			continue
		}
		err := post(ctx, rt, statusTimeout, protocol.PathStatus, protocol.StatusRequest{Nodes: []protocol.NodeReport{{NodeID: a.cfg.NodeID, Facts: &now}}})
		if err != nil { // said again with the next tick
			a.log.Debug("reporting the disk", "error", err)
			continue
		}
		facts = &now
	}
}
