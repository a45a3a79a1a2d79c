package overlay

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"shoal.dev/shoal/internal/network"
	"shoal.dev/shoal/internal/network/balance"
)

// What of the host's routing is ours. The numbers are free by convention only, so each is used as narrowly as can be:
// the rule matches the bridge and our marks, the table has one route.
const (
	routeProtocol = 83  // marks our routes; see /etc/iproute2/rt_protos for those of others
	answerTable   = 200 // the table of answers that go back through another node
	rulePriority  = 200 // of the rule that leads there; the main table's is 32766
	// fallbackMetric lets any other route to the mesh's subnet win over the one that refuses unknown addresses.
	fallbackMetric = 1 << 30
)

// anycastAddr is the next hop of answers: no node's, it only leads to the link address that the ruleset replaces.
var anycastAddr = netip.AddrFrom4([4]byte{169, 254, 83, 83})

// vxlanOverhead is what a tunnel adds to a packet: IPv4, UDP, VXLAN and Ethernet headers, in bytes.
const vxlanOverhead = 20 + 8 + 8 + 14

// mesh is the routing mesh as links, routes and neighbours.
type mesh struct {
	ingress *network.Ingress // nil if there is none
	self    network.Node
	links   links
	// routes leads each task's address to the mesh address of its node; the zero address is the bridge.
	routes map[netip.Addr]netip.Addr
	// peers leads each other node's mesh address to where its tunnels end.
	peers map[netip.Addr]netip.Addr
	// fallback refuses the addresses of the subnet that have no route, which would otherwise leave by the default
	// route.
	fallback netip.Prefix
	answers  bool // the rule, the route and the neighbour for answers are there
	stray    []netlink.Route
}

// links are the indexes of the interfaces and the tunnel's MTU.
type links struct{ bridge, tunnel, mtu int }

// meshOf leaves out what cannot be done, and says so in the error; the rest is valid all the same.
func meshOf(d network.Desired) (*mesh, error) {
	if d.Ingress == nil {
		return &mesh{}, nil
	}
	m := &mesh{routes: map[netip.Addr]netip.Addr{}, peers: map[netip.Addr]netip.Addr{}, fallback: d.Ingress.Subnet.Masked(), answers: true}
	var bad error
	ing := *d.Ingress
	ing.Nodes, ing.Ports = nil, nil
	hops := make(map[string]netip.Addr, len(d.Ingress.Nodes))
	for _, n := range d.Ingress.Nodes {
		if !n.Addr.Is4() || !n.Underlay.Is4() {
			bad = errors.Join(bad, fmt.Errorf("node %s has the tunnel address %s: the routing mesh does not do IPv6 yet: %w", n.ID, n.Underlay, errdefs.ErrNotImplemented))
			continue
		}
		ing.Nodes = append(ing.Nodes, n)
		hops[n.ID] = n.Addr
		if n.ID == d.Self {
			m.self = n
			hops[n.ID] = netip.Addr{}
		} else {
			m.peers[n.Addr] = n.Underlay
		}
	}
	if m.self.ID == "" { // not numbered yet; it will be within moments
		return &mesh{}, bad
	}
	for _, e := range d.Ingress.Endpoints {
		if hop, ok := hops[e.NodeID]; ok && e.Addr.Is4() {
			m.routes[e.Addr] = hop
		}
	}
	for _, p := range d.Ingress.Ports {
		reachable := make([]network.Backend, 0, len(p.Backends))
		for _, b := range p.Backends {
			if _, ok := m.routes[b.Addr]; ok {
				reachable = append(reachable, b)
			}
		}
		p.Backends = reachable
		ing.Ports = append(ing.Ports, p)
	}
	m.ingress = &ing
	return m, bad
}

// sameDevice says whether want can use the tunnel device of m.
func (m *mesh) sameDevice(want *mesh) bool {
	return m.links.tunnel != 0 && m.ingress != nil && m.self == want.self && m.ingress.VNI == want.ingress.VNI && m.ingress.Port == want.ingress.Port
}

// withoutTunnel is what is left of m when its tunnel device is gone.
func (m *mesh) withoutTunnel() *mesh {
	left := &mesh{ingress: m.ingress, routes: map[netip.Addr]netip.Addr{}, fallback: m.fallback, stray: m.stray}
	for a, hop := range m.routes {
		if !hop.IsValid() {
			left.routes[a] = hop
		}
	}
	return left
}

