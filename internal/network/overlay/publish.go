package overlay

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/network"
	"shoal.dev/shoal/internal/network/balance"
	"shoal.dev/shoal/internal/network/ports"
	"shoal.dev/shoal/internal/network/sockets"
)

// takePorts gives a container the ports that it asks for, or leaves it those that it has if it asks for the same. x is
// locked.
func (b *boxes) takePorts(x *box, want []engine.PortRequest, swarm []network.Port, probe ports.Probe) error {
	want = x.bound(want)
	if slices.Equal(x.Asked, want) {
		return nil
	}
	b.mu.Lock()
	b.book.Release(x.ID)
	got, err := b.book.Take(ports.Holder{ID: x.ID, Name: x.Name}, want, swarm, probe)
	if err != nil {
		want = nil
	}
	x.Asked, x.Ports = slices.Clone(want), got
	b.mu.Unlock()
	return errors.Join(err, writeJSON(b.file(x.ID), x))
}

// bound fills in the address of the host that the container's network has for ports that name none.
func (x *box) bound(want []engine.PortRequest) []engine.PortRequest {
	way := x.way()
	if way == nil || !way.net.HostBinding().IsValid() {
		return want
	}
	want = slices.Clone(want)
	for i := range want {
		if !want[i].HostIP.IsValid() {
			want[i].HostIP = way.net.HostBinding()
		}
	}
	return want
}

// published are the ports of all containers, sorted.
func (b *boxes) published() []balance.Published {
	b.mu.Lock()
	defer b.mu.Unlock()
	var list []balance.Published
	for _, x := range b.byID {
		way := x.way()
		if way == nil { // on internal networks only: nothing comes in, as in Docker
			continue
		}
		for _, p := range x.Ports {
			list = append(list, balance.Published{
				Protocol: string(p.Port.Proto()), IP: p.HostIP, Port: p.HostPort, To: netip.AddrPortFrom(way.Addr, p.Port.Num()),
			})
		}
	}
	slices.SortFunc(list, func(a, b balance.Published) int {
		return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port, b.Port), a.IP.Compare(b.IP))
	})
	return list
}

// swarmPorts are the ports that services publish.
func (k *Kernel) swarmPorts() []network.Port {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.want == nil || k.want.Ingress == nil {
		return nil
	}
	return k.want.Ingress.Ports
}

// publish brings the ruleset to the host's networks and the containers' ports.
func (k *Kernel) publish(ctx context.Context) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.republish(ctx)
}

// republish is publish with k.mu held.
func (k *Kernel) republish(ctx context.Context) error {
	switch {
	case !k.subnet.IsValid(): // taken down meanwhile
		return nil
	case k.have != nil:
		mtu := 0
		if k.have.ingress != nil {
			mtu = k.have.links.mtu
		}
		return k.table.Apply(ctx, k.rules(k.have.ingress, mtu))
	case k.want != nil:
		return k.reconcile(ctx)
	}
	// No Apply yet: a mesh from before a restart goes on untouched.
	mesh, err := k.table.HasMesh()
	if err != nil {
		return err
	}
	if mesh {
		return k.table.Publish(ctx, k.boxes.bridges(), k.boxes.published())
	}
	return k.table.Apply(ctx, k.rules(nil, 0))
}

// probe binds a port of the host for a moment, to see whether a process has it. There is no way to ask for a port of
// SCTP without the kernel's module for it.
func (k *Kernel) probe(protocol string, ip netip.Addr, port uint16) error {
	var owner string
	err := k.host.in(func() (err error) {
		defer func() {
			if errors.Is(err, unix.EADDRINUSE) {
				owner, _ = sockets.Owner(protocol, ip, port)
			}
		}()
		at := netip.AddrPortFrom(ip, port)
		switch protocol {
		case "tcp":
			l, err := net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(at))
			if err != nil {
				return err
			}
			return l.Close()
		case "udp":
			c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(at))
			if err != nil {
				return err
			}
			return c.Close()
		}
		return nil
	})
	var errno unix.Errno
	if errors.As(err, &errno) { // Docker's words are the kernel's alone
		if owner != "" {
			return fmt.Errorf("%w: %s has it", errno, owner)
		}
		return errno
	}
	return err
}
