package placement_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/swarm"
	"pgregory.net/rapid"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/reconcile/placement"
	"shoal.dev/shoal/internal/reconcile/plantest"
)

// task makes a pending task.
func task(s *plantest.Swarm, service string, change ...func(*cluster.Task)) *cluster.Task {
	s.Helper()
	t := &cluster.Task{}
	t.ID, t.ServiceID, t.Slot = s.NewID(), service, 1
	t.DesiredState, t.Status.State = swarm.TaskStateRunning, swarm.TaskStatePending
	t.Spec.Placement = &swarm.Placement{}
	for _, f := range change {
		f(t)
	}
	s.Put(t)
	return t
}

func constraint(e string) func(*cluster.Task) {
	return func(t *cluster.Task) { t.Spec.Placement.Constraints = append(t.Spec.Placement.Constraints, e) }
}

func reserve(cpu, memory int64) func(*cluster.Task) {
	return func(t *cluster.Task) {
		t.Spec.Resources = &swarm.ResourceRequirements{Reservations: &swarm.Resources{NanoCPUs: cpu, MemoryBytes: memory}}
	}
}

func on(node string, state swarm.TaskState) func(*cluster.Task) {
	return func(t *cluster.Task) { t.NodeID, t.Status.State = node, state }
}

// onPorts publishes ports in host mode.
func onPorts(ports ...swarm.PortConfig) func(*cluster.Task) {
	return func(t *cluster.Task) {
		t.HostPorts = cluster.HostPorts(&swarm.EndpointSpec{Ports: ports})
	}
}

func hostPort(protocol network.IPProtocol, port uint32) swarm.PortConfig {
	return swarm.PortConfig{Protocol: protocol, TargetPort: 80, PublishedPort: port, PublishMode: swarm.PortConfigPublishModeHost}
}

func where(s *plantest.Swarm, t *cluster.Task) string {
	return plantest.Get[*cluster.Task](s, t.ID).NodeID
}

