// Package consensus keeps the swarm's log identical on all managers: hashicorp/raft with a log and snapshots of ours.
//
// It decides who leads, who is a member and which entry comes when. It owns the manager's raft folder, in which
// everything that came from a record is sealed. It never looks into an entry: the store applies it. It never decides
// who may become a member.
package consensus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"shoal.dev/shoal/internal/store"
)

// Config is what Open needs.
type Config struct {
	// Dir holds the log and the snapshots; it is made, 0700, if it is missing.
	Dir string
	// NodeID is this manager's ID; Addr is host:port under which the others reach it.
	NodeID, Addr string
	// Layer carries Raft between managers and is closed by Close. Transport is used instead where it is set: tests and
	// the simulator.
	Layer     raft.StreamLayer
	Transport raft.Transport
	// Store is what entries are applied to. Open makes the Consensus its proposer.
	Store *store.Store
	// Key seals what is on the disk: 32 bytes. Opening needs the key that the files were written with.
	Key []byte
	// Begun says that there were entries before: a log that is empty then was lost.
	Begun bool
	// SnapshotInterval is the number of entries between two snapshots; 0 means 10,000, which is Swarm's default.
	SnapshotInterval uint64
	// Tuning has the time-outs; zero fields have their defaults.
	Tuning Tuning
	// Probe is told what happens to the log, if it is set: the simulator's.
	Probe Probe
	Log   *slog.Logger
}

// Consensus is this manager's part in the group. All methods are safe for concurrent use.
type Consensus struct {
	cfg       Config
	log       *slog.Logger
	raft      *raft.Raft
	transport *transport
	logs      *logStore
	snaps     *snapshots
	leading   *leadership
	reads     reads
	inflight  *inflight
	reloading sync.Mutex // held while raft's configuration is read, changed and set
	// changing holds the right to change the members: one change at a time.
	changing chan struct{}
	watching sync.WaitGroup
	unwatch  chan struct{} // closed by Close
	closed   chan struct{} // closed when raft has ended: it answers nothing that is still in its queues

	closing  sync.Once
	closeErr error
}

// Open checks the log and the snapshots in the folder, restores the store from them and takes part in the group. A
// manager that is not a member of a group yet waits for Bootstrap, or for a leader's AddVoter. A sole member leads within milliseconds.
//
// A damaged log or snapshot is an error that names the file and what is damaged: the way out is to remove the folder
// and join again, which other managers make possible.
func Open(c Config) (_ *Consensus, err error) {
	if c.NodeID == "" || c.Addr == "" || c.Store == nil || c.Log == nil || (c.Layer == nil && c.Transport == nil) {
		return nil, errors.New("consensus: node ID, address, store, log and layer are needed")
	}
	if len(c.Key) != keySize {
		return nil, fmt.Errorf("consensus: the key has %d bytes, it must have %d", len(c.Key), keySize)
	}
	c = c.withDefaults()
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("the folder of the swarm's log: %w", err)
	}
	log := c.Log.With("node", c.NodeID)
	hlog := newHclog(log)
	logs, err := openLogStore(filepath.Join(c.Dir, "log.db"), c.Key)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, logs.Close())
		}
	}()
	logs.log = log
	snaps, err := openSnapshots(c.Dir, c.Key, hlog)
	if err != nil {
		return nil, err
	}
	if err := checkHistory(logs, snaps, c.Begun); err != nil {
		return nil, err
	}

	inner := c.Transport
	if inner == nil {
		inner = raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
			Stream: c.Layer, MaxPool: 3, Timeout: rpcTimeout, Logger: hlog,
		})
	}
	t := &Consensus{
		cfg: c, log: log, transport: newTransport(inner), logs: logs, snaps: snaps, leading: newLeadership(), inflight: newInflight(),
		changing: make(chan struct{}, 1), unwatch: make(chan struct{}), closed: make(chan struct{}),
	}
	disk, state := c.probed(logs)
	t.raft, err = raft.NewRaft(c.raftConfig(hlog, t.leading.notify), state, disk, disk, snaps, t.transport)
	if err != nil {
		t.leading.close()
		return nil, errors.Join(fmt.Errorf("starting raft: %w", err), t.transport.Close())
	}
	if s, err := t.Servers(); err == nil && soleVoter(s, c.NodeID) {
		t.lookNow()
	}
	t.watching.Go(t.watchLeader)
	c.Store.SetProposer(t)
	return t, nil
}

