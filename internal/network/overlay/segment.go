package overlay

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"path/filepath"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"shoal.dev/shoal/internal/network"
	"shoal.dev/shoal/internal/network/dns"
	"shoal.dev/shoal/internal/network/ruleset"
)

// The names of a segment's interfaces, in its namespace.
const (
	segmentBridge = "br0"
	segmentTunnel = "vxlan0"
)

// segment is the part of a swarm's network on this host: a namespace with a bridge that containers hang on, and a tunnel
// device that leads to the other nodes. The namespace keeps bridged frames away from the host's rules.
//
// Nothing is learned and nobody is asked: where each address is, and what its link address is, stands in the tunnel
// device's and the bridge's tables.
type segment struct {
	id   string
	path string
	ns   netns.NsHandle
	nl   *netlink.Handle

	mu   sync.Mutex // guards what follows
	o    *network.Overlay
	mtu  int
	have map[netip.Addr]netip.Addr // by address of a task elsewhere: where tunnels to its node go; nil if not known

	guardMu sync.Mutex        // guards what follows, and is held while the rules are written
	senders map[string]sender // by the name of the interface here: who is behind it
	seal    ruleset.Seal      // on our table here
}

// segments are those of this host, by the network's ID.
type segments struct {
	mu   sync.Mutex
	byID map[string]*segment
}

func (s *segments) get(id string) *segment {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byID[id]
}

func (s *segments) all() []*segment {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*segment, 0, len(s.byID))
	for _, g := range s.byID {
		out = append(out, g)
	}
	return out
}

// names are what the swarm's networks on this host call their addresses. An address is called by a name that is no alias,
// if it has one.
func (s *segments) names() []dns.Record {
	var out, shared []dns.Record
	for _, g := range s.all() {
		o, _ := g.overlay()
		if o == nil {
			continue
		}
		for _, n := range o.Names {
			r := dns.Record{Network: o.ID, NetworkName: o.Name, Names: []string{n.Name}, Addrs: n.Addrs}
			if n.Alias {
				shared = append(shared, r)
			} else {
				out = append(out, r)
			}
		}
	}
	return append(out, shared...)
}

// overlay is the network as it was last applied.
func (g *segment) overlay() (*network.Overlay, int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.o, g.mtu
}

func (g *segment) close() {
	g.nl.Close()
	_ = g.ns.Close()
}

func (k *Kernel) segmentPath(id string) string { return filepath.Join(k.cfg.NetnsDir, "net-"+id) }

// openSegment finds or makes the namespace of a network.
func (k *Kernel) openSegment(id string) (*segment, error) {
	g := &segment{id: id, path: k.segmentPath(id)}
	if !isSpace(g.path) {
		if err := makeSpace(g.path, setUpSegment); err != nil {
			return nil, err
		}
	}
	var err error
	if g.ns, err = netns.GetFromPath(g.path); err != nil {
		return nil, err
	}
	if g.nl, err = netlink.NewHandleAt(g.ns, unix.NETLINK_ROUTE); err != nil {
		_ = g.ns.Close()
		return nil, err
	}
	return g, nil
}

