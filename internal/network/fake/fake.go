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
	"shoal.dev/shoal/internal/network/ports"
)

// subnet is that of the host's bridge; the first address is the bridge's own.
var subnet = netip.MustParsePrefix("172.18.0.0/16")

// Network is the network of one host. The zero value is a host that was just started. Its methods are safe for
// concurrent use. It implements engine.Sandboxes.
type Network struct {
	mu       sync.Mutex
	desired  network.Desired
	applied  int
	attached map[string]attachment
	used     map[netip.Addr]bool
	cursor   netip.Addr
	book     ports.Book
	fail     error
}

type attachment struct {
	addr, ingress netip.Addr
	asked         []engine.PortRequest
	ports         []engine.PublishedPort
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
	a, there := n.attached[id]
	if !there {
		addr, err := n.nextAddr()
		if err != nil {
			return engine.Sandbox{}, err
		}
		a.addr = addr
	}
	a.ingress = want.Ingress
	if n.attached == nil {
		n.attached = map[string]attachment{}
	}
	var err error
	if !slices.Equal(a.asked, want.Ports) {
		n.book.Release(id)
		var swarm []network.Port
		if n.desired.Ingress != nil {
			swarm = n.desired.Ingress.Ports
		}
		a.asked = want.Ports
		if a.ports, err = n.book.Take(id, want.Ports, swarm, nil); err != nil {
			a.asked = nil
		}
	}
	n.attached[id] = a
	if err != nil {
		return engine.Sandbox{}, err
	}
	return engine.Sandbox{
		NetNS: "/fake/netns/" + id, Addr: a.addr, Gateway: subnet.Addr().Next(), Bits: subnet.Bits(),
		MAC: network.MAC(a.addr).String(), Bridge: "bridge", Ports: a.ports,
	}, nil
}

// Detach implements engine.Sandboxes.
func (n *Network) Detach(ctx context.Context, id string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.refusal(ctx); err != nil {
		return err
	}
	n.book.Release(id)
	delete(n.used, n.attached[id].addr)
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

// nextAddr gives addresses in order, and one that was freed only when all others were given.
func (n *Network) nextAddr() (netip.Addr, error) {
	if n.used == nil {
		n.used, n.cursor = map[netip.Addr]bool{}, subnet.Addr().Next()
	}
	for a := n.cursor; len(n.used) < 1<<16-3; {
		if a = a.Next(); !subnet.Contains(a.Next()) { // the last one is for broadcasts
			a = subnet.Addr().Next()
			continue
		}
		if !n.used[a] {
			n.used[a], n.cursor = true, a
			return a, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("no available IPv4 addresses on this host's bridge (%s, %d containers): %w", subnet, len(n.used), errdefs.ErrResourceExhausted)
}