// ensureTunnel makes the tunnel device and says whether it is a new one.
func (k *Kernel) ensureTunnel(want *mesh) (fresh bool, err error) {
	mtu, local, err := k.underlay(want.self.Underlay)
	if err != nil {
		return false, err
	}
	dev := &netlink.Vxlan{
		LinkAttrs: netlink.LinkAttrs{Name: k.cfg.TunnelName, MTU: mtu, HardwareAddr: network.MAC(want.self.Addr), TxQLen: -1},
		VxlanId:   int(want.ingress.VNI), Port: int(want.ingress.Port), SrcAddr: local, UDPCSum: true,
	}
	old, err := k.nl.LinkByName(k.cfg.TunnelName)
	if err == nil {
		v, ok := old.(*netlink.Vxlan)
		if ok && (v.VxlanId != dev.VxlanId || v.Port != dev.Port || !v.SrcAddr.Equal(dev.SrcAddr) || v.Learning) {
			if err := k.removeLink(k.cfg.TunnelName); err != nil {
				return false, fmt.Errorf("replace interface %s: %w", k.cfg.TunnelName, err)
			}
		}
		fresh = ok && v.Attrs().HardwareAddr.String() != dev.HardwareAddr.String()
	}
	before := 0
	if old != nil {
		before = old.Attrs().Index
	}
	l, err := k.ensureLink(dev)
	if err != nil {
		return false, err
	}
	if err := k.ensureAddr(l, netip.PrefixFrom(want.self.Addr, 32)); err != nil {
		return false, err
	}
	if err := k.ensureSettings(l.Attrs().Name); err != nil {
		return false, err
	}
	// A device that goes down loses its routes and neighbours too.
	fresh = fresh || l.Attrs().Index != before || l.Attrs().Flags&net.FlagUp == 0
	if err := k.ensureUp(l); err != nil {
		return false, err
	}
	bridge, err := k.nl.LinkByName(k.cfg.BridgeName)
	if err != nil {
		return false, err
	}
	want.links = links{bridge: bridge.Attrs().Index, tunnel: l.Attrs().Index, mtu: mtu}
	return fresh, nil
}

// underlay finds the MTU of tunnels from the address, and the address if it is the host's own: behind address
// translation it is not, and the kernel chooses.
func (k *Kernel) underlay(a netip.Addr) (mtu int, local net.IP, err error) {
	addrs, err := k.nl.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return 0, nil, fmt.Errorf("list addresses: %w", err)
	}
	for _, h := range addrs {
		if prefixOf(h.IPNet).Addr() != a {
			continue
		}
		l, err := k.nl.LinkByIndex(h.LinkIndex)
		if err != nil {
			return 0, nil, err
		}
		return min(l.Attrs().MTU, 65535) - vxlanOverhead, a.AsSlice(), nil
	}
	return maxMTU - vxlanOverhead, nil, nil
}

// dump reads from the kernel what there is of want's mesh, and of an older one. It never says that a device is as
// wanted: that is ensureTunnel's to see.
func (k *Kernel) dump(want *mesh) (*mesh, error) {
	m := &mesh{ingress: &network.Ingress{}, routes: map[netip.Addr]netip.Addr{}}
	if want.ingress == nil {
		return m, nil
	}
	var at links
	if l, err := k.nl.LinkByName(k.cfg.BridgeName); err == nil {
		at.bridge = l.Attrs().Index
	}
	if l, err := k.nl.LinkByName(k.cfg.TunnelName); err == nil {
		at.tunnel = l.Attrs().Index
	}
	routes, err := k.nl.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Protocol: routeProtocol}, netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		k.sortRoute(m, r, at)
	}
	if at.tunnel == 0 {
		return m, nil
	}
	if m.peers, err = k.dumpPeers(at.tunnel); err != nil {
		return nil, err
	}
	_, anycast := m.peers[anycastAddr]
	delete(m.peers, anycastAddr)
	answer, err := k.nl.RouteListFiltered(netlink.FAMILY_V4, answerRoute(at.tunnel), netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_OIF|netlink.RT_FILTER_GW)
	if err != nil {
		return nil, fmt.Errorf("list routes of table %d: %w", answerTable, err)
	}
	rules, err := k.ourRules()
	if err != nil {
		return nil, err
	}
	m.answers = anycast && len(answer) == 1 && len(rules) == 1 && k.isAnswerRule(rules[0])
	return m, nil
}

