package overlay

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"shoal.dev/shoal/internal/network"
)

// TestForeignTunnel has a host that is no node send into a network of the swarm: nothing of it arrives, until the host
// becomes a node, and again after it is one no more.
func TestForeignTunnel(t *testing.T) {
	l, id, boxes := threeOn(t)
	victim, at := boxes[0], netip.MustParseAddr("10.1.1.11")
	// The client outside has a tunnel like a node's, with all addresses right.
	nl := l.handle(l.client)
	o := l.nets[id]
	l.must(nl.LinkAdd(&netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "vx", HardwareAddr: network.MAC(netip.MustParseAddr("10.1.1.66")), TxQLen: -1},
		VxlanId: int(o.VNI), Port: int(o.Port), SrcAddr: netip.MustParseAddr(clientAddr).AsSlice()}))
	vx, err := nl.LinkByName("vx")
	l.must(err)
	l.must(nl.AddrAdd(vx, &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix("10.1.1.66/24"))}))
	l.must(nl.LinkSetUp(vx))
	for _, n := range entries(vx.Attrs().Index, at, netip.MustParseAddr(l.hosts[0].addr)) {
		if n.Flags != netlink.NTF_MASTER {
			l.must(nl.NeighSet(n))
		}
	}
	send := func() {
		t.Helper()
		c, err := dial(l.client, "udp", "", at.String()+":80")
		l.must(err)
		defer c.Close()
		for range 20 {
			_, _ = fmt.Fprintln(c, "?") // without a way there, the kernel may say so with the next one
		}
	}
	// What is sent after it, from a node, arrives after it.
	arrives := func() bool {
		t.Helper()
		before := victim.datagram.Load()
		send()
		l.reaches(boxes[1], at.String(), "c1", "10.1.1.12")
		return victim.datagram.Load() > before+1
	}
	if arrives() {
		t.Error("what a host sends that is no node arrives")
	}
	l.change(id, func(o *network.Overlay) { o.VIPs = []network.VIP{{Addr: netip.MustParseAddr("10.1.1.2")}} })
	if arrives() {
		t.Error("after a change of the network, what a host sends that is no node arrives")
	}
	// The test would see it: with the host among the nodes it arrives.
	d := l.desiredOn(l.hosts[0])
	grown := *d.Overlays[0]
	grown.Peers = append(grown.Peers, network.Peer{NodeID: "n9", Underlay: netip.MustParseAddr(clientAddr)})
	d.Overlays = []*network.Overlay{&grown}
	l.must(l.hosts[0].k.Apply(t.Context(), d))
	deadline := time.After(patience)
	for !arrives() {
		select {
		case <-deadline:
			t.Fatal("what a node sends does not arrive")
		default:
		}
	}
	l.must(l.hosts[0].k.Apply(t.Context(), l.desiredOn(l.hosts[0])))
	if arrives() {
		t.Error("what a host sends that is no node any more arrives")
	}
}
