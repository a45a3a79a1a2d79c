package dispatch

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/dispatch/protocol"
	"shoal.dev/shoal/internal/link"
	"shoal.dev/shoal/internal/store"
)

const (
	// scaledAgain is how long the list of services that are scaled by their usage is taken for current.
	scaledAgain = time.Second
	// forgetUsage is how long a measurement is kept; what decides on it wants newer ones.
	forgetUsage = 2 * time.Minute
)

// usage is what tasks used lately. It never goes through Raft.
type usage struct {
	mu     sync.Mutex
	tasks  map[string]cluster.Usage // At has a monotonic reading
	swept  time.Time
	looked time.Time
	scaled map[string]bool // services
}

// take notes a measurement.
func (u *usage) take(task string, m cluster.Usage) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.tasks == nil {
		u.tasks = map[string]cluster.Usage{}
	}
	u.tasks[task] = m
	if now := time.Now(); now.Sub(u.swept) > forgetUsage {
		u.swept = now
		maps.DeleteFunc(u.tasks, func(_ string, m cluster.Usage) bool { return now.Sub(m.At) > forgetUsage })
	}
}

// Usage is what the task used lately, as its node said; its time is swarm time.
func (s *Server) Usage(taskID string) (cluster.Usage, bool) {
	s.use.mu.Lock()
	defer s.use.mu.Unlock()
	u, ok := s.use.tasks[taskID]
	if ok {
		u.At = s.cfg.Store.Now().Add(-time.Since(u.At))
	}
	return u, ok
}

// measured are the services with tasks on the node that it is to measure.
func (s *Server) measured(snap *store.Snapshot, node string) []string {
	s.use.mu.Lock()
	if time.Since(s.use.looked) > scaledAgain {
		s.use.looked, s.use.scaled = time.Now(), map[string]bool{}
		for svc := range store.List[*cluster.Service](snap) {
			if cluster.Autoscales(&svc.Spec) {
				s.use.scaled[svc.ID] = true
			}
		}
	}
	scaled := s.use.scaled
	s.use.mu.Unlock()
	if len(scaled) == 0 {
		return nil
	}
	here := map[string]bool{}
	for t := range snap.TasksByNode(node) {
		if scaled[t.ServiceID] {
			here[t.ServiceID] = true
		}
	}
	ids := slices.Sorted(maps.Keys(here))
	return ids[:min(len(ids), protocol.MaxMeasured)]
}

// serveUsage takes in what a node measured, or passes it on to the leader.
func (s *Server) serveUsage(w http.ResponseWriter, r *http.Request) {
	peer, ok := link.PeerFrom(r.Context())
	if !ok {
		refuse(w, http.StatusForbidden, errNoPeer)
		return
	}
	var req protocol.UsageRequest
	if err := protocol.Decode(w, r, &req); err != nil {
		refuse(w, http.StatusBadRequest, fmt.Errorf("reading what tasks used: %w", err))
		return
	}
	snap := s.cfg.Store.Snapshot()
	switch manager := isManager(snap, peer); {
	case !isMember(snap, peer.NodeID):
		refuse(w, http.StatusForbidden, fmt.Errorf("node %s is not part of the swarm", peer.NodeID))
		return
	case req.NodeID != peer.NodeID && !(manager && req.Forwarded), req.Forwarded && !manager:
		refuse(w, http.StatusForbidden, fmt.Errorf("node %s may not report for node %s", peer.NodeID, req.NodeID))
		return
	case len(req.Tasks) > protocol.MaxStatuses:
		refuse(w, http.StatusBadRequest, fmt.Errorf("%d tasks are too many, at most %d", len(req.Tasks), protocol.MaxStatuses))
		return
	}
	rt, self, err := s.cfg.Leader()
	if err == nil && !self && req.Forwarded {
		err = store.ErrNotLeader
	}
	if err != nil {
		refuse(w, http.StatusServiceUnavailable, err)
		return
	}
	if !self {
		ctx, cancel := context.WithTimeout(r.Context(), callTimeout)
		defer cancel()
		req.Forwarded = true
		if err := protocol.Post(ctx, rt, protocol.PathUsage, req); err != nil {
			refuse(w, http.StatusServiceUnavailable, err)
			return
		}
		w.WriteHeader(http.StatusNoContent)
		return
	}
	for _, u := range req.Tasks {
		t, ok := store.Get[*cluster.Task](snap, u.TaskID)
		if !ok || t.NodeID != req.NodeID || u.NanoCPUs < 0 || u.MemoryBytes < 0 || !(u.Connections >= 0) {
			continue
		}
		s.use.take(u.TaskID, cluster.Usage{At: time.Now(), NanoCPUs: u.NanoCPUs, MemoryBytes: u.MemoryBytes, Connections: u.Connections})
	}
	w.WriteHeader(http.StatusNoContent)
}
