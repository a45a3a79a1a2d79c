package overlay

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/network"
	"shoal.dev/shoal/internal/network/networktest"
)

func TestRemovedBackendKeepsItsConnectionsAndGetsNoNewOnes(t *testing.T) {
	l := meshLab(t)
	var kept []*conn // to the container that will go
	for len(kept) < 6 {
		c, err := dial(l.client, "tcp", "", l.hosts[len(kept)%3].addr+":8080")
		l.must(err)
		id, _, err := c.ask()
		l.must(err)
		if id == "c1" {
			kept = append(kept, c)
		}
		defer c.Close()
	}
	ctx, stop := context.WithCancel(t.Context())
	var load sync.WaitGroup
	var mu sync.Mutex
	served := 0
	for i := range 4 {
		load.Go(func() {
			for ctx.Err() == nil {
				_, _, err := ask(l.client, "tcp", "", l.hosts[i%3].addr+":8080")
				mu.Lock()
				served++
				if err != nil {
					t.Errorf("new connection under load: %v", err)
					stop()
				}
				mu.Unlock()
			}
		})
	}
	count := func() int { mu.Lock(); defer mu.Unlock(); return served }
	after := func(n int) { l.eventually("load goes on", func() bool { return count() >= n || ctx.Err() != nil }) }
	after(50)
	for range 10 { // there and back again, to make it hard
		l.apply(pub{"tcp", 8080, l.boxes[1:]})
		l.apply(pub{"tcp", 8080, l.boxes})
	}
	l.apply(pub{"tcp", 8080, l.boxes[1:]})
	after(count() + 20) // connections that were on their way have arrived
	before := l.boxes[0].accepted.Load()
	after(count() + 100)
	stop()
	load.Wait()
	if n := l.boxes[0].accepted.Load() - before; n != 0 {
		t.Errorf("the removed backend got %d of the new connections", n)
	}
	for _, c := range kept {
		if id, seen, err := c.ask(); err != nil || id != "c1" || seen.String() != clientAddr {
			t.Errorf("established connection: %s %s %v", id, seen, err)
		}
	}
}

func TestUDPFlowsMoveWhenTheirBackendGoes(t *testing.T) {
	l := meshLab(t)
	for _, from := range []struct {
		*space
		to string
	}{{l.client, l.hosts[0].addr + ":8080"}, {l.hosts[0].space, "127.0.0.1:8080"}} {
		c, err := dial(from.space, "udp", "", from.to)
		l.must(err)
		defer c.Close()
		first, _, err := c.ask()
		l.must(err)
		for range 5 {
			if id, _, err := c.ask(); err != nil || id != first {
				t.Fatalf("a flow moves by itself: %s, then %s, %v", first, id, err)
			}
		}
		rest := slices.DeleteFunc(slices.Clone(l.boxes), func(b *labBox) bool { return b.id == first })
		l.apply(pub{"udp", 8080, rest})
		id, _, err := c.ask()
		if err != nil || id == first {
			t.Errorf("%s: still answered by %s: %v", from.to, id, err)
		}
		other := id
		l.apply(pub{"udp", 8080, l.boxes}) // a backend that comes takes no flow from others
		if id, _, err := c.ask(); err != nil || id != other {
			t.Errorf("%s: flow moved from %s to %s: %v", from.to, other, id, err)
		}
	}
}

func TestUDPFlowFromBeforeThePortWasPublished(t *testing.T) {
	l := meshLab(t)
	c, err := dial(l.client, "udp", "", l.hosts[0].addr+":7000")
	l.must(err)
	defer c.Close()
	for range 3 {
		_, _, _ = c.ask() // refused by the host, and yet a flow of conntrack's
	}
	l.apply(pub{"udp", 7000, l.boxes[:1]})
	if id, _, err := c.ask(); err != nil || id != "c1" {
		t.Errorf("%s %v", id, err)
	}
}

