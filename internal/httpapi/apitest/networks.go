package apitest

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"

	"shoal.dev/shoal/internal/network/fake"
	"shoal.dev/shoal/internal/network/local"
)

// Networks are the real book's rules, in memory. What containers are connected to is only noted.
type Networks struct {
	networks
	Noted []string // "connect NETWORK CONTAINER" and "disconnect NETWORK CONTAINER FORCE"
	Last  *network.EndpointSettings
}

// networks are what a host has of networks, for Engine as for Networks.
type networks struct{ net fake.Network }

func (n *networks) LocalNetworks() []network.Inspect { return n.net.LocalNetworks() }

func (n *networks) CreateNetwork(ctx context.Context, r network.CreateRequest) (*network.Inspect, error) {
	return n.net.CreateNetwork(ctx, r)
}

func (n *networks) RemoveNetwork(ctx context.Context, ref string) error {
	_, err := n.net.RemoveNetwork(ctx, ref)
	return err
}

func (n *networks) PruneNetworks(ctx context.Context, filters map[string][]string) (*network.PruneReport, error) {
	for k := range filters {
		if k != "label" {
			return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid filter '%s'", k))
		}
	}
	out := &network.PruneReport{}
	for _, i := range n.net.LocalNetworks() {
		if n.RemoveNetwork(ctx, i.ID) == nil {
			out.NetworksDeleted = append(out.NetworksDeleted, i.Name)
		}
	}
	return out, nil
}

func (n *networks) Connect(_ context.Context, ref, _ string, _ *network.EndpointSettings) error {
	_, err := n.net.FindNetwork(ref)
	return err
}

func (n *networks) Disconnect(_ context.Context, ref, _ string, _ bool) error {
	_, err := n.net.FindNetwork(ref)
	return err
}

func (n *Networks) Networks(_ context.Context, filters map[string][]string) ([]network.Inspect, error) {
	f, err := local.NewFilter(filters)
	if err != nil {
		return nil, err
	}
	var out []network.Inspect
	for _, i := range n.net.LocalNetworks() {
		if f.Match(&i) {
			out = append(out, i)
		}
	}
	return out, nil
}

func (n *Networks) Network(_ context.Context, ref, _ string, _ bool) (*network.Inspect, error) {
	return n.net.FindNetwork(ref)
}

func (n *Networks) CreateNetwork(ctx context.Context, r network.CreateRequest) (*network.CreateResponse, error) {
	i, err := n.net.CreateNetwork(ctx, r)
	if err != nil {
		return nil, err
	}
	return &network.CreateResponse{ID: i.ID}, nil
}

func (n *Networks) Connect(ctx context.Context, ref, container string, s *network.EndpointSettings) error {
	n.Noted, n.Last = append(n.Noted, fmt.Sprintf("connect %s %s", ref, container)), s
	return n.networks.Connect(ctx, ref, container, s)
}

func (n *Networks) Disconnect(ctx context.Context, ref, container string, force bool) error {
	n.Noted = append(n.Noted, fmt.Sprintf("disconnect %s %s %t", ref, container, force))
	return n.networks.Disconnect(ctx, ref, container, force)
}
