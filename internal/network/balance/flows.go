package balance

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"shoal.dev/shoal/internal/network"
)

// moveFlows makes conntrack forget UDP flows to published ports that do not go where their port goes: to a backend that
// is gone, or to the host itself from before the port was published. Their next packet is balanced anew. It looks at
// the ports that differ between the two states, or at all of want's if old is nil.
func (t *Table) moveFlows(old *State, want State) error {
	changed := changedUDP(old, want)
	if len(changed) == 0 {
		return nil
	}
	addrs, err := t.cfg.Netlink.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	f := staleFlow{ports: changed, local: make(map[netip.Addr]bool, len(addrs))}
	for _, a := range addrs {
		if ip, ok := netip.AddrFromSlice(a.IP.To4()); ok {
			f.local[ip] = true
		}
	}
	n, err := t.cfg.Netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, f)
	if err != nil {
		return fmt.Errorf("move UDP flows: %w", err)
	}
	if n > 0 {
		t.cfg.Log.Info("UDP flows moved to other tasks", "flows", n)
	}
	return nil
}

// changedUDP gives the UDP ports whose backends differ, with their backends now.
func changedUDP(old *State, want State) map[uint16][]network.Backend {
	before := map[uint16][]network.Backend{}
	if old != nil {
		before = udpPorts(*old)
	}
	after := udpPorts(want)
	for p, was := range before {
		now, stays := after[p]
		switch {
		case !stays:
			after[p] = nil
		case slices.Equal(was, now):
			delete(after, p)
		}
	}
	return after
}

func udpPorts(s State) map[uint16][]network.Backend {
	out := map[uint16][]network.Backend{}
	if s.Mesh != nil {
		for _, p := range s.Mesh.Ports {
			if p.Protocol == "udp" {
				out[p.Published] = p.Backends
			}
		}
	}
	for _, p := range s.Published {
		if p.Protocol == "udp" { // the list of the mesh is not ours to append to
			out[p.Port] = append(slices.Clip(out[p.Port]), network.Backend{Addr: p.To.Addr(), Port: p.To.Port()})
		}
	}
	return out
}

// staleFlow matches flows that came for a port of this host and go elsewhere than to the port's backends.
type staleFlow struct {
	ports map[uint16][]network.Backend
	local map[netip.Addr]bool
}

// MatchConntrackFlow implements [netlink.CustomConntrackFilter].
func (f staleFlow) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	if flow.Forward.Protocol != unix.IPPROTO_UDP {
		return false
	}
	backends, ours := f.ports[flow.Forward.DstPort]
	dst, ok := netip.AddrFromSlice(flow.Forward.DstIP.To4())
	if !ours || !ok || !f.local[dst] && !dst.IsLoopback() {
		return false
	}
	src, _ := netip.AddrFromSlice(flow.Reverse.SrcIP.To4())
	return !slices.Contains(backends, network.Backend{Addr: src, Port: flow.Reverse.SrcPort})
}
