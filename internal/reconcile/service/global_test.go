package service_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/swarm"
	"pgregory.net/rapid"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/reconcile/plantest"
	"shoal.dev/shoal/internal/reconcile/reap"
	"shoal.dev/shoal/internal/reconcile/service"
	"shoal.dev/shoal/internal/store"
)

func global(v *cluster.Service) { v.Spec.Mode = swarm.ServiceMode{Global: &swarm.GlobalService{}} }

// become sets the state of the tasks on a node that are meant to run and have not ended.
func become(s *plantest.Swarm, node string, state swarm.TaskState) {
	s.Helper()
	for _, t := range s.Tasks("web") {
		if t.NodeID == node && t.WantsToRun() && !t.Ended() {
			plantest.Change(s, t.ID, func(t *cluster.Task) { st := t.Status; st.State = state; t.SetStatus(st, s.At) })
		}
	}
}

// obey ends what is meant to end.
func obey(s *plantest.Swarm) {
	s.Helper()
	for _, t := range s.Tasks("web") {
		if !t.WantsToRun() && !t.Ended() {
			plantest.Change(s, t.ID, func(t *cluster.Task) { st := t.Status; st.State = swarm.TaskStateShutdown; t.SetStatus(st, s.At) })
		}
	}
}

func TestPlanGlobal(t *testing.T) {
	var p service.Planner
	available := func(s *plantest.Swarm, node string, a swarm.NodeAvailability) {
		plantest.Change(s, node, func(n *cluster.Node) { n.Spec.Availability = a })
	}
	state := func(s *plantest.Swarm, node string, st swarm.NodeState) {
		plantest.Change(s, node, func(n *cluster.Node) { n.Status.State = st })
	}
	// up is the service with a running task on each of the two nodes.
	up := func(s *plantest.Swarm, change ...func(*cluster.Service)) {
		s.Helper()
		s.Service("web", 0, append([]func(*cluster.Service){global}, change...)...)
		s.Plan(p)
		become(s, "n1", swarm.TaskStateRunning)
		become(s, "n2", swarm.TaskStateRunning)
	}
	tests := []struct {
		name string
		do   func(s *plantest.Swarm)
		want []string
	}{
		{"create", func(s *plantest.Swarm) { s.Service("web", 0, global) }, []string{"0 pending/running n1", "0 pending/running n2"}},
		{"a node joins", func(s *plantest.Swarm) {
			up(s)
			s.Plan(p)
			s.Node("n3")
		}, []string{"0 pending/running n3", "0 running/running n1", "0 running/running n2"}},
		{"no task for a node that is not ready, paused, drained or of another platform", func(s *plantest.Swarm) {
			s.Node("n3", func(n *cluster.Node) { n.Status.State = "" })
			s.Node("n4", func(n *cluster.Node) { n.Spec.Availability = swarm.NodeAvailabilityPause })
			s.Node("n5", func(n *cluster.Node) { n.Spec.Availability = swarm.NodeAvailabilityDrain })
			s.Node("n6", func(n *cluster.Node) { n.Description.Platform = swarm.Platform{OS: "windows", Architecture: "x86_64"} })
			for _, n := range []string{"n1", "n2"} {
				plantest.Change(s, n, func(n *cluster.Node) { n.Description.Platform = swarm.Platform{OS: "linux", Architecture: "x86_64"} })
			}
			s.Service("web", 0, global, func(v *cluster.Service) {
				v.Spec.TaskTemplate.Placement = &swarm.Placement{Platforms: []swarm.Platform{{OS: "linux", Architecture: "amd64"}}}
			})
		}, []string{"0 pending/running n1", "0 pending/running n2"}},
		{"constraints", func(s *plantest.Swarm) {
			up(s, func(v *cluster.Service) {
				v.Spec.TaskTemplate.Placement = &swarm.Placement{Constraints: []string{"node.labels.disk != hdd"}}
			})
			plantest.Change(s, "n2", func(n *cluster.Node) { n.Spec.Labels = map[string]string{"disk": "hdd"} })
		}, []string{"0 running/running n1", "0 running/shutdown n2"}},
		{"a node is drained", func(s *plantest.Swarm) { up(s); available(s, "n2", swarm.NodeAvailabilityDrain) },
			[]string{"0 running/running n1", "0 running/shutdown n2"}},
		{"drained and active again: the old task ends first", func(s *plantest.Swarm) {
			up(s)
			available(s, "n2", swarm.NodeAvailabilityDrain)
			s.Plan(p)
			available(s, "n2", swarm.NodeAvailabilityActive)
		}, []string{"0 pending/ready n2", "0 running/running n1", "0 running/shutdown n2"}},
		{"and then the new one starts", func(s *plantest.Swarm) {
			up(s)
			available(s, "n2", swarm.NodeAvailabilityDrain)
			s.Plan(p)
			available(s, "n2", swarm.NodeAvailabilityActive)
			s.Plan(p)
			obey(s)
		}, []string{"0 pending/running n2", "0 running/running n1", "0 shutdown/shutdown n2"}},
		{"a node is lost", func(s *plantest.Swarm) { up(s); state(s, "n2", swarm.NodeStateDown) },
			[]string{"0 running/running n1", "0 running/shutdown n2"}},
		{"a node is removed", func(s *plantest.Swarm) {
			up(s)
			n := plantest.Get[*cluster.Node](s, "n2")
			if _, err := s.Store.Update(s.Context(), func(tx *store.Tx) error { tx.Write(store.Delete(n)); return nil }); err != nil {
				s.Fatal(err)
			}
		}, []string{"0 running/remove n2", "0 running/running n1"}},
		{"a paused node keeps its task", func(s *plantest.Swarm) { up(s); available(s, "n2", swarm.NodeAvailabilityPause) },
			[]string{"0 running/running n1", "0 running/running n2"}},
		{"and does not replace it", func(s *plantest.Swarm) {
			up(s)
			available(s, "n2", swarm.NodeAvailabilityPause)
			become(s, "n2", swarm.TaskStateFailed)
		}, []string{"0 failed/shutdown n2", "0 running/running n1"}},
		{"until it is active", func(s *plantest.Swarm) {
			up(s)
			available(s, "n2", swarm.NodeAvailabilityPause)
			become(s, "n2", swarm.TaskStateFailed)
			s.Plan(p)
			available(s, "n2", swarm.NodeAvailabilityActive)
		}, []string{"0 failed/shutdown n2", "0 pending/running n2", "0 running/running n1"}},
		{"a task that failed starts again on its node", func(s *plantest.Swarm) { up(s); become(s, "n2", swarm.TaskStateFailed) },
			[]string{"0 failed/shutdown n2", "0 pending/ready n2 attempt 1", "0 running/running n1"}},
		{"condition none", func(s *plantest.Swarm) {
			up(s, policy(func(r *swarm.RestartPolicy) { r.Condition = "none" }))
			become(s, "n2", swarm.TaskStateFailed)
		}, []string{"0 failed/shutdown n2", "0 running/running n1"}},
		{"a finished task stays finished when its node comes back", func(s *plantest.Swarm) {
			up(s, policy(func(r *swarm.RestartPolicy) { r.Condition = "on-failure" }))
			become(s, "n2", swarm.TaskStateComplete)
			s.Plan(p)
			state(s, "n2", swarm.NodeStateDown)
			s.Plan(p)
			state(s, "n2", swarm.NodeStateReady)
		}, []string{"0 complete/shutdown n2", "0 running/running n1"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := plantest.New(t)
			s.Node("n1")
			s.Node("n2")
			tt.do(s)
			s.Settle(p)
			if d := cmp.Diff(tt.want, show(s, "web")); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestANewGlobalTask(t *testing.T) {
	s := plantest.New(t)
	s.Node("n1")
	s.Service("web", 0, global)
	s.Plan(service.Planner{})
	task := s.Tasks("web")[0]
	if !task.Global || task.Slot != 0 || task.NodeID != "n1" || task.Name() != "web.n1" || task.JobIteration != nil {
		t.Errorf("%+v", task)
	}
	if c := plantest.Get[*cluster.Claim](s, cluster.ClaimSlotNode("web", "n1")); c.Owner != task.ID || c.OwnerName != "web.n1" {
		t.Errorf("%+v", c)
	}
}

// A change of a node asks for every global service, of which it may have no task yet.
func TestANodeAsksForGlobalServices(t *testing.T) {
	s := plantest.New(t)
	s.Service("web", 0, global)
	s.Service("api", 1)
	w, _ := s.Store.Watch()
	defer w.Close()
	var p service.Planner
	changes := []struct {
		name string
		do   func()
		want int
	}{
		{"join", func() { s.Node("n1") }, 1},
		{"label", func() {
			plantest.Change(s, "n1", func(n *cluster.Node) { n.Spec.Labels = map[string]string{"a": "b"} })
		}, 1},
		{"hostname", func() { plantest.Change(s, "n1", func(n *cluster.Node) { n.Description.Hostname = "x" }) }, 1},
		{"engine label", func() {
			plantest.Change(s, "n1", func(n *cluster.Node) { n.Description.Engine.Labels = map[string]string{"a": "b"} })
		}, 1},
		{"address", func() { plantest.Change(s, "n1", func(n *cluster.Node) { n.Status.Addr = "198.51.100.7" }) }, 1},
		{"number", func() { plantest.Change(s, "n1", func(n *cluster.Node) { n.Index = 7 }) }, 0},
	}
	for _, c := range changes {
		c.do()
		events, _ := w.Take()
		got := 0
		for _, e := range events {
			got += len(p.Keys(s.Store.Snapshot(), e))
		}
		if got != c.want {
			t.Errorf("%s asks for %d services, not %d", c.name, got, c.want)
		}
	}
}

// An update of a global service goes from node to node as the configuration says.
func TestAGlobalServiceIsUpdatedNodeByNode(t *testing.T) {
	for _, order := range []swarm.UpdateOrder{swarm.UpdateOrderStopFirst, swarm.UpdateOrderStartFirst} {
		t.Run(string(order), func(t *testing.T) {
			r := newRollout(t, 0, swarm.UpdateConfig{Parallelism: 1, Order: order, Monitor: time.Second})
			plantest.Change(r.Swarm, "web", global)
			r.rest()
			r.work("")
			r.rest()
			if got := r.shown(); got != "3 hello:1" {
				t.Fatal(got)
			}
			r.image("hello:2")
			least := 3
			for range 30 {
				r.turn("")
				running := 0
				perNode := map[string]int{}
				for _, task := range r.Tasks("web") {
					if task.WantsToRun() && task.Status.State == swarm.TaskStateRunning {
						running++
						perNode[task.NodeID]++
					}
				}
				least = min(least, running)
				for n, c := range perNode {
					if c > 2 || c > 1 && order == swarm.UpdateOrderStopFirst {
						t.Fatalf("node %s runs %d tasks", n, c)
					}
				}
			}
			want := 2
			if order == swarm.UpdateOrderStartFirst {
				want = 3
			}
			if state, says := r.status(); state != swarm.UpdateStateCompleted || r.shown() != "3 hello:2" || least != want {
				t.Errorf("%s: %s; %s; at least %d ran, want %d", state, says, r.shown(), least, want)
			}
		})
	}
}

func TestAGlobalServiceIsRolledBack(t *testing.T) {
	r := newRollout(t, 0, swarm.UpdateConfig{Parallelism: 1, FailureAction: swarm.UpdateFailureActionRollback, Monitor: 5 * time.Second})
	plantest.Change(r.Swarm, "web", global)
	r.rest()
	r.work("")
	r.rest()
	r.image("hello:2")
	for range 20 {
		r.turn("hello:2")
	}
	if state, says := r.status(); state != swarm.UpdateStateRollbackCompleted || r.shown() != "3 hello:1" {
		t.Errorf("%s: %s; %s", state, says, r.shown())
	}
}

// A paused node holds no update up; it is updated when it is active again.
func TestAnUpdatePassesAPausedNode(t *testing.T) {
	r := newRollout(t, 0, swarm.UpdateConfig{Parallelism: 1, Monitor: time.Second})
	plantest.Change(r.Swarm, "web", global)
	r.rest()
	r.work("")
	r.rest()
	plantest.Change(r.Swarm, "n2", func(n *cluster.Node) { n.Spec.Availability = swarm.NodeAvailabilityPause })
	r.image("hello:2")
	for range 10 {
		r.turn("")
	}
	if state, _ := r.status(); state != swarm.UpdateStateCompleted || r.shown() != "1 hello:1, 2 hello:2" {
		t.Fatalf("%s: %s", state, r.shown())
	}
	plantest.Change(r.Swarm, "n2", func(n *cluster.Node) { n.Spec.Availability = swarm.NodeAvailabilityActive })
	r.rest()
	for range 10 {
		r.turn("")
	}
	if state, _ := r.status(); state != swarm.UpdateStateCompleted || r.shown() != "3 hello:2" {
		t.Errorf("%s: %s", state, r.shown())
	}
}

// Constraints are enforced on the tasks of replicated services too.
func TestATaskLeavesANodeThatItDoesNotMatchAnyMore(t *testing.T) {
	s := plantest.New(t)
	s.Node("n1", func(n *cluster.Node) { n.Spec.Labels = map[string]string{"disk": "ssd"} })
	s.Service("web", 1, func(v *cluster.Service) {
		v.Spec.TaskTemplate.Placement = &swarm.Placement{Constraints: []string{"node.labels.disk == ssd"}}
	})
	var p service.Planner
	s.Plan(p)
	run(s, "web", "n1")
	s.Settle(p)
	plantest.Change(s, "n1", func(n *cluster.Node) { n.Spec.Labels = nil })
	s.Settle(p)
	if d := cmp.Diff([]string{"1 pending/ready", "1 running/shutdown n1"}, show(s, "web")); d != "" {
		t.Error(d)
	}
}

// Whatever happens to nodes and tasks, a node has one task of a global service at most, a node that is for it has one
// unless its task has finished, and planning comes to rest.
func TestNodesHaveOneTask(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := plantest.New(t)
		nodes := []string{"n1", "n2", "n3"}
		for _, n := range nodes {
			s.Node(n)
		}
		s.Service("web", 0, global, policy(func(r *swarm.RestartPolicy) {
			r.Condition = rapid.SampledFrom([]swarm.RestartPolicyCondition{"any", "on-failure", "none"}).Draw(rt, "condition")
		}), func(v *cluster.Service) {
			v.Spec.TaskTemplate.Placement = &swarm.Placement{Constraints: []string{"node.labels.zone != a"}}
		})
		for range rapid.IntRange(1, 20).Draw(rt, "steps") {
			node := rapid.SampledFrom(nodes).Draw(rt, "node")
			ts := s.Tasks("web")
			switch k := rapid.IntRange(0, 6).Draw(rt, "what"); {
			case k == 0:
				st := rapid.SampledFrom([]swarm.NodeState{swarm.NodeStateReady, swarm.NodeStateDown}).Draw(rt, "state")
				plantest.Change(s, node, func(n *cluster.Node) { n.Status.State = st })
			case k == 1:
				av := rapid.SampledFrom([]swarm.NodeAvailability{"active", "active", "pause", "drain"}).Draw(rt, "availability")
				plantest.Change(s, node, func(n *cluster.Node) { n.Spec.Availability = av })
			case k == 2:
				zone := rapid.SampledFrom([]string{"a", "b"}).Draw(rt, "zone")
				plantest.Change(s, node, func(n *cluster.Node) { n.Spec.Labels = map[string]string{"zone": zone} })
			case k == 3:
				s.At = s.At.Add(time.Duration(rapid.IntRange(0, 90).Draw(rt, "seconds")) * time.Second)
			case len(ts) > 0:
				task := rapid.SampledFrom(ts).Draw(rt, "task")
				if task.Ended() {
					continue
				}
				st := rapid.SampledFrom([]swarm.TaskState{"running", "running", "failed", "complete", "shutdown"}).Draw(rt, "becomes")
				plantest.Change(s, task.ID, func(t *cluster.Task) { t.Status.State = st })
			}
			s.Settle(service.Planner{}, reap.Planner{})
			held := map[string]int{}
			for _, task := range s.Tasks("web") {
				if task.WantsToRun() {
					held[task.NodeID]++
				}
			}
			for _, id := range nodes {
				n := plantest.Get[*cluster.Node](s, id)
				isFor := n.Status.State == swarm.NodeStateReady && n.Spec.Availability == "active" && n.Spec.Labels["zone"] != "a"
				away := n.Status.State == swarm.NodeStateDown || n.Spec.Availability == "drain" || n.Spec.Labels["zone"] == "a"
				finished := slices.ContainsFunc(s.Tasks("web"), func(t *cluster.Task) bool { return t.NodeID == id && t.Ended() }) &&
					plantest.Get[*cluster.Service](s, "web").Spec.TaskTemplate.RestartPolicy.Condition != "any"
				none := plantest.Get[*cluster.Service](s, "web").Spec.TaskTemplate.RestartPolicy.Condition == "none"
				if held[id] > 1 || away && held[id] > 0 || isFor && held[id] == 0 && !finished && !none {
					rt.Fatalf("node %s has %d tasks:\n%s", id, held[id], strings.Join(show(s, "web"), "\n"))
				}
			}
		}
	})
}

// BenchmarkPlanGlobal makes a task for every node.
func BenchmarkPlanGlobal(b *testing.B) {
	for _, nodes := range []int{100, 1000} {
		b.Run(fmt.Sprintf("%dnodes", nodes), func(b *testing.B) {
			s := plantest.New(b)
			for i := range nodes {
				s.Node(fmt.Sprintf("n%04d", i))
			}
			s.Service("web", 0, global)
			snap := s.Store.Snapshot()
			for b.Loop() {
				if n := len((service.Planner{}).Plan(snap, "web", s.Env()).Groups); n != nodes {
					b.Fatal(n)
				}
			}
		})
	}
}
