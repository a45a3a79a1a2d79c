package rebalance_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/swarm"
	"pgregory.net/rapid"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/reconcile/placement"
	"shoal.dev/shoal/internal/reconcile/plantest"
	"shoal.dev/shoal/internal/reconcile/reap"
	"shoal.dev/shoal/internal/reconcile/rebalance"
	"shoal.dev/shoal/internal/reconcile/service"
)

// auto gives a service the policy.
func auto(v *cluster.Service) {
	v.Spec.Labels = map[string]string{cluster.LabelRebalance: cluster.RebalanceAuto}
}

// world is a swarm whose nodes do at once what they are told.
type world struct {
	*plantest.Swarm
	least int // tasks that ran at the fewest, since it was last set
	most  int // tasks of one slot that were meant to run, at the most
	moved int
	// broken are the nodes on which what starts fails.
	broken map[string]bool
}

// step is a round of the planners and of the nodes. It says whether anything changed.
func (w *world) step() bool {
	w.Helper()
	before := w.Store.Index()
	w.Plan(service.Planner{})
	for _, t := range w.Tasks("web") {
		if t.Status.State == swarm.TaskStateNew {
			plantest.Change(w.Swarm, t.ID, func(t *cluster.Task) { t.Status.State = swarm.TaskStatePending })
		}
	}
	w.Plan(placement.Planner{})
	marks, _, _ := w.Plan(rebalance.Planner{})
	for _, m := range marks {
		if m != "the service is balanced" {
			w.moved++
		}
	}
	w.count()
	w.Plan(reap.Planner{})
	for _, t := range w.Tasks("web") {
		switch {
		case !t.WantsToRun() && !t.Ended() && t.NodeID != "":
			w.become(t, swarm.TaskStateShutdown)
		case t.Status.State == swarm.TaskStateAssigned && t.DesiredState == swarm.TaskStateRunning && w.broken[t.NodeID]:
			w.become(t, swarm.TaskStateFailed)
		case t.Status.State == swarm.TaskStateAssigned && t.DesiredState == swarm.TaskStateRunning:
			w.become(t, swarm.TaskStateRunning)
		}
	}
	w.At = w.At.Add(time.Second)
	return w.Store.Index() != before
}

func (w *world) become(t *cluster.Task, s swarm.TaskState) {
	plantest.Change(w.Swarm, t.ID, func(t *cluster.Task) {
		st := t.Status
		st.State, st.Timestamp = s, w.At
		t.SetStatus(st, w.At)
	})
}

func (w *world) count() {
	running, slots := 0, map[int]int{}
	for _, t := range w.Tasks("web") {
		if t.WantsToRun() {
			slots[t.Slot]++
			if t.Status.State == swarm.TaskStateRunning {
				running++
			}
		}
	}
	w.least = min(w.least, running)
	for _, n := range slots {
		w.most = max(w.most, n)
	}
}

// settle goes on until nothing changes any more.
func (w *world) settle() bool {
	for range 300 {
		if !w.step() {
			return true
		}
	}
	return false
}

// spread is how many of the service's tasks each node has.
func (w *world) spread() map[string]int {
	out := map[string]int{}
	for n := range w.nodes() {
		out[n] = 0
	}
	for _, t := range w.Tasks("web") {
		if t.WantsToRun() && !t.Ended() {
			out[t.NodeID]++
		}
	}
	return out
}

func (w *world) nodes() map[string]bool {
	out := map[string]bool{}
	e := placement.Explain(w.Store.Snapshot(), plantest.Get[*cluster.Service](w.Swarm, "web"), w.At)
	for _, n := range e.Nodes {
		out[n.ID] = n.Filter == ""
	}
	return out
}

func newWorld(t testing.TB) *world { return &world{Swarm: plantest.New(t), least: 1 << 30} }

