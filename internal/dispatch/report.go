package dispatch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/dispatch/protocol"
	"shoal.dev/shoal/internal/link"
	"shoal.dev/shoal/internal/store"
)

const (
	// maxQueue is the number of reports that wait; more are refused, and their senders come again.
	maxQueue = 20_000
	// maxTries bounds how often a status is tried after another writer of the same record won.
	maxTries = 5
	// describeAgain is when a node's facts are tried again.
	describeAgain = time.Second
)

// reports collects what nodes report, so that one entry of the log, or one request to the leader, takes all that came
// while the one before was under way.
type reports struct {
	mu    sync.Mutex
	queue []*report
	wake  chan struct{} // capacity 1
}

type report struct {
	protocol.NodeReport
	forwarded bool
	done      chan error // capacity 1
}

// size is about how large a report is, in statuses.
func (r *report) size() int {
	if r.Facts != nil {
		return len(r.Statuses) + 10
	}
	return len(r.Statuses) + 1
}

func newReports() reports { return reports{wake: make(chan struct{}, 1)} }

func (r *reports) add(n *report) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.queue) >= maxQueue {
		return errors.New("this manager has too many statuses to write")
	}
	r.queue = append(r.queue, n)
	select {
	case r.wake <- struct{}{}:
	default:
	}
	return nil
}

// take returns a batch of at most [protocol.MaxStatuses] statuses, unless the first report alone has more.
func (r *reports) take() []*report {
	r.mu.Lock()
	defer r.mu.Unlock()
	n, i := 0, 0
	for ; i < len(r.queue); i++ {
		n += r.queue[i].size()
		if i > 0 && n > protocol.MaxStatuses {
			break
		}
	}
	batch := r.queue[:i:i]
	r.queue = r.queue[i:]
	if len(r.queue) > 0 {
		select {
		case r.wake <- struct{}{}:
		default:
		}
	}
	return batch
}

func (s *Server) serveStatus(w http.ResponseWriter, r *http.Request) {
	peer, ok := link.PeerFrom(r.Context())
	if !ok {
		refuse(w, http.StatusForbidden, errNoPeer)
		return
	}
	var req protocol.StatusRequest
	if err := protocol.Decode(w, r, &req); err != nil {
		refuse(w, http.StatusBadRequest, fmt.Errorf("reading a status request: %w", err))
		return
	}
	snap := s.cfg.Store.Snapshot()
	if err := mayReport(snap, peer, &req); err != nil {
		s.log.Warn("status refused", "node", peer.NodeID, "error", err)
		refuse(w, http.StatusForbidden, err)
		return
	}
	if !req.Forwarded {
		s.heard(peer.NodeID, nil, false)
	}
	waits := make([]*report, 0, len(req.Nodes))
	for _, n := range req.Nodes {
		rep := &report{NodeReport: n, forwarded: req.Forwarded, done: make(chan error, 1)}
		if err := s.in.add(rep); err != nil {
			refuse(w, http.StatusServiceUnavailable, err)
			return
		}
		waits = append(waits, rep)
	}
	for _, rep := range waits {
		if err := rep.wait(r.Context()); err != nil {
			refuse(w, http.StatusServiceUnavailable, err)
			return
		}
	}
	w.WriteHeader(http.StatusNoContent)
}

