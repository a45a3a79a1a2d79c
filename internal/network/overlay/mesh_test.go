package overlay

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"shoal.dev/shoal/internal/network"
)

// meshLab is three hosts with a container each. Ports 8081 to 8083 lead to the container of that number, 8080 to all,
// 8089 to none.
func meshLab(t *testing.T) *lab {
	l := newLab(t, 3)
	var pubs []pub
	for i, h := range l.hosts {
		b := l.run(h, fmt.Sprintf("c%d", i+1), fmt.Sprintf("10.77.0.1%d", i+1))
		for _, p := range []string{"tcp", "udp"} {
			pubs = append(pubs, pub{p, uint16(8081 + i), []*labBox{b}})
		}
	}
	pubs = append(pubs, pub{"tcp", 8080, l.boxes}, pub{"udp", 8080, l.boxes}, pub{"tcp", 8089, nil}, pub{"udp", 8089, nil})
	l.apply(pubs...)
	return l
}

// TestMesh is every way to a published port, with and without bridged frames passing the host's IP rules (the kernel's
// default is that they do; many hosts turn it off).
func TestMesh(t *testing.T) {
	for _, bridged := range []string{"1", "0"} {
		t.Run("bridge-nf-call-iptables="+bridged, func(t *testing.T) {
			l := meshLab(t)
			for _, h := range l.hosts {
				l.must(h.in(func() error {
					_, err := setSysctl("net/bridge/bridge-nf-call-iptables", bridged)
					if errors.Is(err, os.ErrNotExist) {
						t.Skip("the kernel has no br_netfilter")
					}
					return err
				}))
			}
			for _, proto := range []string{"tcp", "udp"} {
				t.Run(proto, func(t *testing.T) { testEveryWay(t, l, proto) })
			}
		})
	}
}

func testEveryWay(t *testing.T, l *lab, proto string) {
	expect := func(who string, s *space, to string, box *labBox, client string) {
		t.Helper()
		id, seen, err := ask(s, proto, "", to)
		switch {
		case err != nil:
			t.Errorf("%s to %s: %v", who, to, err)
		case id != box.id:
			t.Errorf("%s to %s: answer of %s, want %s", who, to, id, box.id)
		case client != "" && seen.String() != client:
			t.Errorf("%s to %s: %s sees %s, want %s", who, to, id, seen, client)
		}
	}
	for i, h := range l.hosts {
		for j, box := range l.boxes {
			port := fmt.Sprint(8081 + j)
			expect("client", l.client, net.JoinHostPort(h.addr, port), box, clientAddr)
			expect(h.id+" itself", h.space, net.JoinHostPort(h.addr, port), box, "")
			expect(h.id+" by loopback", h.space, net.JoinHostPort("127.0.0.1", port), box, "")
			expect("container on "+h.id, l.boxes[i].space, net.JoinHostPort(h.addr, port), box, "")
			expect("container on "+h.id+" by its gateway", l.boxes[i].space, net.JoinHostPort("172.18.0.1", port), box, "")
			other := l.hosts[(i+1)%3]
			expect(h.id, h.space, net.JoinHostPort(other.addr, port), box, "")
			expect("container on "+h.id, l.boxes[i].space, net.JoinHostPort(other.addr, port), box, "")
		}
	}
}

func TestOneSourcePortThroughSeveralNodes(t *testing.T) {
	l := meshLab(t)
	for j, box := range l.boxes {
		var open []*conn
		for _, h := range l.hosts {
			c, err := dial(l.client, "tcp", clientAddr+":40000", net.JoinHostPort(h.addr, fmt.Sprint(8081+j)))
			if err != nil {
				t.Fatalf("through %s: %v", h.id, err)
			}
			open = append(open, c)
		}
		for range 2 {
			for i, c := range open {
				if id, seen, err := c.ask(); err != nil || id != box.id || seen.String() != clientAddr {
					t.Errorf("to %s through %s: %s %s %v", box.id, l.hosts[i].id, id, seen, err)
				}
			}
		}
		for _, c := range open {
			_ = c.Conn.(*net.TCPConn).SetLinger(0)
			_ = c.Close()
		}
	}
}

func TestPortWithoutTasksRefusesAtOnce(t *testing.T) {
	l := meshLab(t)
	h := l.hosts[0]
	// A host's firewall that drops what it does not know would make the kernel's own refusal silent.
	l.sh(h.space, "nft", "add table ip firewall; add chain ip firewall in { type filter hook input priority 0; policy drop; }; add rule ip firewall in iif lo accept; add rule ip firewall in meta l4proto icmp accept")
	for name, from := range map[string]*space{"client": l.client, "node": h.space, "container": l.boxes[0].space} {
		for _, proto := range []string{"tcp", "udp"} {
			start := time.Now()
			_, _, err := ask(from, proto, "", h.addr+":8089")
			if !errors.Is(err, syscall.ECONNREFUSED) || time.Since(start) > time.Second {
				t.Errorf("%s by %s: %v after %v", name, proto, err, time.Since(start))
			}
		}
	}
	if _, _, err := ask(l.client, "tcp", "", h.addr+":8090"); !isTimeout(err) {
		t.Errorf("the firewall of the test does not work: %v", err)
	}
}