func TestApplyAgainChangesNothing(t *testing.T) {
	l := meshLab(t)
	pubs := []pub{{"tcp", 8080, l.boxes}, {"udp", 53, l.boxes[:1]}, {"tcp", 8089, nil}}
	l.apply(pubs...)
	h := l.hosts[0]
	before := l.dumpHost(h)
	l.apply(pubs...)
	if d := cmp.Diff(before, l.dumpHost(h)); d != "" {
		t.Errorf("Apply of the same state: %s", d)
	}
	l.must(h.k.Repair(t.Context()))
	if d := cmp.Diff(before, l.dumpHost(h)); d != "" || len(h.k.did) > 0 {
		t.Errorf("Repair of what is right: %v %s", h.k.did, d)
	}
	// Somebody else's change of the rulesets makes ours be looked at, and left alone.
	l.sh(h.space, "nft", "add table ip other")
	l.must(h.k.Repair(t.Context()))
	if len(h.k.did) > 0 {
		t.Errorf("Repair after a change of others: %v", h.k.did)
	}
	if _, err := h.k.Attach(t.Context(), "c1", engine.Attachment{Ingress: l.boxes[0].ingress}); err != nil {
		t.Error(err)
	}
	l.sh(h.space, "nft", "delete table ip other")
	if d := cmp.Diff(before, l.dumpHost(h)); d != "" {
		t.Errorf("Attach of what is attached: %s", d)
	}
}

func TestDriftIsRepaired(t *testing.T) {
	l := meshLab(t)
	h := l.hosts[0]
	h.k.cfg.CheckEvery = 50 * time.Millisecond // a repair is the same whenever it comes; the default is 5 s
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- h.k.Run(ctx) }()
	defer func() {
		stop()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}()
	works := func() error {
		for _, port := range []string{"8081", "8082"} {
			for _, proto := range []string{"tcp", "udp"} {
				if _, seen, err := ask(l.client, proto, "", h.addr+":"+port); err != nil || seen.String() != clientAddr {
					return fmt.Errorf("%s %s: %s %w", proto, port, seen, err)
				}
				if _, _, err := ask(l.client, proto, "", l.hosts[1].addr+":8081"); err != nil {
					return fmt.Errorf("%s through another node: %w", proto, err)
				}
			}
		}
		if _, _, err := ask(h.space, "tcp", "", "127.0.0.1:8082"); err != nil {
			return fmt.Errorf("loopback: %w", err)
		}
		_, _, err := ask(l.boxes[0].space, "tcp", "", h.addr+":8082")
		return err
	}
	l.must(works())
	outside := h.k.boxes.byID["c1"].Endpoints[0].Outside
	for _, damage := range []string{
		"ip route del 10.77.0.11", "ip route del 10.77.0.12", "ip route flush table 200", "ip rule del pref 200",
		"ip link del shoal-vx", "ip link del shoal-gw", "ip link del " + outside, "ip link set shoal-vx down", "ip link set shoal-gw down",
		"ip addr flush dev shoal-vx", "ip addr flush dev shoal-gw", "ip link set shoal-vx mtu 1400", "ip neigh flush dev shoal-vx nud permanent",
		"bridge fdb del 02:42:0a:4d:00:02 dev shoal-vx", "ip link set " + outside + " nomaster",
		"nft flush ruleset", "nft delete table ip shoal", "nft delete table netdev shoal", "nft flush chain ip shoal tcp-8081",
		"nft delete element ip shoal zones { 02:42:0a:4d:00:02 }", "nft flush map ip shoal ports", "nft flush chain netdev shoal egress",
		"sysctl -w net.ipv4.ip_forward=0", "sysctl -w net.ipv4.conf.shoal-vx.route_localnet=0",
		"ip route replace unreachable 10.77.0.12", "ip route add 10.99.0.0/24 dev shoal-gw proto 83",
	} {
		want := normal(l.dumpHost(h))
		l.sh(h.space, strings.Fields(damage)...)
		l.eventually(damage, func() bool { return cmp.Diff(want, normal(l.dumpHost(h))) == "" })
		l.eventually("everything works after "+damage, func() bool { return works() == nil })
	}
}

