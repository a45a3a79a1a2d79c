package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/control"
	"shoal.dev/shoal/internal/pki"
	"shoal.dev/shoal/internal/store"
)

// A swarm locks its managers (autolock) by a key that is in its records and nowhere on a manager's disk in the clear: it
// seals RaftKey in the manager's state.json, and RaftKey seals the log, the snapshots and the node's private key. So a
// change of the unlock key replaces one file.

// Lock is the part of a manager's state that the swarm's unlock key decides.
type Lock struct {
	// SealedRaftKey is RaftKey, sealed by the swarm's unlock key. Where it is on the disk RaftKey is not.
	SealedRaftKey []byte `json:",omitempty"`
	// LockVersion is the version of the swarm's unlock key, or of its absence, that the disk has. It never goes back: a
	// log that is read again at a start shows keys that were replaced long ago.
	LockVersion uint64 `json:",omitempty"`
	// UnlockKey is the key itself while this manager runs; none: it is not locked.
	UnlockKey []byte `json:"-"`
}

const (
	purposeRaftKey = "shoal raft key 1"
	// relockAgain is the wait after the disk refused a new lock.
	relockAgain = time.Second
)

// onDisk is what of the state may be written.
func (s *state) onDisk() *state {
	d := *s
	d.SealedRaftKey = nil
	if len(s.UnlockKey) > 0 && len(s.RaftKey) > 0 {
		d.SealedRaftKey = pki.Seal(s.UnlockKey, s.RaftKey, s.raftKeyPurpose())
		d.RaftKey = nil
	}
	return &d
}

// raftKeyPurpose binds the sealed key to its node.
func (s *state) raftKeyPurpose() string {
	return purposeRaftKey + " " + s.SwarmID + " " + s.NodeID
}

// isLocked says whether the state was read from the disk of a locked manager.
func (s *state) isLocked() bool { return len(s.SealedRaftKey) > 0 }

// unlock returns the state with what the key opens, or an error that is pki.ErrSeal.
func (s *state) unlock(key []byte) (*state, error) {
	raftKey, err := pki.Open(key, s.SealedRaftKey, s.raftKeyPurpose())
	if err != nil {
		return nil, err
	}
	open := *s
	open.RaftKey, open.SealedRaftKey, open.UnlockKey = raftKey, nil, slices.Clone(key)
	return &open, nil
}

// identitySeal is what the node's private key is sealed with on the disk; nil: with nothing.
func (s *state) identitySeal() []byte {
	if len(s.UnlockKey) == 0 {
		return nil
	}
	return s.RaftKey
}

// writes are the steps that bring the disk to the state: after each of them, and after a crash in one, what is there opens
// with the old key or with the new one. The private key is sealed before RaftKey is taken from the disk in the clear, and
// readable before RaftKey goes for good.
func (s *state) writes(dir string, id *pki.Identity) []func() error {
	identity := func() error { return pki.SaveIdentity(dir, id, s.identitySeal()) }
	save := func() error { return s.save(dir) }
	if len(s.UnlockKey) == 0 && len(s.RaftKey) > 0 {
		return []func() error{save, identity}
	}
	return []func() error{identity, save}
}

func (s *state) write(dir string, id *pki.Identity) error {
	for _, w := range s.writes(dir, id) {
		if err := w(); err != nil {
			return err
		}
	}
	// A write that a crash cut off may have left a key that is readable.
	left, err := filepath.Glob(filepath.Join(dir, ".node.pem.*"))
	if err != nil {
		return err
	}
	for _, f := range left {
		if err := os.Remove(f); err != nil {
			return err
		}
	}
	return nil
}

// becomes makes the state and the disk those of a node of another role, whose certificate is id. A worker has no log and
// no lock.
func (s *state) becomes(role swarm.NodeRole, dir string, id *pki.Identity) error {
	s.Role, s.Lock, s.HasLog = role, Lock{}, false
	log := filepath.Join(dir, "raft")
	if role == swarm.NodeRoleManager {
		s.RaftKey = newRaftKey()
		return errors.Join(os.RemoveAll(log), s.write(dir, id)) // a log from before is of another key
	}
	s.RaftKey, s.Bootstrap = nil, false
	if err := s.write(dir, id); err != nil {
		return err
	}
	return os.RemoveAll(log)
}

// keepIdentity saves a new certificate, sealed if the swarm locks its managers, and has it used from the next connection on.
func (m *member) keepIdentity(id *pki.Identity) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := pki.SaveIdentity(m.dir, id, m.st.identitySeal()); err != nil {
		return err
	}
	m.identity.Set(id)
	return nil
}

