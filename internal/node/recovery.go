package node

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/consensus"
	"shoal.dev/shoal/internal/control"
	"shoal.dev/shoal/internal/store"
)

const (
	// recoverTimeout bounds the way from a lost quorum to a swarm that takes changes: the whole state is read and written once.
	recoverTimeout = 2 * time.Minute
	// successorAfter is for how long a manager hears of no leader before it asks whether the swarm goes on without it, and the
	// time between two such questions. An election takes three seconds.
	successorAfter = 10 * time.Second
)

// forceNewCluster makes the swarm one of this manager alone, with all its records, where a majority is lost for good.
// The tasks notice nothing. n.mu is held.
func (n *Node) forceNewCluster(ctx context.Context, m *member, r swarm.InitRequest) (string, error) {
	if m.manager == nil {
		return "", errdefs.ErrUnavailable.WithMessage(control.NotManager)
	}
	m.mu.Lock()
	old := m.st
	m.mu.Unlock()
	if err := m.manager.mayBeAlone(); err != nil {
		return "", err
	}
	next, err := aloneState(old, &r)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, recoverTimeout)
	defer cancel()
	n.log.Warn("making a new swarm of this manager alone", "node", old.NodeID)
	n.control.Deactivate(control.NoLeader)
	m.cancel()
	<-m.done
	m.mu.Lock()
	old.Lock, next.Lock = m.st.Lock, m.st.Lock // it may have changed until now
	m.mu.Unlock()
	err = consensus.Recover(ctx, consensus.Config{
		Dir: filepath.Join(m.dir, "raft"), NodeID: next.NodeID, Addr: next.AdvertiseAddr, Key: next.RaftKey, Log: n.log,
	}, cutTo(&next))
	if err == nil {
		err = next.save(m.dir)
	}
	st := &next
	if err != nil {
		st = &old // what is on the disk is the old swarm, or the new one at the address that it has anyway
	}
	began, startErr := n.start(st, m.identity.Get())
	if startErr != nil {
		// There is no membership now that could be ended or repaired: the daemon starts anew.
		n.run(func(context.Context) error { return fmt.Errorf("taking up the membership in the swarm: %w", startErr) })
		return "", errors.Join(err, startErr)
	}
	if err != nil {
		return "", err
	}
	if err := began.manager.waitToLead(ctx); err != nil {
		return "", fmt.Errorf("becoming the leader of the new swarm: %w", err)
	}
	return next.NodeID, began.manager.catchUp(ctx)
}

// mayBeAlone refuses while the swarm can decide by itself: the others would go on, too, and there would be two swarms.
func (m *manager) mayBeAlone() error {
	servers, err := m.cons.Servers()
	if err != nil {
		return err
	}
	leader, _, ok := m.cons.Leader()
	if ok && len(servers) > 1 {
		return errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf("the swarm has a leader, %s, and a majority of its %d managers: --force-new-cluster is for one that has lost it. "+
			"To have fewer managers, use \"docker node demote\"", leader, len(servers)))
	}
	return nil
}

// aloneState is what the node remembers once it is the only manager. It keeps its addresses unless others are asked for.
func aloneState(st state, r *swarm.InitRequest) (state, error) {
	const clientsDefault = "0.0.0.0:" + DefaultPort
	if r.ListenAddr != "" && r.ListenAddr != clientsDefault {
		listen, err := resolveListen(r.ListenAddr)
		if err != nil {
			return state{}, err
		}
		st.ListenAddr = listen
	}
	if r.AdvertiseAddr != "" {
		advertise, err := resolveAdvertise(r.AdvertiseAddr, st.ListenAddr)
		if err != nil {
			return state{}, err
		}
		st.AdvertiseAddr = advertise
	}
	if r.DataPathAddr != "" {
		addr, err := resolveDataPath(r.DataPathAddr)
		if err != nil {
			return state{}, err
		}
		st.DataPathAddr = addr
	}
	st.Managers = []swarm.Peer{{NodeID: st.NodeID, Addr: st.AdvertiseAddr}}
	return st, nil
}

