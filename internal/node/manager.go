package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"
	"golang.org/x/sync/errgroup"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/consensus"
	"shoal.dev/shoal/internal/control"
	"shoal.dev/shoal/internal/dispatch"
	"shoal.dev/shoal/internal/link"
	"shoal.dev/shoal/internal/pki"
	"shoal.dev/shoal/internal/reconcile"
	"shoal.dev/shoal/internal/reconcile/address"
	"shoal.dev/shoal/internal/reconcile/authority"
	"shoal.dev/shoal/internal/reconcile/autoscale"
	"shoal.dev/shoal/internal/reconcile/level"
	"shoal.dev/shoal/internal/reconcile/liveness"
	"shoal.dev/shoal/internal/reconcile/placement"
	"shoal.dev/shoal/internal/reconcile/reap"
	"shoal.dev/shoal/internal/reconcile/rebalance"
	"shoal.dev/shoal/internal/reconcile/schedule"
	"shoal.dev/shoal/internal/reconcile/service"
	"shoal.dev/shoal/internal/store"
)

// barrierTimeout bounds how long a read waits to be current: an election takes a second, with a split vote three.
const barrierTimeout = 4 * time.Second

// manager is the part of a member that only managers have: the replica, the log and the control plane.
type manager struct {
	st       *state
	log      *slog.Logger
	store    *store.Store
	cons     *consensus.Consensus
	server   *link.Server
	dispatch *dispatch.Server
	peers    *peers
	runner   atomic.Pointer[reconcile.Runner] // nil while another manager leads
	cut      cutOff
}

// openManager opens the port and the log. Nothing is served before run.
func (n *Node) openManager(dir string, st *state, id *pki.Holder) (*manager, error) {
	n.certifyAlone(dir, st, id)
	m := &manager{st: st, log: n.log, store: store.New(), peers: newPeers(id, n.serveManagers(), n.machine.Dial, n.log), cut: newCutOff()}
	m.dispatch = dispatch.New(dispatch.Config{
		Store: m.store, NodeID: st.NodeID, Leader: m.leader, DataPathPort: st.DataPathPort, Managers: m.managers, Notify: m.poke, Log: n.log,
	})
	listener, err := n.machine.listen(st.ListenAddr)
	if err != nil {
		return nil, err
	}
	m.server, err = n.openPort(dir, link.ServerConfig{
		Listener: listener, ListenAddr: st.ListenAddr, Dial: n.machine.Dial, AdvertiseAddr: st.AdvertiseAddr, Identity: id, Handler: m.routes(n), Join: m.joinRoutes(),
		Admit: m.admit, Epoch: m.epoch, OnSuperseded: m.superseded, Log: n.log,
	})
	if err != nil {
		return nil, fmt.Errorf("opening the swarm's port %s: %w", st.ListenAddr, err)
	}
	m.cons, err = consensus.Open(consensus.Config{
		Dir: filepath.Join(dir, "raft"), NodeID: st.NodeID, Addr: st.AdvertiseAddr, Layer: m.server.RaftLayer(), Store: m.store,
		Key: st.RaftKey, Begun: st.HasLog, Probe: n.machine.Probe, Log: n.log,
	})
	if err != nil {
		closed, cancel := context.WithCancel(context.Background())
		cancel()
		return nil, errors.Join(fmt.Errorf("opening the swarm's log: %w", err), m.server.Run(closed))
	}
	return m, nil
}

// run runs the manager until ctx ends.
func (m *manager) run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return m.server.Run(ctx) })
	group.Go(func() error { return m.cons.Run(ctx) })
	group.Go(func() error { return m.dispatch.Run(ctx) })
	group.Go(func() error { return m.lead(ctx) })
	group.Go(func() error { return m.expel(ctx) })
	group.Go(func() error { return m.keepLevel(ctx) })
	group.Go(func() error { return m.keepRetention(ctx) })
	group.Go(func() error { return m.keepAddress(ctx) })
	group.Go(func() error {
		<-ctx.Done()
		m.peers.close()
		return nil
	})
	return group.Wait()
}

// lead runs the planners while this manager leads.
func (m *manager) lead(ctx context.Context) error {
	var stop func()
	defer func() {
		if stop != nil {
			stop()
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return nil
		case leading, ok := <-m.cons.LeadershipCh():
			if stop != nil {
				stop()
				stop = nil
			}
			if !ok {
				return nil
			}
			m.log.Info("leadership of the swarm", "node", m.st.NodeID, "leading", leading)
			if leading && m.cut.by() == nil {
				stop = m.startPlanning(ctx)
			}
		case <-m.cut.off:
			if stop != nil {
				stop()
			}
			return nil // this membership plans no more
		}
	}
}

