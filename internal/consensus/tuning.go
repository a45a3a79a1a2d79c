package consensus

import (
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// The defaults of Tuning, and other figures that are not to be tuned.
const (
	// defaultHeartbeat is how long a follower hears nothing before it gives the leader up (watchLeader). The leader sends
	// every 0.1 to 0.2 s. A new leader needs a majority that gave up the old one (pre-vote), so with three managers a death
	// is healed when the slower of the two that are left has, after little more than a second; Swarm takes 11 s. For the same
	// reason a stall of one follower changes nothing, and a live leader is only replaced if it is silent for a second or more.
	defaultHeartbeat = time.Second
	// defaultElection is how long a candidate waits for votes, at random up to twice as long. Raft wants it to be no
	// shorter than the heartbeat time-out.
	defaultElection = time.Second
	// defaultLease is how long a leader goes on that does not hear a majority. It is the most that raft allows, five times the
	// longest pause between heartbeats, because a stall of the leader's own host counts, too. (The reads do not rest on
	// it.) Raft cannot change it later: the 100 ms that would go with a quick first election of a single manager would end
	// every leader of several at once; see lookNow for that.
	defaultLease = time.Second
	// defaultCommit is how long followers wait, at random up to twice as long, to hear what was committed when nothing
	// more is written. Agents and readers on followers see a change that much later. Each costs one small message a
	// follower: about 27 a second.
	defaultCommit = 25 * time.Millisecond
	// defaultSnapshotInterval is Swarm's default, in entries.
	defaultSnapshotInterval = 10_000
	// defaultSnapshotCheck is how often raft looks whether so many entries have come, at random up to twice as long. At 10,000 entries a second
	// that is 200,000 entries, so it is not longer.
	defaultSnapshotCheck = 10 * time.Second

	// rpcTimeout bounds one message between managers; a slow disk may take its time to store the entries in it.
	rpcTimeout = 10 * time.Second
	// maxAppendEntries is raft's default: the most entries in one message, besides maxAppendBytes.
	maxAppendEntries = 64
	// operationTimeout bounds what a caller gave no deadline for.
	operationTimeout = 30 * time.Second
	// lookMargin is what lookNow shortens the time-outs by.
	lookMargin = time.Millisecond
)

// Tuning has the time-outs and sizes that tests and unusual networks change. Zero fields have their defaults.
type Tuning struct {
	// Heartbeat is how long a follower hears nothing before it stands for election (1 s).
	Heartbeat time.Duration
	// Election is how long a candidate waits for votes (1 s); not shorter than Heartbeat.
	Election time.Duration
	// Lease is how long a leader goes on without a majority (1 s); not longer than Heartbeat and several times a fifth of it.
	Lease time.Duration
	// Commit is how long followers wait to hear of the last commit (25 ms).
	Commit time.Duration
	// SnapshotCheck is how often the number of entries since the last snapshot is looked at (10 s).
	SnapshotCheck time.Duration
	// TrailingLogs is how many entries before a snapshot stay in the log for managers that were away; 0 means as many as there are between two
	// snapshots.
	TrailingLogs uint64
}

func (t Tuning) withDefaults() Tuning {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&t.Heartbeat, defaultHeartbeat)
	def(&t.Election, max(defaultElection, t.Heartbeat))
	def(&t.Lease, min(defaultLease, t.Heartbeat))
	def(&t.Commit, defaultCommit)
	def(&t.SnapshotCheck, defaultSnapshotCheck)
	return t
}

func (c Config) withDefaults() Config {
	c.Tuning = c.Tuning.withDefaults()
	if c.SnapshotInterval == 0 {
		c.SnapshotInterval = defaultSnapshotInterval
	}
	return c
}

func (c Config) raftConfig(log hclog.Logger, notify chan<- bool) *raft.Config {
	r := raft.DefaultConfig()
	r.LocalID = raft.ServerID(c.NodeID)
	r.HeartbeatTimeout = c.Tuning.Heartbeat
	r.ElectionTimeout = c.Tuning.Election
	r.LeaderLeaseTimeout = c.Tuning.Lease
	r.CommitTimeout = c.Tuning.Commit
	r.MaxAppendEntries = maxAppendEntries
	r.BatchApplyCh = true
	r.SnapshotThreshold = c.SnapshotInterval
	r.SnapshotInterval = c.Tuning.SnapshotCheck
	r.TrailingLogs = c.Tuning.TrailingLogs
	if r.TrailingLogs == 0 {
		r.TrailingLogs = c.SnapshotInterval
	}
	r.ShutdownOnRemove = false // whoever opened closes
	r.NoLegacyTelemetry = true
	r.NotifyCh = notify
	r.Logger = log
	return r
}
