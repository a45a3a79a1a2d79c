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
	c, unlock, err := e.ledger.Lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	found, err := e.findNetwork(ref)
	if err != nil && (c.Running() || !errdefs.IsNotFound(err)) {
		return err
	}
	n, err := ledger.Connected(c, ref, found, s)
	if err != nil {
		return err
	}
	return e.rewire(ctx, c, n)
}

// Disconnect implements engine.Networks.
func (e *Engine) Disconnect(ctx context.Context, ref, name string, force bool) error {
	c, unlock, err := e.ledger.Lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	found, err := e.findNetwork(ref)
	if err != nil && (c.Running() && !force || !errdefs.IsNotFound(err)) {
		return err
	}
	n, err := ledger.Disconnected(c, ref, found)
	if err != nil {
		return err
	}
	return e.rewire(ctx, c, n)
}

// rewire makes n of c, whose lock the caller holds: the same container with other networks.
func (e *Engine) rewire(ctx context.Context, c, n *ledger.Container) error {
	if c.Running() && e.usesSandbox(c) {
		a, err := n.Attachment()
		if err != nil {
			return err
		}
		if n.State.Sandbox, err = e.Sandboxes.Attach(ctx, n.ID, a); err != nil {
			return err
		}
	}
	e.ledger.Put(n)
	e.ledger.ReportEndpoints(n.ID, c.State.Sandbox, n.State.Sandbox)
	return nil
}