func TestFilters(t *testing.T) {
	label := func(k, v string) func(*cluster.Node) {
		return func(n *cluster.Node) { n.Spec.Labels = map[string]string{k: v} }
	}
	state := func(st swarm.NodeState, av swarm.NodeAvailability) func(*cluster.Node) {
		return func(n *cluster.Node) { n.Status.State, n.Spec.Availability = st, av }
	}
	tests := []struct {
		name   string
		nodes  func(s *plantest.Swarm)
		change func(*cluster.Task)
		node   string
		err    string
	}{
		{"no nodes", func(*plantest.Swarm) {}, func(*cluster.Task) {}, "", "no suitable node"},
		{"a node", func(s *plantest.Swarm) { s.Node("a") }, func(*cluster.Task) {}, "a", ""},
		{"down, paused, drained", func(s *plantest.Swarm) {
			s.Node("a", state("down", "active"))
			s.Node("b", state("ready", "pause"))
			s.Node("c", state("ready", "drain"))
		}, func(*cluster.Task) {}, "", "no suitable node (3 nodes not available for new tasks)"},
		{"a full disk", func(s *plantest.Swarm) {
			s.Node("a", func(n *cluster.Node) { n.DiskFull = 91 })
			s.Node("b")
			task(s, "web", on("b", "running"))
		}, func(*cluster.Task) {}, "b", ""},
		{"full disks", func(s *plantest.Swarm) {
			s.Node("a", func(n *cluster.Node) { n.DiskFull = 91 })
			s.Node("b", func(n *cluster.Node) { n.DiskFull = 95 })
			s.Node("c", state("down", "active"))
		}, reserve(100e9, 0), "", "no suitable node (disk nearly full on 2 nodes; 1 node not available for new tasks)"},
		{"a driver that no node has", func(s *plantest.Swarm) { s.Node("a") }, func(t *cluster.Task) {
			t.Spec.LogDriver = &swarm.Driver{Name: "fluentd"}
		}, "", "no suitable node (missing plugin on 1 node)"},
		{"constraint", func(s *plantest.Swarm) { s.Node("a"); s.Node("b", label("zone", "x")) }, constraint("node.labels.zone==x"), "b", ""},
		{"no node matches", func(s *plantest.Swarm) { s.Node("a"); s.Node("b"); s.Node("c") }, constraint("node.labels.zone==x"), "",
			"no suitable node (scheduling constraints not satisfied on 3 nodes)"},
		{"platform", func(s *plantest.Swarm) {
			s.Node("a", func(n *cluster.Node) { n.Description.Platform = swarm.Platform{OS: "linux", Architecture: "aarch64"} })
			s.Node("b", func(n *cluster.Node) { n.Description.Platform = swarm.Platform{OS: "linux", Architecture: "x86_64"} })
		}, func(t *cluster.Task) {
			t.Spec.Placement.Platforms = []swarm.Platform{{OS: "linux", Architecture: "amd64"}}
		}, "b", ""},
		{"no platform", func(s *plantest.Swarm) {
			s.Node("a", func(n *cluster.Node) { n.Description.Platform = swarm.Platform{OS: "linux", Architecture: "aarch64"} })
		}, func(t *cluster.Task) {
			t.Spec.Placement.Platforms = []swarm.Platform{{OS: "linux", Architecture: "amd64"}}
		}, "", "no suitable node (unsupported platform on 1 node)"},
		{"cpu and memory", func(s *plantest.Swarm) {
			s.Node("a")
			s.Node("b")
			s.Node("c", state("down", "active"))
			task(s, "other", on("a", "running"), reserve(3e9, 0))
			task(s, "other", on("b", "running"), reserve(0, 7<<30))
		}, reserve(2e9, 2<<30), "", "no suitable node (insufficient resources on 2 nodes; 1 node not available for new tasks)"},
		{"what ended takes no room", func(s *plantest.Swarm) {
			s.Node("a")
			task(s, "other", on("a", "failed"), reserve(3e9, 0))
		}, reserve(2e9, 0), "a", ""},
		{"what stops takes room", func(s *plantest.Swarm) {
			s.Node("a")
			task(s, "other", on("a", "running"), reserve(3e9, 0), func(t *cluster.Task) { t.DesiredState = "shutdown" })
		}, reserve(2e9, 0), "", "no suitable node (insufficient resources on 1 node)"},
		{"max replicas", func(s *plantest.Swarm) {
			s.Node("a")
			task(s, "web", on("a", "running"))
		}, func(t *cluster.Task) { t.Spec.Placement.MaxReplicas = 1 }, "", "no suitable node (max replicas per node limit exceed)"},
		{"host port", func(s *plantest.Swarm) {
			s.Node("a")
			s.Node("b")
			task(s, "other", on("a", "running"), onPorts(hostPort("tcp", 8080)))
		}, onPorts(hostPort("", 8080)), "b", ""},
		{"no host port", func(s *plantest.Swarm) {
			s.Node("a")
			s.Node("b")
			task(s, "web", on("a", "running"), onPorts(hostPort("tcp", 8080)))
			task(s, "other", on("b", "starting"), onPorts(hostPort("tcp", 8080)), func(t *cluster.Task) { t.DesiredState = "shutdown" })
		}, onPorts(hostPort("tcp", 9090), hostPort("tcp", 8080)), "", "no suitable node (host-mode port already in use on 2 nodes)"},
		{"a host port of the other protocol, and of what ended", func(s *plantest.Swarm) {
			s.Node("a")
			task(s, "other", on("a", "running"), onPorts(hostPort("udp", 8080)))
			task(s, "other", on("a", "failed"), onPorts(hostPort("tcp", 8080)))
		}, onPorts(hostPort("tcp", 8080)), "a", ""},
		{"a host port that the node chose", func(s *plantest.Swarm) {
			s.Node("a")
			task(s, "other", on("a", "running"), onPorts(hostPort("tcp", 0)), func(t *cluster.Task) {
				t.Status.PortStatus.Ports = []swarm.PortConfig{hostPort("tcp", 32768)}
			})
		}, onPorts(hostPort("tcp", 32768)), "", "no suitable node (host-mode port already in use on 1 node)"},
		{"host ports left open", func(s *plantest.Swarm) {
			s.Node("a")
			task(s, "other", on("a", "running"), onPorts(hostPort("tcp", 0)))
		}, onPorts(hostPort("tcp", 0)), "a", ""},
		{"fewest of the service before fewest at all", func(s *plantest.Swarm) {
			s.Node("a")
			s.Node("b")
			task(s, "web", on("a", "running"))
			for range 3 {
				task(s, "other", on("b", "running"))
			}
		}, func(*cluster.Task) {}, "b", ""},
		{"fewest tasks", func(s *plantest.Swarm) {
			s.Node("a")
			s.Node("b")
			task(s, "other", on("a", "running"))
		}, func(*cluster.Task) {}, "b", ""},
		{"a node on which the service keeps failing", func(s *plantest.Swarm) {
			s.Node("a")
			s.Node("b")
			for range 5 {
				task(s, "web", on("a", "failed"), func(t *cluster.Task) { t.DesiredState = "shutdown"; t.Status.Timestamp = s.At })
			}
			task(s, "web", on("b", "running"))
		}, func(*cluster.Task) {}, "b", ""},
		{"failed long ago", func(s *plantest.Swarm) {
			s.Node("a")
			s.Node("b")
			for range 5 {
				task(s, "web", on("a", "failed"), func(t *cluster.Task) {
					t.DesiredState = "shutdown"
					t.Status.Timestamp = s.At.Add(-6 * time.Minute)
				})
			}
			task(s, "web", on("b", "running"))
		}, func(*cluster.Task) {}, "a", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := plantest.New(t)
			tt.nodes(s)
			k := task(s, "web", tt.change)
			s.Settle(placement.Planner{})
			got := plantest.Get[*cluster.Task](s, k.ID)
			if got.NodeID != tt.node || got.Status.Err != tt.err {
				t.Errorf("on node %q, %q; want %q, %q", got.NodeID, got.Status.Err, tt.node, tt.err)
			}
			if tt.node != "" && (got.Status.State != swarm.TaskStateAssigned || got.Status.Message != "scheduler assigned task to node") {
				t.Errorf("%+v", got.Status)
			}
		})
	}
}