func TestConnectionsSpreadEvenly(t *testing.T) {
	l := meshLab(t)
	// Once as the ruleset was written at first, once as netlink changes it.
	for _, how := range []string{"written as text", "changed by netlink"} {
		const n = 600
		count := map[string]float64{}
		for range n {
			id, _, err := ask(l.client, "tcp", "", l.hosts[0].addr+":8080")
			if err != nil {
				t.Fatalf("%s: %v", how, err)
			}
			count[id]++
		}
		chi := 0.0
		for _, b := range l.boxes {
			d := count[b.id] - n/3
			chi += d * d / (n / 3)
		}
		if chi > 20.7 { // the upper bound of χ² with two degrees of freedom in 99.997 % of all runs
			t.Errorf("%s: %v, χ² = %.1f", how, count, chi)
		}
		l.apply(pub{"tcp", 8080, l.boxes[:1]})
		l.apply(pub{"tcp", 8080, l.boxes})
	}
}

func TestUploadThroughAnotherNode(t *testing.T) {
	l := meshLab(t)
	const size = 8 << 20
	for name, from := range map[string]struct {
		*space
		to string
	}{
		"client": {l.client, l.hosts[0].addr + ":8082"}, "node": {l.hosts[0].space, "127.0.0.1:8082"}, "container": {l.boxes[0].space, l.hosts[0].addr + ":8082"},
	} {
		c, err := dial(from.space, "tcp", "", from.to)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got := segmentSize(t, c.Conn); got > 1410 { // the tunnel's MTU less the headers
			t.Errorf("%s sends segments of %d bytes", name, got)
		}
		start := time.Now()
		_ = c.SetDeadline(start.Add(10 * time.Second))
		if _, err = fmt.Fprintf(c, "put %d\n", size); err == nil {
			_, err = c.Write(make([]byte, size))
		}
		var id string
		if err == nil {
			id, _, err = c.answer()
		}
		if took := time.Since(start); err != nil || id != "c2" || took > 3*time.Second {
			t.Errorf("%s: 8 MiB took %v: %s %v", name, took, id, err)
		}
		_ = c.Close()
	}
}

// segment is the size of the segments that the connection sends.
func segmentSize(t *testing.T, c net.Conn) (size int) {
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err == nil {
		_ = raw.Control(func(fd uintptr) { size, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG) })
	}
	if err != nil {
		t.Fatal(err)
	}
	return size
}

func TestOutsidersReachTasksByPublishedPortsOnly(t *testing.T) {
	l := meshLab(t)
	client, box := l.handle(l.client), l.boxes[0]
	eth, err := client.LinkByName("eth0")
	l.must(err)
	for _, n := range []string{labSubnet, "172.18.0.0/16"} {
		l.must(client.RouteAdd(&netlink.Route{LinkIndex: eth.Attrs().Index, Dst: ipNet(netip.MustParsePrefix(n)), Gw: net.ParseIP(l.hosts[0].addr)}))
	}
	for _, to := range []netip.Addr{box.ingress, box.addr, l.boxes[1].ingress} {
		if _, _, err := ask(l.client, "tcp", "", netip.AddrPortFrom(to, 80).String()); !isTimeout(err) {
			t.Errorf("client to %s: %v", to, err)
		}
	}
	if _, _, err := ask(l.boxes[2].space, "tcp", "", netip.AddrPortFrom(box.ingress, 80).String()); !isTimeout(err) {
		t.Errorf("container to another task's address: %v", err)
	}
	if _, _, err := ask(l.client, "tcp", "", l.hosts[0].addr+":8081"); err != nil {
		t.Errorf("the published port: %v", err)
	}
	if _, _, err := ask(l.hosts[0].space, "tcp", "", "10.77.0.99:80"); err == nil || isTimeout(err) {
		t.Errorf("an address of the mesh without a task is not refused at once: %v", err)
	}
}

