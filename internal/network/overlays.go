package network

import (
	"cmp"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
)

// Overlay is a network of the swarm with everything that a node needs that has a task on it. Values are not changed once
// they are made.
type Overlay struct {
	ID, Name string
	Subnet   netip.Prefix
	Gateway  netip.Addr // an address of the subnet that no task has
	// VNI is the VXLAN network identifier of the tunnels that carry it, and Port their UDP port.
	VNI  uint32
	Port uint16
	// MTU is what its interfaces are to have in bytes; 0 leaves it to the node.
	MTU int `json:",omitempty"`
	// Internal networks lead nowhere else.
	Internal bool `json:",omitempty"`
	// Peers are the nodes with a task on it, by ID.
	Peers []Peer
	// Endpoints are the addresses of all its tasks that are assigned to a node and have not ended, by address.
	Endpoints []Endpoint
	// VIPs are the services' virtual addresses, by address.
	VIPs []VIP `json:",omitempty"`
	// Names are what the network's containers may ask for, in lower case, by name.
	Names []Name `json:",omitempty"`
}

// Peer is a node that has a part of a network.
type Peer struct {
	NodeID   string
	Underlay netip.Addr // where tunnels to it go
}

// VIP is a service's virtual address.
type VIP struct {
	Addr     netip.Addr
	Backends []netip.Addr // tasks that take new connections, by address; with none, connections are reset
}

// Name is what a name on a network stands for.
type Name struct {
	Name  string
	Addrs []netip.Addr // sorted; a name that is there but stands for nothing at the moment has none
	// Alias says that its addresses have another name, which is what they are called.
	Alias bool `json:",omitempty"`
}

// Equal says whether the two are the same.
func (o *Overlay) Equal(p *Overlay) bool { return o == p || reflect.DeepEqual(o, p) }