func TestGlobalTasks(t *testing.T) {
	global := func(node string) func(*cluster.Task) {
		return func(t *cluster.Task) { t.Global, t.NodeID, t.Slot = true, node, 0 }
	}
	tests := []struct {
		name  string
		node  func(*cluster.Node)
		other func(*cluster.Task) // a task of another service
		err   string              // "": assigned
	}{
		{"room", func(*cluster.Node) {}, on("a", "running"), ""},
		{"no room", func(*cluster.Node) {}, func(t *cluster.Task) { on("a", "running")(t); reserve(3e9, 0)(t) }, "insufficient resources on 1 node"},
		{"what is not placed takes none", func(*cluster.Node) {}, func(t *cluster.Task) { global("a")(t); reserve(3e9, 0)(t); t.Status.State = "new" }, ""},
		{"paused", func(n *cluster.Node) { n.Spec.Availability = "pause" }, on("b", "running"), "1 node not available for new tasks"},
		{"constraint", func(n *cluster.Node) { n.Spec.Role = "manager" }, on("b", "running"), "scheduling constraints not satisfied on 1 node"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := plantest.New(t)
			s.Node("a", tt.node)
			s.Node("b")
			s.Node("c")
			task(s, "other", tt.other)
			k := task(s, "web", global("a"), reserve(2e9, 0), constraint("node.role==worker"))
			s.Settle(placement.Planner{})
			got := plantest.Get[*cluster.Task](s, k.ID)
			if got.NodeID != "a" || got.Status.Err != tt.err {
				t.Errorf("on node %q, %q; want %q", got.NodeID, got.Status.Err, tt.err)
			}
			if tt.err == "" && (got.Status.State != swarm.TaskStateAssigned || got.Status.Message != "scheduler confirmed task can run on preassigned node") {
				t.Errorf("%+v", got.Status)
			}
		})
	}
}

func TestGenericResources(t *testing.T) {
	s := plantest.New(t)
	have := func(terms ...string) func(*cluster.Node) {
		return func(n *cluster.Node) {
			var err error
			if n.Description.Resources.GenericResources, err = cluster.ParseGenericResources(terms); err != nil {
				t.Fatal(err)
			}
		}
	}
	s.Node("a", have("ssd=2"))
	s.Node("b", have("gpu=U2", "gpu=U1"))
	s.Node("c")
	want := func(kind string, n int64) func(*cluster.Task) {
		return func(t *cluster.Task) {
			t.Spec.Resources = &swarm.ResourceRequirements{Reservations: &swarm.Resources{GenericResources: []swarm.GenericResource{
				{DiscreteResourceSpec: &swarm.DiscreteGenericResource{Kind: kind, Value: n}},
			}}}
		}
	}
	var p placement.Planner
	ssd, gpu, other := task(s, "web", want("ssd", 1)), task(s, "api", want("gpu", 1)), task(s, "api", want("gpu", 1))
	s.Settle(p)
	full, none := task(s, "web", want("ssd", 2)), task(s, "web", want("tpu", 1))
	third := task(s, "api", want("gpu", 1))
	s.Settle(p)
	show := func(k *cluster.Task) string {
		k = plantest.Get[*cluster.Task](s, k.ID)
		out := k.NodeID + k.Status.Err
		for _, r := range k.GenericResources {
			if r.NamedResourceSpec != nil {
				out += " " + r.NamedResourceSpec.Value
			} else {
				out += fmt.Sprint(" ", r.DiscreteResourceSpec.Value)
			}
		}
		return out
	}
	nowhere := "no suitable node (insufficient resources on 3 nodes)"
	for i, c := range []struct {
		task *cluster.Task
		want string
	}{{ssd, "a 1"}, {gpu, "b U1"}, {other, "b U2"}, {full, nowhere}, {none, nowhere}, {third, nowhere}} {
		if got := show(c.task); got != c.want {
			t.Errorf("task %d: %q, want %q", i, got, c.want)
		}
	}
	// What a task leaves, the next one gets.
	plantest.Change(s, gpu.ID, func(t *cluster.Task) { t.Status.State = swarm.TaskStateComplete })
	s.Settle(p)
	if got := show(third); got != "b U1" {
		t.Error(got)
	}
}