func TestLoopbackServicesAreNotOpenToContainers(t *testing.T) {
	l := newLab(t, 1)
	h, box := l.hosts[0], l.run(l.hosts[0], "c", "10.77.0.11")
	l.apply()
	var server net.Listener
	l.must(h.in(func() (err error) { server, err = net.Listen("tcp4", "127.0.0.1:9000"); return err }))
	defer server.Close()
	if c, err := dial(h.space, "tcp", "", "127.0.0.1:9000"); err != nil {
		t.Fatal(err)
	} else {
		_ = c.Close()
	}
	// A container that may change its routes can send packets to 127.0.0.1 over its gateway.
	in := l.handle(box.space)
	lo, err := in.LinkByName("lo")
	l.must(err)
	eth, err := in.LinkByName("eth0")
	l.must(err)
	l.must(in.AddrDel(lo, &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix("127.0.0.1/8"))}))
	l.must(in.RouteAdd(&netlink.Route{LinkIndex: eth.Attrs().Index, Dst: ipNet(netip.MustParsePrefix("127.0.0.0/8")), Gw: net.ParseIP("172.18.0.1")}))
	l.must(box.in(func() error { _, err := setSysctl("net/ipv4/conf/eth0/route_localnet", "1"); return err }))
	if _, err := dial(box.space, "tcp", box.addr.String()+":0", "127.0.0.1:9000"); !isTimeout(err) {
		t.Errorf("container to the host's loopback: %v", err)
	}
}

func TestTunnelsAreTakenFromNodesOnly(t *testing.T) {
	l := meshLab(t)
	victim, box := l.hosts[1], l.boxes[1]
	// The client makes itself a tunnel end with the address of a node inside.
	client := l.handle(l.client)
	l.must(client.LinkAdd(&netlink.Vxlan{
		LinkAttrs: netlink.LinkAttrs{Name: "vx", TxQLen: -1, HardwareAddr: network.MAC(netip.MustParseAddr("10.77.0.1"))},
		VxlanId:   labVNI, Port: 4789, Group: net.ParseIP(victim.addr),
	}))
	vx, err := client.LinkByName("vx")
	l.must(err)
	l.must(client.LinkSetUp(vx))
	hop := netip.MustParseAddr("10.77.0.2")
	l.must(client.NeighSet(&netlink.Neigh{LinkIndex: vx.Attrs().Index, State: netlink.NUD_PERMANENT, IP: hop.AsSlice(), HardwareAddr: network.MAC(hop)}))
	l.must(client.RouteAdd(&netlink.Route{LinkIndex: vx.Attrs().Index, Dst: host(box.ingress), Gw: hop.AsSlice(), Flags: int(netlink.FLAG_ONLINK)}))
	send := func() {
		c, err := dial(l.client, "udp", "", netip.AddrPortFrom(box.ingress, 80).String())
		l.must(err)
		defer c.Close()
		_, err = c.Write([]byte("?\n"))
		l.must(err)
		// What was sent before has arrived when this has: one wire, one queue.
		if _, _, err := ask(l.client, "udp", "", victim.addr+":8082"); err != nil {
			t.Fatal(err)
		}
	}
	send()
	if n := box.datagram.Load(); n != 1 {
		t.Errorf("%d datagrams arrived, want the asked one only", n)
	}
	// The same from an address that is a node's arrives, so it was not something else that stopped it.
	d := l.desired(victim, pub{"udp", 8082, []*labBox{box}})
	d.Ingress.Nodes[0].Underlay = netip.MustParseAddr(clientAddr)
	l.must(victim.k.Apply(t.Context(), d))
	send()
	l.eventually("the datagram of a node arrives", func() bool { return box.datagram.Load() == 3 })
}

func TestEgressIsMasqueraded(t *testing.T) {
	l := newLab(t, 1)
	box := l.run(l.hosts[0], "plain", "") // outside a swarm: nothing was applied
	var server net.Listener
	l.must(l.client.in(func() (err error) { server, err = net.Listen("tcp4", ":9000"); return err }))
	defer server.Close()
	c, err := dial(box.space, "tcp", "", clientAddr+":9000")
	l.must(err)
	defer c.Close()
	in, err := server.Accept()
	l.must(err)
	defer in.Close()
	if from := in.RemoteAddr().String(); !strings.HasPrefix(from, l.hosts[0].addr+":") {
		t.Errorf("the container is seen as %s, want its host's address", from)
	}
}

func TestPlainContainersReachEachOther(t *testing.T) {
	l := newLab(t, 1)
	a, b := l.run(l.hosts[0], "a", ""), l.run(l.hosts[0], "b", "")
	if id, seen, err := ask(a.space, "tcp", "", netip.AddrPortFrom(b.addr, 80).String()); err != nil || id != "b" || seen != a.addr {
		t.Error(id, seen, err)
	}
	if _, err := os.Stat(filepath.Join(l.hosts[0].cfg.NetnsDir, "a")); err != nil {
		t.Error(err)
	}
}
