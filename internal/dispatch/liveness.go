package dispatch

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/dispatch/protocol"
	"shoal.dev/shoal/internal/link"
	"shoal.dev/shoal/internal/store"
)

const (
	// reportEvery is how often a follower tells the leader whom it hears.
	reportEvery = time.Second
	// reportTogether is how long a report that is due at once waits for more news.
	reportTogether = 10 * time.Millisecond
	// forget is how long a node that is not heard is remembered.
	forget = 10 * time.Minute
	// cutOff is the number of heartbeat periods without an answer of a leader after which a follower stops to accept
	// heartbeats, so that its agents look for a manager that the leader hears.
	cutOff = 2
	// missed is the number of heartbeat periods without a sign of life after which the next sign is news.
	missed = 2
	// callTimeout bounds a request to the leader.
	callTimeout = 5 * time.Second
)

// liveness is who was heard. Times have monotonic readings: a clock that is set, or a host that slept, makes no node
// look dead.
type liveness struct {
	mu     sync.Mutex
	nodes  map[string]*heard
	since  time.Time // when this manager last became the leader; zero: never
	passed time.Time // when the leader last took a report, or this manager was it
	now    chan struct{}
}

type heard struct {
	at      time.Time
	applied uint64
	local   bool // heard by this manager itself
}

func newLiveness() liveness {
	return liveness{nodes: map[string]*heard{}, passed: time.Now(), now: make(chan struct{}, 1)}
}

// reportNow lets the next report to the leader leave at once.
func (l *liveness) reportNow() {
	select {
	case l.now <- struct{}{}:
	default:
	}
}

// hear notes that a node was heard, by this manager or, at an earlier time, by another. It returns how long it was not.
func (l *liveness) hear(node string, at time.Time, applied *uint64, local bool) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.nodes[node]
	if h == nil {
		h = &heard{}
		l.nodes[node] = h
	}
	if at.Before(h.at) {
		return 0
	}
	quiet := at.Sub(h.at)
	h.at, h.local = at, local
	if applied != nil {
		h.applied = *applied
	}
	return quiet
}

func (l *liveness) age(node string) (time.Duration, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h, ok := l.nodes[node]
	if !ok {
		return 0, false
	}
	return time.Since(h.at), true
}

// heard notes that a node was heard here. applied is nil if it did not say.
func (s *Server) heard(node string, applied *uint64, first bool) {
	quiet := s.live.hear(node, time.Now(), applied, true)
	if first || quiet > missed*heartbeat(s.cfg.Store.Snapshot()) {
		s.live.reportNow()
		s.cfg.Notify(node)
	}
}

// BecomeLeader begins a term as the leader: nobody counts as heard until heard again. What [Server.LastHeard],
// [Server.LeaderSince] and [Server.Applied] say counts on the leader only.
func (s *Server) BecomeLeader() {
	s.live.mu.Lock()
	defer s.live.mu.Unlock()
	s.live.since = time.Now()
}

// LastHeard is when the node was last heard by any manager, in swarm time. ok is false for a node that was not heard
// since this manager became the leader.
func (s *Server) LastHeard(nodeID string) (at time.Time, ok bool) {
	s.live.mu.Lock()
	defer s.live.mu.Unlock()
	h := s.live.nodes[nodeID]
	if h == nil || s.live.since.IsZero() || h.at.Before(s.live.since) {
		return time.Time{}, false
	}
	return s.cfg.Store.Now().Add(-time.Since(h.at)), true
}

// LeaderSince is when this manager last became the leader, in swarm time; zero if it never did.
func (s *Server) LeaderSince() time.Time {
	s.live.mu.Lock()
	defer s.live.mu.Unlock()
	if s.live.since.IsZero() {
		return time.Time{}
	}
	return s.cfg.Store.Now().Add(-time.Since(s.live.since))
}

// Applied is the store version that the node's kernel holds; 0 if it is not known.
func (s *Server) Applied(nodeID string) uint64 {
	s.live.mu.Lock()
	defer s.live.mu.Unlock()
	if h := s.live.nodes[nodeID]; h != nil {
		return h.applied
	}
	return 0
}