func TestSpreadOverLabels(t *testing.T) {
	s := plantest.New(t)
	for i, z := range []string{"a", "a", "a", "b"} {
		s.Node(fmt.Sprint("n", i), func(n *cluster.Node) { n.Spec.Labels = map[string]string{"zone": z} })
	}
	inB := 0
	var ts []*cluster.Task
	for range 8 {
		ts = append(ts, task(s, "web", func(t *cluster.Task) {
			t.Spec.Placement.Preferences = []swarm.PlacementPreference{{Spread: &swarm.SpreadOver{SpreadDescriptor: "node.labels.zone"}}}
		}))
	}
	s.Settle(placement.Planner{})
	for _, k := range ts {
		if where(s, k) == "n3" {
			inB++
		}
	}
	if inB != 4 {
		t.Errorf("%d of 8 tasks in zone b, not 4", inB)
	}
}

// A later preference spreads within the groups of those before it.
func TestNestedSpread(t *testing.T) {
	s := plantest.New(t)
	for _, n := range []struct{ id, zone, rack string }{{"n1", "a", "1"}, {"n2", "a", "1"}, {"n3", "a", "2"}, {"n4", "b", "1"}, {"n5", "", ""}} {
		s.Node(n.id, func(k *cluster.Node) {
			k.Spec.Labels = map[string]string{"zone": n.zone}
			k.Description.Engine.Labels = map[string]string{"rack": n.rack}
		})
	}
	per := map[string]int{}
	var ts []*cluster.Task
	for range 12 {
		ts = append(ts, task(s, "web", func(t *cluster.Task) {
			for _, d := range []string{"node.labels.zone", "engine.labels.rack"} {
				t.Spec.Placement.Preferences = append(t.Spec.Placement.Preferences, swarm.PlacementPreference{Spread: &swarm.SpreadOver{SpreadDescriptor: d}})
			}
		}))
	}
	s.Settle(placement.Planner{})
	for _, k := range ts {
		per[where(s, k)]++
	}
	// Four a zone, of which a node without the label is one; in zone a two a rack; in rack 1 of zone a one a node.
	if want := map[string]int{"n1": 1, "n2": 1, "n3": 2, "n4": 4, "n5": 4}; !maps.Equal(per, want) {
		t.Errorf("%v, want %v", per, want)
	}
}

// A task that waits for a disk starts when there is room on it.
func TestATaskStartsWhenTheDiskHasRoom(t *testing.T) {
	s := plantest.New(t)
	s.Node("a", func(n *cluster.Node) { n.DiskFull = 91 })
	k := task(s, "web")
	var p placement.Planner
	s.Settle(p)
	w, _ := s.Store.Watch()
	defer w.Close()
	plantest.Change(s, "a", func(n *cluster.Node) { n.DiskFull = 0 })
	if events, _ := w.Take(); len(events) != 1 || len(p.Keys(s.Store.Snapshot(), events[0])) == 0 {
		t.Error("room on a disk does not ask for a plan")
	}
	s.Settle(p)
	if where(s, k) != "a" {
		t.Error("not placed when there was room")
	}
}