// DeriveOverlays returns the swarm's networks that have tasks, but for the routing mesh, by ID. in.Network is not looked
// at.
//
// A task has an endpoint from the moment it has a node until it has ended. It is a backend of its service's virtual
// address, and found by its service's names, while it runs, is meant to run and its node is not down. A service is found
// by its name and its aliases on the network: by its virtual address if it has one, else by its tasks' addresses; these
// are always found by tasks.NAME. A plain container is found by its names.
func DeriveOverlays(in Input, networks []*cluster.Network) []*Overlay {
	d := deriving{nodes: map[string]peerState{}, networks: map[string]*overlayParts{}}
	for _, n := range networks {
		subnet, gateway, ok := n.Subnet()
		if n.Spec.Ingress || !ok || n.VNI() == 0 {
			continue
		}
		d.networks[n.ID] = &overlayParts{peers: map[string]netip.Addr{}, taken: map[netip.Addr]bool{}, running: map[string][]netip.Addr{}, names: map[string][]netip.Addr{}, aliases: map[string]bool{}, overlay: Overlay{
			ID: n.ID, Name: n.Spec.Name, Subnet: subnet, Gateway: gateway, VNI: n.VNI(), Port: in.Port, MTU: n.MTU(), Internal: n.Spec.Internal,
		}}
	}
	if len(d.networks) == 0 {
		return nil
	}
	for _, n := range in.Nodes {
		if u := underlay(n); u.IsValid() {
			d.nodes[n.ID] = peerState{u, n.Status.State != swarm.NodeStateDown}
		}
	}
	for _, t := range slices.SortedFunc(slices.Values(in.Tasks), func(a, b *cluster.Task) int { return cmp.Compare(a.ID, b.ID) }) {
		d.task(t)
	}
	for _, s := range slices.SortedFunc(slices.Values(in.Services), func(a, b *cluster.Service) int { return cmp.Compare(a.ID, b.ID) }) {
		for _, n := range s.Spec.TaskTemplate.Networks {
			if p := d.networks[n.Target]; p != nil {
				p.service(s, n.Aliases)
			}
		}
	}
	var out []*Overlay
	for _, p := range d.networks {
		if len(p.overlay.Endpoints) > 0 {
			out = append(out, p.finish())
		}
	}
	slices.SortFunc(out, func(a, b *Overlay) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// deriving is what one derivation has gathered.
type deriving struct {
	nodes    map[string]peerState
	networks map[string]*overlayParts
}

type peerState struct {
	underlay  netip.Addr
	reachable bool
}

// overlayParts is a network that is not sorted yet.
type overlayParts struct {
	overlay Overlay
	peers   map[string]netip.Addr
	running map[string][]netip.Addr // by service: tasks that take connections
	taken   map[netip.Addr]bool
	names   map[string][]netip.Addr
	aliases map[string]bool // by name: an alias for all that have it
}

func (d *deriving) task(t *cluster.Task) {
	n, ok := d.nodes[t.NodeID]
	if !ok || t.Ended() {
		return
	}
	for _, a := range t.NetworksAttachments {
		p := d.networks[a.Network.ID]
		addr := t.Address(a.Network.ID)
		if p == nil || !addr.IsValid() || p.taken[addr] { // claims rule the last out
			continue
		}
		p.taken[addr] = true
		p.overlay.Endpoints = append(p.overlay.Endpoints, Endpoint{Addr: addr, NodeID: t.NodeID})
		p.peers[t.NodeID] = n.underlay
		if t.Status.State != swarm.TaskStateRunning || !t.WantsToRun() || !n.reachable {
			continue
		}
		if t.Attaches() {
			for _, n := range t.Spec.Networks {
				for i, name := range n.Aliases {
					p.name(name, i > 0, addr)
				}
			}
			continue
		}
		p.running[t.ServiceID] = append(p.running[t.ServiceID], addr)
		slot := strconv.Itoa(t.Slot)
		if t.Slot == 0 {
			slot = t.NodeID
		}
		p.name(t.ServiceName+"."+slot+"."+t.ID, false, addr)
	}
}

func (p *overlayParts) name(name string, alias bool, addrs ...netip.Addr) {
	name = strings.ToLower(name)
	_, known := p.names[name]
	p.names[name] = append(p.names[name], addrs...)
	p.aliases[name] = alias && (p.aliases[name] || !known)
}

// service adds what a service of the network is found by.
func (p *overlayParts) service(s *cluster.Service, aliases []string) {
	o := &p.overlay
	running := slices.SortedFunc(slices.Values(p.running[s.ID]), netip.Addr.Compare)
	at := running
	for _, v := range s.Endpoint.VirtualIPs {
		if v.NetworkID == o.ID && v.Addr.IsValid() && !p.taken[v.Addr.Addr()] {
			p.taken[v.Addr.Addr()] = true
			at = []netip.Addr{v.Addr.Addr()}
			o.VIPs = append(o.VIPs, VIP{Addr: v.Addr.Addr(), Backends: running})
		}
	}
	for _, n := range slices.Compact(slices.Sorted(slices.Values(append(slices.Clone(aliases), s.Spec.Name)))) {
		p.name(n, n != s.Spec.Name, at...)
		p.name("tasks."+n, true, running...)
	}
}

// finish sorts what was gathered.
func (p *overlayParts) finish() *Overlay {
	o := &p.overlay
	for id, u := range p.peers {
		o.Peers = append(o.Peers, Peer{id, u})
	}
	for name, addrs := range p.names {
		slices.SortFunc(addrs, netip.Addr.Compare)
		o.Names = append(o.Names, Name{name, slices.Compact(addrs), p.aliases[name]})
	}
	slices.SortFunc(o.Peers, func(a, b Peer) int { return cmp.Compare(a.NodeID, b.NodeID) })
	slices.SortFunc(o.Endpoints, func(a, b Endpoint) int { return a.Addr.Compare(b.Addr) })
	slices.SortFunc(o.VIPs, func(a, b VIP) int { return a.Addr.Compare(b.Addr) })
	slices.SortFunc(o.Names, func(a, b Name) int { return cmp.Compare(a.Name, b.Name) })
	return o
}
