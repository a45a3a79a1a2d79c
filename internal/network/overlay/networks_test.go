package overlay

import (
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	apinetwork "github.com/moby/moby/api/types/network"

	"shoal.dev/shoal/internal/engine"
)

// network makes a network on the host.
func (l *lab) network(h *labHost, r apinetwork.CreateRequest) *apinetwork.Inspect {
	l.t.Helper()
	n, err := h.k.CreateNetwork(l.t.Context(), r)
	l.must(err)
	return n
}

func at(networks ...string) engine.Attachment {
	a := engine.Attachment{Networks: []engine.EndpointRequest{}}
	for _, n := range networks {
		a.Networks = append(a.Networks, engine.EndpointRequest{Network: n})
	}
	return a
}

// TestNetworks is who reaches whom over the networks of a host, over a repair, a restart of the daemon and of the host.
func TestNetworks(t *testing.T) {
	l := newLab(t, 1)
	h := l.hosts[0]
	l.network(h, apinetwork.CreateRequest{Name: "front"})
	l.network(h, apinetwork.CreateRequest{Name: "back", Options: map[string]string{"com.docker.network.driver.mtu": "1400"}})
	l.network(h, apinetwork.CreateRequest{Name: "inner", Internal: true})
	l.network(h, apinetwork.CreateRequest{Name: "apart", Options: map[string]string{
		"com.docker.network.bridge.enable_icc": "false", "com.docker.network.bridge.name": "mine0", "com.docker.network.bridge.host_binding_ipv4": "127.0.0.1"}})
	web := at("front")
	web.Ports = []engine.PortRequest{request("80/tcp", "", 8080)}
	bound := at("apart")
	bound.Ports = []engine.PortRequest{request("80/tcp", "", 8081)}
	boxes := map[string]*labBox{
		"f1": l.runOn(h, "f1", web), "f2": l.runOn(h, "f2", at("front")), "b1": l.runOn(h, "b1", at("back")), "both": l.runOn(h, "both", at("front", "back")),
		"i1": l.runOn(h, "i1", at("inner")), "i2": l.runOn(h, "i2", at("inner", "front")), "a1": l.runOn(h, "a1", bound), "a2": l.runOn(h, "a2", at("apart")),
		"old": l.run(h, "old", ""),
	}
	if out := l.sh(boxes["b1"].space, "ip", "link", "show", "eth0"); !strings.Contains(out, "mtu 1400") {
		t.Error(out)
	}
	check := func(when string) {
		t.Helper()
		addrs := map[string]string{}
		for id := range boxes {
			x := h.k.boxes.byID[id]
			for _, p := range x.Endpoints {
				addrs[id+"@"+p.net.Name] = p.Addr.String() + ":80"
			}
		}
		var all sync.WaitGroup // what is dropped takes its time to be seen
		defer all.Wait()
		reach := func(from, to string, want string) {
			all.Go(func() {
				id, _, err := ask(boxes[from].space, "tcp", "", to)
				if want == "" && err == nil {
					t.Errorf("%s: %s reaches %s: %s", when, from, to, id)
				}
				if want != "" && (err != nil || id != want) {
					t.Errorf("%s: %s asks %s: %q, %v", when, from, to, id, err)
				}
			})
		}
		reach("f1", addrs["f2@front"], "f2")
		reach("f1", addrs["both@front"], "both")
		reach("both", addrs["b1@back"], "b1")
		reach("i1", addrs["i2@inner"], "i2")
		for _, no := range [][2]string{
			{"f1", "b1@back"}, {"f1", "both@back"}, {"f1", "i1@inner"}, {"i1", "f1@front"}, {"i1", "i2@front"}, {"i2", "b1@back"}, {"a1", "a2@apart"},
			{"old", "f1@front"}, {"f1", "old@bridge"},
		} {
			reach(no[0], addrs[no[1]], "")
		}
		for _, from := range []string{"f2", "b1", "old", "a1", "both"} { // published ports, through the host
			reach(from, h.addr+":8080", "f1")
		}
		reach("i1", h.addr+":8080", "")
		reach("i1", "198.18.77.250:7", "")
		if id, seen, err := ask(l.client, "tcp", "", h.addr+":8080"); err != nil || id != "f1" || seen.String() != clientAddr {
			t.Errorf("%s: from outside: %q %s %v", when, id, seen, err)
		}
		all.Go(func() {
			if _, _, err := ask(l.client, "tcp", "", h.addr+":8081"); err == nil {
				t.Errorf("%s: what is bound to loopback is reached from outside", when)
			}
		})
		if id, _, err := ask(h.space, "tcp", "", "127.0.0.1:8081"); err != nil || id != "a1" {
			t.Errorf("%s: on the host: %q, %v", when, id, err)
		}
		for _, from := range []string{"f1", "b1", "both", "a2"} { // out, with the host's address
			out := l.sh(boxes[from].space, "ip", "route", "get", clientAddr)
			if !strings.Contains(out, "via") {
				t.Errorf("%s: %s has no way out: %s", when, from, out)
			}
		}
	}
	check("at first")

	bridge := func(name string) string {
		n, err := h.k.boxes.nets.Find(name)
		l.must(err)
		return n.BridgeName()
	}
	for _, damage := range [][]string{
		{"ip", "link", "del", bridge("front")}, {"ip", "addr", "flush", "dev", bridge("inner")}, {"ip", "link", "set", bridge("back"), "down"},
		{"nft", "flush", "set", "ip", "shoal", "internal"}, {"nft", "flush", "ruleset"},
	} {
		l.sh(h.space, damage...)
		l.must(h.k.Repair(t.Context()))
		check("after " + strings.Join(damage, " "))
	}

	l.must(h.k.Close())
	l.open(h)
	check("after a restart")
	if got := h.k.LocalNetworks(); len(got) != 7 {
		t.Errorf("networks after a restart: %+v", got)
	}
	if n, err := h.k.RemoveNetwork(t.Context(), "front"); err == nil || !errdefs.IsPermissionDenied(err) {
		t.Errorf("%+v, %v", n, err)
	}

	// A swarm's mesh beside them.
	task := l.run(h, "task", "10.77.0.11")
	l.apply(pub{"tcp", 8090, []*labBox{task}})
	boxes["task"] = task
	check("in a swarm")
	for _, from := range []string{"f1", "b1", "both"} {
		if id, _, err := ask(boxes[from].space, "tcp", "", h.addr+":8090"); err != nil || id != "task" {
			t.Errorf("%s asks a service: %q, %v", from, id, err)
		}
	}
	if _, _, err := ask(boxes["i1"].space, "tcp", "", h.addr+":8090"); err == nil {
		t.Error("an internal network reaches a service")
	}
	if _, _, err := ask(boxes["f1"].space, "tcp", "", "10.77.0.11:80"); err == nil {
		t.Error("a container reaches a task past its port")
	}
	l.must(h.k.Close())
	l.open(h) // before the first Apply, the mesh is from before
	l.network(h, apinetwork.CreateRequest{Name: "late"})
	boxes["l1"], boxes["l2"] = l.runOn(h, "l1", at("late")), l.runOn(h, "l2", at("late"))
	check("after a restart in a swarm")
	if id, _, err := ask(boxes["l1"].space, "tcp", "", h.addr+":8090"); err != nil || id != "task" {
		t.Errorf("a new network's container asks a service: %q, %v", id, err)
	}
	if _, _, err := ask(boxes["l1"].space, "tcp", "", boxes["f2"].addr.String()+":80"); err == nil {
		t.Error("a new network is not apart")
	}

	for id := range boxes {
		l.must(h.k.Detach(t.Context(), id))
	}
	names := []string{bridge("front"), bridge("back"), bridge("inner"), "mine0", bridge("late")}
	for _, n := range []string{"front", "back", "inner", "apart", "late"} {
		_, err := h.k.RemoveNetwork(t.Context(), n)
		l.must(err)
	}
	for _, name := range names {
		if out := l.sh(h.space, "ip", "link"); strings.Contains(out, name+":") {
			t.Errorf("%s is left: %s", name, out)
		}
	}
}

