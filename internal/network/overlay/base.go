package overlay

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/vishvananda/netlink"

	"shoal.dev/shoal/internal/network"
	"shoal.dev/shoal/internal/network/local"
)

// maxMTU is the MTU of containers' interfaces, in bytes, unless the host's way out has a smaller one.
const maxMTU = 1500

func (k *Kernel) subnetFile() string { return filepath.Join(k.cfg.StateDir, "bridge.json") }

// chooseSubnet returns the bridge's subnet: the one of before, else the one of a bridge that is there, else a free one.
func (k *Kernel) chooseSubnet() (netip.Prefix, error) {
	var kept struct{ Subnet netip.Prefix }
	data, err := os.ReadFile(k.subnetFile())
	switch {
	case err == nil:
		if err := json.Unmarshal(data, &kept); err == nil && kept.Subnet.Addr().Is4() {
			return kept.Subnet.Masked(), nil
		}
		k.cfg.Log.Warn("file cannot be read and is written anew", "file", k.subnetFile())
	case !errors.Is(err, fs.ErrNotExist):
		return netip.Prefix{}, err
	}
	kept.Subnet, err = k.findSubnet()
	if err != nil {
		return netip.Prefix{}, err
	}
	return kept.Subnet, writeJSON(k.subnetFile(), kept)
}

func (k *Kernel) findSubnet() (netip.Prefix, error) {
	if l, err := k.nl.LinkByName(k.cfg.BridgeName); err == nil {
		if addrs, err := k.nl.AddrList(l, netlink.FAMILY_V4); err == nil && len(addrs) > 0 {
			return prefixOf(addrs[0].IPNet).Masked(), nil
		}
	}
	used, err := k.usedPrefixes()
	if err != nil {
		return netip.Prefix{}, err
	}
	candidates := slices.Collect(local.Pools)
	if k.cfg.Subnet.IsValid() {
		candidates = slices.Insert(candidates, 0, k.cfg.Subnet.Masked())
	}
	for _, c := range candidates {
		if !slices.ContainsFunc(used, c.Overlaps) {
			return c, nil
		}
	}
	return netip.Prefix{}, fmt.Errorf("no free subnet for the bridge %s: the host has routes or addresses in each of %s to %s",
		k.cfg.BridgeName, candidates[0], candidates[len(candidates)-1])
}

// usedPrefixes is what the host's addresses and routes cover, but for default routes.
func (k *Kernel) usedPrefixes() ([]netip.Prefix, error) {
	addrs, err := k.nl.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	routes, err := k.nl.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	var used []netip.Prefix
	for _, a := range addrs {
		used = append(used, prefixOf(a.IPNet))
	}
	for _, r := range routes {
		if r.Dst != nil && prefixOf(r.Dst).Bits() > 0 {
			used = append(used, prefixOf(r.Dst))
		}
	}
	return used, nil
}

// ensureBase makes the bridges and the settings that containers need.
func (k *Kernel) ensureBase() error {
	for _, n := range k.boxes.networks() {
		if err := k.ensureBridge(n); err != nil {
			return err
		}
	}
	return k.host.in(func() error {
		changed, err := setSysctl("net/ipv4/ip_forward", "1")
		if err != nil {
			return fmt.Errorf("containers need the host to forward packets: %w", err)
		}
		if changed {
			k.note("net.ipv4.ip_forward")
			k.cfg.Log.Info("net.ipv4.ip_forward was 0 and is now 1: containers need the host to forward their packets")
		}
		return nil
	})
}

// ensureBridge makes the interface that a network's containers hang on.
func (k *Kernel) ensureBridge(n local.Network) error {
	l, err := k.ensureLink(&netlink.Bridge{
		LinkAttrs:         netlink.LinkAttrs{Name: n.BridgeName(), MTU: bridgeMTU(n), HardwareAddr: network.MAC(n.Gateway()), TxQLen: -1},
		MulticastSnooping: new(bool),
	})
	if err != nil {
		return err
	}
	addr := netip.PrefixFrom(n.Gateway(), n.Subnet().Bits())
	if err := k.ensureAddr(l, addr); err != nil {
		return err
	}
	if err := k.ensureSettings(l.Attrs().Name); err != nil {
		return err
	}
	if err := k.ensureUp(l); err != nil {
		return err
	}
	return k.ensureConnected(l, addr)
}

// bridgeMTU is what the network asks for; containers' interfaces may have less.
func bridgeMTU(n local.Network) int { return cmp.Or(n.MTU(), maxMTU) }

