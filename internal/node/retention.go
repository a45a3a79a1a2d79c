package node

import (
	"context"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/consensus"
)

// retentionAgain is the wait after a change of the snapshots' settings that failed.
const retentionAgain = 10 * time.Second

// retention is how the swarm wants its log kept.
func retention(r swarm.RaftConfig) consensus.Retention {
	out := consensus.Retention{Interval: r.SnapshotInterval, Trailing: r.LogEntriesForSlowFollowers}
	if r.KeepOldSnapshots != nil {
		out.OldSnapshots = *r.KeepOldSnapshots
	}
	return out
}

// keepRetention has this manager's log follow the swarm's settings until ctx ends.
func (m *manager) keepRetention(ctx context.Context) error {
	w, _ := m.store.Watch()
	defer w.Close()
	var have *consensus.Retention
	for {
		var retry <-chan time.Time
		if s := m.store.Snapshot().Swarm(); s != nil {
			if want := retention(s.Spec.Raft); have == nil || *have != want {
				if err := m.cons.SetRetention(want); err != nil {
					m.log.Warn("the settings of the log's snapshots are not in effect", "node", m.st.NodeID, "error", err, "again", retentionAgain)
					retry = time.After(retentionAgain)
				} else {
					have = &want
				}
			}
		}
		select {
		case <-w.Ready():
			w.Take()
		case <-retry:
		case <-ctx.Done():
			return nil
		}
	}
}
