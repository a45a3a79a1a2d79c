package fake

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	apinetwork "github.com/moby/moby/api/types/network"

	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/network"
	"shoal.dev/shoal/internal/network/local"
)

// nets is the book of networks. n.mu is held.
func (n *Network) nets() *local.Book {
	if n.networks == nil {
		n.networks = local.NewBook("fake", subnet, "shoal-gw")
	}
	return n.networks
}

// takeOverlays has the swarm's networks come to the host and go from it. n.mu is held.
func (n *Network) takeOverlays(list []*network.Overlay) {
	here := map[string]bool{}
	for _, o := range list {
		here[o.ID] = true
		n.nets().PutOverlay(local.Overlay(o.ID, o.Name, o.Subnet, o.Gateway, o.MTU, o.Internal))
	}
	for _, x := range n.nets().All() {
		if x.OfSwarm() && !here[x.ID] {
			n.nets().DropOverlay(x.ID)
		}
	}
}

func (n *Network) newID() string {
	n.made++
	return fmt.Sprintf("%05x%059x", n.made, n.made)
}

// CreateNetwork implements engine.LocalNetworks.
func (n *Network) CreateNetwork(ctx context.Context, r apinetwork.CreateRequest) (*apinetwork.Inspect, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.refusal(ctx); err != nil {
		return nil, err
	}
	made, err := n.nets().Create(n.newID(), r, local.Taken{}, time.Now())
	if err != nil {
		return nil, err
	}
	out := n.nets().Inspect(made.ID)
	return &out, nil
}

// RemoveNetwork implements engine.LocalNetworks.
func (n *Network) RemoveNetwork(ctx context.Context, ref string) (*apinetwork.Inspect, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.refusal(ctx); err != nil {
		return nil, err
	}
	gone, err := n.nets().Remove(ref)
	if err != nil {
		return nil, err
	}
	return &apinetwork.Inspect{Network: gone.Network}, nil
}

// LocalNetworks implements engine.LocalNetworks.
func (n *Network) LocalNetworks() []apinetwork.Inspect {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []apinetwork.Inspect
	for _, x := range n.nets().All() {
		out = append(out, n.nets().Inspect(x.ID))
	}
	return out
}

// FindNetwork implements engine.LocalNetworks.
func (n *Network) FindNetwork(ref string) (*apinetwork.Inspect, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	x, err := n.nets().Find(ref)
	if err != nil {
		return nil, err
	}
	out := n.nets().Inspect(x.ID)
	return &out, nil
}

// place gives a container its places on networks; it keeps those that it had, and all of them if it fails. n.mu is held.
func (n *Network) place(id string, want engine.Attachment, had []engine.Endpoint) ([]engine.Endpoint, error) {
	list := want.Networks
	if list == nil {
		list = []engine.EndpointRequest{{Network: local.Bridge}}
	}
	var now, fresh []engine.Endpoint
	for _, r := range list {
		x, err := n.nets().Find(r.Network)
		i := slices.IndexFunc(had, func(e engine.Endpoint) bool { return err == nil && e.NetworkID == x.ID })
		var e engine.Endpoint
		switch {
		case err != nil:
		case slices.ContainsFunc(now, func(e engine.Endpoint) bool { return e.NetworkID == x.ID }):
			err = errdefs.ErrPermissionDenied.WithMessage(fmt.Sprintf("endpoint with name %s already exists in network %s", want.Name, x.Name))
		case i >= 0 && (!r.Addr.IsValid() || r.Addr == had[i].Addr) && (r.MAC == "" || r.MAC == had[i].MAC):
			e = had[i]
		default:
			if e, err = n.join(id, want.Name, x, r); err == nil {
				fresh = append(fresh, e)
			}
		}
		if err != nil {
			for _, e := range fresh {
				n.networks.Leave(e.NetworkID, e.ID)
			}
			return had, err
		}
		e.Names, e.Priority = r.Names, r.Priority
		now = append(now, e)
	}
	for _, e := range had {
		if !slices.ContainsFunc(now, func(o engine.Endpoint) bool { return o.ID == e.ID }) {
			n.networks.Leave(e.NetworkID, e.ID)
		}
	}
	for i := range now {
		for k := 0; now[i].Interface == ""; k++ {
			name := fmt.Sprintf("eth%d", k)
			if !slices.ContainsFunc(now, func(e engine.Endpoint) bool { return e.Interface == name }) {
				now[i].Interface = name
			}
		}
	}
	return now, nil
}

func (n *Network) join(id, name string, x local.Network, r engine.EndpointRequest) (engine.Endpoint, error) {
	p := local.Endpoint{ID: n.newID(), Container: id, Name: name, Addr: r.Addr}
	if r.MAC != "" {
		mac, err := net.ParseMAC(r.MAC)
		if err != nil {
			return engine.Endpoint{}, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid MAC address: %s", r.MAC))
		}
		p.MAC = apinetwork.HardwareAddr(mac)
	}
	p, err := n.networks.Join(x.ID, p, func(a netip.Addr) apinetwork.HardwareAddr { return apinetwork.HardwareAddr(network.MAC(a)) })
	if err != nil {
		return engine.Endpoint{}, err
	}
	e := engine.Endpoint{
		ID: p.ID, NetworkID: x.ID, Network: x.Name, Driver: x.Driver, Addr: p.Addr, Bits: x.Subnet().Bits(), MAC: p.MAC.String(), Internal: x.Internal,
	}
	if !x.Internal && !x.OfSwarm() {
		e.Gateway = x.Gateway()
	}
	return e, nil
}
