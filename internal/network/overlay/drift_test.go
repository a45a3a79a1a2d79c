package overlay

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	mdns "github.com/miekg/dns"

	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/network"
)

// unstable is what of a dump differs after something was made anew: numbers, and the names of interfaces that are drawn.
var unstable = regexp.MustCompile(`(?m)^(?:[0-9a-f]{2}:){5}[0-9a-f]{2} dev (?:shoal-[0-9a-f]{8}|vxlan0 master br0 permanent).*\n|^\d+: |@if\d+|link-netnsid \d+|shoal-[0-9a-f]{8}\b| # handle \d+|udp dport 53 .*|tcp dport 53 .*|link-netns \S+`)

// passing is what the kernel notices in its own time: that the other end is up again, and what a bridge has learned.
var passing = regexp.MustCompile(`(?m)^.* master \S+ \n|linkdown `)

// TestDrift has others change what is ours, in every kind of namespace: the next repair makes what it was before, in one
// go, and leaves alone what nobody touched.
func TestDrift(t *testing.T) {
	l := newOverlayLab(t, 2)
	id := l.net(1)
	ip := netip.MustParseAddr
	join := func(h *labHost, name, addr, ingress string) *labBox {
		l.change(id, func(o *network.Overlay) {
			o.Endpoints = append(o.Endpoints, network.Endpoint{Addr: ip(addr), NodeID: h.id})
		})
		return l.runOn(h, name, engine.Attachment{Ingress: ip(ingress), Networks: []engine.EndpointRequest{{Network: "bridge"}, {Network: id, Addr: ip(addr)}}})
	}
	h := l.hosts[0]
	boxes := []*labBox{join(h, "c1", "10.1.1.11", "10.77.0.11"), join(h, "c2", "10.1.1.12", "10.77.0.12"), join(l.hosts[1], "c3", "10.1.1.13", "10.77.0.13")}
	l.change(id, func(o *network.Overlay) {
		o.VIPs = []network.VIP{{Addr: ip("10.1.1.2"), Backends: []netip.Addr{ip("10.1.1.13")}}}
		o.Names = []network.Name{{Name: "web", Addrs: []netip.Addr{ip("10.1.1.2")}}}
	})
	for _, h := range l.hosts {
		d := l.desiredOn(h)
		d.Ingress = l.desired(h, pub{"tcp", 8080, boxes[2:]}).Ingress
		l.must(h.k.Apply(t.Context(), d))
	}
	inner, err := openSpace(h.k.segmentPath(id))
	l.must(err)
	defer inner.close()
	spaces := map[string]*space{"host": h.space, "network": inner, "c1": boxes[0].space, "c2": boxes[1].space}
	dump := func(where string) string {
		t.Helper()
		var b strings.Builder
		for _, argv := range [][]string{
			{"nft", "-a", "list", "ruleset"}, {"ip", "-o", "addr"}, {"ip", "route", "show", "table", "all"}, {"ip", "rule"}, {"ip", "neigh", "show", "nud", "permanent"}, {"bridge", "fdb", "show"},
		} {
			b.WriteString(passing.ReplaceAllString(itself.ReplaceAllString(l.sh(spaces[where], argv...), ""), ""))
		}
		return b.String()
	}
	works := func(when string) {
		t.Helper()
		for _, b := range boxes[:2] {
			for proto, to := range map[string]string{"tcp": "10.1.1.2:80", "udp": "10.1.1.13:80"} {
				if who, _, err := ask(b.space, proto, "", to); who != "c3" {
					t.Errorf("%s: %s asks %s: %q %v", when, b.id, to, who, err)
				}
			}
			if got := resolve(b.space, "udp", "web", mdns.TypeA); got != "NOERROR 10.1.1.2" {
				t.Errorf("%s: %s asks for a name: %s", when, b.id, got)
			}
		}
		if who, seen, err := ask(l.client, "tcp", "", h.addr+":8080"); who != "c3" || seen.String() != clientAddr {
			t.Errorf("%s: a client asks: %q %v %v", when, who, seen, err)
		}
	}
	l.must(h.k.Repair(t.Context()))
	works("at first")
	out := boxOf(h, "c1", id).Outside
	mac := "02:42:0a:01:01:0d"
	for _, c := range []struct {
		where, damage string
		also          string // what else changes with it
	}{
		{"host", "nft flush ruleset", ""},
		{"host", "nft delete table ip shoal", ""},
		{"host", "nft delete table netdev shoal", ""},
		{"host", "nft flush chain ip shoal forward", ""},
		{"host", "nft flush map ip shoal zones", ""},
		{"host", "ip route del 10.77.0.13", ""},
		{"host", "ip route del 10.77.0.11", ""},
		{"host", "ip route flush table 200", ""},
		{"host", "ip rule del priority 200", ""},
		{"host", "ip route del $SUBNET", ""},
		{"host", "ip neigh flush nud permanent dev shoal-vx", ""},
		{"host", "bridge fdb del 02:42:0a:4d:00:02 dev shoal-vx", ""},
		{"host", "ip link del shoal-vx", ""},
		{"host", "ip link set shoal-vx down", ""},
		{"host", "ip link del shoal-gw", ""},
		{"host", "ip addr flush dev shoal-gw", ""},
		{"network", "nft flush ruleset", ""},
		{"network", "nft flush chain bridge shoal in", ""},
		{"network", "ip link del br0", ""},
		{"network", "ip link set br0 down", ""},
		{"network", "ip link del vxlan0", ""},
		{"network", "ip link set vxlan0 nomaster", ""},
		{"network", "ip link set vxlan0 down", ""},
		{"network", "ip neigh del 10.1.1.13 dev vxlan0", ""},
		{"network", "bridge fdb del " + mac + " dev vxlan0 self", ""},
		{"network", "bridge fdb del " + mac + " dev vxlan0 master", ""},
		{"network", "ip link set " + out + " nomaster", ""},
		{"network", "ip link set " + out + " down", ""},
		{"network", "ip link del " + out, "c1"},
		{"c1", "nft flush ruleset", ""},
		{"c1", "nft delete table ip shoal_vip", ""},
		{"c1", "nft flush chain ip shoal_vip out", ""},
		{"c1", "nft delete table ip shoal-names", ""},
		{"c1", "ip route flush table main", ""},
		{"c1", "ip route del default", ""},
		{"c1", "ip route del 10.1.1.0/24", ""},
		{"c1", "ip addr del 10.1.1.11/24 dev eth1", ""},
		{"c1", "ip addr flush dev eth0", ""},
		{"c1", "ip link set eth1 down", ""},
		{"c1", "ip link del eth0", "host"},
		{"c1", "ip link del eth1", "network"},
	} {
		before := map[string]string{}
		for where := range spaces {
			before[where] = dump(where)
		}
		damage := strings.ReplaceAll(c.damage, "$SUBNET", h.k.subnet.String())
		l.sh(spaces[c.where], strings.Fields(damage)...)
		if dump(c.where) == before[c.where] {
			t.Fatalf("%s in %s changes nothing", damage, c.where)
		}
		l.must(h.k.Repair(t.Context()))
		if len(h.k.did) == 0 {
			t.Errorf("%s in %s: nothing was found", damage, c.where)
		}
		for where := range spaces {
			was, is := before[where], dump(where)
			if where == c.where || where == c.also {
				was, is = unstable.ReplaceAllString(was, ""), unstable.ReplaceAllString(is, "")
			}
			if diff := cmp.Diff(slices.Sorted(strings.Lines(was)), slices.Sorted(strings.Lines(is))); diff != "" {
				t.Errorf("%s in %s changes %s:\n%s", damage, c.where, where, diff)
			}
		}
		l.must(h.k.Repair(t.Context()))
		if len(h.k.did) > 0 {
			t.Errorf("%s in %s: repaired twice: %v", damage, c.where, h.k.did)
		}
		works("after " + damage + " in " + c.where)
		if t.Failed() {
			t.FailNow()
		}
	}
}

