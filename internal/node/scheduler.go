package node

import (
	"context"

	"github.com/containerd/errdefs"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/control"
	"shoal.dev/shoal/internal/reconcile/autoscale"
	"shoal.dev/shoal/internal/reconcile/placement"
	"shoal.dev/shoal/internal/store"
)

// Explain says what the scheduler thinks of a service, from this manager's replica; for httpapi's Scheduler.
func (n *Node) Explain(ctx context.Context, ref string) (*cluster.Explanation, error) {
	m, snap, svc, err := n.serviceRecord(ctx, ref)
	if err != nil {
		return nil, err
	}
	e := placement.Explain(snap, svc, m.store.Now())
	return &e, nil
}

// Rebalance is for httpapi's Scheduler.
func (n *Node) Rebalance(ctx context.Context, ref string) error {
	return n.control.RebalanceService(ctx, ref)
}

// Autoscale is how a service is scaled by its usage; what usage says now is known to the leader.
func (n *Node) Autoscale(ctx context.Context, ref string) (*control.ServiceScale, error) {
	m, _, svc, err := n.serviceRecord(ctx, ref)
	if err != nil {
		return nil, err
	}
	out, err := control.ScaleOf(svc)
	if err != nil {
		return nil, err
	}
	if r := m.runner.Load(); r != nil {
		for _, why := range r.Reasons() {
			if why.Planner == (autoscale.Planner{}).Name() && string(why.Key) == svc.ID {
				out.Why = why.Text
			}
		}
	}
	return out, nil
}

// serviceRecord is a service as this manager's replica has it, with every acknowledged write.
func (n *Node) serviceRecord(ctx context.Context, ref string) (*manager, *store.Snapshot, *cluster.Service, error) {
	found, err := n.control.Service(ctx, ref, false)
	if err != nil {
		return nil, nil, nil, err
	}
	m := n.manager()
	if m == nil {
		return nil, nil, nil, errdefs.ErrUnavailable.WithMessage(control.NotManager)
	}
	snap := m.store.Snapshot()
	svc, ok := store.Get[*cluster.Service](snap, found.ID)
	if !ok {
		return nil, nil, nil, errdefs.ErrNotFound.WithMessage("service " + ref + " not found")
	}
	return m, snap, svc, nil
}
