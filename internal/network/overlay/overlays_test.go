package overlay

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	mdns "github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/network"
)

// overlayLab is hosts with networks of the swarm on them.
type overlayLab struct {
	*lab
	nets map[string]*network.Overlay
}

func newOverlayLab(t *testing.T, hosts int) *overlayLab {
	return &overlayLab{newLab(t, hosts), map[string]*network.Overlay{}}
}

// net makes network number n, 10.1.n.0/24, of which nothing is on any host yet.
func (l *overlayLab) net(n int) string {
	id := fmt.Sprintf("net%dxxxxxxxxxxxxxxxxxxxxx", n)
	l.nets[id] = &network.Overlay{
		ID: id, Name: fmt.Sprintf("net%d", n), Subnet: netip.MustParsePrefix(fmt.Sprintf("10.1.%d.0/24", n)),
		Gateway: netip.MustParseAddr(fmt.Sprintf("10.1.%d.1", n)), VNI: uint32(4200 + n), Port: 4789,
	}
	return id
}

// change gives a network another value and has every host hold it that has a container on it.
func (l *overlayLab) change(id string, fn func(*network.Overlay)) {
	l.t.Helper()
	o := *l.nets[id]
	o.Endpoints, o.VIPs = slices.Clone(o.Endpoints), slices.Clone(o.VIPs)
	fn(&o)
	slices.SortFunc(o.Endpoints, func(a, b network.Endpoint) int { return a.Addr.Compare(b.Addr) })
	o.Peers = nil
	for _, h := range l.hosts {
		if slices.ContainsFunc(o.Endpoints, func(e network.Endpoint) bool { return e.NodeID == h.id }) {
			o.Peers = append(o.Peers, network.Peer{NodeID: h.id, Underlay: netip.MustParseAddr(h.addr)})
		}
	}
	l.nets[id] = &o
	l.applyAll()
}

// desiredOn is what a host is to hold.
func (l *overlayLab) desiredOn(h *labHost) network.Desired {
	d := l.desired(h)
	for _, o := range l.nets {
		if slices.ContainsFunc(o.Peers, func(p network.Peer) bool { return p.NodeID == h.id }) {
			d.Overlays = append(d.Overlays, o)
		}
	}
	slices.SortFunc(d.Overlays, func(a, b *network.Overlay) int { return strings.Compare(a.ID, b.ID) })
	return d
}

func (l *overlayLab) applyAll() {
	l.t.Helper()
	for _, h := range l.hosts {
		l.must(h.k.Apply(l.t.Context(), l.desiredOn(h)))
	}
}

// runIn runs a container with an address on a network.
func (l *overlayLab) runIn(h *labHost, name, id, addr string) *labBox {
	l.t.Helper()
	a := netip.MustParseAddr(addr)
	l.change(id, func(o *network.Overlay) { o.Endpoints = append(o.Endpoints, network.Endpoint{Addr: a, NodeID: h.id}) })
	return l.runOn(h, name, engine.Attachment{Networks: []engine.EndpointRequest{{Network: "bridge"}, {Network: id, Addr: a}}})
}

func (l *overlayLab) reaches(from *labBox, to string, want string, seen string) {
	l.t.Helper()
	for _, proto := range []string{"tcp", "udp"} {
		got, by, err := ask(from.space, proto, "", to+":80")
		if err != nil || got != want || by.String() != seen {
			l.t.Errorf("%s from %s to %s: answered by %q, which sees %v: %v", proto, from.id, to, got, by, err)
		}
	}
}

func (l *overlayLab) doesNotReach(from *space, who, to string) {
	l.t.Helper()
	if got, _, err := ask(from, "tcp", "", to+":80"); err == nil {
		l.t.Errorf("%s reaches %s: %s", who, to, got)
	}
}