// normal takes out of a dump what differs between two things that are alike.
func normal(dump string) string {
	for _, re := range []struct{ find, put string }{
		{`# handle \d+`, ""}, {`(?m)^\d+: `, ""}, {`@if\d+`, "@if"}, {`__(set|map)\d+`, ""}, {`\bstate \w+`, ""}, {`link-netns \S+`, ""}, {`link-netnsid \d+`, ""},
		{`(?m)^.*\b(hello_timer|bridge_id|designated_root|topology_change|gc_timer|forward_delay)\b.*$`, ""},
		{`(?m)link/ether \S+ brd`, "link/ether brd"}, {` linkdown`, ""}, {`NO-CARRIER,?`, ""}, {`,LOWER_UP`, ""},
		{`\b(port_id|port_no|designated_port|designated_root|designated_bridge) \S+`, ""}, {`(?m)^.*bridge_slave.*$`, ""}, {`qdisc \w+`, ""}, {`broadcast .*\n`, ""},
	} {
		dump = regexp.MustCompile(re.find).ReplaceAllString(dump, re.put)
	}
	lines := strings.Split(dump, "\n")
	for i := range lines {
		lines[i] = strings.Join(strings.Fields(lines[i]), " ")
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// TestIncrementalIsAsWhole walks through random states by small changes, and compares with what writing the last of
// them at once gives.
func TestIncrementalIsAsWhole(t *testing.T) {
	l := newLab(t, 1)
	h := l.hosts[0]
	r := rand.New(rand.NewPCG(1, 2))
	random := func() network.Desired {
		d := l.desired(h)
		ing := d.Ingress
		for i := 2; i < 6; i++ {
			if r.IntN(3) > 0 {
				ing.Nodes = append(ing.Nodes, network.Node{
					ID: fmt.Sprintf("n%d", i), Index: uint16(i + r.IntN(2)*10), Underlay: netip.AddrFrom4([4]byte{198, 18, 77, byte(i + r.IntN(2)*10)}), Addr: netip.AddrFrom4([4]byte{10, 77, 0, byte(i + r.IntN(2)*100)}),
				})
			}
		}
		for i := 20; i < 40; i++ {
			if r.IntN(3) > 0 {
				ing.Endpoints = append(ing.Endpoints, network.Endpoint{Addr: netip.AddrFrom4([4]byte{10, 77, 0, byte(i)}), NodeID: fmt.Sprintf("n%d", 1+r.IntN(5))})
			}
		}
		for _, proto := range []string{"sctp", "tcp", "udp"} {
			for p := range 4 {
				if r.IntN(4) == 0 {
					continue
				}
				q := network.Port{Protocol: proto, Published: uint16(8080 + p)}
				for _, e := range ing.Endpoints {
					if r.IntN(4) == 0 {
						q.Backends = append(q.Backends, network.Backend{Addr: e.Addr, Port: uint16(80 + r.IntN(2))})
					}
				}
				ing.Ports = append(ing.Ports, q)
			}
		}
		return d
	}
	// The two ways differ in how nft prints the numbers of a pick, which are 0 to N-1 in either byte order.
	index := regexp.MustCompile(`\b\d+ : (10\.77\.0\.\d+ \. \d+)`)
	words := regexp.MustCompile(`[^\s,{}]+( : [^\s,{}]+( [^\s,{}]+)*)?`)
	dump := func() string {
		s := index.ReplaceAllString(normal(l.dumpHost(h)), "$1")
		all := words.FindAllString(s, -1)
		slices.Sort(all)
		return strings.Join(all, "\n")
	}
	var d network.Desired
	for step := range 30 {
		d = random()
		l.must(h.k.Apply(t.Context(), d))
		if step%5 != 0 {
			continue
		}
		got := dump()
		l.must(h.k.Repair(t.Context()))
		if len(h.k.did) > 0 {
			t.Fatalf("step %d: a full comparison finds %v", step, h.k.did)
		}
		h.k.table.Forget()
		l.must(h.k.Repair(t.Context()))
		if diff := cmp.Diff(dump(), got); diff != "" {
			t.Fatalf("step %d: %s", step, diff)
		}
	}
}

func TestRestart(t *testing.T) {
	l := meshLab(t)
	h := l.hosts[0]
	pubs := []pub{{"tcp", 8080, l.boxes}, {"tcp", 8081, l.boxes[:1]}, {"tcp", 8082, l.boxes[1:2]}}
	l.apply(pubs...)
	var open []*conn
	for _, to := range []string{h.addr + ":8081", h.addr + ":8082", l.hosts[1].addr + ":8081"} {
		c, err := dial(l.client, "tcp", "", to)
		l.must(err)
		defer c.Close()
		_, _, err = c.ask()
		l.must(err)
		open = append(open, c)
	}
	check := func(when string) {
		t.Helper()
		for i, c := range open {
			if _, seen, err := c.ask(); err != nil || seen.String() != clientAddr {
				t.Errorf("%s: connection %d: %s %v", when, i, seen, err)
			}
		}
		if _, _, err := ask(l.client, "tcp", "", h.addr+":8082"); err != nil {
			t.Errorf("%s: new connection: %v", when, err)
		}
	}
	before := l.dumpHost(h)
	l.must(h.k.Close())
	check("while it is away")
	l.open(h)
	check("before the first Apply")
	if d := cmp.Diff(before, l.dumpHost(h)); d != "" {
		t.Errorf("Open changed something: %s", d)
	}
	sb, err := h.k.Attach(t.Context(), "c1", engine.Attachment{Ingress: l.boxes[0].ingress})
	if err != nil || sb.Endpoints[0].Addr != l.boxes[0].addr {
		t.Errorf("the container's address was %s and is %s: %v", l.boxes[0].addr, sb.Endpoints[0].Addr, err)
	}
	l.must(h.k.Apply(t.Context(), l.desired(h, pubs...)))
	check("after the first Apply")
	if d := cmp.Diff(normal(before), normal(l.dumpHost(h))); d != "" {
		t.Errorf("the first Apply changed something: %s", d)
	}
	other, err := h.k.Attach(t.Context(), "new", engine.Attachment{})
	if err != nil || other.Endpoints[0].Addr == sb.Endpoints[0].Addr {
		t.Errorf("a new container's address is %s: %v", other.Endpoints[0].Addr, err)
	}
}

func TestDownLeavesNothing(t *testing.T) {
	l := newLab(t, 1)
	h := l.hosts[0]
	l.must(h.k.Down(t.Context()))
	l.must(h.k.Close())
	const foreign = "table ip docker-like { chain forward { type filter hook forward priority 0; policy accept; tcp dport 25 drop; }; }"
	l.sh(h.space, "nft", foreign)
	hl := l.handle(h.space)
	l.must(hl.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "docker0", TxQLen: -1}}))
	l.sh(h.space, "ip", "rule", "add", "pref", "777", "lookup", "777")
	before := l.dumpHost(h)
	l.open(h)
	l.run(h, "c", "10.77.0.11")
	l.apply(pub{"tcp", 8080, l.boxes})
	if _, _, err := ask(l.client, "tcp", "", h.addr+":8080"); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(l.sh(h.space, "nft", "list", "ruleset"), "docker-like") {
		t.Error("the other table is gone")
	}
	// Leaving the swarm keeps containers as they are.
	l.must(h.k.Apply(t.Context(), network.Desired{Self: h.id}))
	if s := l.dumpHost(h); strings.Contains(s, "shoal-vx:") || strings.Contains(s, "10.77.0.11 dev shoal-gw scope") || !strings.Contains(s, "shoal-gw:") {
		t.Errorf("after leaving: %s", s)
	}
	l.must(h.k.Down(t.Context()))
	if d := cmp.Diff(before, l.dumpHost(h)); d != "" {
		t.Errorf("left behind: %s", d)
	}
	for _, dir := range []string{h.cfg.NetnsDir, h.cfg.StateDir} {
		if files, err := os.ReadDir(dir); err != nil || len(files) > 0 {
			t.Errorf("left behind in %s: %v %v", dir, files, err)
		}
	}
	if _, err := h.k.Attach(t.Context(), "late", engine.Attachment{}); err == nil {
		t.Error("Attach after Down succeeds")
	}
}

