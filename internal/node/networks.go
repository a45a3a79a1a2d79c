package node

import (
	"context"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/engine/ledger"
	"shoal.dev/shoal/internal/network/local"
)

// networks is the node as httpapi's Networks: the host's networks, which are the engine's, and the swarm's.
type networks struct{ n *Node }

// all are the host's networks and, on a manager, the swarm's.
func (s networks) all(ctx context.Context) []network.Inspect {
	all := s.n.engine.LocalNetworks()
	ofSwarm, err := s.n.control.Networks(ctx)
	if err != nil {
		return all // with those of the swarm that are on this host
	}
	for _, i := range ofSwarm {
		at := slices.IndexFunc(all, func(l network.Inspect) bool { return l.ID == i.ID })
		if at < 0 {
			all = append(all, i)
			continue
		}
		i.Containers = all[at].Containers
		all[at] = i
	}
	return all
}

// Networks implements httpapi.Networks.
func (s networks) Networks(ctx context.Context, filters map[string][]string) ([]network.Inspect, error) {
	f, err := local.NewFilter(filters)
	if err != nil {
		return nil, err
	}
	out := []network.Inspect{}
	for _, i := range s.all(ctx) {
		if f.Match(&i) {
			out = append(out, i)
		}
	}
	return out, nil
}

// Network implements httpapi.Networks.
func (s networks) Network(ctx context.Context, ref, scope string, verbose bool) (*network.Inspect, error) {
	if scope == "swarm" && ref == cluster.HostNetwork {
		// Of every node the same, as a service that is to use it says.
		i := &network.Inspect{}
		i.ID, i.Name, i.Driver, i.Scope = ref, ref, "host", scope
		return i, nil
	}
	i, err := local.Pick(s.all(ctx), ref, scope)
	if err != nil || i.Scope != "swarm" {
		return i, err
	}
	if more, err := s.n.control.Network(ctx, i.ID, verbose); err == nil {
		i.Peers, i.Services = more.Peers, more.Services
	}
	return i, nil
}

// CreateNetwork implements httpapi.Networks. A network of the driver overlay is the swarm's.
func (s networks) CreateNetwork(ctx context.Context, r network.CreateRequest) (*network.CreateResponse, error) {
	if r.Driver == "overlay" || r.Scope == "swarm" || r.Ingress {
		out, err := s.n.onLeader(ctx, networkRequest{Create: &r})
		if err != nil {
			return nil, err
		}
		return &network.CreateResponse{ID: out.ID}, nil
	}
	if all, err := s.n.control.Networks(ctx); err == nil {
		for _, i := range all {
			if i.Name == r.Name {
				return nil, errdefs.ErrConflict.WithMessage(fmt.Sprintf("network with name %s already exists", r.Name))
			}
		}
	}
	i, err := s.n.engine.CreateNetwork(ctx, r)
	if err != nil {
		return nil, err
	}
	return &network.CreateResponse{ID: i.ID}, nil
}

// RemoveNetwork implements httpapi.Networks.
func (s networks) RemoveNetwork(ctx context.Context, ref string) error {
	i, err := s.Network(ctx, ref, "", false)
	if err != nil {
		return err
	}
	if i.Scope == "swarm" {
		_, err := s.n.onLeader(ctx, networkRequest{Remove: i.ID})
		return err
	}
	return s.n.engine.RemoveNetwork(ctx, i.ID)
}

// PruneNetworks implements httpapi.Networks.
func (s networks) PruneNetworks(ctx context.Context, filters map[string][]string) (*network.PruneReport, error) {
	out, err := s.n.engine.PruneNetworks(ctx, filters)
	if err != nil {
		return nil, err
	}
	all, err := s.n.control.Networks(ctx)
	if err != nil {
		return out, nil // a worker, or no swarm
	}
	list, err := ledger.Prunable(all, filters)
	if err != nil {
		return nil, err
	}
	for _, i := range list {
		switch _, err := s.n.onLeader(ctx, networkRequest{Remove: i.ID, Unused: true}); {
		case err == nil:
			out.NetworksDeleted = append(out.NetworksDeleted, i.Name)
		case ctx.Err() != nil:
			return nil, err
		} // else somebody uses it
	}
	return out, nil
}

// Connect implements httpapi.Networks.
func (s networks) Connect(ctx context.Context, ref, container string, settings *network.EndpointSettings) error {
	return s.n.engine.Connect(ctx, ref, container, settings)
}

// Disconnect implements httpapi.Networks.
func (s networks) Disconnect(ctx context.Context, ref, container string, force bool) error {
	return s.n.engine.Disconnect(ctx, ref, container, force)
}

// networkRequest makes a network of the swarm, or removes it.
type networkRequest struct {
	Create *network.CreateRequest `json:",omitempty"`
	Remove string                 `json:",omitempty"` // its ID
	Unused bool                   `json:",omitempty"` // nothing is waited for
}

type networkResponse struct{ ID string }

// onLeader has a network of the swarm changed: by this node, or by the manager that leads.
func (n *Node) onLeader(ctx context.Context, r networkRequest) (out networkResponse, err error) {
	m := n.manager()
	if m == nil {
		return n.changeNetwork(ctx, r) // it says why it cannot
	}
	err = m.onLeader(ctx, func() (err error) {
		out, err = n.changeNetwork(ctx, r)
		return err
	}, pathNetwork, &r, &out)
	return out, err
}

func (n *Node) changeNetwork(ctx context.Context, r networkRequest) (out networkResponse, err error) {
	if r.Create != nil {
		out.ID, err = n.control.CreateNetwork(ctx, *r.Create)
		return out, err
	}
	return out, n.control.RemoveNetwork(ctx, r.Remove, r.Unused)
}
