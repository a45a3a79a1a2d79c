package dryrun

import (
	"context"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"

	"shoal.dev/shoal/internal/control"
	"shoal.dev/shoal/internal/httpapi"
	"shoal.dev/shoal/internal/network/local"
)

// networks are those of the host, which are only read, and the copy's.
type networks struct {
	control *control.Control
	host    func() []network.Inspect
}

var _ httpapi.Networks = networks{}

func (s networks) all(ctx context.Context) ([]network.Inspect, error) {
	all, err := s.control.Networks(ctx)
	for _, i := range s.host() {
		if i.Scope != "swarm" {
			all = append(all, i)
		}
	}
	return all, err
}

func (s networks) Networks(ctx context.Context, filters map[string][]string) ([]network.Inspect, error) {
	f, err := local.NewFilter(filters)
	if err != nil {
		return nil, err
	}
	all, err := s.all(ctx)
	if err != nil {
		return nil, err
	}
	out := []network.Inspect{}
	for _, i := range all {
		if f.Match(&i) {
			out = append(out, i)
		}
	}
	return out, nil
}

func (s networks) Network(ctx context.Context, ref, scope string, _ bool) (*network.Inspect, error) {
	all, err := s.all(ctx)
	if err != nil {
		return nil, err
	}
	return local.Pick(all, ref, scope)
}

func (s networks) CreateNetwork(ctx context.Context, r network.CreateRequest) (*network.CreateResponse, error) {
	if r.Driver != "overlay" && r.Scope != "swarm" && !r.Ingress {
		return nil, ofHost()
	}
	id, err := s.control.CreateNetwork(ctx, r)
	if err != nil {
		return nil, err
	}
	return &network.CreateResponse{ID: id}, nil
}

func (s networks) RemoveNetwork(ctx context.Context, ref string) error {
	i, err := s.Network(ctx, ref, "", false)
	if err != nil {
		return err
	}
	if i.Scope != "swarm" {
		return ofHost()
	}
	return s.control.RemoveNetwork(ctx, i.ID, true)
}

func (networks) PruneNetworks(context.Context, map[string][]string) (*network.PruneReport, error) {
	return nil, ofHost()
}
func (networks) Connect(context.Context, string, string, *network.EndpointSettings) error {
	return ofHost()
}
func (networks) Disconnect(context.Context, string, string, bool) error { return ofHost() }

func ofHost() error {
	return errdefs.ErrNotImplemented.WithMessage("changes of a host's own networks cannot be tried: a dry run is of the swarm")
}