// setUpSegment runs in a new namespace. It has no address and routes nothing.
func setUpSegment() error {
	for _, name := range []string{"net/ipv6/conf/default/disable_ipv6", "net/ipv6/conf/all/disable_ipv6"} {
		if _, err := setSysctl(name, "1"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	// Where the kernel has it, bridged frames would pass the namespace's IP rules, and its conntrack.
	if _, err := setSysctl("net/bridge/bridge-nf-call-iptables", "0"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// devices makes whatever is missing of the segment's two interfaces, and says whether the tunnel is a new one.
func (k *Kernel) devices(g *segment, o *network.Overlay, underlay netip.Addr) (mtu int, fresh bool, err error) {
	mtu, local, err := k.underlay(underlay)
	if err != nil {
		return 0, false, err
	}
	if o.MTU != 0 {
		mtu = min(mtu, o.MTU)
	}
	bridge, err := g.nl.LinkByName(segmentBridge)
	if isNotFound(err) {
		k.note("bridge of network %s", o.Name)
		bridge = &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: segmentBridge, MTU: mtu, HardwareAddr: network.MAC(o.Gateway), TxQLen: -1}, MulticastSnooping: new(bool)}
		if err = g.nl.LinkAdd(bridge); err == nil {
			bridge, err = g.nl.LinkByName(segmentBridge)
		}
	}
	if err != nil {
		return 0, false, fmt.Errorf("bridge: %w", err)
	}
	if bridge.Attrs().Flags&net.FlagUp == 0 {
		k.note("state of the bridge of network %s", o.Name)
		if err := g.nl.LinkSetUp(bridge); err != nil {
			return 0, false, err
		}
	}
	tunnel, err := g.nl.LinkByName(segmentTunnel)
	if err == nil {
		v, ok := tunnel.(*netlink.Vxlan)
		if !ok || v.VxlanId != int(o.VNI) || v.Port != int(o.Port) || !v.SrcAddr.Equal(local) || !v.Proxy || v.Attrs().MTU != mtu {
			if err := g.nl.LinkDel(tunnel); err != nil {
				return 0, false, err
			}
			tunnel, err = nil, netlink.LinkNotFoundError{}
		}
	}
	if tunnel == nil || isNotFound(err) {
		k.note("tunnel of network %s", o.Name)
		fresh = true
		tunnel, err = k.makeTunnel(g, o, mtu, local)
	}
	if err != nil {
		return 0, false, fmt.Errorf("tunnel: %w", err)
	}
	if tunnel.Attrs().MasterIndex != bridge.Attrs().Index {
		fresh = true
		if err := g.nl.LinkSetMaster(tunnel, bridge); err != nil {
			return 0, false, err
		}
		if err := g.nl.LinkSetLearning(tunnel, false); err != nil {
			return 0, false, err
		}
	}
	if tunnel.Attrs().Flags&net.FlagUp == 0 {
		k.note("state of the tunnel of network %s", o.Name)
		fresh = true
		if err := g.nl.LinkSetUp(tunnel); err != nil {
			return 0, false, err
		}
	}
	return mtu, fresh, nil
}

// makeTunnel makes the tunnel device in the host's namespace, where its packets are sent and received, and moves it.
func (k *Kernel) makeTunnel(g *segment, o *network.Overlay, mtu int, local net.IP) (netlink.Link, error) {
	name := "shoal-" + o.ID[:min(9, len(o.ID))] // with the most that a name may have, 15 characters
	if old, err := k.nl.LinkByName(name); err == nil {
		if err := k.nl.LinkDel(old); err != nil {
			return nil, err
		}
	}
	dev := &netlink.Vxlan{
		LinkAttrs: netlink.LinkAttrs{Name: name, MTU: mtu, TxQLen: -1},
		VxlanId:   int(o.VNI), Port: int(o.Port), SrcAddr: local, UDPCSum: true, Proxy: true,
	}
	if err := k.nl.LinkAdd(dev); err != nil {
		if errors.Is(err, unix.EEXIST) {
			return nil, fmt.Errorf("the host has another tunnel with the VXLAN identifier %d on port %d: remove it, or give the network another identifier: %w", o.VNI, o.Port, err)
		}
		return nil, err
	}
	made, err := k.nl.LinkByName(name)
	if err != nil {
		return nil, err
	}
	if err := k.nl.LinkSetNsFd(made, int(g.ns)); err != nil {
		return nil, errors.Join(err, k.nl.LinkDel(made))
	}
	moved, err := g.nl.LinkByName(name)
	if err != nil {
		return nil, err
	}
	if err := g.nl.LinkSetName(moved, segmentTunnel); err != nil {
		return nil, err
	}
	return g.nl.LinkByName(segmentTunnel)
}

// remote are the addresses of a network that live on other nodes, with where tunnels to these go.
func remote(o *network.Overlay, self string) map[netip.Addr]netip.Addr {
	at := make(map[string]netip.Addr, len(o.Peers))
	for _, p := range o.Peers {
		at[p.NodeID] = p.Underlay
	}
	out := make(map[netip.Addr]netip.Addr, len(o.Endpoints))
	for _, e := range o.Endpoints {
		if u := at[e.NodeID]; e.NodeID != self && u.Is4() && e.Addr.Is4() {
			out[e.Addr] = u
		}
	}
	return out
}

// entries are what leads to an address on another node: its link address, to be answered for it; where that is behind
// the tunnel; and that it is behind the tunnel.
func entries(tunnel int, a, underlay netip.Addr) []*netlink.Neigh {
	mac := network.MAC(a)
	far := &netlink.Neigh{LinkIndex: tunnel, Family: unix.AF_BRIDGE, State: netlink.NUD_PERMANENT, Flags: netlink.NTF_SELF, HardwareAddr: mac}
	if underlay.IsValid() {
		far.IP = underlay.AsSlice()
	}
	return []*netlink.Neigh{
		far,
		{LinkIndex: tunnel, Family: unix.AF_BRIDGE, State: netlink.NUD_NOARP, Flags: netlink.NTF_MASTER, HardwareAddr: mac},
		{LinkIndex: tunnel, Family: netlink.FAMILY_V4, State: netlink.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: mac},
	}
}

// dump reads which addresses the segment leads elsewhere. One of which a part is missing is there with the zero address.
func (g *segment) dump(tunnel int) (map[netip.Addr]netip.Addr, error) {
	out := map[netip.Addr]netip.Addr{}
	parts := map[netip.Addr]int{}
	known, err := g.nl.NeighList(tunnel, netlink.FAMILY_V4)
	if err != nil {
		return nil, fmt.Errorf("list neighbours: %w", err)
	}
	for _, n := range known {
		if a, ok := netip.AddrFromSlice(n.IP.To4()); ok && n.State&netlink.NUD_PERMANENT != 0 && n.HardwareAddr.String() == network.MAC(a).String() {
			out[a] = netip.Addr{}
			parts[a]++
		}
	}
	forwards, err := g.nl.NeighList(tunnel, unix.AF_BRIDGE)
	if err != nil {
		return nil, fmt.Errorf("list forwarding entries: %w", err)
	}
	for _, f := range forwards {
		if len(f.HardwareAddr) != 6 || f.LinkIndex != tunnel || f.Flags&netlink.NTF_MASTER != 0 && f.State&netlink.NUD_PERMANENT != 0 {
			continue // the last is the device's own, which is drawn and may look like one of ours
		}
		a := netip.AddrFrom4([4]byte(f.HardwareAddr[2:])) // see network.MAC
		if f.HardwareAddr.String() != network.MAC(a).String() {
			continue
		}
		parts[a]++
		if u, ok := netip.AddrFromSlice(f.IP.To4()); ok {
			out[a] = u
		} else if _, there := out[a]; !there {
			out[a] = netip.Addr{}
		}
	}
	for a, n := range parts {
		if n < 3 {
			out[a] = netip.Addr{}
		}
	}
	return out, nil
}

// put leads the addresses of want elsewhere.
func (g *segment) put(tunnel int, have, want map[netip.Addr]netip.Addr, note func(string, ...any)) error {
	for a, underlay := range want {
		if was, ok := have[a]; ok && was == underlay {
			continue
		}
		note("way to %s", a)
		for _, n := range entries(tunnel, a, underlay) {
			if err := g.nl.NeighSet(n); err != nil {
				return fmt.Errorf("address %s at %s: %w", a, underlay, err)
			}
		}
	}
	return nil
}

// drop forgets the addresses that are not in want any more.
func (g *segment) drop(tunnel int, have, want map[netip.Addr]netip.Addr, note func(string, ...any)) error {
	for a, underlay := range have {
		if _, stays := want[a]; stays {
			continue
		}
		note("way to %s", a)
		for _, n := range entries(tunnel, a, underlay) {
			if err := g.nl.NeighDel(n); err != nil && !isGone(err) {
				return fmt.Errorf("forget address %s: %w", a, err)
			}
		}
	}
	return nil
}
