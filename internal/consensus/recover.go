package consensus

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/hashicorp/raft"

	"shoal.dev/shoal/internal/store"
)

// Amend changes the records while no log runs: in a new history, before anybody reads it. It writes with s.Update, once.
type Amend func(ctx context.Context, s *store.Store) error

// keyCurrentTerm is where raft keeps its term.
var keyCurrentTerm = []byte("CurrentTerm")

// Recover makes this manager the only member of the group, with everything that its log has, entries included that no
// majority confirmed. It is for a group that lost its majority for good: the others, if they live, go on without
// knowing of it, so whoever calls it must keep them away. Only Dir, NodeID, Addr, Key and Log of the configuration
// are used, and no Consensus may be open on the folder. A damaged folder is refused as by Open.
//
// After a crash, as after an error, the folder has the old group or the new one with what amend wrote, nothing between.
func Recover(ctx context.Context, c Config, amend Amend) error {
	return c.offline(func(logs *logStore, snaps *snapshots, t raft.Transport) error {
		if err := checkHistory(logs, snaps, c.Begun); err != nil {
			return err
		}
		f := &amending{fsm{store.New()}, ctx, amend}
		if err := raft.RecoverCluster(c.withDefaults().raftConfig(newHclog(c.Log), nil), f, logs, logs, snaps, t, c.alone()); err != nil {
			return fmt.Errorf("making the swarm's log in %s that of this manager alone: %w", c.Dir, err)
		}
		return nil
	})
}

// Seed makes a new folder whose group has this manager as its only member and the store's records as its state. What
// Recover uses of the configuration it uses, too. A folder that has a log is refused.
func Seed(c Config, s *store.Store) error {
	return c.offline(func(logs *logStore, snaps *snapshots, t raft.Transport) error {
		if old, err := raft.HasExistingState(logs, logs, snaps); err != nil {
			return err
		} else if old {
			return fmt.Errorf("the folder %s has the log of a swarm already", c.Dir)
		}
		const term = 1
		if err := logs.SetUint64(keyCurrentTerm, term); err != nil {
			return err
		}
		snap := fsmSnapshot{s.Snapshot()}
		sink, err := snaps.Create(raft.SnapshotVersionMax, snap.s.Index(), term, c.alone(), 1, t)
		if err != nil {
			return fmt.Errorf("writing the first snapshot: %w", err)
		}
		return snap.Persist(sink)
	})
}

// offline opens the files without taking part in anything.
func (c Config) offline(do func(*logStore, *snapshots, raft.Transport) error) (err error) {
	if c.NodeID == "" || c.Addr == "" || c.Dir == "" || c.Log == nil || len(c.Key) != keySize {
		return errors.New("consensus: folder, node ID, address, key and log are needed")
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return fmt.Errorf("the folder of the swarm's log: %w", err)
	}
	logs, err := openLogStore(filepath.Join(c.Dir, "log.db"), c.Key)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, logs.Close()) }()
	snaps, err := openSnapshots(c.Dir, c.Key, newHclog(c.Log))
	if err != nil {
		return err
	}
	// Raft only wants to know how the transport writes an address.
	_, t := raft.NewInmemTransport(raft.ServerAddress(c.Addr))
	return do(logs, snaps, t)
}

func (c Config) alone() raft.Configuration {
	return raft.Configuration{Servers: []raft.Server{{
		Suffrage: raft.Voter, ID: raft.ServerID(c.NodeID), Address: raft.ServerAddress(c.Addr),
	}}}
}

// amending is a state machine that is thrown away after one snapshot, which has the amendment. What that writes gets the
// index after the last entry: in the log that one is taken by the entry with which the first leader begins, so no
// other change ever has it.
type amending struct {
	fsm
	ctx   context.Context
	amend Amend
}

func (a *amending) Snapshot() (raft.FSMSnapshot, error) {
	before := a.store.Index()
	store.NewLocal(a.store)
	if err := a.amend(a.ctx, a.store); err != nil {
		return nil, err
	}
	if after := a.store.Index(); after > before+1 {
		return nil, fmt.Errorf("the amendment wrote %d entries, it may write one", after-before)
	}
	return a.fsm.Snapshot()
}
