package network

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	mobynet "github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/swarm"
	"pgregory.net/rapid"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/store"
)

var byValue = cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})

func ingressNetwork() *cluster.Network {
	n := &cluster.Network{}
	n.ID = "ingress"
	n.DriverState.Options = map[string]string{cluster.OptionVNI: "4096"}
	n.IPAMOptions = &swarm.IPAMOptions{Configs: []swarm.IPAMConfig{{Subnet: netip.MustParsePrefix("10.0.0.0/24")}}}
	return n
}

func node(id string, index uint16, state swarm.NodeState) *cluster.Node {
	n := &cluster.Node{Index: index, IngressAddr: netip.AddrFrom4([4]byte{10, 0, 0, byte(index)})}
	n.ID, n.Status.State, n.Status.Addr = id, state, fmt.Sprintf("192.0.2.%d", index)
	return n
}

func task(id, service, node, addr string, state, desired swarm.TaskState) *cluster.Task {
	t := &cluster.Task{}
	t.ID, t.ServiceID, t.NodeID, t.Status.State, t.DesiredState = id, service, node, state, desired
	if addr != "" {
		a := swarm.NetworkAttachment{Addresses: []netip.Prefix{netip.MustParsePrefix(addr + "/24")}}
		a.Network.ID = "ingress"
		t.NetworksAttachments = []swarm.NetworkAttachment{a}
	}
	return t
}

func service(id string, ports ...swarm.PortConfig) *cluster.Service {
	s := &cluster.Service{}
	s.ID, s.Endpoint.Ports = id, ports
	return s
}

func published(protocol string, target, port uint32) swarm.PortConfig {
	return swarm.PortConfig{Protocol: mobynet.IPProtocol(protocol), TargetPort: target, PublishedPort: port, PublishMode: swarm.PortConfigPublishModeIngress}
}

func TestDerive(t *testing.T) {
	const run, ready, shut = swarm.TaskStateRunning, swarm.TaskStateReady, swarm.TaskStateShutdown
	in := Input{
		Network: ingressNetwork(), Port: 4789,
		Nodes: []*cluster.Node{
			node("n1", 1, swarm.NodeStateReady), node("n2", 2, swarm.NodeStateDown), node("n3", 3, swarm.NodeStateReady),
			node("unnumbered", 0, swarm.NodeStateReady),
		},
		Services: []*cluster.Service{
			service("web", published("tcp", 80, 8080), published("udp", 53, 5353)),
			service("idle", published("", 80, 8081)),
			service("host", swarm.PortConfig{Protocol: "tcp", TargetPort: 80, PublishedPort: 8082, PublishMode: swarm.PortConfigPublishModeHost}),
		},
		Tasks: []*cluster.Task{
			task("runs", "web", "n1", "10.0.0.11", run, run),
			task("runs-too", "web", "n3", "10.0.0.10", run, run),
			task("of-a-down-node", "web", "n2", "10.0.0.12", run, run),
			task("leaving", "web", "n1", "10.0.0.13", run, shut),
			task("starting", "web", "n1", "10.0.0.14", swarm.TaskStateStarting, run),
			task("waiting", "web", "n1", "10.0.0.15", ready, ready),
			task("ended", "web", "n1", "10.0.0.16", swarm.TaskStateFailed, run),
			task("nowhere", "web", "", "10.0.0.17", swarm.TaskStatePending, run),
			task("addressless", "web", "n1", "", run, run),
			task("of-no-node", "web", "unnumbered", "10.0.0.18", run, run),
		},
	}
	in.Nodes[2].DataPathAddr = netip.MustParseAddr("198.51.100.3")
	addr := netip.MustParseAddr
	web := func(port uint16) []Backend { return []Backend{{addr("10.0.0.10"), port}, {addr("10.0.0.11"), port}} }
	want := &Ingress{
		Subnet: netip.MustParsePrefix("10.0.0.0/24"), VNI: 4096, Port: 4789,
		Nodes: []Node{
			{"n1", 1, addr("192.0.2.1"), addr("10.0.0.1")}, {"n2", 2, addr("192.0.2.2"), addr("10.0.0.2")},
			{"n3", 3, addr("198.51.100.3"), addr("10.0.0.3")},
		},
		Endpoints: []Endpoint{
			{addr("10.0.0.10"), "n3"}, {addr("10.0.0.11"), "n1"}, {addr("10.0.0.12"), "n2"}, {addr("10.0.0.13"), "n1"},
			{addr("10.0.0.14"), "n1"}, {addr("10.0.0.15"), "n1"}, {addr("10.0.0.18"), "unnumbered"},
		},
		Ports: []Port{{"tcp", 8080, web(80)}, {"tcp", 8081, nil}, {"udp", 5353, web(53)}},
	}
	if d := cmp.Diff(want, Derive(in), byValue); d != "" {
		t.Error(d)
	}
}