func (s *Server) serveHeartbeat(w http.ResponseWriter, r *http.Request) {
	peer, ok := link.PeerFrom(r.Context())
	if !ok {
		refuse(w, http.StatusForbidden, errNoPeer)
		return
	}
	var req protocol.HeartbeatRequest
	if err := protocol.Decode(w, r, &req); err != nil {
		refuse(w, http.StatusBadRequest, fmt.Errorf("reading a heartbeat: %w", err))
		return
	}
	snap := s.cfg.Store.Snapshot()
	node, ok := store.Get[*cluster.Node](snap, peer.NodeID)
	if !ok {
		refuse(w, http.StatusForbidden, fmt.Errorf("node %s is not part of the swarm", peer.NodeID))
		return
	}
	s.heard(peer.NodeID, &req.Applied, false)
	if req.Changed {
		s.live.reportNow()
		s.cfg.Notify(peer.NodeID)
	}
	if s.isCutOff(cutOff * heartbeat(snap)) {
		refuse(w, http.StatusServiceUnavailable, errors.New("this manager does not reach the leader of the swarm"))
		return
	}
	b, err := store.Marshal(protocol.HeartbeatResponse{Role: node.Spec.Role, Certificate: s.certificate(snap, node)})
	if err != nil {
		refuse(w, http.StatusInternalServerError, err)
		return
	}
	_, _ = w.Write(b) // the node is gone if this fails
}

func (s *Server) isCutOff(after time.Duration) bool {
	s.live.mu.Lock()
	defer s.live.mu.Unlock()
	return time.Since(s.live.passed) > max(after, 2*reportEvery)
}

func isMember(snap *store.Snapshot, node string) bool {
	_, ok := store.Get[*cluster.Node](snap, node)
	return ok
}

// isManager says whether a peer is a manager, by its certificate and by the swarm's records.
func isManager(snap *store.Snapshot, p link.Peer) bool {
	n, ok := store.Get[*cluster.Node](snap, p.NodeID)
	return ok && p.Role == swarm.NodeRoleManager && n.Spec.Role == swarm.NodeRoleManager
}

func (s *Server) serveHeard(w http.ResponseWriter, r *http.Request) {
	peer, ok := link.PeerFrom(r.Context())
	if !ok || !isManager(s.cfg.Store.Snapshot(), peer) {
		refuse(w, http.StatusForbidden, fmt.Errorf("node %s is not a manager of the swarm", peer.NodeID))
		return
	}
	var req protocol.HeardRequest
	if err := protocol.Decode(w, r, &req); err != nil {
		refuse(w, http.StatusBadRequest, fmt.Errorf("reading whom a manager hears: %w", err))
		return
	}
	if _, self, err := s.cfg.Leader(); err != nil || !self {
		refuse(w, http.StatusServiceUnavailable, store.ErrNotLeader)
		return
	}
	now, period := time.Now(), heartbeat(s.cfg.Store.Snapshot())
	for _, h := range req.Nodes {
		if h.Age < 0 || h.Age > forget {
			continue
		}
		before := s.Applied(h.NodeID)
		if s.live.hear(h.NodeID, now.Add(-h.Age), &h.Applied, false) > missed*period || h.Applied > before {
			s.cfg.Notify(h.NodeID)
		}
	}
	w.WriteHeader(http.StatusNoContent)
}

// runHeard tells the leader whom this manager hears: every second, and at once when a session begins or ends.
func (s *Server) runHeard(ctx context.Context) error {
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-s.live.now:
			// What many nodes say at the same time goes in one report.
			select {
			case <-time.After(reportTogether):
			case <-ctx.Done():
				return nil
			}
		case <-ctx.Done():
			return nil
		}
		err := s.reportHeard(ctx)
		if err == nil {
			s.live.mu.Lock()
			s.live.passed = time.Now()
			s.live.mu.Unlock()
		} else if ctx.Err() == nil {
			s.log.Debug("the leader does not take whom this manager hears", "error", err)
		}
	}
}

func (s *Server) reportHeard(ctx context.Context) error {
	rt, self, err := s.cfg.Leader()
	if err != nil {
		return err
	}
	req := s.live.report()
	if self {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	for len(req.Nodes) > 0 {
		part := req.Nodes[:min(len(req.Nodes), maxHeard)]
		req.Nodes = req.Nodes[len(part):]
		if err := protocol.Post(ctx, rt, protocol.PathHeard, protocol.HeardRequest{Nodes: part}); err != nil {
			return err
		}
	}
	return nil
}

// maxHeard is the number of nodes in one report; at 80 bytes a node it stays well below protocol.MaxRequest.
const maxHeard = 20_000

// report is whom this manager hears itself. It forgets who was not heard for long.
func (l *liveness) report() protocol.HeardRequest {
	l.mu.Lock()
	defer l.mu.Unlock()
	var req protocol.HeardRequest
	for id, h := range l.nodes {
		age := time.Since(h.at)
		switch {
		case age > forget:
			delete(l.nodes, id)
		case h.local:
			req.Nodes = append(req.Nodes, protocol.Heard{NodeID: id, Age: age, Applied: h.applied})
		}
	}
	return req
}
