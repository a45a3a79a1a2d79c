package balance

import (
	"cmp"
	_ "embed"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"

	"shoal.dev/shoal/internal/network"
)

// tableName is the name of both our tables.
const tableName = "shoal"

//go:embed base.nft
var baseText string

//go:embed mesh.nft
var meshText string

// clearText removes our tables whether they are there or not.
const clearText = `table ip shoal
delete table ip shoal
table netdev shoal
delete table netdev shoal
`

// vxlanPort is the UDP port of VXLAN (RFC 7348), for a ruleset that has no tunnels.
const vxlanPort = 4789

// hwAddr is a link address that can be compared.
type hwAddr [6]byte

func (a hwAddr) String() string { return net.HardwareAddr(a[:]).String() }

// portKey is a published port; it prints as an element of the sets and maps of ports.
type portKey struct {
	protocol string
	port     uint16
}

func (p portKey) String() string { return fmt.Sprintf("%s . %d", p.protocol, p.port) }

// chain is the name of the port's chain.
func (p portKey) chain() string { return fmt.Sprintf("%s-%d", p.protocol, p.port) }

// elements is what of the ruleset changes with the swarm.
type elements struct {
	zones map[hwAddr]uint16 // a node's tunnel address and its conntrack zone
	marks map[uint16]uint32 // the zone and the mark of answers
	peers map[uint32]hwAddr // the mark and the tunnel address again
	nodes map[netip.Addr]struct{}
	open  map[portKey][]network.Backend
	// closed are the published ports without tasks.
	closed map[portKey]struct{}
	// published and bound lead to containers, at all addresses of the host and at one.
	published map[portKey]netip.AddrPort
	bound     map[boundKey]netip.AddrPort
	vnis      map[vni]struct{}
	senders   map[Tunnel]struct{}
}

// vni is a VXLAN network identifier.
type vni uint32

// String prints the tunnel as an element.
func (t Tunnel) String() string { return fmt.Sprintf("%s . %d", t.From, t.VNI) }

// boundKey is a published port at one address; it prints as an element.
type boundKey struct {
	ip netip.Addr
	portKey
}

func (k boundKey) String() string { return fmt.Sprintf("%s . %s", k.ip, k.portKey) }

// protocols are those that have ports, with their numbers.
var protocols = map[string]byte{"tcp": 6, "udp": 17, "sctp": 132}

// elementsOf leaves out what the kernel could not express: protocols without ports.
func elementsOf(s State) elements {
	m := s.Mesh
	e := elements{
		zones: map[hwAddr]uint16{}, marks: map[uint16]uint32{}, peers: map[uint32]hwAddr{}, nodes: map[netip.Addr]struct{}{},
		open: map[portKey][]network.Backend{}, closed: map[portKey]struct{}{},
		published: map[portKey]netip.AddrPort{}, bound: map[boundKey]netip.AddrPort{}, vnis: map[vni]struct{}{}, senders: map[Tunnel]struct{}{},
	}
	for _, t := range s.Tunnels {
		e.vnis[vni(t.VNI)], e.senders[t] = struct{}{}, struct{}{}
	}
	for _, p := range s.Published {
		k := portKey{p.Protocol, p.Port}
		switch {
		case protocols[p.Protocol] == 0:
		case p.IP.IsUnspecified():
			e.published[k] = p.To
		default:
			e.bound[boundKey{p.IP, k}] = p.To
		}
	}
	if m == nil {
		return e
	}
	for _, n := range m.Nodes {
		mac, mark := hwAddr(network.MAC(n.Addr)), MarkBase|uint32(n.Index)
		e.zones[mac], e.marks[n.Index], e.peers[mark] = n.Index, mark, mac
		e.nodes[n.Underlay] = struct{}{}
	}
	for _, p := range m.Ports {
		k := portKey{p.Protocol, p.Published}
		if protocols[p.Protocol] == 0 {
			continue
		}
		if len(p.Backends) == 0 {
			e.closed[k] = struct{}{}
		} else {
			e.open[k] = p.Backends
		}
	}
	return e
}

// sameRules says whether the two differ at most in elements.
func sameRules(a, b State) bool {
	if (a.Mesh == nil) != (b.Mesh == nil) {
		return false
	}
	if a.Mesh != nil && (a.Mesh.Subnet != b.Mesh.Subnet || a.Mesh.VNI != b.Mesh.VNI || a.Mesh.Port != b.Mesh.Port || a.MTU != b.MTU) {
		return false
	}
	return a.Bridge == b.Bridge && a.Tunnel == b.Tunnel && a.TunnelPort == b.TunnelPort && slices.Equal(a.Bridges, b.Bridges)
}

// sameElements says whether the two have equal elements.
func sameElements(a, b State) bool {
	if !slices.Equal(a.Published, b.Published) || !slices.Equal(a.Tunnels, b.Tunnels) {
		return false
	}
	if a.Mesh == nil || b.Mesh == nil {
		return a.Mesh == b.Mesh
	}
	return slices.Equal(a.Mesh.Nodes, b.Mesh.Nodes) && slices.EqualFunc(a.Mesh.Ports, b.Mesh.Ports, func(p, q network.Port) bool {
		return p.Protocol == q.Protocol && p.Published == q.Published && slices.Equal(p.Backends, q.Backends)
	})
}

