package dispatch_test

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/dispatch/protocol"
	"shoal.dev/shoal/internal/link"
	"shoal.dev/shoal/internal/store"
)

// FuzzRequests sends anything as a worker. Nothing may panic, and no other node's task may change.
func FuzzRequests(f *testing.F) {
	w := newWorld(f, "m1", "n1", "n2")
	w.create(task("a", "n1", 0), task("b", "n2", 0))
	h := w.leader().Handler()
	for _, msg := range []any{
		protocol.StatusRequest{Nodes: []protocol.NodeReport{{NodeID: "n1", Statuses: []protocol.TaskStatus{status("a", swarm.TaskStateRunning, 1)}}}},
		protocol.StatusRequest{Forwarded: true, Nodes: []protocol.NodeReport{{NodeID: "n2", Facts: &protocol.Facts{Addr: "x"}}}},
		protocol.HeartbeatRequest{Applied: 3}, protocol.HeardRequest{Nodes: []protocol.Heard{{NodeID: "n2", Age: -1}}},
	} {
		b, err := store.Marshal(msg)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	ctx := link.WithPeer(context.Background(), link.Peer{NodeID: "n1", Role: swarm.NodeRoleWorker})
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, path := range []string{protocol.PathStatus, protocol.PathHeartbeat, protocol.PathHeard} {
			h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, http.MethodPost, path, bytes.NewReader(body)))
		}
		snap := w.store.Snapshot()
		b, _ := store.Get[*cluster.Task](snap, "b")
		n2, _ := store.Get[*cluster.Node](snap, "n2")
		if b.Status.State != swarm.TaskStateAssigned || n2.Status.Addr != "" {
			t.Fatalf("n1 changed what is n2's: %+v %+v", b.Status, n2.Status)
		}
	})
}

func TestRequestsWithoutAPeerAreRefused(t *testing.T) {
	w := newWorld(t, "m1")
	h := w.leader().Handler()
	for _, path := range []string{protocol.PathSession, protocol.PathStatus, protocol.PathHeartbeat, protocol.PathHeard} {
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, httptest.NewRequest(http.MethodPost, path, nil))
		if rec.Code != http.StatusForbidden {
			t.Errorf("%s answers %d", path, rec.Code)
		}
	}
}