func TestATaskStartsWhenRoomAppears(t *testing.T) {
	s := plantest.New(t)
	s.Node("a")
	full := task(s, "other", on("a", "running"), reserve(4e9, 0))
	k := task(s, "web", reserve(1e9, 0))
	var p placement.Planner
	s.Settle(p)
	if where(s, k) != "" {
		t.Fatal("placed without room")
	}
	w, _ := s.Store.Watch()
	defer w.Close()
	plantest.Change(s, full.ID, func(t *cluster.Task) { t.Status.State = swarm.TaskStateFailed })
	events, _ := w.Take()
	if len(events) != 1 || len(p.Keys(s.Store.Snapshot(), events[0])) == 0 {
		t.Error("the end of a task does not ask for a plan")
	}
	s.Settle(p)
	if where(s, k) != "a" || plantest.Get[*cluster.Task](s, k.ID).Status.Err != "" {
		t.Error("not placed when there was room")
	}
}

// One plan gives a port of a node to one task; the rest wait, and one more starts when one ends.
func TestHostPortsInOnePlan(t *testing.T) {
	s := plantest.New(t)
	s.Node("a")
	s.Node("b")
	var p placement.Planner
	var ts []*cluster.Task
	for i := range 3 {
		ts = append(ts, task(s, fmt.Sprint("web", i), onPorts(hostPort("tcp", 8080))))
	}
	s.Settle(p)
	per := map[string][]string{}
	for _, k := range ts {
		per[where(s, k)] = append(per[where(s, k)], k.ID)
	}
	if len(per["a"]) != 1 || len(per["b"]) != 1 || len(per[""]) != 1 {
		t.Fatal(per)
	}
	plantest.Change(s, per["b"][0], func(t *cluster.Task) { t.Status.State = swarm.TaskStateComplete })
	s.Settle(p)
	if got := plantest.Get[*cluster.Task](s, per[""][0]); got.NodeID != "b" {
		t.Errorf("on %q: %s", got.NodeID, got.Status.Err)
	}
}

// A plan never overfills a node, places everything that fits, and spreads evenly.
func TestRoomIsKept(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := plantest.New(t)
		nodes := rapid.IntRange(1, 6).Draw(rt, "nodes")
		for i := range nodes {
			s.Node(fmt.Sprint("n", i), func(n *cluster.Node) {
				n.Description.Resources.NanoCPUs = rapid.Int64Range(0, 8).Draw(rt, "cpus") * 1e9
			})
		}
		limit := rapid.Uint64Range(0, 3).Draw(rt, "max replicas")
		cpu := rapid.Int64Range(0, 4).Draw(rt, "reservation") * 1e9
		var ts []*cluster.Task
		for range rapid.IntRange(1, 30).Draw(rt, "tasks") {
			ts = append(ts, task(s, "web", reserve(cpu, 0), func(t *cluster.Task) { t.Spec.Placement.MaxReplicas = limit }))
		}
		s.Settle(placement.Planner{})
		per := map[string]int64{}
		left := 0
		for _, k := range ts {
			if n := where(s, k); n != "" {
				per[n]++
			} else {
				left++
			}
		}
		for i := range nodes {
			n := plantest.Get[*cluster.Node](s, fmt.Sprint("n", i))
			have := per[n.ID]
			if have*cpu > n.Description.Resources.NanoCPUs || limit > 0 && uint64(have) > limit {
				rt.Fatalf("node %s has %d tasks", n.ID, have)
			}
			if left > 0 && (have+1)*cpu <= n.Description.Resources.NanoCPUs && (limit == 0 || uint64(have) < limit) {
				rt.Fatalf("%d tasks left and room on node %s", left, n.ID)
			}
		}
		if cpu == 0 && limit == 0 {
			var counts []int64
			for i := range nodes {
				counts = append(counts, per[fmt.Sprint("n", i)])
			}
			if slices.Max(counts)-slices.Min(counts) > 1 {
				rt.Fatalf("uneven: %v", counts)
			}
		}
	})
}

// BenchmarkPlan places 1,000 tasks; the nodes run as many already.
func BenchmarkPlan(b *testing.B) {
	for _, nodes := range []int{10, 100, 1000} {
		b.Run(fmt.Sprintf("1000tasks/%dnodes", nodes), func(b *testing.B) {
			s := plantest.New(b)
			for i := range nodes {
				s.Node(fmt.Sprint("n", i))
			}
			for i := range 1000 {
				task(s, "old", on(fmt.Sprint("n", i%nodes), "running"))
			}
			for range 1000 {
				task(s, "web", reserve(1e6, 1<<20), constraint("node.role==worker"))
			}
			var p placement.Planner
			snap := s.Store.Snapshot()
			b.ResetTimer()
			for b.Loop() {
				if n := len(p.Plan(snap, "pending", s.Env()).Groups); n != 1000 {
					b.Fatal(n)
				}
			}
		})
	}
}