// startPlanning starts the planners and returns what stops them and waits for their end.
func (m *manager) startPlanning(ctx context.Context) func() {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	runner := reconcile.NewRunner(reconcile.Config{
		Store: m.store, Observed: m.dispatch, NewID: cluster.NewID, Log: m.log,
		Planners: []reconcile.Planner{liveness.Planner{}, schedule.Planner{}, autoscale.Planner{}, service.Planner{}, address.Planner{}, placement.Planner{}, rebalance.Planner{}, reap.Planner{}, authority.Planner{}, level.Planner{}},
	})
	m.runner.Store(runner)
	go func() {
		defer close(done)
		defer m.runner.CompareAndSwap(runner, nil)
		// A plan must not be made from a state older than what the last leader acknowledged.
		if err := m.catchUp(ctx); err != nil {
			return // leadership was lost, or the daemon ends
		}
		// Nodes are heard from here on: none can have a session with a manager that is behind it.
		m.dispatch.BecomeLeader()
		go m.dismiss(ctx)
		if err := runner.Run(ctx); err != nil && ctx.Err() == nil && !errors.Is(err, store.ErrNotLeader) {
			m.log.Error("the planners stopped", "error", err)
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// poke has planned at once what depends on news of a node: its liveness, and the tasks that wait for its kernel.
func (m *manager) poke(nodeID string) {
	if r := m.runner.Load(); r != nil {
		r.Poke(liveness.Planner{}.Name(), reconcile.Key(nodeID))
		r.Poke(address.Planner{}.Name(), address.KeyHeld)
	}
}

// catchUp repeats until this leader's store has everything that was committed.
func (m *manager) catchUp(ctx context.Context) error {
	for {
		index, err := m.cons.ReadIndex(ctx)
		if err == nil {
			return m.store.WaitIndex(ctx, index)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// leader is what the dispatcher asks.
func (m *manager) leader() (http.RoundTripper, bool, error) {
	if m.cons.IsLeader() {
		return nil, true, nil
	}
	if _, _, ok := m.cons.Leader(); !ok {
		return nil, false, errdefs.ErrUnavailable.WithMessage(control.NoLeader)
	}
	return leaderTransport{m}, false, nil
}

// managers are the members of the Raft group.
func (m *manager) managers() []swarm.Peer {
	servers, err := m.cons.Servers()
	if err != nil {
		return nil
	}
	var out []swarm.Peer
	for _, s := range servers {
		out = append(out, swarm.Peer{NodeID: s.ID, Addr: s.Addr})
	}
	return out
}

// admit refuses the certificates of nodes that were removed. One that this replica does not know is admitted: it may
// have joined a moment ago, and a manager that was away for long needs the log of managers that it never heard of.
// What a node may do is decided by each route.
func (m *manager) admit(p link.Peer) error {
	snap := m.store.Snapshot()
	if _, removed := store.Get[*cluster.Claim](snap, cluster.ClaimRemoved(p.NodeID)); removed {
		return fmt.Errorf("node %s was removed from the swarm", p.NodeID)
	}
	return nil
}

// expel closes the connections of nodes that are removed.
func (m *manager) expel(ctx context.Context) error {
	w, _ := m.store.Watch()
	defer w.Close()
	for {
		events, _, err := w.Next(ctx)
		if err != nil {
			return nil // the daemon ends
		}
		for _, e := range events {
			if e.Kind == cluster.KindNode && e.New == nil {
				m.server.Disconnect(e.ID)
			}
		}
	}
}

// readBarrier waits until the store has every write that was acknowledged before.
func (m *manager) readBarrier(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, barrierTimeout)
	defer cancel()
	for {
		index, err := m.readIndex(ctx)
		if err == nil {
			if m.store.WaitIndex(ctx, index) == nil {
				return nil
			}
			return errdefs.ErrUnavailable.WithMessage(fmt.Sprintf("this manager is behind the swarm's leader (entry %d of %d): try again or ask another manager", m.store.Index(), index))
		}
		select {
		case <-ctx.Done():
			m.log.Debug("read barrier", "error", err)
			if context.Cause(ctx) != context.DeadlineExceeded {
				return context.Cause(ctx)
			}
			return stale{errdefs.ErrUnavailable.WithMessage(m.noLeader(context.WithoutCancel(ctx)))}
		case <-time.After(50 * time.Millisecond): // an election may be under way
		}
	}
}

func (m *manager) readIndex(ctx context.Context) (uint64, error) {
	if m.cons.IsLeader() {
		return m.cons.ReadIndex(ctx)
	}
	var out readIndexResponse
	err := m.askLeader(ctx, pathReadIndex, nil, &out)
	return out.Index, err
}
