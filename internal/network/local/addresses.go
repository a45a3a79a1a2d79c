package local

import (
	"fmt"
	"net/netip"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"
)

// first is the first address that a container may get.
func (e *entry) first() netip.Addr { a, _ := e.span(); return a }

// span is the first and the last address that are given to containers that ask for any.
func (e *entry) span() (first, last netip.Addr) {
	if r := e.config().IPRange; r.IsValid() {
		first, last = bounds(e.Subnet())
		low, high := bounds(netip.PrefixFrom(r.Masked().Addr(), r.Bits()))
		if r.Bits() < 31 && r.Bits() > e.Subnet().Bits() { // inside the subnet, a range has no addresses of its own
			low, high = low.Prev(), high.Next()
		}
		if first.Less(low) {
			first = low
		}
		if high.Less(last) {
			last = high
		}
		return first, last
	}
	return bounds(e.Subnet())
}

// Join gives a container a place on a network: the address that it asks for, or with none the first free one after that
// which was given last. A MAC address of nil is made from the address. The ID is the caller's; one that is there
// already is a Conflict.
func (b *Book) Join(networkID string, p Endpoint, mac func(netip.Addr) network.HardwareAddr) (Endpoint, error) {
	e := b.nets[networkID]
	if e == nil {
		return p, errdefs.ErrNotFound.WithMessage(fmt.Sprintf("network %s not found", networkID))
	}
	if !e.Subnet().IsValid() {
		return p, invalid("the network %s has no addresses", e.Name)
	}
	if _, there := e.endpoints[p.ID]; there {
		return p, conflict("endpoint %s is on the network %s already", p.ID, e.Name)
	}
	if p.Addr.IsValid() {
		first, last := bounds(e.Subnet())
		if !e.Subnet().Contains(p.Addr) || p.Addr.Less(first) || last.Less(p.Addr) {
			return p, invalid("no configured subnet contains IP address %s", p.Addr)
		}
		if e.used[p.Addr] {
			return p, forbidden("Address already in use")
		}
	} else {
		a, err := e.next()
		if err != nil {
			return p, err
		}
		p.Addr, e.cursor = a, a
	}
	if len(p.MAC) == 0 {
		p.MAC = mac(p.Addr)
	}
	e.used[p.Addr], e.endpoints[p.ID] = true, p
	return p, nil
}

// next is the first free address after the one that was given last.
func (e *entry) next() (netip.Addr, error) {
	first, last := e.span()
	a := e.cursor
	for range len(e.used) + 2 { // so many are taken at most, and one step goes from the last to the first
		if a = a.Next(); a.Less(first) || last.Less(a) {
			a = first
		}
		if !e.used[a] && !last.Less(a) {
			return a, nil
		}
	}
	return netip.Addr{}, errdefs.ErrUnavailable.WithMessage(fmt.Sprintf(
		"no available IPv4 addresses on the network %s (%s, %d containers)", e.Name, e.Subnet(), len(e.endpoints)))
}

// Leave gives a container's place back. One that is not there is no error.
func (b *Book) Leave(networkID, endpointID string) {
	e := b.nets[networkID]
	if e == nil {
		return
	}
	if p, there := e.endpoints[endpointID]; there {
		delete(e.endpoints, endpointID)
		delete(e.used, p.Addr)
	}
}

// Rename notes the new name of a container, for messages.
func (b *Book) Rename(networkID, endpointID, name string) {
	if e := b.nets[networkID]; e != nil {
		if p, there := e.endpoints[endpointID]; there {
			p.Name = name
			e.endpoints[endpointID] = p
		}
	}
}

// status counts addresses, as `inspect` shows them since API 1.52.
func (e *entry) status() network.SubnetStatus {
	var s network.SubnetStatus
	s.IPsInUse = uint64(len(e.used))
	first, last := bounds(e.Subnet())
	if e.Subnet().Bits() < 31 {
		s.IPsInUse += 2
	}
	for a := range e.used { // an address outside of the subnet's hosts is not counted twice
		if a.Less(first) || last.Less(a) {
			s.IPsInUse--
		}
	}
	low, high := e.span()
	free := uint64(number(high)) - uint64(number(low)) + 1
	for a := range e.used {
		if !a.Less(low) && !high.Less(a) {
			free--
		}
	}
	s.DynamicIPsAvailable = free
	return s
}

func number(a netip.Addr) uint32 {
	b := a.As4()
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}
