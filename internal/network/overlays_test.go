package network

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
)

func overlayNetwork(id, subnet, vni string) *cluster.Network {
	n := &cluster.Network{}
	n.ID, n.Spec.Name = id, "name-of-"+id
	n.DriverState.Options = map[string]string{cluster.OptionVNI: vni, cluster.OptionMTU: "1400"}
	n.IPAMOptions = &swarm.IPAMOptions{Configs: []swarm.IPAMConfig{{Subnet: netip.MustParsePrefix(subnet)}}}
	return n
}

func on(t *cluster.Task, networkID, addr string, slot int) *cluster.Task {
	t.Slot, t.ServiceName = slot, t.ServiceID+"-name"
	t.NetworksAttachments = append(t.NetworksAttachments, swarm.NetworkAttachment{
		Network: swarm.Network{ID: networkID}, Addresses: []netip.Prefix{netip.MustParsePrefix(addr + "/24")},
	})
	return t
}

func serviceOn(id, networkID, vip string, aliases ...string) *cluster.Service {
	s := &cluster.Service{}
	s.ID, s.Spec.Name = id, id+"-Name"
	s.Spec.TaskTemplate.Networks = []swarm.NetworkAttachmentConfig{{Target: networkID, Aliases: aliases}}
	if vip != "" {
		s.Endpoint.VirtualIPs = []swarm.EndpointVirtualIP{{NetworkID: networkID, Addr: netip.MustParsePrefix(vip + "/24")}}
	}
	return s
}

func addrs(list ...string) []netip.Addr {
	var out []netip.Addr
	for _, a := range list {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

func TestDeriveOverlays(t *testing.T) {
	const run, ready, shut = swarm.TaskStateRunning, swarm.TaskStateReady, swarm.TaskStateShutdown
	ingress := ingressNetwork()
	ingress.Spec.Ingress = true
	in := Input{
		Port:  4789,
		Nodes: []*cluster.Node{node("n1", 1, swarm.NodeStateReady), node("n2", 2, swarm.NodeStateReady), node("down", 3, swarm.NodeStateDown)},
		Services: []*cluster.Service{
			serviceOn("web", "a", "10.1.0.2", "www", "www"), serviceOn("rr", "a", ""), serviceOn("none", "a", "10.1.0.3"), serviceOn("other", "b", "10.2.0.2"),
		},
		Tasks: []*cluster.Task{
			on(task("t1", "web", "n1", "", run, run), "a", "10.1.0.11", 1),
			on(task("t2", "web", "n2", "", run, run), "a", "10.1.0.10", 2),
			on(task("t3", "web", "n2", "", run, shut), "a", "10.1.0.12", 3),      // on its way out
			on(task("t4", "web", "down", "", run, run), "a", "10.1.0.13", 4),     // its node is gone
			on(task("t5", "web", "n2", "", shut, shut), "a", "10.1.0.14", 5),     // ended
			on(task("t6", "web", "n1", "", ready, run), "a", "10.1.0.15", 6),     // not there yet
			on(task("t7", "rr", "n1", "", run, run), "a", "10.1.0.20", 0),        // of a global service
			on(task("t8", "other", "", "", run, run), "b", "10.2.0.9", 1),        // without a node
			on(task("t9", "gone", "n2", "", run, run), "a", "10.1.0.30", 1),      // of a service that is removed
			on(task("ta", "web", "n1", "", run, run), "ingress", "10.0.0.40", 9), // only on the mesh
		},
	}
	got := DeriveOverlays(in, []*cluster.Network{overlayNetwork("b", "10.2.0.0/24", "4098"), overlayNetwork("a", "10.1.0.0/24", "4097"), ingress})
	want := []*Overlay{{
		ID: "a", Name: "name-of-a", Subnet: netip.MustParsePrefix("10.1.0.0/24"), Gateway: netip.MustParseAddr("10.1.0.1"), VNI: 4097, Port: 4789, MTU: 1400,
		Peers: []Peer{{"down", netip.MustParseAddr("192.0.2.3")}, {"n1", netip.MustParseAddr("192.0.2.1")}, {"n2", netip.MustParseAddr("192.0.2.2")}},
		Endpoints: []Endpoint{
			{netip.MustParseAddr("10.1.0.10"), "n2"}, {netip.MustParseAddr("10.1.0.11"), "n1"}, {netip.MustParseAddr("10.1.0.12"), "n2"},
			{netip.MustParseAddr("10.1.0.13"), "down"}, {netip.MustParseAddr("10.1.0.15"), "n1"}, {netip.MustParseAddr("10.1.0.20"), "n1"},
			{netip.MustParseAddr("10.1.0.30"), "n2"},
		},
		VIPs: []VIP{{netip.MustParseAddr("10.1.0.2"), addrs("10.1.0.10", "10.1.0.11")}, {Addr: netip.MustParseAddr("10.1.0.3")}},
		Names: []Name{
			{"gone-name.1.t9", addrs("10.1.0.30"), false},
			{"none-name", addrs("10.1.0.3"), false},
			{"rr-name", addrs("10.1.0.20"), false},
			{"rr-name.n1.t7", addrs("10.1.0.20"), false},
			{"tasks.none-name", nil, true},
			{"tasks.rr-name", addrs("10.1.0.20"), true},
			{"tasks.web-name", addrs("10.1.0.10", "10.1.0.11"), true},
			{"tasks.www", addrs("10.1.0.10", "10.1.0.11"), true},
			{"web-name", addrs("10.1.0.2"), false},
			{"web-name.1.t1", addrs("10.1.0.11"), false},
			{"web-name.2.t2", addrs("10.1.0.10"), false},
			{"www", addrs("10.1.0.2"), true},
		},
	}}
	if d := cmp.Diff(want, got, byValue); d != "" {
		t.Error(d)
	}
	again := DeriveOverlays(in, []*cluster.Network{overlayNetwork("a", "10.1.0.0/24", "4097")})
	if !again[0].Equal(got[0]) {
		t.Error("the same records gave another network")
	}
	in.Tasks[0].DesiredState = shut
	if DeriveOverlays(in, []*cluster.Network{overlayNetwork("a", "10.1.0.0/24", "4097")})[0].Equal(got[0]) {
		t.Error("a task that is to stop changed nothing")
	}
}

// TestAttachments: a plain container is found by its names and called by the first.
func TestAttachments(t *testing.T) {
	box := on(task("t1", "", "n1", "", swarm.TaskStateRunning, swarm.TaskStateRunning), "a", "10.1.0.11", 0)
	box.Spec.NetworkAttachmentSpec = &swarm.NetworkAttachmentSpec{ContainerID: "c"}
	box.Spec.Networks = []swarm.NetworkAttachmentConfig{{Target: "a", Aliases: []string{"Box", "alias"}}}
	in := Input{Nodes: []*cluster.Node{node("n1", 1, swarm.NodeStateReady)}, Tasks: []*cluster.Task{box}}
	got := DeriveOverlays(in, []*cluster.Network{overlayNetwork("a", "10.1.0.0/24", "4097")})
	at := addrs("10.1.0.11")
	if d := cmp.Diff([]Name{{"alias", at, true}, {"box", at, false}}, got[0].Names, byValue); d != "" || len(got[0].Endpoints) != 1 {
		t.Error(d, got[0].Endpoints)
	}
}
