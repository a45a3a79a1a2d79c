package node

import (
	"context"

	"github.com/containerd/errdefs"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/control"
	"shoal.dev/shoal/internal/reconcile/placement"
	"shoal.dev/shoal/internal/store"
)

// Explain says what the scheduler thinks of a service, from this manager's replica; for httpapi's Scheduler.
func (n *Node) Explain(ctx context.Context, ref string) (*cluster.Explanation, error) {
	found, err := n.control.Service(ctx, ref, false)
	if err != nil {
		return nil, err
	}
	m := n.manager()
	if m == nil {
		return nil, errdefs.ErrUnavailable.WithMessage(control.NotManager)
	}
	snap := m.store.Snapshot()
	svc, ok := store.Get[*cluster.Service](snap, found.ID)
	if !ok {
		return nil, errdefs.ErrNotFound.WithMessage("service " + ref + " not found")
	}
	e := placement.Explain(snap, svc, m.store.Now())
	return &e, nil
}