func TestDeriveWithoutANetwork(t *testing.T) {
	noVNI, noSubnet, badVNI := ingressNetwork(), ingressNetwork(), ingressNetwork()
	noVNI.DriverState.Options = nil
	noSubnet.IPAMOptions = nil
	badVNI.DriverState.Options = map[string]string{cluster.OptionVNI: "16777216"} // one more than 24 bits hold
	for name, n := range map[string]*cluster.Network{"no network": nil, "no VNI": noVNI, "no subnet": noSubnet, "VNI too large": badVNI} {
		if got := Derive(Input{Network: n}); got != nil {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// inputs generates records that collide on purpose: few addresses, few ports, few services.
func inputs(t *rapid.T) Input {
	in := Input{Network: ingressNetwork(), Port: 4789}
	pick := func(label string, max int) int { return rapid.IntRange(0, max).Draw(t, label) }
	for i := range pick("nodes", 4) {
		n := node(fmt.Sprintf("n%d", i), uint16(i), []swarm.NodeState{swarm.NodeStateReady, swarm.NodeStateDown}[pick("down", 1)])
		in.Nodes = append(in.Nodes, n)
	}
	for i := range pick("services", 3) {
		s := service(fmt.Sprintf("s%d", i))
		for range pick("ports", 3) {
			s.Endpoint.Ports = append(s.Endpoint.Ports,
				published([]string{"tcp", "udp", ""}[pick("proto", 2)], uint32(80+pick("target", 1)), uint32(8080+pick("port", 3))))
		}
		in.Services = append(in.Services, s)
	}
	states := []swarm.TaskState{swarm.TaskStateRunning, swarm.TaskStateStarting, swarm.TaskStateFailed}
	wants := []swarm.TaskState{swarm.TaskStateRunning, swarm.TaskStateShutdown}
	for i := range pick("tasks", 8) {
		in.Tasks = append(in.Tasks, task(fmt.Sprintf("t%d", i), fmt.Sprintf("s%d", pick("service", 3)), fmt.Sprintf("n%d", pick("node", 4)),
			fmt.Sprintf("10.0.0.%d", 10+pick("addr", 9)), states[pick("state", 2)], wants[pick("wants", 1)]))
	}
	return in
}

func TestDeriveIgnoresOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := inputs(t)
		b := a
		b.Nodes, b.Services, b.Tasks = slices.Clone(a.Nodes), slices.Clone(a.Services), slices.Clone(a.Tasks)
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		r.Shuffle(len(b.Nodes), func(i, j int) { b.Nodes[i], b.Nodes[j] = b.Nodes[j], b.Nodes[i] })
		r.Shuffle(len(b.Services), func(i, j int) { b.Services[i], b.Services[j] = b.Services[j], b.Services[i] })
		r.Shuffle(len(b.Tasks), func(i, j int) { b.Tasks[i], b.Tasks[j] = b.Tasks[j], b.Tasks[i] })
		if d := cmp.Diff(Derive(a), Derive(b), byValue); d != "" {
			t.Fatal(d)
		}
	})
}

// ingresses generates meshes, or none, whose port also differs.
func ingresses(t *rapid.T, label string) *Ingress {
	in := inputs(t)
	if rapid.IntRange(0, 5).Draw(t, label+" absent") == 0 {
		in.Network = nil
	}
	in.Port = []uint16{4789, 4790}[rapid.IntRange(0, 1).Draw(t, label+" port")]
	return Derive(in)
}

func TestDeltaMakesTheOneOutOfTheOther(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := ingresses(t, "a"), ingresses(t, "b")
		before, err := store.Marshal(a)
		if err != nil {
			t.Fatal(err)
		}
		d := Diff(a, b)
		wire, err := store.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		var received *Delta
		if err := store.Unmarshal(wire, &received); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(b, received.Apply(a), byValue); diff != "" {
			t.Fatalf("%v: %s", d, diff)
		}
		if after, _ := store.Marshal(a); string(before) != string(after) {
			t.Fatal("Apply changed the state that it was applied to")
		}
		if a.Equal(b) != (d == nil) || !b.Equal(received.Apply(a)) {
			t.Fatalf("Equal is %v, the difference is %v", a.Equal(b), d)
		}
		if Diff(b, b) != nil {
			t.Fatalf("a difference between a state and itself: %v", Diff(b, b))
		}
	})
}

func TestDeltaIsSmall(t *testing.T) {
	mesh := func(backends int) *Ingress {
		in := Input{Network: ingressNetwork(), Nodes: []*cluster.Node{node("n1", 1, swarm.NodeStateReady)}, Services: []*cluster.Service{service("web", published("tcp", 80, 8080))}}
		for i := range backends {
			in.Tasks = append(in.Tasks, task(fmt.Sprintf("t%03d", i), "web", "n1", fmt.Sprintf("10.0.0.%d", 10+i), swarm.TaskStateRunning, swarm.TaskStateRunning))
		}
		return Derive(in)
	}
	d := Diff(mesh(100), mesh(99))
	wire, err := store.Marshal(d)
	if err != nil || len(wire) > 120 || !strings.Contains(d.String(), "endpoints +0 -1, ports 1") {
		t.Errorf("one task less is %d bytes: %v, %v", len(wire), d, err)
	}
}
