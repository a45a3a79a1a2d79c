package address_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/moby/moby/api/types/swarm"
	"pgregory.net/rapid"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/reconcile/address"
	"shoal.dev/shoal/internal/reconcile/plantest"
	"shoal.dev/shoal/internal/store"
)

func ingress(s *plantest.Swarm, subnet string) {
	s.Helper()
	n := &cluster.Network{}
	n.ID = "ing"
	n.Spec.Name, n.Spec.Ingress = "ingress", true
	n.IPAMOptions = &swarm.IPAMOptions{Configs: []swarm.IPAMConfig{{Subnet: netip.MustParsePrefix(subnet)}}}
	s.Put(n)
}

func publish(published uint32) func(*cluster.Service) {
	return func(v *cluster.Service) {
		v.Spec.EndpointSpec = &swarm.EndpointSpec{Ports: []swarm.PortConfig{{Protocol: "tcp", TargetPort: 80, PublishedPort: published}}}
	}
}

func task(s *plantest.Swarm, service string) *cluster.Task {
	s.Helper()
	t := &cluster.Task{}
	t.ID, t.ServiceID, t.Slot = s.NewID(), service, 1
	t.DesiredState, t.Status.State = swarm.TaskStateRunning, swarm.TaskStateNew
	s.Put(t)
	return t
}

func get(s *plantest.Swarm, t *cluster.Task) *cluster.Task {
	return plantest.Get[*cluster.Task](s, t.ID)
}

func TestTasks(t *testing.T) {
	s := plantest.New(t)
	ingress(s, "10.0.0.0/24")
	s.Service("web", 1, publish(8080))
	s.Service("job", 1)
	web, job := task(s, "web"), task(s, "job")
	stopped := task(s, "web")
	plantest.Change(s, stopped.ID, func(t *cluster.Task) { t.DesiredState = swarm.TaskStateRemove })
	s.Settle(address.Planner{})
	w := get(s, web)
	addr := w.Address("ing")
	if w.Status.State != swarm.TaskStatePending || w.Status.Message != "pending task scheduling" || !netip.MustParsePrefix("10.0.0.0/24").Contains(addr) {
		t.Errorf("%+v %v", w.Status, addr)
	}
	if a := w.NetworksAttachments[0].Addresses[0]; a.Bits() != 24 {
		t.Errorf("address %v without its subnet", a)
	}
	if c := plantest.Get[*cluster.Claim](s, cluster.ClaimAddr("ing", addr)); c.Owner != w.ID {
		t.Errorf("%+v", c)
	}
	if j := get(s, job); j.Status.State != swarm.TaskStatePending || j.NetworksAttachments != nil {
		t.Errorf("a task that publishes nothing: %+v", j)
	}
	if x := get(s, stopped); x.Status.State != swarm.TaskStateNew {
		t.Errorf("a task that is to go: %+v", x.Status)
	}
}

// attachment is a container of node n1 that asks for an address on a network.
func attachment(s *plantest.Swarm, network, asked string) *cluster.Task {
	s.Helper()
	t := &cluster.Task{ServiceName: "box"}
	t.ID, t.NodeID = s.NewID(), "n1"
	t.DesiredState, t.Status.State = swarm.TaskStateRunning, swarm.TaskStateNew
	t.Spec.NetworkAttachmentSpec = &swarm.NetworkAttachmentSpec{ContainerID: "c"}
	t.Spec.Networks = []swarm.NetworkAttachmentConfig{{Target: network, Aliases: []string{"box"}}}
	if asked != "" {
		t.Asked = netip.MustParseAddr(asked)
	}
	s.Put(t)
	return t
}

