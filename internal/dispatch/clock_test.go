package dispatch_test

import (
	"testing"
	"testing/synctest"
	"time"

	"shoal.dev/shoal/internal/dispatch/protocol"
)

// TestClocksOfNodesAreCompared has a node whose clock is wrong, and is set.
func TestClocksOfNodesAreCompared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "m1", "n1")
		srv := w.leader()
		for _, tt := range []struct{ said, want time.Duration }{
			{29 * time.Second, 0}, {10 * time.Minute, 10 * time.Minute}, {-10 * time.Minute, -10 * time.Minute}, {0, 0},
		} {
			resp, err := protocol.Beat(t.Context(), w.dial(srv, "n1"), protocol.HeartbeatRequest{Clock: time.Now().Add(tt.said)})
			if err != nil || resp.Clock.IsZero() {
				t.Fatalf("%+v, %v", resp, err)
			}
			if got := srv.ClockOffset("n1"); (got - tt.want).Abs() > time.Second {
				t.Errorf("a clock %s ahead: %s", tt.said, got)
			}
		}
		if err := protocol.Post(t.Context(), w.dial(srv, "m1"), protocol.PathHeard, protocol.HeardRequest{Nodes: []protocol.Heard{{NodeID: "n1", ClockOffset: time.Hour}}}); err != nil {
			t.Fatal(err)
		}
		if got := srv.ClockOffset("n1"); got != time.Hour {
			t.Errorf("what another manager heard: %s", got)
		}
		if got := srv.ClockOffset("n9"); got != 0 {
			t.Errorf("a node that nobody heard: %s", got)
		}
	})
}
