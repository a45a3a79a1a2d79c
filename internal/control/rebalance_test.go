package control_test

import (
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/store"
)

func TestRebalanceService(t *testing.T) {
	c, s := newControl(t, fakeRegistry{})
	mustCreate(t, c, spec("web", 3))
	mustCreate(t, c, inMode("everywhere", swarm.ServiceMode{Global: &swarm.GlobalService{}}))
	web, err := c.Service(t.Context(), "web", false)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time it is asked for already
		if err := c.RebalanceService(t.Context(), "web"); err != nil {
			t.Fatal(err)
		}
	}
	got, _ := store.Get[*cluster.Service](s.Snapshot(), web.ID)
	if !got.Rebalancing || got.Version != web.Version {
		t.Errorf("rebalancing: %v, version %d, was %d", got.Rebalancing, got.Version.Index, web.Version.Index)
	}
	if err := c.RebalanceService(t.Context(), "everywhere"); !errdefs.IsInvalidArgument(err) || err.Error() != "rebalance can only be used with replicated mode" {
		t.Error(err)
	}
	if err := c.RebalanceService(t.Context(), "nothing"); !errdefs.IsNotFound(err) || err.Error() != "service nothing not found" {
		t.Error(err)
	}
}
