package overlay

import (
	"fmt"
	"net"
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
	l.eventually("what a node sends arrives", arrives)
	l.must(l.hosts[0].k.Apply(t.Context(), l.desiredOn(l.hosts[0])))
	if arrives() {
		t.Error("what a host sends that is no node any more arrives")
	}
}

// TestSpoof has a container send as somebody else: nothing of it arrives, on its own host or on another. What tells is the
// same without the rules.
func TestSpoof(t *testing.T) {
	l, id, boxes := threeOn(t)
	from := boxes[0]
	near := l.runIn(l.hosts[0], "c4", id, "10.1.1.14")
	l.sh(from.space, "ip", "addr", "add", "10.1.1.12/32", "dev", "eth1") // another container's
	l.sh(from.space, "ip", "addr", "add", "10.9.9.9/32", "dev", "eth1")  // and nobody's
	for i, b := range []*labBox{from, near} {
		l.sh(b.space, "sysctl", "-q", "-w", "net.ipv6.conf.eth1.disable_ipv6=0")
		l.sh(b.space, "ip", "addr", "add", fmt.Sprintf("fd00::%d/64", i+1), "dev", "eth1", "nodad")
	}
	var six net.PacketConn
	l.must(near.in(func() (err error) {
		six, err = net.ListenPacket("udp6", "[::]:81")
		return err
	}))
	defer six.Close()
	arrives := func(source string, to *labBox, addr string) bool {
		t.Helper()
		before := to.datagram.Load()
		c, err := dial(from.space, "udp", source+":0", addr+":80")
		l.must(err)
		defer c.Close()
		for range 10 {
			_, _ = fmt.Fprintln(c, "?")
		}
		l.reaches(from, addr, to.id, "10.1.1.11") // comes after it
		return to.datagram.Load() > before+1
	}
	sixArrives := func() bool {
		t.Helper()
		l.must(from.in(func() error {
			c, err := net.Dial("udp6", "[fd00::2]:81")
			if err != nil {
				return err
			}
			defer c.Close()
			for range 10 {
				_, _ = fmt.Fprintln(c, "?")
			}
			return nil
		}))
		_ = six.SetReadDeadline(time.Now().Add(patience / 4))
		_, _, err := six.ReadFrom(make([]byte, 64))
		return err == nil
	}
	for _, source := range []string{"10.1.1.12", "10.9.9.9"} {
		for addr, to := range map[string]*labBox{"10.1.1.14": near, "10.1.1.13": boxes[2]} {
			if arrives(source, to, addr) {
				t.Errorf("what c1 sends as %s arrives at %s", source, to.id)
			}
		}
	}
	if sixArrives() {
		t.Error("IPv6 arrives on a network without it")
	}
	inner, err := openSpace(l.hosts[0].k.segmentPath(id))
	l.must(err)
	defer inner.close()
	l.sh(inner, "nft", "delete", "table", "bridge", guardTable)
	l.eventually("without the rules it arrives", func() bool { return arrives("10.9.9.9", near, "10.1.1.14") })
	l.eventually("without the rules IPv6 arrives", sixArrives)
	l.must(l.hosts[0].k.Repair(t.Context()))
	if arrives("10.9.9.9", near, "10.1.1.14") {
		t.Error("after the repair what c1 sends as 10.9.9.9 arrives")
	}
}
