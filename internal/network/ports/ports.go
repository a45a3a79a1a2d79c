// Package ports keeps which port of a host leads to which container.
//
// It decides whether a port that a container asks for is free, which one it gets if it asks for any, and the words of
// a refusal. It owns memory only. It never touches a kernel: whether a process of the host has a port it is told.
package ports

import (
	"fmt"
	"net/netip"

	"github.com/containerd/errdefs"

	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/network"
)

// The host's ports of containers that ask for any: Linux' ephemeral ports, which Docker takes, too.
const firstAny, lastAny = 32768, 60999

var all = netip.IPv4Unspecified()

// Book is the ports that are given. The zero value has none. It is not safe for concurrent use.
type Book struct {
	held   map[key][]holder
	cursor uint16 // the last port that was given to who asked for any
}

type key struct {
	protocol string
	port     uint16
}

// Holder is a container that has ports; the name is for those who cannot have them.
type Holder struct{ ID, Name string }

type holder struct {
	Holder
	ip netip.Addr
}

// Probe says why a port of the host cannot be used, such as that a process has it; nil if it can.
type Probe func(protocol string, ip netip.Addr, port uint16) error

// Take gives a container the ports that it asks for, all or none. It fails with Conflict if one is another
// container's, is one of swarm, or probe refuses it; probe may be nil.
func (b *Book) Take(c Holder, want []engine.PortRequest, swarm []network.Port, probe Probe) ([]engine.PublishedPort, error) {
	var got []engine.PublishedPort
	for _, r := range want {
		p, err := b.one(c, r, swarm, probe)
		if err != nil {
			b.Release(c.ID)
			return nil, err
		}
		got = append(got, p)
	}
	return got, nil
}

func (b *Book) one(c Holder, r engine.PortRequest, swarm []network.Port, probe Probe) (engine.PublishedPort, error) {
	p := engine.PublishedPort{Port: r.Port, HostIP: r.HostIP}
	if !p.HostIP.IsValid() {
		p.HostIP = all
	}
	first, n := r.First, int(r.Last-r.First)+1
	low := first
	if first == 0 {
		low, n = firstAny, lastAny-firstAny+1
		if first = b.cursor + 1; first < firstAny || first > lastAny {
			first = firstAny
		}
	}
	var err error
	for i := range n {
		p.HostPort = low + uint16((int(first-low)+i)%n)
		if err = b.refusal(p, swarm, probe); err == nil {
			if r.First == 0 {
				b.cursor = p.HostPort
			}
			b.Add(c, p)
			return p, nil
		}
	}
	if r.First == 0 {
		err = refused("all ports are allocated")
	}
	return p, err
}

// refused is a Conflict with exactly these words.
func refused(format string, args ...any) error {
	return errdefs.ErrConflict.WithMessage(fmt.Sprintf(format, args...))
}

func (b *Book) refusal(p engine.PublishedPort, swarm []network.Port, probe Probe) error {
	protocol := string(p.Port.Proto())
	at := netip.AddrPortFrom(p.HostIP, p.HostPort)
	for _, h := range b.held[key{protocol, p.HostPort}] {
		if h.ip == p.HostIP || h.ip == all || p.HostIP == all {
			if h.Name != "" {
				return refused("Bind for %s failed: port is already allocated: container %s has it", at, h.Name)
			}
			return refused("Bind for %s failed: port is already allocated", at)
		}
	}
	for _, s := range swarm {
		if s.Protocol == protocol && s.Published == p.HostPort {
			return refused("Bind for %s failed: port is already allocated: a service of the swarm publishes it", at)
		}
	}
	if probe == nil {
		return nil
	}
	if err := probe(protocol, p.HostIP, p.HostPort); err != nil {
		return refused("failed to bind host port for %s:%s: %s", at, p.Port, err)
	}
	return nil
}

// Add notes a port that a container has from before.
func (b *Book) Add(c Holder, p engine.PublishedPort) {
	if b.held == nil {
		b.held = map[key][]holder{}
	}
	k := key{string(p.Port.Proto()), p.HostPort}
	b.held[k] = append(b.held[k], holder{c, p.HostIP})
}

// Release gives back what a container has.
func (b *Book) Release(id string) {
	for k, list := range b.held {
		var left []holder
		for _, h := range list {
			if h.ID != id {
				left = append(left, h)
			}
		}
		if len(left) == 0 {
			delete(b.held, k)
		} else {
			b.held[k] = left
		}
	}
}
