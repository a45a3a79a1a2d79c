package fake

import (
	"context"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"

	"shoal.dev/shoal/internal/engine/ledger"
)

func (e *Engine) needNetworks() error {
	if e.Sandboxes == nil {
		return ledger.Errorf(errdefs.ErrNotImplemented, "not implemented yet: networks on a host without Shoal's network")
	}
	return nil
}

func (e *Engine) findNetwork(ref string) (*network.Inspect, error) {
	if err := e.needNetworks(); err != nil {
		return nil, err
	}
	return e.Sandboxes.FindNetwork(ref)
}

// CreateNetwork implements engine.Networks.
func (e *Engine) CreateNetwork(ctx context.Context, r network.CreateRequest) (*network.Inspect, error) {
	if err := e.needNetworks(); err != nil {
		return nil, err
	}
	n, err := e.Sandboxes.CreateNetwork(ctx, r)
	if err == nil {
		e.ledger.ReportNetwork(n, "create")
	}
	return n, err
}

// RemoveNetwork implements engine.Networks.
func (e *Engine) RemoveNetwork(ctx context.Context, ref string) error {
	if err := e.needNetworks(); err != nil {
		return err
	}
	n, err := e.Sandboxes.RemoveNetwork(ctx, ref)
	if err == nil {
		e.ledger.ReportNetwork(n, "destroy")
	}
	return err
}

// PruneNetworks implements engine.Networks.
func (e *Engine) PruneNetworks(ctx context.Context, filters map[string][]string) (*network.PruneReport, error) {
	return e.ledger.PruneNetworks(e.LocalNetworks(), filters, func(id string) error { return e.RemoveNetwork(ctx, id) })
}

// LocalNetworks implements engine.Networks.
func (e *Engine) LocalNetworks() []network.Inspect {
	if e.Sandboxes == nil {
		return nil
	}
	return e.Sandboxes.LocalNetworks()
}

// Connect implements engine.Networks.
func (e *Engine) Connect(ctx context.Context, ref, name string, s *network.EndpointSettings) error {
	return e.ledger.Connect(ctx, e.findNetwork, ref, name, s, e.rewire(ctx))
}

// Disconnect implements engine.Networks.
func (e *Engine) Disconnect(ctx context.Context, ref, name string, force bool) error {
	return e.ledger.Disconnect(ctx, e.findNetwork, ref, name, force, e.rewire(ctx))
}

// rewire makes the same container with other networks; see ledger.Ledger.Connect.
func (e *Engine) rewire(ctx context.Context) func(c, n *ledger.Container) (*ledger.Container, error) {
	return func(c, n *ledger.Container) (*ledger.Container, error) {
		if !c.Running() || !e.usesSandbox(c) {
			return n, nil
		}
		a, err := n.Attachment()
		if err != nil {
			return nil, err
		}
		sandbox, err := e.Sandboxes.Attach(ctx, n.ID, a)
		if err != nil {
			return nil, err
		}
		return n.Placed(sandbox), nil
	}
}