// threeOn is a network with a container on each of three hosts.
func threeOn(t *testing.T) (*overlayLab, string, []*labBox) {
	l := newOverlayLab(t, 3)
	id := l.net(1)
	var boxes []*labBox
	for i, h := range l.hosts {
		boxes = append(boxes, l.runIn(h, fmt.Sprintf("c%d", i+1), id, fmt.Sprintf("10.1.1.1%d", i+1)))
	}
	return l, id, boxes
}

func (l *overlayLab) allReachAll(boxes []*labBox) {
	l.t.Helper()
	for i, from := range boxes {
		for j, to := range boxes {
			if i != j {
				l.reaches(from, fmt.Sprintf("10.1.1.1%d", j+1), to.id, fmt.Sprintf("10.1.1.1%d", i+1))
			}
		}
	}
}

func TestOverlay(t *testing.T) {
	l, id, boxes := threeOn(t)
	l.allReachAll(boxes)
	second := l.runIn(l.hosts[0], "c4", id, "10.1.1.14") // a neighbour on the same host
	l.reaches(second, "10.1.1.11", "c1", "10.1.1.14")
	l.reaches(boxes[2], "10.1.1.14", "c4", "10.1.1.13")
	// What is larger than one packet arrives in both directions.
	c, err := dial(boxes[0].space, "tcp", "", "10.1.1.12:80")
	l.must(err)
	defer c.Close()
	const size = 2 << 20
	_, err = fmt.Fprintf(c, "put %d\n", size)
	l.must(err)
	_, err = c.Write(make([]byte, size))
	l.must(err)
	if got, _, err := c.answer(); got != "c2" {
		t.Errorf("after %d bytes: %q %v", size, got, err)
	}
	// Networks are apart, and neither the hosts nor others are on them.
	other := l.net(2)
	stranger := l.runIn(l.hosts[1], "stranger", other, "10.1.2.11")
	l.doesNotReach(stranger.space, "a container of another network", "10.1.1.12")
	l.doesNotReach(l.hosts[1].space, "the host", "10.1.1.12")
	l.doesNotReach(l.client, "a client outside", "10.1.1.12")
	l.doesNotReach(boxes[1].space, "a container", "10.1.2.11")
}

func TestOverlayVirtualAddress(t *testing.T) {
	l, id, boxes := threeOn(t)
	vip := netip.MustParseAddr("10.1.1.2")
	at := func(list ...int) []netip.Addr {
		var out []netip.Addr
		for _, i := range list {
			out = append(out, netip.MustParseAddr(fmt.Sprintf("10.1.1.1%d", i)))
		}
		return out
	}
	set := func(list ...int) {
		t.Helper()
		l.change(id, func(o *network.Overlay) { o.VIPs = []network.VIP{{Addr: vip, Backends: at(list...)}} })
	}
	set(1, 2, 3)
	for _, from := range boxes { // a backend asks itself, too
		got := map[string]int{}
		for range 90 {
			who, _, err := ask(from.space, "tcp", "", "10.1.1.2:80")
			l.must(err)
			got[who]++
		}
		for _, b := range boxes {
			if got[b.id] < 10 { // 30 each; four and a half standard deviations are 20
				t.Errorf("from %s: %v", from.id, got)
			}
		}
	}
	stays, err := dial(boxes[0].space, "tcp", "", "10.1.1.2:80")
	l.must(err)
	defer stays.Close()
	first, _, err := stays.ask()
	l.must(err)
	set(2)
	for range 20 {
		if who, _, err := ask(boxes[0].space, "tcp", "", "10.1.1.2:80"); who != "c2" {
			t.Fatalf("a new connection went to %q: %v", who, err)
		}
	}
	if who, _, err := stays.ask(); who != first {
		t.Errorf("a connection to %s went to %q: %v", first, who, err)
	}
	set()
	if _, err := dial(boxes[0].space, "tcp", "", "10.1.1.2:80"); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("without a backend: %v", err)
	}
	// Who comes to the network later gets what is true then.
	set(3)
	late := l.runIn(l.hosts[1], "late", id, "10.1.1.19")
	l.reaches(late, "10.1.1.2", "c3", "10.1.1.19")
}

