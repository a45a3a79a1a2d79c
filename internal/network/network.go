// Package network derives what a node's kernel shall hold, as data, from the swarm's records. It is pure: it touches
// no kernel and no store.
//
// It decides which tasks receive traffic and where each address lives. Package overlay (tunnels, namespaces, routes)
// and package balance (the load balancer) bring a kernel to it; package fake keeps it in memory. It never imports
// them.
package network

import "net/netip"

// Desired is everything that a node's kernel shall hold. It is a function of the node and the state version; all
// slices are sorted, so that equal states are equal values.
type Desired struct {
	// Version is the store version that it was derived from.
	Version uint64
	// Self is the ID of the node that it is for.
	Self string
	// Ingress is the routing mesh; nil while the swarm has none.
	Ingress *Ingress `json:",omitempty"`
	// Overlays are the swarm's networks that a task of this node is on, by ID.
	Overlays []*Overlay `json:",omitempty"`
}

// Ingress is the routing mesh: an address for each task that publishes a port, a route to each, and a load balancer on
// every node.
type Ingress struct {
	Subnet netip.Prefix
	// VNI is the VXLAN network identifier of the tunnels that carry it.
	VNI uint32
	// Port is the UDP port of the tunnels.
	Port uint16
	// Nodes are all nodes that can be reached, the node itself among them, by ID.
	Nodes []Node
	// Endpoints are the addresses of all tasks that are assigned to a node and have not ended, by address.
	Endpoints []Endpoint
	// Ports are the published ports, by protocol and number.
	Ports []Port
}

// Node is a node on the routing mesh.
type Node struct {
	ID       string
	Index    uint16     // its conntrack zone and mark, see cluster.Node.Index
	Underlay netip.Addr // where tunnels to it go
	Addr     netip.Addr // its address on the mesh
}

// Endpoint is a task's address on the mesh.
type Endpoint struct {
	Addr   netip.Addr
	NodeID string
}

// Port is a published port.
type Port struct {
	Protocol  string // "tcp", "udp" or "sctp"
	Published uint16
	// Backends are the tasks that take new connections, by address. With none, connections are reset.
	Backends []Backend
}

// Backend is a task's port.
type Backend struct {
	Addr netip.Addr
	Port uint16
}