// sortRoute notes in m what a route of ours does.
func (k *Kernel) sortRoute(m *mesh, r netlink.Route, at links) {
	dst := netip.Prefix{}
	if r.Dst != nil {
		dst = prefixOf(r.Dst)
	}
	switch {
	case r.Type == unix.RTN_UNREACHABLE && !m.fallback.IsValid() && dst.IsValid():
		m.fallback = dst
	case dst.Bits() == 32 && r.LinkIndex == at.bridge && r.Gw == nil:
		m.routes[dst.Addr()] = netip.Addr{}
	case dst.Bits() == 32 && r.LinkIndex == at.tunnel && r.Gw != nil:
		hop, _ := netip.AddrFromSlice(r.Gw.To4())
		m.routes[dst.Addr()] = hop
	default:
		m.stray = append(m.stray, r)
	}
}

// dumpPeers reads the neighbours of the tunnel. One of which a half is missing is there with the zero address, so that
// it differs from any that is wanted.
func (k *Kernel) dumpPeers(tunnel int) (map[netip.Addr]netip.Addr, error) {
	neighbours, err := k.nl.NeighList(tunnel, netlink.FAMILY_V4)
	if err != nil {
		return nil, fmt.Errorf("list neighbours: %w", err)
	}
	forwards, err := k.nl.NeighList(tunnel, unix.AF_BRIDGE)
	if err != nil {
		return nil, fmt.Errorf("list forwarding entries: %w", err)
	}
	peers := map[netip.Addr]netip.Addr{}
	known := map[string]netip.Addr{}
	for _, n := range neighbours {
		a, ok := netip.AddrFromSlice(n.IP.To4())
		if !ok || n.State&netlink.NUD_PERMANENT == 0 {
			continue
		}
		peers[a] = netip.Addr{}
		known[n.HardwareAddr.String()] = a
	}
	for _, f := range forwards {
		if len(f.HardwareAddr) != 6 {
			continue
		}
		h := f.HardwareAddr
		a := netip.AddrFrom4([4]byte(h[2:])) // see network.MAC
		if h.String() != network.MAC(a).String() {
			continue
		}
		if _, half := peers[a]; half && known[h.String()] == a {
			peers[a], _ = netip.AddrFromSlice(f.IP.To4())
		} else {
			peers[a] = netip.Addr{}
		}
	}
	return peers, nil
}

// put adds and replaces what want has and have lacks.
func (k *Kernel) put(have, want *mesh) error {
	at := want.links
	for a, underlay := range want.peers {
		if was, ok := have.peers[a]; ok && was == underlay {
			continue
		}
		k.note("neighbour %s", a)
		for _, n := range neighbours(at.tunnel, a, underlay) {
			if err := k.nl.NeighSet(n); err != nil {
				return fmt.Errorf("tunnel to %s at %s: %w", a, underlay, err)
			}
		}
	}
	if have.fallback != want.fallback {
		k.note("route %s", want.fallback)
		if err := k.nl.RouteReplace(fallbackRoute(want.fallback)); err != nil {
			return fmt.Errorf("route to %s: %w", want.fallback, err)
		}
	}
	for a, hop := range want.routes {
		if was, ok := have.routes[a]; ok && was == hop {
			continue
		}
		k.note("route %s", a)
		if err := k.nl.RouteReplace(taskRoute(at, a, hop)); err != nil {
			return fmt.Errorf("route to task address %s: %w", a, err)
		}
	}
	if have.answers {
		return nil
	}
	k.note("route of answers")
	return k.putAnswers(at)
}

// putAnswers sends answers that the ruleset has marked into the tunnel.
func (k *Kernel) putAnswers(at links) error {
	any := &netlink.Neigh{LinkIndex: at.tunnel, Family: netlink.FAMILY_V4, State: netlink.NUD_PERMANENT, IP: anycastAddr.AsSlice(), HardwareAddr: balance.Anycast()}
	if err := k.nl.NeighSet(any); err != nil {
		return fmt.Errorf("neighbour %s: %w", anycastAddr, err)
	}
	if err := k.nl.RouteReplace(answerRoute(at.tunnel)); err != nil {
		return fmt.Errorf("default route of table %d: %w", answerTable, err)
	}
	rules, err := k.ourRules()
	if err != nil {
		return err
	}
	there := false
	for _, r := range rules {
		if !there && k.isAnswerRule(r) {
			there = true
		} else if err := k.nl.RuleDel(&r); err != nil {
			return fmt.Errorf("remove rule %v: %w", r, err)
		}
	}
	if there {
		return nil
	}
	if err := k.nl.RuleAdd(k.answerRule()); err != nil {
		return fmt.Errorf("rule for answers: %w", err)
	}
	return nil
}

