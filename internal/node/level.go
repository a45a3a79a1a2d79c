package node

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
)

// keepLevel ends a manager whose version is older than what the swarm's records may have: it would drop what it does not
// know.
func (m *manager) keepLevel(ctx context.Context) error {
	w, snap := m.store.Watch()
	defer w.Close()
	for {
		if s := snap.Swarm(); s != nil && s.Beyond() {
			return fmt.Errorf("the swarm's records are of feature level %d and this version of shoald knows level %d: it is older than the swarm, install the newer one again", s.LevelOf(), cluster.Level)
		}
		if _, _, err := w.Next(ctx); err != nil {
			return nil // the daemon ends
		}
		snap = m.store.Snapshot()
	}
}

// checkLevel refuses a manager that is too old for the swarm.
func checkLevel(s *cluster.Swarm, role swarm.NodeRole, level int) error {
	if level = max(level, 1); role != swarm.NodeRoleManager || level >= s.LevelOf() {
		return nil
	}
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("this node's version of Shoal knows feature level %d and the swarm's records are of level %d: install a newer version to join as a manager", level, s.LevelOf()))
}