// ensureSettings sets what an interface of ours needs: answers to 127.0.0.1 come in over it, the way back may be
// another one, and IPv6 is not ours yet.
func (k *Kernel) ensureSettings(dev string) error {
	return k.host.in(func() error {
		// The kernel takes the larger of "all" and the interface's: 2 asks only that some route exists. Where it can
		// be had, 0 also lets in clients that this node has no route to; they came through another node.
		filter := "2"
		if all, err := os.ReadFile("/proc/sys/net/ipv4/conf/all/rp_filter"); err == nil && string(all) == "0\n" {
			filter = "0"
		}
		settings := map[string]string{
			"net/ipv4/conf/" + dev + "/route_localnet": "1",
			"net/ipv4/conf/" + dev + "/rp_filter":      filter,
			"net/ipv4/conf/" + dev + "/send_redirects": "0",
			"net/ipv6/conf/" + dev + "/disable_ipv6":   "1",
		}
		for name, value := range settings {
			changed, err := setSysctl(name, value)
			if errors.Is(err, fs.ErrNotExist) { // a kernel without IPv6
				continue
			}
			if err != nil {
				return err
			}
			if changed {
				k.note("%s", name)
			}
		}
		return nil
	})
}

// ensureLink returns the link of the name, made if need be, with its link address and MTU.
func (k *Kernel) ensureLink(want netlink.Link) (netlink.Link, error) {
	a := want.Attrs()
	l, err := k.nl.LinkByName(a.Name)
	if isNotFound(err) {
		k.note("interface %s", a.Name)
		if err := k.nl.LinkAdd(want); err != nil {
			return nil, fmt.Errorf("make interface %s: %w", a.Name, err)
		}
		l, err = k.nl.LinkByName(a.Name)
	}
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w", a.Name, err)
	}
	if l.Type() != want.Type() {
		return nil, fmt.Errorf("interface %s is of type %s, not %s: remove or rename it", a.Name, l.Type(), want.Type())
	}
	if l.Attrs().HardwareAddr.String() != a.HardwareAddr.String() {
		k.note("link address of %s", a.Name)
		if err := k.nl.LinkSetHardwareAddr(l, a.HardwareAddr); err != nil {
			return nil, fmt.Errorf("set link address of %s: %w", a.Name, err)
		}
	}
	if l.Attrs().MTU != a.MTU {
		k.note("MTU of %s", a.Name)
		if err := k.nl.LinkSetMTU(l, a.MTU); err != nil {
			return nil, fmt.Errorf("set MTU of %s to %d: %w", a.Name, a.MTU, err)
		}
	}
	return l, nil
}

// ensureAddr makes addr the link's only IPv4 address.
func (k *Kernel) ensureAddr(l netlink.Link, addr netip.Prefix) error {
	have, err := k.nl.AddrList(l, netlink.FAMILY_V4)
	if err != nil {
		return err
	}
	there := false
	for _, a := range have {
		if prefixOf(a.IPNet) == addr {
			there = true
			continue
		}
		k.note("address %s of %s", a.IPNet, l.Attrs().Name)
		if err := k.nl.AddrDel(l, &a); err != nil {
			return fmt.Errorf("remove address %s of %s: %w", a.IPNet, l.Attrs().Name, err)
		}
	}
	if there {
		return nil
	}
	k.note("address %s of %s", addr, l.Attrs().Name)
	if err := k.nl.AddrReplace(l, &netlink.Addr{IPNet: ipNet(addr)}); err != nil {
		return fmt.Errorf("give %s the address %s: %w", l.Attrs().Name, addr, err)
	}
	return nil
}

func (k *Kernel) ensureUp(l netlink.Link) error {
	if l.Attrs().Flags&net.FlagUp != 0 {
		return nil
	}
	k.note("state of %s", l.Attrs().Name)
	return k.nl.LinkSetUp(l)
}

// ensureConnected sees that the host has the route to a bridge's subnet.
func (k *Kernel) ensureConnected(l netlink.Link, addr netip.Prefix) error {
	have, err := k.nl.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipNet(addr.Masked())}, netlink.RT_FILTER_OIF|netlink.RT_FILTER_DST)
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	if len(have) > 0 {
		return nil
	}
	k.note("route %s", addr.Masked())
	return connected(k.nl, l, addr)
}

func (k *Kernel) removeLink(name string) error {
	l, err := k.nl.LinkByName(name)
	if isNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	k.note("interface %s", name)
	return k.nl.LinkDel(l)
}

func isNotFound(err error) bool {
	var nf netlink.LinkNotFoundError
	return errors.As(err, &nf)
}

// gateway is the bridge's own address: the first of its subnet.
func gateway(subnet netip.Prefix) netip.Addr { return subnet.Addr().Next() }

func prefixOf(n *net.IPNet) netip.Prefix {
	a, _ := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), ones)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func host(a netip.Addr) *net.IPNet { return ipNet(netip.PrefixFrom(a, a.BitLen())) }

// writeJSON replaces the file at once, so that a crash leaves the old one or the new one.
func writeJSON(path string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