// TestOverlayMoves sees that an address that is given again, on another node, is found where it is.
func TestOverlayMoves(t *testing.T) {
	l, id, boxes := threeOn(t)
	l.reaches(boxes[0], "10.1.1.12", "c2", "10.1.1.11")
	l.must(l.hosts[1].k.Detach(t.Context(), "c2"))
	moved := netip.MustParseAddr("10.1.1.12")
	l.change(id, func(o *network.Overlay) {
		o.Endpoints = slices.DeleteFunc(o.Endpoints, func(e network.Endpoint) bool { return e.Addr == moved })
	})
	l.doesNotReach(boxes[0].space, "c1", "10.1.1.12")
	l.runIn(l.hosts[2], "again", id, "10.1.1.12")
	l.reaches(boxes[0], "10.1.1.12", "again", "10.1.1.11")
	l.reaches(boxes[2], "10.1.1.12", "again", "10.1.1.13")
	if _, err := os.Stat(l.hosts[1].k.segmentPath(id)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the host without a container still has the network: %v", err)
	}
}

// TestOverlayNames sees that a container asks for the names of its own networks, as they are at the moment.
func TestOverlayNames(t *testing.T) {
	l, id, boxes := threeOn(t)
	other := l.net(2)
	stranger := l.runIn(l.hosts[0], "stranger", other, "10.1.2.11")
	names := func(list ...network.Name) {
		t.Helper()
		l.change(id, func(o *network.Overlay) { o.Names = list })
	}
	a := func(s string) netip.Addr { return netip.MustParseAddr(s) }
	names(network.Name{Name: "tasks.web", Addrs: []netip.Addr{a("10.1.1.11"), a("10.1.1.12")}, Alias: true},
		network.Name{Name: "web", Addrs: []netip.Addr{a("10.1.1.2")}}, network.Name{Name: "web.1.t", Addrs: []netip.Addr{a("10.1.1.11")}})
	for _, b := range boxes {
		for name, want := range map[string]string{"web": "10.1.1.2", "WEB": "10.1.1.2", "tasks.web": "10.1.1.11 10.1.1.12", "web.1.t": "10.1.1.11"} {
			if got := resolve(b.space, "udp", name, mdns.TypeA); got != "NOERROR "+want {
				t.Errorf("%s asks for %s: %q, want %q", b.id, name, got, want)
			}
		}
		if got := resolve(b.space, "tcp", "11.1.1.10.in-addr.arpa", mdns.TypePTR); got != "NOERROR web.1.t.net1." {
			t.Errorf("%s asks whose address it is: %q", b.id, got)
		}
	}
	if got := resolve(stranger.space, "udp", "web", mdns.TypeA); strings.Contains(got, "10.1.1.") {
		t.Errorf("a container of another network finds %q", got)
	}
	names(network.Name{Name: "web", Addrs: []netip.Addr{a("10.1.1.3")}})
	if got := resolve(boxes[0].space, "udp", "web", mdns.TypeA); got != "NOERROR 10.1.1.3" {
		t.Errorf("after a change: %q", got)
	}
	if got := resolve(boxes[0].space, "udp", "tasks.web", mdns.TypeA); strings.Contains(got, "10.1.1.") {
		t.Errorf("a name that is gone: %q", got)
	}
}