func (r *report) wait(ctx context.Context) error {
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// mayReport says why a peer may not say what it says. A task's node never changes, so a replica that is behind refuses
// nothing wrongly; what it does not know is judged by the leader.
func mayReport(snap *store.Snapshot, p link.Peer, req *protocol.StatusRequest) error {
	if !isMember(snap, p.NodeID) {
		return fmt.Errorf("node %s is not part of the swarm", p.NodeID)
	}
	manager := isManager(snap, p)
	if req.Forwarded && !manager {
		return fmt.Errorf("node %s is not a manager of the swarm", p.NodeID)
	}
	for _, n := range req.Nodes {
		if n.NodeID != p.NodeID && !(manager && req.Forwarded) {
			return fmt.Errorf("node %s may not report for node %s", p.NodeID, n.NodeID)
		}
		if manager && req.Forwarded {
			continue // the manager has looked; one bad report must not hold up the others
		}
		for _, st := range n.Statuses {
			if t, ok := store.Get[*cluster.Task](snap, st.TaskID); ok && t.NodeID != n.NodeID {
				return fmt.Errorf("task %s is not assigned to node %s", st.TaskID, n.NodeID)
			}
			if cluster.StateOrder(st.Status.State) < 0 {
				return fmt.Errorf("task %s has the unknown state %q", st.TaskID, st.Status.State)
			}
		}
	}
	return nil
}

// describe reports a node's facts until they are taken.
func (s *Server) describe(ctx context.Context, node string, f *protocol.Facts) {
	for {
		rep := &report{NodeReport: protocol.NodeReport{NodeID: node, Facts: f}, done: make(chan error, 1)}
		err := s.in.add(rep)
		if err == nil {
			err = rep.wait(ctx)
		}
		if err == nil || ctx.Err() != nil {
			return
		}
		select {
		case <-time.After(describeAgain):
		case <-ctx.Done():
			return
		}
	}
}

// runReports writes or passes on what was reported, one batch after the other.
func (s *Server) runReports(ctx context.Context) error {
	for {
		select {
		case <-s.in.wake:
		case <-ctx.Done():
			for batch := s.in.take(); len(batch) > 0; batch = s.in.take() {
				answer(batch, errStops)
			}
			return nil
		}
		batch := s.in.take()
		if len(batch) == 0 {
			continue
		}
		rt, self, err := s.cfg.Leader()
		if err != nil {
			answer(batch, fmt.Errorf("the swarm has no leader now: %w", err))
			continue
		}
		one, cancel := context.WithTimeout(ctx, callTimeout)
		if self {
			answer(batch, s.commit(one, batch))
		} else {
			pass(one, rt, batch)
		}
		cancel()
	}
}

func answer(batch []*report, err error) {
	for _, r := range batch {
		r.done <- err
	}
}

// pass gives a batch to the leader.
func pass(ctx context.Context, rt http.RoundTripper, batch []*report) {
	var own []*report
	req := protocol.StatusRequest{Forwarded: true}
	for _, r := range batch {
		if r.forwarded {
			// The sender takes this manager for the leader, which it is not: passed on again it might go round.
			r.done <- store.ErrNotLeader
			continue
		}
		own = append(own, r)
		req.Nodes = append(req.Nodes, r.NodeReport)
	}
	if len(own) > 0 {
		answer(own, protocol.Post(ctx, rt, protocol.PathStatus, req))
	}
}

// commit writes a batch as one entry. What conflicts with another writer is planned again on what is there then.
func (s *Server) commit(ctx context.Context, batch []*report) error {
	var conflict error
	for range maxTries {
		groups := s.plan(s.cfg.Store.Snapshot(), batch)
		if len(groups) == 0 {
			return nil
		}
		_, errs, err := s.cfg.Store.Propose(ctx, groups)
		if err != nil {
			return err
		}
		if conflict = errors.Join(errs...); conflict == nil {
			return nil
		}
	}
	return fmt.Errorf("other writers of the same records always won: %w", conflict)
}

// plan is what a batch changes: nothing for what is written already, older than what is written, or of no task.
func (s *Server) plan(snap *store.Snapshot, batch []*report) []store.Group {
	tasks := map[string]*cluster.Task{}
	nodes := map[string]*cluster.Node{}
	now := s.cfg.Store.Now()
	var order []store.Change
	for _, r := range batch {
		for _, st := range r.Statuses {
			t := tasks[st.TaskID]
			if t == nil {
				var ok bool
				if t, ok = store.Get[*cluster.Task](snap, st.TaskID); !ok {
					continue
				}
			}
			if t.NodeID != r.NodeID {
				s.log.Warn("status of another node's task dropped", "task", st.TaskID, "node", r.NodeID)
				continue
			}
			if !advances(t, &st) {
				continue
			}
			if tasks[t.ID] == nil {
				// Only the state part is written, so the rest need not travel through the log.
				n := &cluster.Task{StateVersion: t.StateVersion, RunningAt: t.RunningAt, EndedAt: t.EndedAt}
				n.ID, n.NodeID, n.Meta = t.ID, t.NodeID, t.Meta
				t, tasks[t.ID] = n, n
				order = append(order, store.PutState(n))
			}
			t.SetStatus(st.Status, now)
		}
		if r.Facts == nil {
			continue
		}
		n := nodes[r.NodeID]
		if n == nil {
			had, ok := store.Get[*cluster.Node](snap, r.NodeID)
			if !ok || had.Status.Addr == r.Facts.Addr && had.Level == r.Facts.Level && had.DiskFull == r.Facts.DiskFull && same(had.Description, r.Facts.Description) {
				continue
			}
			n = had.Clone().(*cluster.Node)
			nodes[n.ID] = n
			order = append(order, store.PutState(n))
		}
		n.Description, n.Status.Addr, n.Level, n.DiskFull = r.Facts.Description, r.Facts.Addr, r.Facts.Level, r.Facts.DiskFull
	}
	groups := make([]store.Group, len(order))
	for i, c := range order {
		groups[i] = store.Group{Changes: []store.Change{c}, Why: "reported by the node"}
	}
	return groups
}

// advances says whether a reported status comes after the task's. States never go back, and an ended task has ended.
func advances(t *cluster.Task, st *protocol.TaskStatus) bool {
	had, now := t.Status, st.Status
	switch {
	case cluster.StateOrder(now.State) < 0, cluster.Before(now.State, had.State):
		return false
	case now.State != had.State:
		return !cluster.Terminal(had.State)
	case now.Timestamp.Before(had.Timestamp):
		return false
	}
	return !same(had, now)
}

// same compares what is stored, so that an empty list is the same as none.
func same(a, b any) bool {
	x, errX := store.Marshal(a)
	y, errY := store.Marshal(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}