func TestAttachments(t *testing.T) {
	s := plantest.New(t)
	s.Node("n1")
	n := &cluster.Network{}
	n.ID, n.Spec.Name = "team", "team"
	n.IPAMOptions = &swarm.IPAMOptions{Configs: []swarm.IPAMConfig{{Subnet: netip.MustParsePrefix("10.7.0.0/24"), Range: netip.MustParsePrefix("10.7.0.128/25")}}}
	s.Put(n)
	var p address.Planner
	any, outside := attachment(s, "team", ""), attachment(s, "team", "10.7.0.9")
	s.Settle(p)
	if k := get(s, any); k.Status.State != swarm.TaskStateRunning || k.RunningAt.IsZero() || !netip.MustParsePrefix("10.7.0.128/25").Contains(k.Address("team")) {
		t.Errorf("%+v %v", k.Status, k.Address("team"))
	}
	if k := get(s, outside); k.Address("team") != netip.MustParseAddr("10.7.0.9") {
		t.Errorf("an address outside of the range: %+v", k)
	}
	for asked, want := range map[string]string{
		"10.7.0.9": "Address already in use", "10.7.0.1": "Address already in use", "10.7.0.0": "no configured subnet contains IP address 10.7.0.0",
		"10.7.0.255": "no configured subnet contains IP address 10.7.0.255", "10.8.0.1": "no configured subnet contains IP address 10.8.0.1",
	} {
		k := attachment(s, "team", asked)
		s.Settle(p)
		if got := get(s, k).Status; got.State != swarm.TaskStateNew || got.Err != want {
			t.Errorf("%s: %+v", asked, got)
		}
		plantest.Change(s, k.ID, func(t *cluster.Task) { t.DesiredState = swarm.TaskStateRemove })
	}
	// One that was just given back is waited for.
	s.Holds["n1"] = 0
	if _, err := s.Store.Update(t.Context(), func(tx *store.Tx) error { tx.Write(store.Delete(get(s, outside))); return nil }); err != nil {
		t.Fatal(err)
	}
	again := attachment(s, "team", "10.7.0.9")
	s.Settle(p)
	if got := get(s, again).Status; got.State != swarm.TaskStateNew || got.Err != "" {
		t.Errorf("while a node holds the address: %+v", got)
	}
	s.Holds["n1"] = s.Store.Index()
	s.Settle(p)
	if k := get(s, again); k.Address("team") != netip.MustParseAddr("10.7.0.9") {
		t.Errorf("%+v", k)
	}
}

func TestWhatTasksWaitFor(t *testing.T) {
	s := plantest.New(t)
	s.Service("web", 1, publish(8080))
	a := task(s, "web")
	s.Settle(address.Planner{})
	if got := get(s, a).Status; got.State != swarm.TaskStateNew || got.Err != "service needs ingress network, but no ingress network is present" {
		t.Errorf("%+v", got)
	}
	ingress(s, "10.0.0.0/29") // five addresses besides the gateway
	var ts []*cluster.Task
	for range 5 {
		ts = append(ts, task(s, "web"))
	}
	s.Settle(address.Planner{})
	waiting := 0
	for _, k := range append(ts, a) {
		k = get(s, k)
		if k.Status.State == swarm.TaskStateNew {
			waiting++
			if k.Status.Err != "could not find an available IP in subnet 10.0.0.0/29 of network ingress" {
				t.Error(k.Status.Err)
			}
		} else if k.Status.Err != "" {
			t.Errorf("an old problem stays: %s", k.Status.Err)
		}
	}
	if waiting != 1 {
		t.Errorf("%d tasks wait, want 1", waiting)
	}
}

func TestAnAddressIsReusedOnlyWhenNobodyRoutesToIt(t *testing.T) {
	s := plantest.New(t)
	ingress(s, "10.0.0.0/24")
	s.Service("web", 1, publish(8080))
	s.Node("a")
	s.Node("b")
	s.Node("down", func(n *cluster.Node) { n.Status.State = swarm.NodeStateDown })
	k := task(s, "web")
	var p address.Planner
	s.Settle(p)
	id := cluster.ClaimAddr("ing", get(s, k).Address("ing"))
	plantest.Change(s, k.ID, func(t *cluster.Task) { t.NodeID, t.Status.State = "a", swarm.TaskStateRunning })
	s.Settle(p)
	if c := plantest.Get[*cluster.Claim](s, id); c.ReleasedAt != 0 {
		t.Fatal("released while in use")
	}
	plantest.Change(s, k.ID, func(t *cluster.Task) { t.Status.State = swarm.TaskStateFailed })
	ended := s.Store.Index()
	s.Settle(p)
	if c := plantest.Get[*cluster.Claim](s, id); c.ReleasedAt != ended {
		t.Fatalf("released at %d, not %d", c.ReleasedAt, ended)
	}
	s.Holds["a"] = ended
	s.Settle(p)
	plantest.Get[*cluster.Claim](s, id) // node b may still route to it
	if _, _, again := s.Plan(p); again.IsZero() {
		t.Error("nobody looks again")
	}
	s.Holds["b"] = ended
	s.Settle(p)
	if _, ok := store.Get[*cluster.Claim](s.Store.Snapshot(), id); ok {
		t.Error("the claim is still there")
	}
}

