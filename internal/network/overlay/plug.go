package overlay

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// plug makes whatever is missing of the container's network. x is locked.
func (b *boxes) plug(x *box) error {
	path := b.netnsOf(x)
	if !isSpace(path) {
		if err := makeSpace(path, setUpInside); err != nil {
			return err
		}
		x.seal.Break()
	}
	inside, err := openSpace(path)
	if err != nil {
		return err
	}
	defer inside.close()
	ns := inside.ns
	if err := x.renewRules(inside); err != nil {
		return err
	}
	in, err := netlink.NewHandleAt(ns, netlinkFamilies[0])
	if err != nil {
		return err
	}
	defer in.Close()
	for _, name := range x.left {
		if l, err := b.nl.LinkByName(name); err == nil {
			if err := b.nl.LinkDel(l); err != nil {
				return fmt.Errorf("remove interface %s: %w", name, err)
			}
		}
	}
	x.left = nil
	for _, name := range x.leftInside {
		if l, err := in.LinkByName(name); err == nil {
			if err := in.LinkDel(l); err != nil {
				return fmt.Errorf("remove interface %s: %w", name, err)
			}
		}
	}
	x.leftInside = nil
	for _, p := range x.Endpoints {
		if err := b.plugOne(x, p, ns, in); err != nil {
			return fmt.Errorf("network %s: %w", p.net.Name, err)
		}
	}
	if err := b.setVirtual(x); err != nil {
		return err
	}
	if err := b.route(x, in); err != nil {
		return err
	}
	return b.serve(x)
}

// plugOne makes whatever is missing of one endpoint.
func (b *boxes) plugOne(x *box, p *endpoint, ns netns.NsHandle, in *netlink.Handle) error {
	if p.net.OfSwarm() {
		return b.plugOverlay(x, p, ns, in)
	}
	inside, err := in.LinkByName(p.Inside)
	if isNotFound(err) {
		if err = b.connect(p, ns); err == nil {
			inside, err = in.LinkByName(p.Inside)
		}
	}
	if err != nil {
		return err
	}
	if err := b.plugOutside(x, p); err != nil {
		return err
	}
	return b.plugInside(x, p, in, inside)
}

// setUpInside runs in a new namespace. IPv6 stays on for the loopback interface only.
func setUpInside() error {
	if _, err := setSysctl("net/ipv6/conf/default/disable_ipv6", "1"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	h, err := netlink.NewHandle(netlinkFamilies[0])
	if err != nil {
		return err
	}
	defer h.Close()
	lo, err := h.LinkByName("lo")
	if err != nil {
		return err
	}
	return h.LinkSetUp(lo)
}

// connect makes the pair of interfaces that joins the namespace and the host.
func (b *boxes) connect(p *endpoint, ns netns.NsHandle) error {
	if old, err := b.nl.LinkByName(p.Outside); err == nil { // its other end is gone to where we cannot see it
		if err := b.nl.LinkDel(old); err != nil {
			return err
		}
	}
	mtu := p.net.MTU()
	if mtu == 0 {
		mtu = b.mtu()
	}
	v := netlink.NewVeth(netlink.LinkAttrs{Name: p.Outside, MTU: mtu, TxQLen: -1})
	v.PeerName, v.PeerHardwareAddr, v.PeerNamespace, v.PeerMTU = p.Inside, net.HardwareAddr(p.MAC), netlink.NsFd(ns), uint32(mtu)
	return b.nl.LinkAdd(v)
}

// mtu is that of the host's way out, but not more than the bridge's.
func (b *boxes) mtu() int {
	routes, err := b.nl.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return maxMTU
	}
	for _, r := range routes {
		if r.Dst != nil && prefixOf(r.Dst).Bits() > 0 {
			continue
		}
		if l, err := b.nl.LinkByIndex(r.LinkIndex); err == nil {
			return min(l.Attrs().MTU, maxMTU)
		}
	}
	return maxMTU
}

