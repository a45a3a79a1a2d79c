package liveness_test

import (
	"testing"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/reconcile"
	"shoal.dev/shoal/internal/reconcile/liveness"
	"shoal.dev/shoal/internal/reconcile/plantest"
)

// clocks is what is observed of a swarm with clocks.
type clocks struct {
	*plantest.Swarm
	offset time.Duration
}

func (c *clocks) ClockOffset(string) time.Duration { return c.offset }

func TestAClockThatIsWrongIsSaid(t *testing.T) {
	s := plantest.New(t)
	s.Node("a")
	s.Heard["a"] = s.At
	c := &clocks{Swarm: s}
	for _, tt := range []struct {
		offset time.Duration
		want   string
	}{
		{0, ""},
		{10 * time.Minute, "the node's clock is 10m0s ahead of the managers': set them by NTP"},
		{9 * time.Minute, "the node's clock is 10m0s ahead of the managers': set them by NTP"}, // it drifts, and nothing is written
		{0, ""},
		{-time.Minute, "the node's clock is 1m0s behind the managers': set them by NTP"},
	} {
		c.offset = tt.offset
		for range 2 {
			plan := liveness.Planner{}.Plan(s.Store.Snapshot(), "a", reconcile.Env{Now: s.At, NewID: s.NewID, Observed: c})
			if _, errs, err := s.Store.Propose(t.Context(), plan.Groups); err != nil || len(errs) > 1 {
				t.Fatal(errs, err)
			}
		}
		n := plantest.Get[*cluster.Node](s, "a")
		if n.Status.State != swarm.NodeStateReady || n.Status.Message != tt.want {
			t.Errorf("at %s: %+v", tt.offset, n.Status)
		}
		if plan := (liveness.Planner{}).Plan(s.Store.Snapshot(), "a", reconcile.Env{Now: s.At, NewID: s.NewID, Observed: c}); len(plan.Groups) != 0 {
			t.Errorf("at %s: planned again", tt.offset)
		}
	}
}
