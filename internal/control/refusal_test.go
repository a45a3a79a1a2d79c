package control_test

import (
	"context"
	"testing"

	"github.com/containerd/errdefs"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/control"
	"shoal.dev/shoal/internal/store"
)

// A leader that has just begun has not applied yet what another manager confirmed: it must not say that it is not there.
// Found by the simulator (internal/sim/swarm, seed 18).
func TestARefusalIsNotMadeFromAnOldReplica(t *testing.T) {
	s := store.New()
	store.NewLocal(s)
	arrive := func(o ...cluster.Object) error {
		_, err := s.Update(t.Context(), func(tx *store.Tx) error {
			for _, o := range o {
				tx.Write(store.Create(o))
			}
			return nil
		})
		return err
	}
	late := &cluster.Service{}
	late.ID, late.Spec.Name = "late", "late"
	c := control.New(nil)
	behind := true
	c.Activate(&control.Manager{NodeID: "m1", Store: s, Leader: func() string { return "m1" }, ReadBarrier: func(context.Context) error {
		if !behind {
			return nil
		}
		behind = false
		return arrive(late)
	}})
	if err := c.RemoveService(t.Context(), "late"); err != nil {
		t.Errorf("removing what was there all along: %v", err)
	}
	if err := c.RemoveService(t.Context(), "late"); !errdefs.IsNotFound(err) {
		t.Errorf("removing it again: %v", err)
	}
}
