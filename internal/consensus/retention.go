package consensus

import (
	"fmt"

	"github.com/hashicorp/raft"
)

// Retention is how often a snapshot is made and how much is kept. It may be changed while the log runs.
type Retention struct {
	// Interval is the number of entries between two snapshots; 0 means 10,000.
	Interval uint64
	// OldSnapshots is how many are kept beside the newest. One is kept in any case: it is what a manager starts from if
	// the newest is damaged.
	OldSnapshots uint64
	// Trailing is how many entries before a snapshot stay in the log for managers that follow slowly. As many as there are
	// between two snapshots stay in any case, so that the older one is of use.
	Trailing uint64
}

// SetRetention takes effect from the next snapshot on; old snapshots that are too many go at once.
func (c *Consensus) SetRetention(r Retention) error {
	if r.Interval == 0 {
		r.Interval = defaultSnapshotInterval
	}
	if err := c.snaps.retain(r.OldSnapshots); err != nil {
		return err
	}
	c.reloading.Lock()
	defer c.reloading.Unlock()
	rc := c.raft.ReloadableConfig()
	rc.SnapshotThreshold, rc.TrailingLogs = r.Interval, max(r.Trailing, r.Interval)
	if c.cfg.Tuning.TrailingLogs != 0 {
		rc.TrailingLogs = c.cfg.Tuning.TrailingLogs
	}
	if err := c.raft.ReloadConfig(rc); err != nil {
		return fmt.Errorf("changing how often snapshots are made: %w", err)
	}
	return nil
}

// maxRetained keeps a number that a user gives within an int; no disk has so many.
const maxRetained = 1 << 20

// retain changes how many snapshots are kept beside the newest.
func (s *snapshots) retain(old uint64) error {
	keep := max(retained, int(min(old, maxRetained))+1)
	s.keeping.Lock()
	defer s.keeping.Unlock()
	if keep == s.keep {
		return nil
	}
	inner, err := raft.NewFileSnapshotStoreWithLogger(s.parent, keep, s.log)
	if err != nil {
		return fmt.Errorf("the folder of the snapshots: %w", err)
	}
	if err := inner.ReapSnapshots(); err != nil {
		return fmt.Errorf("removing old snapshots: %w", err)
	}
	s.inner.Store(inner)
	s.keep = keep
	return nil
}