// TestConnect changes the networks of a running container.
func TestConnect(t *testing.T) {
	l := newLab(t, 1)
	h := l.hosts[0]
	for _, n := range []string{"a", "b"} {
		l.network(h, apinetwork.CreateRequest{Name: n})
	}
	inner := l.network(h, apinetwork.CreateRequest{Name: "inner", Internal: true})
	ports := []engine.PortRequest{request("80/tcp", "", 8080)}
	first := at("a")
	first.Ports = ports
	c := l.runOn(h, "c", first)
	way := func() string { return l.sh(c.space, "ip", "route", "show", "default") }
	again := func(what, want string, a engine.Attachment) engine.Sandbox {
		t.Helper()
		a.Ports = ports
		sb, err := h.k.Attach(t.Context(), "c", a)
		l.must(err)
		if got := way(); want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("%s: the way out is %q; want %q", what, got, want)
		}
		if id, _, err := ask(l.client, "tcp", "", h.addr+":8080"); (want != "") != (err == nil) || err == nil && id != "c" {
			t.Errorf("%s: its port: %q, %v", what, id, err)
		}
		return sb
	}
	one := again("the same", "dev eth0", at("a"))
	two := again("one more", "dev eth0", at("a", "b"))
	if two.Endpoints[0].ID != one.Endpoints[0].ID || two.Endpoints[1].Interface != "eth1" {
		t.Errorf("%+v, then %+v", one, two)
	}
	prio := at("a", "b")
	prio.Networks[1].Priority = 1
	again("by priority", "dev eth1", prio)
	again("only the second", "dev eth1", at("b"))
	if out := l.sh(c.space, "ip", "link"); strings.Contains(out, "eth0") {
		t.Error(out)
	}
	again("back to the first", "dev eth0", at("a", "b"))
	again("internal only", "", at("inner"))
	if inner.Internal {
		if out := l.sh(c.space, "ip", "-4", "-br", "addr"); strings.Count(out, "eth") != 1 || !strings.Contains(out, inner.IPAM.Config[0].Subnet.Addr().String()[:6]) {
			t.Error(out)
		}
	}
	again("nothing at all", "", at())
	fixed := at("a")
	fixed.Networks[0].Addr = netip.MustParseAddr("172.19.0.200")
	fixed.Networks[0].MAC = "02:00:00:00:00:99"
	again("with an address", "dev eth0", fixed)
	if out := l.sh(c.space, "ip", "addr"); !strings.Contains(out, "172.19.0.200/16") || !strings.Contains(out, "02:00:00:00:00:99") {
		t.Error(out)
	}
}
