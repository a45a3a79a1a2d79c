package local

import (
	"net/netip"
	"strconv"

	"github.com/moby/moby/api/types/network"
)

// Overlay is a network of the swarm as a record of this host.
func Overlay(id, name string, subnet netip.Prefix, gateway netip.Addr, mtu int, internal bool) Network {
	n := Network{network.Network{
		Name: name, ID: id, Scope: "swarm", Driver: "overlay", EnableIPv4: true, Internal: internal,
		IPAM:    network.IPAM{Driver: "default", Config: []network.IPAMConfig{{Subnet: subnet, Gateway: gateway}}},
		Options: map[string]string{}, Labels: map[string]string{},
	}}
	if mtu != 0 {
		n.Options[optionMTU] = strconv.Itoa(mtu)
	}
	return n
}

// OfSwarm says whether the network is one of the swarm's: it has no bridge on the host, and the swarm gives its
// addresses.
func (n *Network) OfSwarm() bool { return n.Driver == "overlay" }

// PutOverlay takes in a network of the swarm, or replaces it; containers stay on it. Unlike the host's own networks, it
// may have a name that another one has: it goes by its ID.
func (b *Book) PutOverlay(n Network) {
	if e := b.nets[n.ID]; e != nil {
		e.Network = n
		return
	}
	b.insert(n)
}

// DropOverlay takes a network of the swarm out, unless containers are on it.
func (b *Book) DropOverlay(id string) bool {
	if e := b.nets[id]; e != nil && (!e.OfSwarm() || len(e.endpoints) > 0) {
		return false
	}
	delete(b.nets, id)
	return true
}
