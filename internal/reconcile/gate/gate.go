// Package gate decides whether a service may start as far as the services go that it depends on.
//
// It owns Service.Met: which dependencies have been met once. A dependency that was met is not looked at again, so that
// neither a restart nor more replicas wait for it. It never holds a task back itself: package placement gives none of a
// service that waits a node, and says for what it waits.
package gate

import (
	"slices"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/reconcile"
	"shoal.dev/shoal/internal/store"
)

// Planner plans one service that waits a key; the key is its ID.
type Planner struct{}

var _ reconcile.Planner = Planner{}

// Name is "gate".
func (Planner) Name() string { return "gate" }

// Keys is a service that waits and has changed, and those that wait for a service that has changed or has a task that has.
func (Planner) Keys(snap *store.Snapshot, e store.Event) []reconcile.Key {
	var keys []reconcile.Key
	waiting := func(name string) {
		for s := range snap.WaitingServices() {
			if s.Waits(name) {
				keys = append(keys, reconcile.Key(s.ID))
			}
		}
	}
	switch e.Kind {
	case cluster.KindService:
		if s, _ := e.New.(*cluster.Service); s != nil {
			if len(s.Unmet()) > 0 {
				keys = append(keys, reconcile.Key(s.ID))
			}
			waiting(s.Spec.Name)
		}
	case cluster.KindTask:
		old, _ := e.Old.(*cluster.Task)
		t, _ := e.New.(*cluster.Task)
		if t != nil && (old == nil || old.Status.State != t.Status.State || old.DesiredState != t.DesiredState) {
			waiting(t.ServiceName)
		}
	}
	return keys
}

// AllKeys is every service that waits.
func (Planner) AllKeys(snap *store.Snapshot) []reconcile.Key {
	var keys []reconcile.Key
	for s := range snap.WaitingServices() {
		keys = append(keys, reconcile.Key(s.ID))
	}
	return keys
}

// Plan notes which dependencies of the service are met now.
func (Planner) Plan(snap *store.Snapshot, key reconcile.Key, _ reconcile.Env) reconcile.Plan {
	s, ok := store.Get[*cluster.Service](snap, string(key))
	if !ok {
		return reconcile.Plan{}
	}
	met := slices.Clone(s.Met)
	for _, d := range s.Unmet() {
		if on, ok := snap.DependedOn(s, d); ok && holds(snap, on, d.Condition) {
			met = append(met, d.String())
		}
	}
	if len(met) == len(s.Met) {
		return reconcile.Plan{}
	}
	c := cluster.Fork(s)
	c.Met = met
	return reconcile.Plan{Groups: []store.Group{{Why: "what it depends on is there", Changes: []store.Change{store.PutState(c)}}}}
}

// holds says whether as many slots of the service as it shall have are as the condition says; of one that follows the nodes,
// all that there are, and of a job those of its present run.
func holds(snap *store.Snapshot, s *cluster.Service, condition string) bool {
	good, all := map[string]bool{}, map[string]bool{}
	for t := range snap.TasksByService(s.ID) {
		if s.JobStatus != nil && (t.JobIteration == nil || t.JobIteration.Index != s.JobStatus.JobIteration.Index) {
			continue
		}
		slot := t.SlotClaim()
		if t.WantsToRun() {
			all[slot] = true
		}
		if satisfies(t, condition) {
			all[slot], good[slot] = true, true
		}
	}
	want := max(len(all), 1)
	switch m := s.Spec.Mode; {
	case m.ReplicatedJob != nil && condition != cluster.ServiceCompleted:
		want = 1 // how many of its tasks run at a time is its own affair
	case m.ReplicatedJob != nil && m.ReplicatedJob.TotalCompletions != nil:
		want = int(*m.ReplicatedJob.TotalCompletions)
	case m.Replicated != nil:
		want = int(s.Replicas())
	}
	return len(good) >= want
}

// satisfies says whether the task is as the condition says.
func satisfies(t *cluster.Task, condition string) bool {
	switch t.Status.State {
	case swarm.TaskStateComplete:
		return true
	case swarm.TaskStateRunning:
		return condition != cluster.ServiceCompleted && t.WantsToRun()
	case swarm.TaskStateStarting:
		return condition == cluster.ServiceStarted && t.WantsToRun()
	}
	return false
}
