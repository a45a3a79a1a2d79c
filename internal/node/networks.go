package node

import (
	"context"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/network/local"
)

// networks is the node as httpapi's Networks: the host's networks, which are the engine's, and the swarm's.
type networks struct{ n *Node }

// all are the host's networks and, on a manager, the swarm's.
func (s networks) all(ctx context.Context) []network.Inspect {
	all := s.n.engine.LocalNetworks()
	if ofSwarm, err := s.n.control.Networks(ctx); err == nil {
		all = append(all, ofSwarm...)
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
func (s networks) Network(ctx context.Context, ref, scope string, _ bool) (*network.Inspect, error) {
	if scope == "swarm" && ref == cluster.HostNetwork {
		// Of every node the same, as a service that is to use it says.
		i := &network.Inspect{}
		i.ID, i.Name, i.Driver, i.Scope = ref, ref, "host", scope
		return i, nil
	}
	all := s.all(ctx)
	var named, found []*network.Inspect
	for i := range all {
		x := &all[i]
		switch {
		case scope != "" && x.Scope != scope:
		case x.ID == ref:
			return x, nil
		case x.Name == ref:
			named = append(named, x)
		case ref != "" && strings.HasPrefix(x.ID, ref):
			found = append(found, x)
		}
	}
	by := "name"
	if len(named) == 0 {
		named, by = found, "ID prefix"
	}
	switch len(named) {
	case 1:
		return named[0], nil
	case 0:
		return nil, errdefs.ErrNotFound.WithMessage(fmt.Sprintf("network %s not found", ref))
	}
	return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("network %s is ambiguous (%d matches found based on %s)", ref, len(named), by))
}

// CreateNetwork implements httpapi.Networks.
func (s networks) CreateNetwork(ctx context.Context, r network.CreateRequest) (*network.CreateResponse, error) {
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
		return errdefs.ErrNotImplemented.WithMessage("removing an overlay network is not supported: it is not implemented by Shoal yet")
	}
	return s.n.engine.RemoveNetwork(ctx, i.ID)
}

// PruneNetworks implements httpapi.Networks.
func (s networks) PruneNetworks(ctx context.Context, filters map[string][]string) (*network.PruneReport, error) {
	return s.n.engine.PruneNetworks(ctx, filters)
}

// Connect implements httpapi.Networks.
func (s networks) Connect(ctx context.Context, ref, container string, settings *network.EndpointSettings) error {
	return s.n.engine.Connect(ctx, ref, container, settings)
}

// Disconnect implements httpapi.Networks.
func (s networks) Disconnect(ctx context.Context, ref, container string, force bool) error {
	return s.n.engine.Disconnect(ctx, ref, container, force)
}