func (b *boxes) plugOutside(x *box, p *endpoint) error {
	bridge, err := b.nl.LinkByName(p.net.BridgeName())
	if err != nil {
		return fmt.Errorf("bridge %s: %w", p.net.BridgeName(), err)
	}
	out, err := b.nl.LinkByName(p.Outside)
	if err != nil {
		return fmt.Errorf("interface %s: %w", p.Outside, err)
	}
	if out.Attrs().MasterIndex != bridge.Attrs().Index {
		if err := b.nl.LinkSetIP6AddrGenMode(out, 1); err != nil { // IN6_ADDR_GEN_MODE_NONE: a port has no address
			b.cfg.Log.Debug("IPv6 addresses of interface stay on", "interface", p.Outside, "error", err)
		}
		if err := b.nl.LinkSetMaster(out, bridge); err != nil {
			return err
		}
		// Where bridged frames pass the host's IP rules (net.bridge.bridge-nf-call-iptables, often on), the kernel
		// hands what is load-balanced back to its sender directly to the port that it came from.
		if err := b.nl.LinkSetHairpin(out, true); err != nil {
			return fmt.Errorf("hairpin mode of %s: %w", p.Outside, err)
		}
		if !p.net.Together() {
			if err := b.nl.LinkSetIsolated(out, true); err != nil {
				return fmt.Errorf("isolation of %s: %w", p.Outside, err)
			}
		}
	}
	if out.Attrs().Flags&net.FlagUp == 0 {
		if err := b.nl.LinkSetUp(out); err != nil {
			return err
		}
	}
	if !x.Ingress.IsValid() || p != x.home() {
		return nil
	}
	// The address may have been another container's a moment ago; its link address is not asked for but told.
	return b.nl.NeighSet(neighbour(bridge, x, p))
}

func neighbour(bridge netlink.Link, x *box, home *endpoint) *netlink.Neigh {
	return &netlink.Neigh{
		LinkIndex: bridge.Attrs().Index, Family: netlink.FAMILY_V4, State: netlink.NUD_PERMANENT,
		IP: x.Ingress.AsSlice(), HardwareAddr: net.HardwareAddr(home.MAC),
	}
}

// forgetNeighbour removes the ingress address's link address, unless another container has the address by now.
func (b *boxes) forgetNeighbour(x *box) {
	home := x.home()
	bridge, err := b.nl.LinkByName(b.cfg.BridgeName)
	if err != nil || !x.Ingress.IsValid() || home == nil {
		return
	}
	all, err := b.nl.NeighList(bridge.Attrs().Index, netlink.FAMILY_V4)
	if err != nil {
		return
	}
	want := neighbour(bridge, x, home)
	for _, n := range all {
		if n.IP.Equal(want.IP) && n.HardwareAddr.String() == want.HardwareAddr.String() {
			_ = b.nl.NeighDel(want)
		}
	}
}

func (b *boxes) plugInside(x *box, p *endpoint, in *netlink.Handle, eth netlink.Link) error {
	addrs := []netip.Addr{p.Addr} // the first is what the container sends from
	wanted := map[string]*net.IPNet{p.Addr.String(): p.cidr()}
	if x.Ingress.IsValid() && p == x.home() {
		addrs = append(addrs, x.Ingress)
		wanted[x.Ingress.String()] = host(x.Ingress)
	}
	have, err := in.AddrList(eth, netlink.FAMILY_V4)
	if err != nil {
		return err
	}
	for _, a := range have {
		if w, ok := wanted[a.IP.String()]; !ok || w.String() != a.IPNet.String() {
			if err := in.AddrDel(eth, &a); err != nil {
				return err
			}
		}
	}
	for _, ip := range addrs {
		if err := in.AddrReplace(eth, &netlink.Addr{IPNet: wanted[ip.String()]}); err != nil {
			return fmt.Errorf("address %s: %w", ip, err)
		}
	}
	if err := in.LinkSetUp(eth); err != nil {
		return err
	}
	return connected(in, eth, prefixOf(p.cidr()))
}