// cutTo begins a new epoch of the swarm in which the node is the only manager, at its address.
func cutTo(st *state) consensus.Amend {
	return func(ctx context.Context, s *store.Store) error {
		_, err := s.Update(ctx, func(tx *store.Tx) error {
			old, ok := store.Get[*cluster.Node](tx.Snapshot, st.NodeID)
			if !ok {
				return fmt.Errorf("the swarm's records do not have this node, %s", st.NodeID)
			}
			self := old.Clone().(*cluster.Node)
			if err := placeManager(self, st); err != nil {
				return err
			}
			tx.Write(store.PutBoth(self))
			return beginEpoch(tx, st.NodeID)
		})
		return err
	}
}

// placeManager makes a node's record that of a manager at the addresses of st.
func placeManager(node *cluster.Node, st *state) error {
	host, _, err := net.SplitHostPort(st.AdvertiseAddr)
	if err != nil {
		return err
	}
	if node.ManagerStatus == nil || node.ManagerStatus.Addr != st.AdvertiseAddr {
		dataPath, err := resolveDataPath(host)
		if err != nil {
			return err
		}
		node.DataPathAddr = dataPath
	}
	if st.DataPathAddr.IsValid() {
		node.DataPathAddr = st.DataPathAddr
	}
	node.Spec.Role = swarm.NodeRoleManager
	node.Status.State, node.Status.Addr = swarm.NodeStateReady, host
	node.ManagerStatus = &swarm.ManagerStatus{Addr: st.AdvertiseAddr}
	return nil
}

// beginEpoch raises the epoch and makes workers of all managers but one. They keep their records and their tasks until they
// are found to be down: one that lives comes back as a worker (lookForSuccessor), one that does not is removed by its user.
func beginEpoch(tx *store.Tx, manager string) error {
	old := tx.Swarm()
	if old == nil {
		return errors.New("the records have no swarm's settings")
	}
	s := old.Clone().(*cluster.Swarm)
	s.Epoch = cluster.NextEpoch(s.Epoch, rand.Uint32())
	tx.Write(store.PutState(s))
	for node := range store.List[*cluster.Node](tx.Snapshot) {
		if node.ID == manager || node.Spec.Role != swarm.NodeRoleManager && node.ManagerStatus == nil {
			continue
		}
		n := node.Clone().(*cluster.Node)
		n.Spec.Role, n.ManagerStatus = swarm.NodeRoleWorker, nil
		tx.Write(store.PutBoth(n))
	}
	return nil
}

// epoch is the swarm's, as far as this manager knows.
func (m *manager) epoch() uint64 {
	if s := m.store.Snapshot().Swarm(); s != nil {
		return s.Epoch
	}
	return 0
}

// lookForSuccessor asks whether the swarm goes on without this manager: while this one hears of no leader, and when another
// manager has said so. Where another manager was made a swarm of its own, this node is a worker there, and becomes one with
// all its tasks.
func (m *member) lookForSuccessor(ctx context.Context, n *Node) error {
	for ctx.Err() == nil {
		cut := m.manager.cut.by()
		if cut == nil && m.manager.waitLeader(ctx, successorAfter) {
			m.judge(n, nil)
			select {
			case <-time.After(successorAfter):
			case <-m.manager.cut.off:
			case <-ctx.Done():
			}
			continue
		}
		if ctx.Err() == nil && n.member.Load() == m && m.changing.CompareAndSwap(false, true) {
			ask := m.askAny
			if cut != nil {
				ask = m.askAt(cut.addr) // others of the past would say that all is well
			}
			// Not as part of this membership, which it would end.
			n.run(func(ctx context.Context) error {
				defer m.changing.Store(false)
				err := n.changeRole(ctx, m, swarm.NodeRoleWorker, ask)
				if err == nil {
					return nil
				}
				m.judge(n, err)
				n.log.Debug("no manager says that the swarm goes on without this one", "node", m.st.NodeID, "error", err)
				if cut == nil {
					m.voteAgain(ctx, n, err)
				}
				return nil
			})
		}
		if cut != nil {
			select {
			case <-time.After(roleAgain):
			case <-ctx.Done():
			}
		}
	}
	return nil
}
