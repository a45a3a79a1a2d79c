package overlay

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"shoal.dev/shoal/internal/network/ruleset"
	"shoal.dev/shoal/internal/network/virtual"
)

// insideTables are our tables in a container's namespace. The sets there are part of their rules.
func insideTables() []ruleset.Table {
	return []ruleset.Table{virtual.Table(), {Family: byte(nftables.TableFamilyIPv4), Name: namesTable}}
}

// write runs what writes rules in the container's namespace. A seal that others broke stays broken, so that the next
// repair writes all of them. x is locked.
func (x *box) write(inside *space, rules func() error) error {
	return inside.in(func() error {
		ok, err := x.seal.Intact(insideTables())
		if err != nil {
			return err
		}
		x.seal.Break()
		if err := rules(); err != nil || !ok {
			return err
		}
		return x.seal.Put()
	})
}

// renewRules has whoever writes rules next write all of them, if others did so meanwhile. x is locked.
func (x *box) renewRules(inside *space) error {
	return inside.in(func() error {
		ok, err := x.seal.Intact(insideTables())
		if err != nil || ok {
			return err
		}
		x.virtual, x.redirected = false, false
		return x.seal.Put()
	})
}

// repairInside makes what the container's namespace lacks of what plug made. What is there beside it is the container's
// own: one with NET_ADMIN may have addresses, routes and rules. x is locked.
func (b *boxes) repairInside(x *box, note func(string, ...any)) error {
	inside, err := openSpace(b.netnsOf(x))
	if err != nil {
		return err
	}
	defer inside.close()
	var laid, ruled bool
	err = inside.in(func() (err error) {
		if laid, err = x.laid(); err != nil {
			return err
		}
		if ruled, err = x.seal.Intact(insideTables()); err != nil || !ruled {
			return err
		}
		return x.seal.Settle(insideTables())
	})
	switch {
	case err != nil:
		return err
	case !laid:
		note("interfaces, addresses and routes of container %s", x.ID)
		return b.plug(x)
	case !ruled:
		note("ruleset of container %s", x.ID)
		return errors.Join(x.renewRules(inside), b.setVirtual(x), b.serve(x))
	}
	return nil
}

// laid says whether the namespace of the calling thread has the container's interfaces, addresses and routes.
func (x *box) laid() (bool, error) {
	h, err := netlink.NewHandle(netlinkFamilies[0])
	if err != nil {
		return false, err
	}
	defer h.Close()
	links, err := h.LinkList()
	if err != nil {
		return false, fmt.Errorf("list interfaces: %w", err)
	}
	up := map[string]int{}
	for _, l := range links {
		if l.Attrs().Flags&net.FlagUp != 0 {
			up[l.Attrs().Name] = l.Attrs().Index
		}
	}
	addrs, err := h.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return false, fmt.Errorf("list addresses: %w", err)
	}
	type place struct {
		link int
		what netip.Prefix
	}
	have, ways := map[place]bool{}, map[place]bool{}
	for _, a := range addrs {
		have[place{a.LinkIndex, prefixOf(a.IPNet)}] = true
	}
	routes, err := h.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return false, fmt.Errorf("list routes: %w", err)
	}
	out := false // there is some default route; it may be of the container's choice
	for _, r := range routes {
		if r.Dst == nil || prefixOf(r.Dst).Bits() == 0 {
			out = true
		} else {
			ways[place{r.LinkIndex, prefixOf(r.Dst)}] = true
		}
	}
	for _, p := range x.Endpoints {
		own := prefixOf(p.cidr())
		if at := up[p.Inside]; at == 0 || !have[place{at, own}] || !ways[place{at, own.Masked()}] {
			return false, nil
		}
	}
	if home := x.home(); x.Ingress.IsValid() && home != nil {
		at := up[home.Inside]
		bridge := netip.PrefixFrom(home.net.Gateway(), home.net.Gateway().BitLen())
		if !have[place{at, prefixOf(host(x.Ingress))}] || x.way() == home && !ways[place{at, bridge}] {
			return false, nil
		}
	}
	return out || x.way() == nil, nil
}

// connected makes the route to the subnet of an address of the link, which the kernel makes by itself once, when the
// address is given.
func connected(nl *netlink.Handle, l netlink.Link, addr netip.Prefix) error {
	if addr.IsSingleIP() {
		return nil
	}
	r := &netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipNet(addr.Masked()), Src: addr.Addr().AsSlice(), Scope: netlink.SCOPE_LINK, Protocol: unix.RTPROT_KERNEL}
	if err := nl.RouteReplace(r); err != nil {
		return fmt.Errorf("route to %s: %w", addr.Masked(), err)
	}
	return nil
}