func TestNodes(t *testing.T) {
	s := plantest.New(t)
	var p address.Planner
	s.Node("a")
	s.Settle(p)
	if n := plantest.Get[*cluster.Node](s, "a"); n.Index != 1 || n.IngressAddr.IsValid() {
		t.Errorf("%d %v", n.Index, n.IngressAddr)
	}
	ingress(s, "10.0.0.0/24")
	s.Node("b")
	s.Node("c")
	s.Settle(p)
	var got []string
	for _, id := range []string{"a", "b", "c"} {
		n := plantest.Get[*cluster.Node](s, id)
		got = append(got, fmt.Sprint(n.Index, " ", n.IngressAddr))
	}
	if want := []string{"1 10.0.0.2", "2 10.0.0.3", "3 10.0.0.4"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	// What a removed node had is given out again when the others have let go.
	b := plantest.Get[*cluster.Node](s, "b")
	if _, err := s.Store.Update(t.Context(), func(tx *store.Tx) error { tx.Write(store.Delete(b)); return nil }); err != nil {
		t.Fatal(err)
	}
	s.Node("d")
	s.Settle(p)
	if n := plantest.Get[*cluster.Node](s, "d"); n.Index != 4 || n.IngressAddr.String() != "10.0.0.5" {
		t.Errorf("d has %d %v while a and c may know b", n.Index, n.IngressAddr)
	}
	for _, id := range []string{"a", "c", "d"} {
		s.Holds[id] = s.Store.Index()
	}
	s.Settle(p)
	s.Node("e")
	s.Settle(p)
	if n := plantest.Get[*cluster.Node](s, "e"); n.Index != 2 || n.IngressAddr.String() != "10.0.0.3" {
		t.Errorf("e has %d %v", n.Index, n.IngressAddr)
	}
}

func TestServices(t *testing.T) {
	s := plantest.New(t)
	var p address.Planner
	s.Put(&cluster.Claim{ID: cluster.ClaimPort("tcp", 8080), Owner: "web"})
	s.Service("web", 1, publish(8080))
	s.Service("open", 1, publish(0))
	s.Settle(p)
	if e := plantest.Get[*cluster.Service](s, "web").Endpoint; len(e.Ports) != 1 || e.Ports[0].PublishedPort != 8080 ||
		e.Ports[0].PublishMode != swarm.PortConfigPublishModeIngress || len(e.Spec.Ports) != 1 {
		t.Errorf("%+v", e)
	}
	e := plantest.Get[*cluster.Service](s, "open").Endpoint
	port := e.Ports[0].PublishedPort
	if port < 30000 || port > 32767 || e.Spec.Ports[0].PublishedPort != 0 {
		t.Errorf("%+v", e)
	}
	if c := plantest.Get[*cluster.Claim](s, cluster.ClaimPort("tcp", port)); c.Owner != "open" {
		t.Errorf("%+v", c)
	}
	// The port stays when something else changes, and goes when it is not published any more.
	plantest.Change(s, "open", func(v *cluster.Service) {
		v.Spec.EndpointSpec.Ports = append(v.Spec.EndpointSpec.Ports, swarm.PortConfig{Protocol: "udp", TargetPort: 53})
	})
	s.Settle(p)
	if e := plantest.Get[*cluster.Service](s, "open").Endpoint; len(e.Ports) != 2 || e.Ports[0].PublishedPort != port {
		t.Errorf("%+v", e)
	}
	plantest.Change(s, "open", func(v *cluster.Service) { v.Spec.EndpointSpec = nil })
	s.Settle(p)
	for c := range store.Prefix[*cluster.Claim](s.Store.Snapshot(), "port/") {
		if c.Owner == "open" {
			t.Errorf("%s is still claimed", c.ID)
		}
	}
	// A service that is gone leaves no claim behind.
	s.Service("gone", 1, publish(0))
	s.Settle(p)
	v := plantest.Get[*cluster.Service](s, "gone")
	if _, err := s.Store.Update(t.Context(), func(tx *store.Tx) error { tx.Write(store.Delete(v)); return nil }); err != nil {
		t.Fatal(err)
	}
	s.Settle(p)
	for c := range store.Prefix[*cluster.Claim](s.Store.Snapshot(), "port/") {
		if c.Owner == "gone" {
			t.Errorf("%s is still claimed", c.ID)
		}
	}
}

// Whatever is allocated and freed, no two tasks share an address, and none is the gateway's or outside the subnet.
func TestAddressesAreUnique(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := plantest.New(t)
		bits := rapid.IntRange(26, 30).Draw(rt, "bits")
		subnet := netip.MustParsePrefix(fmt.Sprintf("10.9.8.0/%d", bits))
		ingress(s, subnet.String())
		s.Service("web", 1, publish(8080))
		s.Node("n")
		var p address.Planner
		var ts []*cluster.Task
		room := 1<<(32-bits) - 4 // without the subnet's own, the broadcast, the gateway's and the node's
		for range rapid.IntRange(1, 30).Draw(rt, "steps") {
			if rapid.Bool().Draw(rt, "more") || len(ts) == 0 {
				for range rapid.IntRange(1, 20).Draw(rt, "tasks") {
					ts = append(ts, task(s, "web"))
				}
			} else {
				k := get(s, ts[rapid.IntRange(0, len(ts)-1).Draw(rt, "which")])
				if !k.Ended() {
					plantest.Change(s, k.ID, func(t *cluster.Task) { t.NodeID, t.Status.State = "n", swarm.TaskStateFailed })
				}
			}
			s.Holds["n"] = s.Store.Index() + 100
			s.Settle(p)
			seen := map[netip.Addr]string{plantest.Get[*cluster.Node](s, "n").IngressAddr: "n"}
			live, waiting := 0, 0
			for _, k := range ts {
				k = get(s, k)
				a := k.Address("ing")
				switch {
				case k.Ended():
				case !a.IsValid():
					waiting++
				default:
					live++
					if seen[a] != "" || !subnet.Contains(a) || a == subnet.Addr() || a == subnet.Addr().Next() {
						rt.Fatalf("task %s has %v, %q", k.ID, a, seen[a])
					}
					seen[a] = k.ID
				}
			}
			if waiting > 0 && live != room {
				rt.Fatalf("%d tasks wait and %d of %d addresses are taken", waiting, live, room)
			}
		}
	})
}

