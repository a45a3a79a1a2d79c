package consensus

import (
	"time"

	"github.com/hashicorp/raft"
)

const (
	// watchesPerTimeout is how often in a heartbeat time-out a follower looks whether it heard its leader.
	watchesPerTimeout = 20
	// lateWatch is how many pauses between two looks count at most: the rest is a stall of this host, not the leader's silence.
	lateWatch = 3
)

// watchLeader makes a follower stand for election as soon as its leader was silent for the heartbeat time-out. Raft's own
// timer, which goes on beside it, runs without regard to when the leader was heard: it fires after one to two time-outs,
// and if the leader had been heard within the last one then, after one to two more. So a death is noticed after one to three
// time-outs by each follower, and the slowest of a majority decides. With this all notice it at about the same moment.
func (c *Consensus) watchLeader() {
	timeout := c.cfg.Tuning.Heartbeat
	every := timeout / watchesPerTimeout
	tick := time.NewTicker(every)
	defer tick.Stop()
	w := silence{timeout: timeout, most: lateWatch * every}
	last := time.Now()
	for {
		select {
		case <-tick.C:
		case <-c.unwatch:
			return
		}
		now := time.Now()
		_, leader := c.raft.LeaderWithID()
		if w.over(c.raft.State() == raft.Follower && leader != "", c.raft.LastContact(), now.Sub(last)) {
			c.lookNow()
		}
		last = now
	}
}

// silence adds up for how long a leader was not heard.
type silence struct {
	timeout time.Duration
	most    time.Duration // that one pause counts

	heard time.Time
	sum   time.Duration
}

// over takes a look: whether this manager follows a leader, when that one was last heard, and how long ago the last look
// was. It says, once for each silence, that it is long enough.
func (s *silence) over(follows bool, heard time.Time, pause time.Duration) bool {
	if !follows || !heard.Equal(s.heard) {
		s.heard, s.sum = heard, 0
		return false
	}
	before := s.sum
	s.sum += min(pause, s.most)
	// Raft itself asks the wall clock, so what was not counted is no loss; a little more is, for the two to agree.
	limit := s.timeout + s.most/lateWatch/2
	return before < limit && s.sum >= limit
}
