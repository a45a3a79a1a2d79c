package placement

import (
	"cmp"
	"fmt"
	"testing"

	"github.com/moby/moby/api/types/swarm"
	"pgregory.net/rapid"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/reconcile/plantest"
)

// better says whether a is to be preferred to b, looking at everything anew: what choice must agree with.
func (j *job) better(a, b *option) bool {
	order := cmp.Compare(j.failures(a), j.failures(b))
	for i := range j.spread {
		order = cmp.Or(order, cmp.Compare(j.groups[a.groups[i]], j.groups[b.groups[i]]))
	}
	return cmp.Or(order, cmp.Compare(j.count.own[a.ID], j.count.own[b.ID]), cmp.Compare(a.tasks, b.tasks),
		cmp.Compare(a.tie, b.tie), cmp.Compare(a.ID, b.ID)) < 0
}

// Whatever several jobs place in whatever order, the choice of each is the node that looking at all nodes finds.
func TestChoiceIsTheBestOfAllNodes(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := plantest.New(t)
		names := []string{"a", "b", "c"}
		for i := range rapid.IntRange(1, 8).Draw(rt, "nodes") {
			s.Node(fmt.Sprint("n", i), func(n *cluster.Node) {
				n.Spec.Labels = map[string]string{}
				for _, l := range []string{"zone", "rack"} {
					if v := rapid.SampledFrom(append(names, "")).Draw(rt, l); v != "" {
						n.Spec.Labels[l] = v
					}
				}
				n.Description.Resources.NanoCPUs = rapid.Int64Range(1, 6).Draw(rt, "cpus")
			})
		}
		wish := func(service string) *cluster.Task {
			k := &cluster.Task{}
			k.ID, k.ServiceID, k.DesiredState = s.NewID(), service, swarm.TaskStateRunning
			k.Spec.Placement = &swarm.Placement{}
			k.Spec.Resources = &swarm.ResourceRequirements{Reservations: &swarm.Resources{}}
			return k
		}
		for range rapid.IntRange(0, 24).Draw(rt, "tasks there") {
			k := wish(rapid.SampledFrom(names).Draw(rt, "service"))
			k.NodeID = fmt.Sprint("n", rapid.IntRange(0, 8).Draw(rt, "node")) // it may be gone
			k.Status.State = rapid.SampledFrom([]swarm.TaskState{"running", "assigned", "failed"}).Draw(rt, "state")
			k.Status.Timestamp = s.At
			s.Put(k)
		}
		b := newBoard(s.Store.Snapshot())
		var jobs []*job
		for _, name := range append(names, "a") {
			k := wish(name)
			k.Spec.Resources.Reservations.NanoCPUs = rapid.Int64Range(0, 2).Draw(rt, "reserve")
			k.Spec.Placement.MaxReplicas = rapid.SampledFrom([]uint64{0, 0, 1, 3}).Draw(rt, "max")
			for _, l := range []string{"zone", "rack"} {
				if rapid.Bool().Draw(rt, "spread over "+l) {
					k.Spec.Placement.Preferences = append(k.Spec.Placement.Preferences,
						swarm.PlacementPreference{Spread: &swarm.SpreadOver{SpreadDescriptor: "node.labels." + l}})
				}
			}
			jobs = append(jobs, b.newJob(k, s.At))
		}
		for range rapid.IntRange(1, 20).Draw(rt, "placements") {
			j := rapid.SampledFrom(jobs).Draw(rt, "job")
			var want *option
			for _, o := range j.seats {
				if j.check(o) == filters && (want == nil || j.better(o, want)) {
					want = o
				}
			}
			k := wish(j.task.ServiceID)
			k.Spec = j.task.Spec
			n, _ := j.place(k)
			switch {
			case want == nil && n != nil:
				rt.Fatalf("placed on %s, where no node is left", n.ID)
			case want != nil && (n == nil || n.ID != want.ID):
				rt.Fatalf("placed on %v, not on %s", n, want.ID)
			}
		}
	})
}
