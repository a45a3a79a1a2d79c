package containerd

import (
	"context"
	"errors"

	"github.com/moby/moby/api/types/network"

	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/engine/ledger"
)

func (e *Engine) needNetworks() error {
	if e.cfg.Sandboxes == nil {
		return notYet("networks on a host without Shoal's network")
	}
	return nil
}

func (e *Engine) findNetwork(ref string) (*network.Inspect, error) {
	if err := e.needNetworks(); err != nil {
		return nil, err
	}
	return e.cfg.Sandboxes.FindNetwork(ref)
}

// CreateNetwork implements engine.Networks.
func (e *Engine) CreateNetwork(ctx context.Context, r network.CreateRequest) (*network.Inspect, error) {
	if err := e.needNetworks(); err != nil {
		return nil, err
	}
	n, err := e.cfg.Sandboxes.CreateNetwork(ctx, r)
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
	n, err := e.cfg.Sandboxes.RemoveNetwork(ctx, ref)
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
	if e.cfg.Sandboxes == nil {
		return nil
	}
	return e.cfg.Sandboxes.LocalNetworks()
}

// Connect implements engine.Networks.
func (e *Engine) Connect(ctx context.Context, ref, name string, s *network.EndpointSettings) error {
	return e.ledger.Connect(ctx, e.findNetwork, ref, name, s, e.rewire(ctx))
}

// Disconnect implements engine.Networks.
func (e *Engine) Disconnect(ctx context.Context, ref, name string, force bool) error {
	return e.ledger.Disconnect(ctx, e.findNetwork, ref, name, force, e.rewire(ctx))
}

// rewire makes the same container with other networks; see ledger.Ledger.Connect. What fails half way is undone.
func (e *Engine) rewire(ctx context.Context) func(c, n *ledger.Container) (*ledger.Container, error) {
	ctx = e.scope(ctx)
	attach := func(c *ledger.Container) (engine.Sandbox, error) {
		a, err := c.Attachment()
		if err != nil {
			return engine.Sandbox{}, err
		}
		return e.cfg.Sandboxes.Attach(ctx, c.ID, a)
	}
	return func(c, n *ledger.Container) (*ledger.Container, error) {
		if !c.Running() {
			return n, e.save(ctx, n, nil)
		}
		sandbox, err := attach(n)
		if err == nil {
			n = n.Placed(sandbox)
			err = errors.Join(e.writeFiles(n), e.save(ctx, n, nil))
		}
		if err != nil {
			if _, uerr := attach(c); uerr != nil {
				e.cfg.Log.Warn("cannot put a container back on its networks", "container", c.ID, "error", uerr)
			}
		}
		return n, err
	}
}