func TestRebalance(t *testing.T) {
	order := func(o swarm.UpdateOrder, p uint64) func(*cluster.Service) {
		return func(v *cluster.Service) { v.Spec.UpdateConfig = &swarm.UpdateConfig{Order: o, Parallelism: p} }
	}
	third := func(w *world) { w.Node("c") }
	nothing := func(*cluster.Service) {}
	tests := []struct {
		name    string
		service func(*cluster.Service)
		later   func(*world)
		want    map[string]int
		least   int // running at any time
		moved   int
	}{
		{"a node joins", auto, third, map[string]int{"a": 2, "b": 2, "c": 2}, 6, 2},
		{"nobody asked", nothing, third, map[string]int{"a": 3, "b": 3, "c": 0}, 6, 0},
		{"the user asks", nothing, func(w *world) {
			w.Node("c")
			plantest.Change(w.Swarm, "web", func(v *cluster.Service) { v.Rebalancing = true })
		}, map[string]int{"a": 2, "b": 2, "c": 2}, 6, 2},
		{"stop first", func(v *cluster.Service) { auto(v); order(swarm.UpdateOrderStopFirst, 1)(v) }, third, map[string]int{"a": 2, "b": 2, "c": 2}, 5, 2},
		{"stop first, two at a time", func(v *cluster.Service) { auto(v); order(swarm.UpdateOrderStopFirst, 2)(v) }, third, map[string]int{"a": 2, "b": 2, "c": 2}, 4, 2},
		{"stop first, all at a time", func(v *cluster.Service) { auto(v); order(swarm.UpdateOrderStopFirst, 0)(v) }, third, map[string]int{"a": 2, "b": 2, "c": 2}, 4, 2},
		{"start first", func(v *cluster.Service) { auto(v); order(swarm.UpdateOrderStartFirst, 0)(v) }, third, map[string]int{"a": 2, "b": 2, "c": 2}, 6, 2},
		{"a node that it may not have", func(v *cluster.Service) {
			auto(v)
			v.Spec.TaskTemplate.Placement = &swarm.Placement{Constraints: []string{"node.id!=c"}}
		}, third, map[string]int{"a": 3, "b": 3, "c": 0}, 6, 0},
		{"a paused node", auto, func(w *world) { w.Node("c", func(n *cluster.Node) { n.Spec.Availability = "pause" }) },
			map[string]int{"a": 3, "b": 3, "c": 0}, 6, 0},
		{"one more is no improvement", auto, func(w *world) {
			w.Node("c")
			w.Node("d")
			w.Node("e")
		}, map[string]int{"a": 2, "b": 1, "c": 1, "d": 1, "e": 1}, 6, 3},
		{"a full node", func(v *cluster.Service) {
			auto(v)
			v.Spec.TaskTemplate.Resources = &swarm.ResourceRequirements{Reservations: &swarm.Resources{NanoCPUs: 1e9}}
		}, func(w *world) {
			w.Node("c", func(n *cluster.Node) { n.Description.Resources.NanoCPUs = 1e9 })
		}, map[string]int{"a": 3, "b": 2, "c": 1}, 6, 1},
		{"a node on which it does not run", auto, func(w *world) {
			w.Node("c")
			w.broken = map[string]bool{"c": true}
		}, map[string]int{"a": 3, "b": 3, "c": 0}, 6, -1},
		{"a policy that lets nothing follow", func(v *cluster.Service) {
			auto(v)
			v.Spec.TaskTemplate.RestartPolicy = &swarm.RestartPolicy{Condition: swarm.RestartPolicyConditionNone}
		}, third, map[string]int{"a": 3, "b": 3, "c": 0}, 6, 0},
		{"during an update that was paused", auto, func(w *world) {
			w.Node("c")
			plantest.Change(w.Swarm, "web", func(v *cluster.Service) {
				v.UpdateStatus = &swarm.UpdateStatus{State: swarm.UpdateStatePaused}
			})
		}, map[string]int{"a": 3, "b": 3, "c": 0}, 6, 0},
		{"a host port", func(v *cluster.Service) {
			auto(v)
			n := uint64(2)
			v.Spec.Mode.Replicated.Replicas = &n
			v.Spec.EndpointSpec = &swarm.EndpointSpec{Ports: []swarm.PortConfig{{Protocol: "tcp", TargetPort: 80, PublishedPort: 80, PublishMode: swarm.PortConfigPublishModeHost}}}
		}, third, map[string]int{"a": 1, "b": 1, "c": 0}, 2, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			w.Node("a")
			w.Node("b")
			w.Service("web", 6, tt.service)
			if !w.settle() {
				t.Fatal("it does not come to rest at the beginning")
			}
			w.least, w.most, w.moved = 1<<30, 0, 0
			tt.later(w)
			rest := w.settle()
			got := w.spread()
			if tt.name == "one more is no improvement" { // whichever node keeps two
				counts := slices.Sorted(maps.Values(got))
				if !slices.Equal(counts, []int{1, 1, 1, 1, 2}) {
					t.Error(counts)
				}
			} else if tt.name == "a full node" {
				if got["c"] != 1 || max(got["a"], got["b"]) != 3 {
					t.Error(got)
				}
			} else if tt.moved >= 0 {
				if diff := cmp.Diff(tt.want, got); diff != "" {
					t.Error(diff)
				}
			}
			if w.least < tt.least {
				t.Errorf("only %d tasks ran, want %d", w.least, tt.least)
			}
			if tt.moved >= 0 && (w.moved != tt.moved || !rest) {
				t.Errorf("%d tasks moved, want %d; at rest: %v", w.moved, tt.moved, rest)
			}
			if w.most > 2 {
				t.Errorf("%d tasks in one slot", w.most)
			}
			if plantest.Get[*cluster.Service](w.Swarm, "web").Rebalancing {
				t.Error("it is still asked to rebalance")
			}
		})
	}
}