func TestSubnetAvoidsTheHosts(t *testing.T) {
	l := newLab(t, 1)
	h := l.hosts[0]
	l.must(h.k.Down(t.Context()))
	l.must(h.k.Close())
	l.sh(h.space, "ip", "route", "add", "172.18.128.0/24", "dev", "eth0")
	l.sh(h.space, "ip", "addr", "add", "172.19.0.1/30", "dev", "eth0")
	l.open(h)
	box := l.run(h, "c", "")
	if want := netip.MustParsePrefix("172.20.0.0/16"); !want.Contains(box.addr) {
		t.Errorf("address %s, want one of %s", box.addr, want)
	}
	l.sh(h.space, "ip", "addr", "del", "172.19.0.1/30", "dev", "eth0")
	l.must(h.k.Close())
	l.open(h)
	if got := h.k.subnet.String(); got != "172.20.0.0/16" {
		t.Errorf("after a restart the subnet is %s", got)
	}
}

func TestForwardingIsTurnedOn(t *testing.T) {
	l := newLab(t, 1)
	if v := l.sh(l.hosts[0].space, "cat", "/proc/sys/net/ipv4/ip_forward"); v != "1\n" {
		t.Error(v)
	}
}

func TestUnderlayOfIPv6IsSaidAndTheRestWorks(t *testing.T) {
	l := meshLab(t)
	d := l.desired(l.hosts[0], pub{"tcp", 8080, l.boxes})
	d.Ingress.Nodes[2].Underlay = netip.MustParseAddr("2001:db8::3")
	if err := l.hosts[0].k.Apply(t.Context(), d); err == nil || !strings.Contains(err.Error(), "node n3 has the tunnel address 2001:db8::3") {
		t.Error(err)
	}
	for range 8 {
		if id, _, err := ask(l.client, "tcp", "", l.hosts[0].addr+":8080"); err != nil || id == "c3" {
			t.Errorf("%s %v", id, err)
		}
	}
}

