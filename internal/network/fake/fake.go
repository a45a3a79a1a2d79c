// Package fake is a host's network in memory, for tests of what drives a network and for the simulator. It keeps the
// promises of package overlay as far as a caller can see them, and touches no kernel.
package fake

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/containerd/errdefs"

	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/network"
	"shoal.dev/shoal/internal/network/local"
	"shoal.dev/shoal/internal/network/ports"
)

// subnet is that of the network bridge.
var subnet = netip.MustParsePrefix("172.18.0.0/16")

// Network is the network of one host. The zero value is a host that was just started. Its methods are safe for
// concurrent use. It implements engine.Sandboxes.
type Network struct {
	mu       sync.Mutex
	desired  network.Desired
	applied  int
	attached map[string]attachment
	networks *local.Book // nil until it is needed
	made     int         // networks and endpoints, for their IDs
	book     ports.Book
	fail     error
}

type attachment struct {
	ingress   netip.Addr
	endpoints []engine.Endpoint
	asked     []engine.PortRequest
	ports     []engine.PublishedPort
}

// Apply keeps d as what the kernel would hold.
func (n *Network) Apply(ctx context.Context, d network.Desired) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.refusal(ctx); err != nil {
		return err
	}
	n.desired = d
	n.applied++
	return nil
}

// Connections counts none: nothing reaches a network in memory.
func (n *Network) Connections() (map[netip.Addr]uint64, error) { return nil, nil }

// Attach implements engine.Sandboxes. The path that it returns leads nowhere.
func (n *Network) Attach(ctx context.Context, id string, want engine.Attachment) (engine.Sandbox, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.refusal(ctx); err != nil {
		return engine.Sandbox{}, err
	}
	if id == "" {
		return engine.Sandbox{}, fmt.Errorf("invalid container ID %q: %w", id, errdefs.ErrInvalidArgument)
	}
	a := n.attached[id]
	a.ingress = want.Ingress
	var err error
	if a.endpoints, err = n.place(id, want, a.endpoints); err != nil {
		return engine.Sandbox{}, err
	}
	if n.attached == nil {
		n.attached = map[string]attachment{}
	}
	if !slices.Equal(a.asked, want.Ports) {
		n.book.Release(id)
		var swarm []network.Port
		if n.desired.Ingress != nil {
			swarm = n.desired.Ingress.Ports
		}
		a.asked = want.Ports
		if a.ports, err = n.book.Take(ports.Holder{ID: id, Name: want.Name}, want.Ports, swarm, nil); err != nil {
			a.asked = nil
		}
	}
	n.attached[id] = a
	if err != nil {
		return engine.Sandbox{}, err
	}
	return engine.Sandbox{NetNS: "/fake/netns/" + id, Endpoints: slices.Clone(a.endpoints), Ports: a.ports}, nil
}

// Detach implements engine.Sandboxes.
func (n *Network) Detach(ctx context.Context, id string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.refusal(ctx); err != nil {
		return err
	}
	n.book.Release(id)
	for _, e := range n.attached[id].endpoints {
		n.networks.Leave(e.NetworkID, e.ID)
	}
	delete(n.attached, id)
	return nil
}

// Fail makes every later call fail with err, until it is nil.
func (n *Network) Fail(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.fail = err
}

// Desired returns what was last applied, and how often Apply succeeded.
func (n *Network) Desired() (network.Desired, int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.desired, n.applied
}

// Ingress returns the ingress address of an attached container, and whether it is attached.
func (n *Network) Ingress(id string) (netip.Addr, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	a, ok := n.attached[id]
	return a.ingress, ok
}

func (n *Network) refusal(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return n.fail
}

// Check implements node.Kernel: nobody breaks what is in memory.
func (n *Network) Check(ctx context.Context) ([]network.Finding, error) { return nil, ctx.Err() }
