package control

import (
	"context"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/store"
)

// RebalanceService has the service's tasks moved until that improves their spread over the nodes no more. A planner does
// it; [cluster.Service.Rebalancing] says whether it is done.
func (c *Control) RebalanceService(ctx context.Context, ref string) error {
	m, err := c.write()
	if err != nil {
		return err
	}
	return m.update(ctx, func(tx *store.Tx) error {
		s, err := find(tx.Snapshot, "service", ref, serviceName)
		if err != nil {
			return err
		}
		if modeOf(s.Spec.Mode) != "replicated" {
			return invalid("rebalance can only be used with replicated mode")
		}
		if s.Rebalancing {
			return nil
		}
		s = cluster.Fork(s)
		s.Rebalancing = true
		tx.Write(store.PutState(s))
		return nil
	})
}
