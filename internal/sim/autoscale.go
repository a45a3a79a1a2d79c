package sim

import (
	"fmt"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/store"
)

// nanoCPUs is what a task of a service that is scaled by its usage reserves.
const nanoCPUs = 1e8

// autoscale lets a third of the replicated services be scaled by their usage.
func (w *world) autoscale(s *cluster.Service) string {
	if w.rng.IntN(3) > 0 {
		return ""
	}
	least := 1 + w.rng.IntN(3)
	s.Spec.Labels = map[string]string{
		cluster.LabelScaleMin: fmt.Sprint(least), cluster.LabelScaleMax: fmt.Sprint(least + w.rng.IntN(6)), cluster.LabelScaleCPU: "50",
		cluster.LabelScaleDown: fmt.Sprintf("%ds", w.rng.IntN(40)), cluster.LabelScaleUp: fmt.Sprintf("%ds", w.rng.IntN(20)),
	}
	s.Spec.TaskTemplate.Resources = &swarm.ResourceRequirements{Reservations: &swarm.Resources{NanoCPUs: nanoCPUs}}
	return fmt.Sprintf(" --label %v", s.Spec.Labels)
}

// load changes what all tasks of a service together use.
func (w *world) load(id string) {
	if w.loads == nil {
		w.loads = map[string]int64{}
	}
	w.loads[id] = int64(w.rng.IntN(6)) * nanoCPUs
	w.note("the tasks of %s use %d", id, w.loads[id])
}

// usage is what a task uses, if the manager leads and has been told of it.
func (w *world) usage(m *manager, id string) (cluster.Usage, bool) {
	t := taskOf(w.snapshot(), id)
	if m != w.leader || t == nil || t.Status.State != swarm.TaskStateRunning {
		return cluster.Usage{}, false
	}
	a := w.agents[t.NodeID]
	if a == nil || !a.alive || !a.connected {
		return cluster.Usage{}, false
	}
	n := int64(0)
	for o := range w.snapshot().TasksByService(t.ServiceID) {
		if o.Status.State == swarm.TaskStateRunning {
			n++
		}
	}
	return cluster.Usage{At: m.store.Now(), NanoCPUs: w.loads[t.ServiceID] / n}, true
}

// scaled checks one change of a service's number of replicas.
func (tr *truth) scaled(old, s *cluster.Service) {
	if !cluster.Autoscales(&s.Spec) || s.Replicas() == 0 {
		return
	}
	w := tr.w
	a, err := cluster.AutoscaleOf(&s.Spec)
	if err != nil {
		w.violate("service %s: %v", s.ID, err)
	}
	if n := s.Replicas(); n < a.Min || n > a.Max {
		w.violate("service %s has %d replicas, not %d to %d", s.ID, n, a.Min, a.Max)
	}
	if old == nil || old.Scale == nil || s.Scale == nil || s.Scale.ChangedAt.Equal(old.Scale.ChangedAt) {
		return
	}
	w.stats.Scaled++
	w.note("  ~ service %s: %d replicas, had %d: %s", s.ID, s.Scale.Replicas, old.Scale.Replicas, s.Scale.Decisions[len(s.Scale.Decisions)-1].Reason)
	if s.Version == old.Version && s.Scale.ChangedAt.Sub(old.Scale.ChangedAt) < 15*time.Second {
		w.violate("service %s was scaled twice within %s", s.ID, s.Scale.ChangedAt.Sub(old.Scale.ChangedAt))
	}
	if s.Version != old.Version || s.Scale.Replicas >= old.Scale.Replicas {
		return
	}
	for _, p := range old.Scale.Wanted { // nobody wanted more within the window
		if p.At.After(s.Scale.ChangedAt.Add(-a.DownWindow)) && p.Replicas > s.Scale.Replicas {
			w.violate("service %s went down to %d although %d were wanted at %s", s.ID, s.Scale.Replicas, p.Replicas, p.At)
		}
	}
}

// scaleTime is how long it takes at most until usage has what it asks for: the longest window, and some steps.
const scaleTime = 2 * time.Minute

// autoscales says whether a service is scaled by its usage.
func (w *world) autoscales() bool {
	for s := range store.List[*cluster.Service](w.snapshot()) {
		if s.Scale != nil {
			return true
		}
	}
	return false
}