// render is the whole ruleset as text for the nft program, in place of whatever is in our tables.
func render(s State) string {
	var b strings.Builder
	fmt.Fprintf(&b, "define BRIDGE = %q\ndefine TUNNEL = %q\ndefine VXLAN = %d\n", s.Bridge, s.Tunnel, cmp.Or(s.TunnelPort, vxlanPort))
	if m := s.Mesh; m != nil {
		fmt.Fprintf(&b, "define MESH = %s\ndefine VNI = %d\ndefine PORT = %d\ndefine MSS = %d\ndefine ANYCAST = %s\n",
			m.Subnet.Masked(), m.VNI, m.Port, s.MTU-tcpOverhead, hwAddr(anycast))
	}
	b.WriteString(clearText)
	b.WriteString(baseText)
	writeBridges(&b, s.Bridges)
	e := elementsOf(s)
	writePublished(&b, e)
	none := func(struct{}) string { return "" }
	writeElements(&b, "ip shoal vnis", e.vnis, none)
	writeElements(&b, "ip shoal senders", e.senders, none)
	if s.Mesh == nil {
		return b.String()
	}
	b.WriteString(meshText)
	b.WriteString("table ip " + tableName + " {\n")
	for _, p := range slices.SortedFunc(maps.Keys(e.open), comparePorts) {
		fmt.Fprintf(&b, "chain %s {\n%s\n}\n", p.chain(), pickText(p, e.open[p]))
	}
	b.WriteString("}\n")
	writeElements(&b, "ip shoal zones", e.zones, func(z uint16) string { return fmt.Sprintf(" : %d", z) })
	writeElements(&b, "ip shoal marks", e.marks, func(m uint32) string { return fmt.Sprintf(" : %#x", m) })
	writeElements(&b, "netdev shoal peers", e.peers, func(a hwAddr) string { return " : " + a.String() })
	writeElements(&b, "ip shoal nodes", e.nodes, none)
	writeElements(&b, "ip shoal closed", e.closed, none)
	targets := make(map[portKey]portKey, len(e.open))
	for p := range e.open {
		targets[p] = p
	}
	writeElements(&b, "ip shoal ports", targets, func(p portKey) string { return " : goto " + p.chain() })
	return b.String()
}

func writePublished(b *strings.Builder, e elements) {
	to := func(a netip.AddrPort) string { return fmt.Sprintf(" : %s . %d", a.Addr(), a.Port()) }
	writeElements(b, "ip shoal published", e.published, to)
	writeElements(b, "ip shoal bound", e.bound, to)
}

// writeBridges fills the sets of bridges, which change too seldom to be worth a difference.
func writeBridges(b *strings.Builder, bridges []Bridge) {
	all := map[string]map[string]struct{}{}
	add := func(set, element string) {
		if all[set] == nil {
			all[set] = map[string]struct{}{}
		}
		all[set][element] = struct{}{}
	}
	for _, r := range bridges {
		name := fmt.Sprintf("%q", r.Name)
		add("bridges", name)
		add("subnets", r.Subnet.Masked().String())
		if r.Together {
			add("together", name+" . "+name)
		}
		if r.Internal {
			add("internal", name)
		}
		if r.Masquerade {
			add("masqueraded", r.Subnet.Masked().String())
		}
	}
	for _, set := range slices.Sorted(maps.Keys(all)) {
		writeElements(b, "ip shoal "+set, all[set], func(struct{}) string { return "" })
	}
}

// publishText replaces the bridges and the published ports in one transaction.
func publishText(bridges []Bridge, ports []Published) string {
	var b strings.Builder
	for _, set := range []string{"bridges", "subnets", "together", "internal", "masqueraded"} {
		fmt.Fprintf(&b, "flush set ip shoal %s\n", set)
	}
	b.WriteString("flush map ip shoal published\nflush map ip shoal bound\n")
	writeBridges(&b, bridges)
	writePublished(&b, elementsOf(State{Published: ports}))
	return b.String()
}

// pickText is the rules that pick one of the backends, each as likely as the other. The second is for the packet that is
// in the chain while the first is replaced: the kernel may have taken the old map's elements away by then. Dropped, it is
// sent again and balanced; without, it would reach a closed port of the host and be refused.
func pickText(p portKey, backends []network.Backend) string {
	var b strings.Builder
	fmt.Fprintf(&b, "meta l4proto %s dnat to numgen random mod %d map {", p.protocol, len(backends))
	for i, t := range backends {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, " %d : %s . %d", i, t.Addr, t.Port)
	}
	b.WriteString(" }\ndrop")
	return b.String()
}

func comparePorts(a, b portKey) int {
	return cmp.Or(cmp.Compare(a.protocol, b.protocol), cmp.Compare(a.port, b.port))
}

func writeElements[K comparable, V any](b *strings.Builder, set string, all map[K]V, value func(V) string) {
	if len(all) == 0 {
		return
	}
	lines := make([]string, 0, len(all))
	for k, v := range all {
		lines = append(lines, fmt.Sprint(k)+value(v))
	}
	slices.Sort(lines)
	fmt.Fprintf(b, "add element %s { %s }\n", set, strings.Join(lines, ", "))
}