// checkHistory checks that log and snapshots together have every entry: raft panics on a hole.
func checkHistory(logs *logStore, snaps *snapshots, begun bool) error {
	first, err := logs.FirstIndex()
	if err != nil {
		return err
	}
	metas, err := snaps.List()
	if err != nil {
		return fmt.Errorf("listing the snapshots in %s: %w", snaps.dir, err)
	}
	term, err := logs.GetUint64(keyCurrentTerm)
	switch {
	case err != nil:
		return err
	case term == 0 && len(metas) > 0: // who has a snapshot had a term before
		return fmt.Errorf("the swarm's log %s is empty and there are snapshots in %s: it was lost or emptied", logs.path, snaps.dir)
	case term == 0 && begun:
		return fmt.Errorf("the swarm's log %s is empty and had entries before: it was lost or emptied", logs.path)
	}
	var damage error
	for _, m := range metas {
		if err := snaps.verify(m.ID); err != nil {
			damage = errors.Join(damage, err)
			continue
		}
		if first > m.Index+1 {
			return errors.Join(damage, fmt.Errorf("the swarm's log in %s begins with entry %d and the newest good snapshot ends with %d: entries are missing",
				logs.path, first, m.Index))
		}
		return nil
	}
	switch {
	case damage != nil:
		return damage
	case first > 1:
		return fmt.Errorf("the swarm's log in %s begins with entry %d and there is no snapshot in %s that has those before it", logs.path, first, snaps.dir)
	}
	return nil
}

// Bootstrap makes this manager the only member of a new group. It leads within milliseconds.
func (c *Consensus) Bootstrap() error {
	err := c.raft.BootstrapCluster(c.cfg.alone()).Error()
	if errors.Is(err, raft.ErrCantBootstrap) {
		return fmt.Errorf("the folder %s has the log of a swarm already", c.cfg.Dir)
	}
	if err != nil {
		return fmt.Errorf("starting a new log: %w", err)
	}
	c.lookNow()
	return nil
}

// lookNow has raft look at its timer at once, and stand for election if the heartbeat time-out is over: nobody was heard for
// so long, or ever. Raft does so when the time-out is shortened, so it is made slightly longer first.
func (c *Consensus) lookNow() {
	c.reloading.Lock()
	defer c.reloading.Unlock()
	rc := c.raft.ReloadableConfig()
	rc.HeartbeatTimeout, rc.ElectionTimeout = c.cfg.Tuning.Heartbeat+lookMargin, c.cfg.Tuning.Election+lookMargin
	err := c.raft.ReloadConfig(rc)
	rc.HeartbeatTimeout, rc.ElectionTimeout = c.cfg.Tuning.Heartbeat, c.cfg.Tuning.Election
	if err := errors.Join(err, c.raft.ReloadConfig(rc)); err != nil {
		c.log.Warn("an election waits for raft's own timer", "error", err)
	}
}

// IsLeader says whether this manager leads, as far as it knows: only ReadIndex and Propose are sure.
func (c *Consensus) IsLeader() bool { return c.raft.State() == raft.Leader }

// Leader is who leads, as far as this manager knows; ok is false where there is no leader.
func (c *Consensus) Leader() (nodeID, addr string, ok bool) {
	a, id := c.raft.LeaderWithID()
	return string(id), string(a), id != ""
}

// LeadershipCh delivers true when this manager gained leadership and false when it lost it, each in turn and none left
// out. There is one channel, for one reader. Close closes it: that, too, is a loss.
func (c *Consensus) LeadershipCh() <-chan bool { return c.leading.out }

// Stats are figures for logs and metrics.
type Stats struct {
	Term uint64
	// LastIndex is the newest entry on the disk, CommitIndex the newest that a majority has, StoreIndex the newest
	// that the store has; entries without changes to records do not count for the last.
	LastIndex, CommitIndex, StoreIndex uint64
	// SnapshotIndex is the last entry in the newest snapshot.
	SnapshotIndex uint64
	// LastContact is when the leader was last heard; on the leader it is now.
	LastContact time.Time
}

// Stats returns this manager's figures.
func (c *Consensus) Stats() Stats {
	s := Stats{
		Term: c.raft.CurrentTerm(), LastIndex: c.raft.LastIndex(), CommitIndex: c.raft.CommitIndex(),
		StoreIndex: c.cfg.Store.Index(), LastContact: c.raft.LastContact(),
	}
	if m, err := c.snaps.List(); err == nil && len(m) > 0 {
		s.SnapshotIndex = m[0].Index
	}
	if c.IsLeader() {
		s.LastContact = time.Now()
	}
	return s
}

// Run waits until ctx ends and closes. It returns what Close returns.
func (c *Consensus) Run(ctx context.Context) error {
	<-ctx.Done()
	return c.Close()
}

// Close stops taking part, without handing over leadership, and closes the files. The store keeps what it has and
// refuses writes.
func (c *Consensus) Close() error {
	c.closing.Do(func() {
		close(c.unwatch)
		close(c.logs.closing)
		c.watching.Wait()
		c.inflight.drain(drainTime)
		err := c.raft.Shutdown().Error()
		close(c.closed)
		c.leading.close()
		c.closeErr = errors.Join(err, c.transport.Close(), c.logs.Close())
	})
	return c.closeErr
}