// drop removes what have has and want does not.
func (k *Kernel) drop(have, want *mesh) error {
	at := want.links
	for a, hop := range have.routes {
		if _, stays := want.routes[a]; stays {
			continue
		}
		k.note("route %s", a)
		if err := k.nl.RouteDel(taskRoute(at, a, hop)); err != nil && !isGone(err) {
			return fmt.Errorf("remove route to %s: %w", a, err)
		}
	}
	if have.fallback.IsValid() && have.fallback != want.fallback {
		have.stray = append(have.stray, *fallbackRoute(have.fallback))
	}
	for _, r := range have.stray {
		k.note("route %s", r.Dst)
		if err := k.nl.RouteDel(&r); err != nil && !isGone(err) {
			return fmt.Errorf("remove route to %s: %w", r.Dst, err)
		}
	}
	for a, underlay := range have.peers {
		if _, stays := want.peers[a]; stays {
			continue
		}
		k.note("neighbour %s", a)
		for _, n := range neighbours(at.tunnel, a, underlay) {
			if err := k.nl.NeighDel(n); err != nil && !isGone(err) {
				return fmt.Errorf("remove tunnel to %s: %w", a, err)
			}
		}
	}
	return nil
}

// removeMesh removes the tunnel and every route and rule of ours.
func (k *Kernel) removeMesh() error {
	errs := []error{k.removeLink(k.cfg.TunnelName)}
	for _, table := range []int{unix.RT_TABLE_MAIN, answerTable} {
		routes, err := k.nl.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Protocol: routeProtocol, Table: table}, netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
		errs = append(errs, err)
		for _, r := range routes {
			k.note("route %s", r.Dst)
			if err := k.nl.RouteDel(&r); err != nil && !isGone(err) {
				errs = append(errs, fmt.Errorf("remove route to %s: %w", r.Dst, err))
			}
		}
	}
	rules, err := k.ourRules()
	errs = append(errs, err)
	for _, r := range rules {
		k.note("rule %v", r)
		errs = append(errs, k.nl.RuleDel(&r))
	}
	return errors.Join(errs...)
}

func isGone(err error) bool { return errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT) }

// neighbours are the two entries that lead to a node: its link address, and where tunnels to that go.
func neighbours(tunnel int, a, underlay netip.Addr) [2]*netlink.Neigh {
	mac := network.MAC(a)
	forward := &netlink.Neigh{LinkIndex: tunnel, Family: unix.AF_BRIDGE, State: netlink.NUD_PERMANENT, Flags: netlink.NTF_SELF, HardwareAddr: mac}
	if underlay.IsValid() {
		forward.IP = underlay.AsSlice()
	}
	return [2]*netlink.Neigh{
		forward,
		{LinkIndex: tunnel, Family: netlink.FAMILY_V4, State: netlink.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: mac},
	}
}

func taskRoute(at links, a, hop netip.Addr) *netlink.Route {
	r := &netlink.Route{LinkIndex: at.bridge, Dst: host(a), Scope: netlink.SCOPE_LINK, Protocol: routeProtocol}
	if hop.IsValid() {
		r.LinkIndex, r.Gw, r.Scope, r.Flags = at.tunnel, hop.AsSlice(), netlink.SCOPE_UNIVERSE, int(netlink.FLAG_ONLINK)
	}
	return r
}

func fallbackRoute(subnet netip.Prefix) *netlink.Route {
	return &netlink.Route{Dst: ipNet(subnet), Type: unix.RTN_UNREACHABLE, Priority: fallbackMetric, Protocol: routeProtocol}
}

func answerRoute(tunnel int) *netlink.Route {
	return &netlink.Route{LinkIndex: tunnel, Gw: anycastAddr.AsSlice(), Table: answerTable, Flags: int(netlink.FLAG_ONLINK), Protocol: routeProtocol}
}

func (k *Kernel) answerRule() *netlink.Rule {
	mask := uint32(balance.MarkMask)
	r := netlink.NewRule()
	r.Family, r.Priority, r.Table = netlink.FAMILY_V4, rulePriority, answerTable
	r.Mark, r.Mask, r.IifName = balance.MarkBase, &mask, k.cfg.BridgeName
	return r
}

func (k *Kernel) isAnswerRule(r netlink.Rule) bool {
	w := k.answerRule()
	return r.Priority == w.Priority && r.Table == w.Table && r.Mark == w.Mark && r.Mask != nil && *r.Mask == *w.Mask && r.IifName == w.IifName
}

// ourRules lists the routing rules that lead to our table.
func (k *Kernel) ourRules() ([]netlink.Rule, error) {
	all, err := k.nl.RuleListFiltered(netlink.FAMILY_V4, &netlink.Rule{Table: answerTable}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return nil, fmt.Errorf("list routing rules: %w", err)
	}
	for i := range all {
		all[i].Family = netlink.FAMILY_V4
	}
	return all, nil
}