// BenchmarkTasks gives 1,000 tasks an address when 60,000 of 65,533 are taken, and one.
func BenchmarkTasks(b *testing.B) {
	for _, n := range []int{1, 1000} {
		b.Run(fmt.Sprintf("%dtasks/60000taken", n), func(b *testing.B) {
			s := plantest.New(b)
			ingress(s, "10.0.0.0/16")
			s.Service("web", 1, publish(8080))
			base := netip.MustParseAddr("10.0.0.2")
			for chunk := range 60 {
				var cs []cluster.Object
				for i := range 1000 {
					k := uint32(chunk*1000 + i)
					a := base.As4()
					v := uint32(a[2])<<8 | uint32(a[3]) + k
					cs = append(cs, &cluster.Claim{ID: cluster.ClaimAddr("ing", netip.AddrFrom4([4]byte{10, 0, byte(v >> 8), byte(v)})), Owner: "x", ReleasedAt: 1 << 60})
				}
				s.Put(cs...)
			}
			for range n {
				task(s, "web")
			}
			var p address.Planner
			snap := s.Store.Snapshot()
			b.ResetTimer()
			for b.Loop() {
				if got := len(p.Plan(snap, "tasks", s.Env()).Groups); got != n {
					b.Fatal(got)
				}
			}
		})
	}
}

// TestNodesMoveToANewRoutingMesh gives nodes addresses on the one that comes after another.
func TestNodesMoveToANewRoutingMesh(t *testing.T) {
	s := plantest.New(t)
	ingress(s, "10.0.0.0/24")
	s.Node("a")
	var p address.Planner
	s.Settle(p)
	old := plantest.Get[*cluster.Node](s, "a").IngressAddr
	if _, err := s.Store.Update(t.Context(), func(tx *store.Tx) error {
		tx.Write(store.Delete(plantest.Get[*cluster.Network](s, "ing")))
		n := &cluster.Network{}
		n.ID, n.Spec.Ingress = "new", true
		n.IPAMOptions = &swarm.IPAMOptions{Configs: []swarm.IPAMConfig{{Subnet: netip.MustParsePrefix("10.0.0.0/25")}}}
		tx.Write(store.Create(n))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	s.Holds["a"] = s.Store.Index() + 100
	s.Settle(p)
	n := plantest.Get[*cluster.Node](s, "a")
	snap := s.Store.Snapshot()
	if c, ok := store.Get[*cluster.Claim](snap, cluster.ClaimAddr("new", n.IngressAddr)); !ok || c.Owner != "a" {
		t.Errorf("%s %+v", n.IngressAddr, c)
	}
	if c, ok := store.Get[*cluster.Claim](snap, cluster.ClaimAddr("ing", old)); ok && c.ReleasedAt == 0 {
		t.Errorf("the old address stays: %+v", c)
	}
}
