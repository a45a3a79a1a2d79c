package liveness_test

import (
	"testing"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/reconcile/liveness"
	"shoal.dev/shoal/internal/reconcile/plantest"
)

func TestPlan(t *testing.T) {
	const period = liveness.DefaultPeriod
	never := time.Duration(-1)
	tests := []struct {
		name   string
		state  swarm.NodeState
		heard  time.Duration // ago
		leader time.Duration // ago
		period time.Duration // of the swarm's settings
		want   swarm.NodeState
		text   string
		again  time.Duration // from now
	}{
		{"heard just now", swarm.NodeStateReady, 0, time.Hour, 0, swarm.NodeStateReady, "", liveness.Silence(period)},
		{"a new node is heard", "", 0, time.Hour, 0, swarm.NodeStateReady, "", liveness.Silence(period)},
		{"a node comes back", swarm.NodeStateDown, time.Second, time.Hour, 0, swarm.NodeStateReady, "", liveness.Silence(period) - time.Second},
		{"two beats missed", swarm.NodeStateReady, 2 * period, time.Hour, 0, swarm.NodeStateReady, "", liveness.Silence(period) - 2*period},
		{"three beats missed", swarm.NodeStateReady, 3 * period, time.Hour, 0, swarm.NodeStateDown, "heartbeat failure", 250 * time.Millisecond},
		{"a longer period", swarm.NodeStateReady, 3 * period, time.Hour, 5 * time.Second, swarm.NodeStateReady, "", liveness.Silence(5*time.Second) - 3*period},
		{"not heard by a new leader", swarm.NodeStateReady, never, time.Second, 0, swarm.NodeStateReady, "", liveness.Silence(period) - time.Second},
		{"not heard by a new leader for too long", swarm.NodeStateReady, never, 3 * period, 0, swarm.NodeStateDown, "heartbeat failure", 250 * time.Millisecond},
		{"down and not heard by a new leader", swarm.NodeStateDown, never, time.Second, 0, swarm.NodeStateDown, "", 250 * time.Millisecond},
		{"a leader that does not listen yet", swarm.NodeStateReady, never, never, 0, swarm.NodeStateReady, "", 250 * time.Millisecond},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := plantest.New(t)
			w := &cluster.Swarm{}
			w.Spec.Dispatcher.HeartbeatPeriod = tt.period
			s.Put(w)
			s.Node("a", func(n *cluster.Node) { n.Status.State = tt.state })
			s.At = s.At.Add(time.Hour) // the node is an hour old
			s.Leader = time.Time{}
			if tt.leader >= 0 {
				s.Leader = s.At.Add(-tt.leader)
			}
			if tt.heard >= 0 {
				s.Heard["a"] = s.At.Add(-tt.heard)
			}
			s.Settle(liveness.Planner{})
			_, _, again := s.Plan(liveness.Planner{})
			n := plantest.Get[*cluster.Node](s, "a")
			if n.Status.State != tt.want || n.Status.Message != tt.text {
				t.Errorf("%+v", n.Status)
			}
			if got := again.Sub(s.At); got != tt.again {
				t.Errorf("looks again in %v, want %v", got, tt.again)
			}
		})
	}
}

func TestANodeThatJoinsHasItsTime(t *testing.T) {
	s := plantest.New(t)
	s.Node("a", func(n *cluster.Node) { n.Status.State = swarm.NodeStateUnknown })
	s.At = time.Now().Add(time.Second)
	s.Settle(liveness.Planner{})
	if n := plantest.Get[*cluster.Node](s, "a"); n.Status.State != swarm.NodeStateUnknown {
		t.Errorf("a node that joined a second ago is %s", n.Status.State)
	}
}