func TestOverlayIsRepaired(t *testing.T) {
	l, id, boxes := threeOn(t)
	k := l.hosts[0].k
	g := k.segments.get(id)
	link := func(name string) netlink.Link {
		t.Helper()
		at, err := g.nl.LinkByName(name)
		l.must(err)
		return at
	}
	l.must(k.Repair(t.Context()))
	if len(k.did) > 0 {
		t.Fatalf("what was right was repaired: %v", k.did)
	}
	for name, damage := range map[string]func() error{
		"tunnel":         func() error { return g.nl.LinkDel(link(segmentTunnel)) },
		"tunnel down":    func() error { return g.nl.LinkSetDown(link(segmentTunnel)) },
		"bridge":         func() error { return g.nl.LinkDel(link(segmentBridge)) },
		"off the bridge": func() error { return g.nl.LinkSetNoMaster(link(segmentTunnel)) },
		"one entry": func() error {
			return g.nl.NeighDel(entries(link(segmentTunnel).Attrs().Index, netip.MustParseAddr("10.1.1.12"), netip.MustParseAddr(l.hosts[1].addr))[0])
		},
		"where it leads": func() error {
			return g.nl.NeighSet(entries(link(segmentTunnel).Attrs().Index, netip.MustParseAddr("10.1.1.12"), netip.MustParseAddr("198.18.77.99"))[0])
		},
	} {
		l.must(damage())
		l.must(k.Repair(t.Context()))
		t.Log(name, k.did)
		l.allReachAll(boxes)
		if t.Failed() {
			t.Fatalf("after: %s", name)
		}
	}
	l.must(k.Repair(t.Context()))
	if len(k.did) > 0 {
		t.Errorf("what was repaired is repaired again: %v", k.did)
	}
}

func TestOverlaySurvivesTheDaemon(t *testing.T) {
	l, id, boxes := threeOn(t)
	l.change(id, func(o *network.Overlay) {
		o.VIPs = []network.VIP{{Addr: netip.MustParseAddr("10.1.1.2"), Backends: []netip.Addr{netip.MustParseAddr("10.1.1.13")}}}
	})
	c, err := dial(boxes[0].space, "tcp", "", "10.1.1.2:80")
	l.must(err)
	defer c.Close()
	h := l.hosts[0]
	l.must(h.k.Close())
	if who, _, err := c.ask(); who != "c3" {
		t.Fatalf("without a daemon: %q %v", who, err)
	}
	l.open(h)
	l.allReachAll(boxes) // before a manager says anything
	l.reaches(boxes[0], "10.1.1.2", "c3", "10.1.1.11")
	l.applyAll()
	if who, _, err := c.ask(); who != "c3" {
		t.Errorf("after a restart: %q %v", who, err)
	}
	l.allReachAll(boxes)
	sb, err := h.k.Attach(t.Context(), "c1", engine.Attachment{Networks: []engine.EndpointRequest{{Network: "bridge"}, {Network: id, Addr: netip.MustParseAddr("10.1.1.11")}}})
	if err != nil || sb.On(id) == nil || sb.On(id).Addr.String() != "10.1.1.11" {
		t.Errorf("%+v %v", sb.Endpoints, err)
	}
}

func TestOverlayGoesWithItsLastContainer(t *testing.T) {
	l, id, _ := threeOn(t)
	h := l.hosts[0]
	gone := func(o *network.Overlay) {
		o.Endpoints = slices.DeleteFunc(o.Endpoints, func(e network.Endpoint) bool { return e.NodeID == h.id })
	}
	l.change(id, gone) // the task has ended, its container is still there
	if !isSpace(h.k.segmentPath(id)) {
		t.Fatal("the network went before its container")
	}
	l.must(h.k.Detach(t.Context(), "c1"))
	l.must(h.k.Repair(t.Context()))
	for _, path := range []string{h.k.segmentPath(id), h.k.boxes.networkFile(id)} {
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v", path, err)
		}
	}
	_, err := h.k.Attach(t.Context(), "early", engine.Attachment{Networks: []engine.EndpointRequest{{Network: id, Addr: netip.MustParseAddr("10.1.1.11")}}})
	if !errdefs.IsNotFound(err) {
		t.Errorf("a container on a network that is not here: %v", err)
	}
	l.must(h.k.Detach(t.Context(), "early"))
}