func TestAttachAndDetach(t *testing.T) {
	l := newLab(t, 1)
	k := l.hosts[0].k
	for _, id := range []string{"", "../x", "a/b", ".hidden", strings.Repeat("x", 200)} {
		if _, err := k.Attach(t.Context(), id, engine.Attachment{}); err == nil {
			t.Errorf("container ID %q is taken", id)
		}
	}
	l.must(k.Detach(t.Context(), "never attached"))
	seen := map[netip.Addr]bool{}
	for i := range 20 { // an address rests before it is used again
		sb, err := k.Attach(t.Context(), "c", engine.Attachment{})
		l.must(err)
		if seen[sb.Endpoints[0].Addr] {
			t.Errorf("round %d: %s again", i, sb.Endpoints[0].Addr)
		}
		seen[sb.Endpoints[0].Addr] = true
		l.must(k.Detach(t.Context(), "c"))
		l.must(k.Detach(t.Context(), "c"))
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	at := map[netip.Addr]string{}
	for i := range 24 { // at the same time, each twice
		wg.Go(func() {
			id := fmt.Sprintf("p%d", i/2)
			sb, err := k.Attach(t.Context(), id, engine.Attachment{})
			mu.Lock()
			defer mu.Unlock()
			if other, taken := at[sb.Endpoints[0].Addr]; err != nil || taken && other != id {
				t.Errorf("%s and %s have %s: %v", id, other, sb.Endpoints[0].Addr, err)
			}
			at[sb.Endpoints[0].Addr] = id
		})
	}
	wg.Wait()
	// Another address on the mesh replaces the first.
	for _, a := range []string{"10.77.0.50", "10.77.0.51"} {
		_, err := k.Attach(t.Context(), "p0", engine.Attachment{Ingress: netip.MustParseAddr(a)})
		l.must(err)
	}
	x := k.boxes.byID["p0"]
	s, err := openSpace(k.boxes.netnsOf(x))
	l.must(err)
	out := l.sh(s, "ip", "addr", "show", "eth0")
	l.must(s.close()) // the namespace would live as long
	if strings.Contains(out, "10.77.0.50") || !strings.Contains(out, "10.77.0.51/32") {
		t.Error(out)
	}
	for i := range 12 {
		l.must(k.Detach(t.Context(), fmt.Sprintf("p%d", i)))
	}
	l.eventually("interfaces are gone", func() bool { return !strings.Contains(l.sh(l.hosts[0].space, "ip", "link"), "master shoal-gw") })
}

func TestSuite(t *testing.T) {
	networktest.Run(t, func(t *testing.T) networktest.Network { return newLab(t, 1).hosts[0].k })
}