// route gives the container its default route.
func (b *boxes) route(x *box, in *netlink.Handle) error {
	p := x.way()
	if p == nil {
		all, err := in.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return fmt.Errorf("list routes: %w", err)
		}
		for _, r := range all {
			if r.Dst == nil || prefixOf(r.Dst).Bits() == 0 {
				if err := in.RouteDel(&r); err != nil && !isGone(err) {
					return fmt.Errorf("remove default route: %w", err)
				}
			}
		}
		return nil
	}
	eth, err := in.LinkByName(p.Inside)
	if err != nil {
		return err
	}
	gw := p.net.Gateway()
	// A server on UDP that is bound to no address answers from the one that the route says. It was asked at its ingress
	// address, so it has to be that, also on the way to the bridge, from where the host's own requests come.
	way := &netlink.Route{LinkIndex: eth.Attrs().Index, Gw: gw.AsSlice()}
	if x.Ingress.IsValid() && p == x.home() {
		way.Src = x.Ingress.AsSlice()
		bridge := &netlink.Route{LinkIndex: eth.Attrs().Index, Dst: host(gw), Scope: netlink.SCOPE_LINK, Src: way.Src}
		if err := in.RouteReplace(bridge); err != nil {
			return fmt.Errorf("route to %s: %w", gw, err)
		}
	}
	if err := in.RouteReplace(way); err != nil {
		return fmt.Errorf("default route: %w", err)
	}
	return nil
}

// unplug drops the container's network. x is locked.
func (b *boxes) unplug(x *box) error {
	b.mu.Lock()
	current := b.byID[x.ID] == x
	b.mu.Unlock()
	if !current {
		return nil
	}
	b.forgetNeighbour(x)
	x.silence() // its sockets would keep the namespace
	if err := dropSpace(b.netnsOf(x)); err != nil {
		return err
	}
	if err := os.Remove(b.file(x.ID)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.byID, x.ID)
	for _, p := range x.Endpoints {
		b.nets.Leave(p.NetworkID, p.ID)
	}
	b.book.Release(x.ID)
	b.renew()
	return nil
}

// outside is what the host's side of the kernel has of containers.
type outside struct {
	index      map[string]int // by the name of the interface
	master     map[string]int // likewise; 0 of one that is down
	neighbours map[netip.Addr]string
}

// repair plugs containers in again whose interface is gone or not on the bridge.
func (b *boxes) repair(ctx context.Context, note func(string, ...any)) error {
	list, err := b.nl.LinkList()
	if err != nil {
		return fmt.Errorf("list interfaces: %w", err)
	}
	o := outside{index: make(map[string]int, len(list)), master: make(map[string]int, len(list)), neighbours: map[netip.Addr]string{}}
	for _, l := range list {
		o.index[l.Attrs().Name] = l.Attrs().Index
		if l.Attrs().Flags&net.FlagUp != 0 {
			o.master[l.Attrs().Name] = l.Attrs().MasterIndex
		}
	}
	known, err := b.nl.NeighList(o.index[b.cfg.BridgeName], netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("list neighbours: %w", err)
	}
	for _, n := range known {
		if a, ok := netip.AddrFromSlice(n.IP.To4()); ok && n.State&netlink.NUD_PERMANENT != 0 {
			o.neighbours[a] = n.HardwareAddr.String()
		}
	}
	for _, x := range b.all() {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := b.repairOne(x, o, note); err != nil {
			b.cfg.Log.Error("a container's network cannot be repaired", "container", x.ID, "error", err)
		}
	}
	return nil
}

// repairOne leaves containers without a namespace alone: the host was restarted, they do not run, and the engine
// attaches them when they start.
func (b *boxes) repairOne(x *box, o outside, note func(string, ...any)) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	b.mu.Lock()
	current := b.byID[x.ID] == x
	b.mu.Unlock()
	plugged := !x.named() || x.session != nil
	for _, p := range x.Endpoints {
		if p.net.OfSwarm() {
			continue // its network looks after it
		}
		plugged = plugged && o.master[p.Outside] == o.index[p.net.BridgeName()]
	}
	if home := x.home(); x.Ingress.IsValid() && home != nil {
		plugged = plugged && o.neighbours[x.Ingress] == home.MAC.String()
	}
	if !current || !isSpace(b.netnsOf(x)) {
		return nil
	}
	if !plugged {
		note("network of container %s", x.ID)
		return b.plug(x)
	}
	return b.repairInside(x, note)
}

// clear drops every container's network, interfaces included, and refuses new ones.
func (b *boxes) clear() error {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	var errs []error
	for _, x := range b.all() {
		x.mu.Lock()
		for _, p := range x.Endpoints {
			if l, err := b.nl.LinkByName(p.Outside); err == nil {
				errs = append(errs, b.nl.LinkDel(l))
			}
		}
		errs = append(errs, b.unplug(x))
		x.mu.Unlock()
	}
	return errors.Join(append(errs, os.RemoveAll(b.dir()))...)
}