// relock brings this manager's disk to the swarm's unlock key, if that is newer than what the disk has. It says whether a
// disk that was readable is sealed now.
func (m *member) relock() (sealed bool, err error) {
	if m.manager == nil {
		return false, nil
	}
	k, ok := store.Get[*cluster.UnlockKey](m.manager.store.Snapshot(), cluster.SingletonID)
	if !ok {
		return false, nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if k.Version.Index <= m.st.LockVersion {
		return false, nil
	}
	next := m.st
	next.UnlockKey, next.LockVersion = slices.Clone(k.Bytes), k.Version.Index
	if err := next.write(m.dir, m.identity.Get()); err != nil {
		return false, fmt.Errorf("taking up the swarm's unlock key: %w", err)
	}
	sealed = len(m.st.UnlockKey) == 0 && len(next.UnlockKey) > 0
	m.st.Lock = next.Lock
	return sealed, nil
}

// keepLocked takes up every change of the swarm's unlock key until ctx ends.
func (m *member) keepLocked(ctx context.Context, n *Node) error {
	w, _ := m.manager.store.Watch()
	defer w.Close()
	for {
		var retry <-chan time.Time
		sealed, err := m.relock()
		switch {
		case err != nil:
			n.log.Error("this manager's disk is not locked as the swarm wants", "node", m.st.NodeID, "error", err, "again", relockAgain)
			retry = time.After(relockAgain)
		case sealed:
			// The private key lay on the disk in the clear until now. The next renewal comes anyway, so one try is enough.
			if _, err := m.renew(ctx, m.askAny); err != nil && ctx.Err() == nil {
				n.log.Info("the certificate was not replaced when the manager was locked; it is when it is next renewed", "node", m.st.NodeID, "error", err)
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

// comeUpLocked leaves a manager's membership where it is until its key comes. Its tasks run on. n.mu is held.
func (n *Node) comeUpLocked(st *state) {
	n.locked.Store(st)
	n.control.Deactivate(control.Locked)
	n.log.Warn("this manager is locked: its tasks run on, and it takes part in the swarm again once it is unlocked", "node", st.NodeID)
}

// Unlock takes up the membership of a locked manager.
func (n *Node) Unlock(_ context.Context, r swarm.UnlockRequest) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	st := n.locked.Load()
	if st == nil {
		switch m := n.member.Load(); {
		case m == nil:
			return errdefs.ErrUnavailable.WithMessage(control.NotInSwarm)
		case m.manager == nil:
			return errdefs.ErrUnavailable.WithMessage(control.NotManager)
		}
		return errdefs.ErrConflict.WithMessage("swarm is not locked")
	}
	key, err := pki.ParseUnlockKey(r.UnlockKey)
	if err != nil {
		return errdefs.ErrInvalidArgument.WithMessage(err.Error())
	}
	open, err := st.unlock(key)
	if err != nil {
		return errdefs.ErrUnauthenticated.WithMessage("swarm could not be unlocked: invalid key provided")
	}
	id, err := pki.LoadIdentity(n.swarmDir(), open.RaftKey)
	var m *member
	if err == nil {
		m, err = n.start(open, id)
	}
	if err != nil {
		return fmt.Errorf("swarm component could not be started: %w", err)
	}
	n.locked.Store(nil)
	m.resumeVote(n)
	n.log.Info("this manager was unlocked", "node", st.NodeID)
	return nil
}

// leaveLocked ends the membership of a locked manager. n.mu is held.
func (n *Node) leaveLocked(ctx context.Context, force bool) error {
	if !force {
		return errdefs.ErrUnavailable.WithMessage("Swarm is encrypted and locked. Please unlock it first or use `--force` to ignore this message.")
	}
	n.control.Deactivate(control.NotInSwarm)
	n.locked.Store(nil)
	return n.forgetSwarm(ctx)
}

// inNoSwarm refuses what only a node can do that is in none. n.mu is held.
func (n *Node) inNoSwarm() error {
	if n.locked.Load() != nil {
		return errdefs.ErrUnavailable.WithMessage(alreadyInSwarm)
	}
	if m := n.member.Load(); m != nil {
		return errdefs.ErrUnavailable.WithMessage(strings.TrimSpace(alreadyInSwarm + " " + m.trouble()))
	}
	return nil
}

// lockedInfo is a locked manager's view of the swarm.
func lockedInfo(st *state) swarm.Info {
	host, _, _ := net.SplitHostPort(st.AdvertiseAddr)
	return swarm.Info{
		NodeID: st.NodeID, NodeAddr: host, LocalNodeState: swarm.LocalNodeStateLocked, Error: control.Locked,
		RemoteManagers: slices.Clone(st.Managers),
	}
}
