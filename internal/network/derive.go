package network

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
)

// Input is the part of the swarm's records that the routing mesh follows from. The order of the slices does not matter.
type Input struct {
	Nodes    []*cluster.Node
	Services []*cluster.Service
	Tasks    []*cluster.Task
	// Network is the ingress network; nil while there is none.
	Network *cluster.Network
	// Port is the UDP port of the tunnels.
	Port uint16
}

// Derive returns the routing mesh of the records, or nil if there is no ingress network or it has no subnet or VXLAN
// identifier yet.
//
// A node is on the mesh once it has an index, an address on the mesh and an address for tunnels. A task has an endpoint
// from the moment it has a node until it has ended, so that connections to it can drain; it takes new connections only
// while it runs, is meant to run, and its node is on the mesh and not down. A published port whose service has no such
// task is there without backends. Where two records hold one address or one port, which claims rule out, the one with
// the lower ID wins, so that the result is a function of the records in any case.
func Derive(in Input) *Ingress {
	subnet, vni, ok := overlayOf(in.Network)
	if !ok {
		return nil
	}
	ing := &Ingress{Subnet: subnet, VNI: vni, Port: in.Port}
	reachable := make(map[string]bool, len(in.Nodes)) // by node ID: may take new connections
	for _, n := range in.Nodes {
		u := underlay(n)
		if n.Index == 0 || !subnet.Contains(n.IngressAddr) || !u.IsValid() {
			continue
		}
		ing.Nodes = append(ing.Nodes, Node{ID: n.ID, Index: n.Index, Underlay: u, Addr: n.IngressAddr})
		reachable[n.ID] = n.Status.State != swarm.NodeStateDown
	}
	slices.SortFunc(ing.Nodes, func(a, b Node) int { return cmp.Compare(a.ID, b.ID) })

	tasks := slices.SortedFunc(slices.Values(in.Tasks), func(a, b *cluster.Task) int { return cmp.Compare(a.ID, b.ID) })
	byService := make(map[string][]netip.Addr)
	taken := make(map[netip.Addr]bool)
	for _, t := range tasks {
		a := t.Address(in.Network.ID)
		if t.NodeID == "" || !a.IsValid() || t.Ended() || taken[a] {
			continue
		}
		taken[a] = true
		ing.Endpoints = append(ing.Endpoints, Endpoint{Addr: a, NodeID: t.NodeID})
		if t.Status.State == swarm.TaskStateRunning && t.WantsToRun() && reachable[t.NodeID] {
			byService[t.ServiceID] = append(byService[t.ServiceID], a)
		}
	}
	slices.SortFunc(ing.Endpoints, func(a, b Endpoint) int { return a.Addr.Compare(b.Addr) })
	ing.Ports = ports(in.Services, byService)
	return ing
}

func ports(services []*cluster.Service, backends map[string][]netip.Addr) []Port {
	sorted := slices.SortedFunc(slices.Values(services), func(a, b *cluster.Service) int { return cmp.Compare(a.ID, b.ID) })
	taken := make(map[portKey]bool)
	var out []Port
	for _, s := range sorted {
		for _, c := range s.Endpoint.Ports {
			k := portKey{protocolOf(c), uint16(c.PublishedPort)}
			if c.PublishMode == swarm.PortConfigPublishModeHost || !inRange(c.PublishedPort) || !inRange(c.TargetPort) || taken[k] {
				continue
			}
			taken[k] = true
			p := Port{Protocol: k.Protocol, Published: k.Published}
			for _, a := range backends[s.ID] {
				p.Backends = append(p.Backends, Backend{Addr: a, Port: uint16(c.TargetPort)})
			}
			slices.SortFunc(p.Backends, compareBackends)
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b Port) int { return comparePorts(a.key(), b.key()) })
	return out
}

// portKey is what a published port is known by.
type portKey struct {
	Protocol  string
	Published uint16
}

func (p Port) key() portKey { return portKey{p.Protocol, p.Published} }

func comparePorts(a, b portKey) int {
	return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Published, b.Published))
}

func compareBackends(a, b Backend) int {
	return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Port, b.Port))
}

func inRange(port uint32) bool { return port > 0 && port <= 65535 }

// protocolOf is the port's protocol; the API's default is TCP.
func protocolOf(c swarm.PortConfig) string { return cmp.Or(strings.ToLower(string(c.Protocol)), "tcp") }

// overlayOf is the network's subnet and VXLAN identifier.
func overlayOf(n *cluster.Network) (netip.Prefix, uint32, bool) {
	if n == nil {
		return netip.Prefix{}, 0, false
	}
	subnet, _, ok := n.Subnet()
	vni := n.VNI()
	return subnet, vni, ok && vni != 0
}

// underlay is where tunnels to the node go: its data path address, else the address that its manager sees.
func underlay(n *cluster.Node) netip.Addr {
	if n.DataPathAddr.IsValid() {
		return n.DataPathAddr
	}
	a, err := netip.ParseAddr(n.Status.Addr)
	if err != nil {
		return netip.Addr{}
	}
	return a.Unmap()
}