// TestDriftOfOneself leaves a container what it made in its own namespace.
func TestDriftOfOneself(t *testing.T) {
	l, _, boxes := threeOn(t)
	k := l.hosts[0].k
	l.must(k.Repair(t.Context()))
	for _, own := range []string{
		"ip addr add 10.99.0.1/24 dev eth1", "ip route add 10.98.0.0/16 via 10.1.1.12", "nft add table ip mine", "nft add chain ip mine out { type filter hook output priority 0 ; }",
		"ip route replace default via 10.1.1.12",
	} {
		l.sh(boxes[0].space, strings.Fields(own)...)
	}
	l.must(k.Repair(t.Context()))
	if len(k.did) > 0 {
		t.Errorf("repaired: %v", k.did)
	}
	out := l.sh(boxes[0].space, "ip", "route") + l.sh(boxes[0].space, "ip", "addr") + l.sh(boxes[0].space, "nft", "list", "ruleset")
	for _, own := range []string{"10.99.0.1/24", "10.98.0.0/16", "table ip mine", "default via 10.1.1.12"} {
		if !strings.Contains(out, own) {
			t.Errorf("%s is gone: %s", own, out)
		}
	}
}

// boxOf is a container's place on a network.
func boxOf(h *labHost, id, network string) *endpoint { return h.k.boxes.byID[id].on(network) }
