package engine

import (
	"context"
	"net/netip"

	"github.com/moby/moby/api/types/network"
)

// Networks is the networks of one host and which containers are on them. A network is named by its ID, its name or an
// unambiguous prefix of its ID. The predefined ones are bridge, host and none.
type Networks interface {
	// CreateNetwork makes a network of the driver bridge and returns it. Conflict if the name is taken.
	CreateNetwork(ctx context.Context, r network.CreateRequest) (*network.Inspect, error)
	// RemoveNetwork fails with PermissionDenied while a running container is on it, or if it is predefined.
	RemoveNetwork(ctx context.Context, ref string) error
	// PruneNetworks removes those that no running container is on. Filters are label, label! and until.
	PruneNetworks(ctx context.Context, filters map[string][]string) (*network.PruneReport, error)
	// LocalNetworks lists them with the running containers that are on each, by name.
	LocalNetworks() []network.Inspect
	// Connect puts a container on one more network, at once if it runs, else when it starts. s may be nil.
	Connect(ctx context.Context, ref, container string, s *network.EndpointSettings) error
	// Disconnect takes it off again. With force, it need not be known whether there is such a network.
	Disconnect(ctx context.Context, ref, container string, force bool) error
}

// LocalNetworks keeps the networks of one host. The engine consumes it; the network implements it beside [Sandboxes].
type LocalNetworks interface {
	// CreateNetwork, RemoveNetwork and LocalNetworks are as in [Networks]. What was removed is returned.
	CreateNetwork(ctx context.Context, r network.CreateRequest) (*network.Inspect, error)
	RemoveNetwork(ctx context.Context, ref string) (*network.Inspect, error)
	LocalNetworks() []network.Inspect
	// FindNetwork gives one, or NotFound.
	FindNetwork(ref string) (*network.Inspect, error)
}

// EndpointRequest asks that a container is on a network.
type EndpointRequest struct {
	Network string     // its name or ID
	Addr    netip.Addr `json:",omitzero"`  // zero: any
	MAC     string     `json:",omitempty"` // "": made from the address
	// Names are what the container is called on the network; the first is what its address is called.
	Names []string `json:",omitempty"`
	// Links are names that only this container has for others: an alias and the name that it stands for.
	Links map[string]string `json:",omitempty"`
	// Priority chooses the network of the default route: the highest, see [Sandbox.Gateway].
	Priority int `json:",omitempty"`
}

// Endpoint is a container's place on a network.
type Endpoint struct {
	ID        string
	NetworkID string
	Network   string // name
	Driver    string
	Interface string // "eth0"
	Addr      netip.Addr
	Bits      int // length of the subnet's prefix
	Gateway   netip.Addr
	MAC       string
	Internal  bool // the network has no way out
	Names     []string
	Priority  int
}

// On gives the endpoint on the network of that ID or name, or nil.
func (s *Sandbox) On(network string) *Endpoint {
	for i := range s.Endpoints {
		if e := &s.Endpoints[i]; e.NetworkID == network || e.Network == network {
			return e
		}
	}
	return nil
}

// Gateway gives the endpoint that the container's default route leads through, and its published ports to; nil if there
// is none. It is Docker's choice: the highest priority, of equal ones the first by the network's name, never an
// internal network.
func (s *Sandbox) Gateway() *Endpoint {
	var best *Endpoint
	for i := range s.Endpoints {
		e := &s.Endpoints[i]
		if e.Internal || !e.Gateway.IsValid() {
			continue
		}
		if best == nil || e.Priority > best.Priority || e.Priority == best.Priority && e.Network < best.Network {
			best = e
		}
	}
	return best
}