// From any state of any swarm a service comes to rest, with as many tasks as it had, in order, and as evenly as the filters
// let it be: no node that could take a task has two fewer than another, whose spread groups are the same.
func TestComesToRest(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(t)
		nodes := rapid.IntRange(1, 6).Draw(rt, "nodes")
		zones := map[string]string{}
		for i := range nodes {
			w.Node(fmt.Sprint("n", i), func(n *cluster.Node) {
				zones[n.ID] = rapid.SampledFrom([]string{"a", "b", "c"}).Draw(rt, "zone")
				n.Spec.Labels = map[string]string{"zone": zones[n.ID], "rack": rapid.SampledFrom([]string{"1", "2"}).Draw(rt, "rack")}
				n.Description.Resources.NanoCPUs = rapid.Int64Range(2, 8).Draw(rt, "cpus") * 1e9
			})
		}
		replicas := rapid.Uint64Range(1, 10).Draw(rt, "replicas")
		parallel := rapid.Uint64Range(0, 3).Draw(rt, "parallelism")
		first := rapid.Bool().Draw(rt, "start first")
		spread := rapid.SliceOfN(rapid.SampledFrom([]string{"node.labels.zone", "node.labels.rack"}), 0, 2).Draw(rt, "spread")
		w.Service("web", replicas, func(v *cluster.Service) {
			auto(v)
			v.Spec.UpdateConfig = &swarm.UpdateConfig{Parallelism: parallel, Order: swarm.UpdateOrderStopFirst}
			if first {
				v.Spec.UpdateConfig.Order = swarm.UpdateOrderStartFirst
			}
			p := &swarm.Placement{MaxReplicas: rapid.SampledFrom([]uint64{0, 0, 4}).Draw(rt, "max replicas")}
			for _, d := range spread {
				p.Preferences = append(p.Preferences, swarm.PlacementPreference{Spread: &swarm.SpreadOver{SpreadDescriptor: d}})
			}
			v.Spec.TaskTemplate.Placement = p
			v.Spec.TaskTemplate.Resources = &swarm.ResourceRequirements{Reservations: &swarm.Resources{NanoCPUs: rapid.Int64Range(0, 1).Draw(rt, "cpu") * 1e9}}
			delay := time.Second
			v.Spec.TaskTemplate.RestartPolicy = &swarm.RestartPolicy{Delay: &delay}
		})
		w.settle()
		for range rapid.IntRange(1, 3).Draw(rt, "changes") {
			switch id := fmt.Sprint("n", rapid.IntRange(0, nodes-1).Draw(rt, "node")); rapid.IntRange(0, 2).Draw(rt, "change") {
			case 0:
				w.Node(fmt.Sprint("n", nodes), func(n *cluster.Node) {
					n.Spec.Labels = map[string]string{"zone": rapid.SampledFrom([]string{"a", "b", "c"}).Draw(rt, "zone"), "rack": "1"}
				})
				nodes++
			default:
				plantest.Change(w.Swarm, id, func(n *cluster.Node) {
					n.Spec.Availability = rapid.SampledFrom([]swarm.NodeAvailability{"active", "active", "drain", "pause"}).Draw(rt, "availability")
				})
			}
		}
		// A drained node's tasks move at once; what counts is the rebalancing after that.
		w.step()
		w.step()
		w.step()
		w.least, w.most, w.moved = 1<<30, 0, 0
		w.count()
		had := w.least
		if !w.settle() {
			rt.Fatalf("it does not come to rest: %v", w.spread())
		}
		if w.most > 2 || w.moved > 3*int(replicas) {
			rt.Fatalf("%d tasks in a slot, %d moved", w.most, w.moved)
		}
		if lost := max(0, int(replicas)-int(parallel)); parallel > 0 && w.least < min(had, lost) {
			rt.Fatalf("only %d of %d tasks ran with a parallelism of %d", w.least, replicas, parallel)
		}
		if waits(w) || len(spread) > 0 {
			return
		}
		counts, open := w.spread(), w.nodes()
		for from, n := range counts {
			for to, m := range counts {
				if from == "" || !active(w, from) || !open[to] || n-m < 2 {
					continue
				}
				rt.Fatalf("node %s has %d tasks and %s could have more than its %d", from, n, to, m)
			}
		}
	})
}

// waits says whether a task of the service has no node.
func waits(w *world) bool {
	return slices.ContainsFunc(w.Tasks("web"), func(t *cluster.Task) bool { return t.WantsToRun() && t.NodeID == "" })
}

func active(w *world, id string) bool {
	return plantest.Get[*cluster.Node](w.Swarm, id).Spec.Availability == swarm.NodeAvailabilityActive
}

// What makes a node eligible asks for a plan, and so does the end of a move.
func TestKeys(t *testing.T) {
	w := newWorld(t)
	w.Node("a")
	w.Service("web", 2, auto)
	w.Service("other", 2)
	w.settle()
	watch, _ := w.Store.Watch()
	defer watch.Close()
	w.Node("b")
	events, _ := watch.Take()
	keys := rebalance.Planner{}.Keys(w.Store.Snapshot(), events[0])
	if len(keys) != 1 || keys[0] != "web" {
		t.Errorf("a node that joins: %v", keys)
	}
	task := w.Tasks("web")[0]
	plantest.Change(w.Swarm, task.ID, func(t *cluster.Task) { t.Status.Message = "still running" })
	events, _ = watch.Take()
	if keys := (rebalance.Planner{}).Keys(w.Store.Snapshot(), events[0]); len(keys) > 1 {
		t.Errorf("a status: %v", keys)
	}
}
