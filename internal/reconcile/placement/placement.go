// Package placement decides on which node a pending task runs.
//
// It owns one step of a task's life, pending to assigned, and the explanation of a task that fits nowhere. For a task of
// a global service, which has its node already, it decides whether the node has room now. It plans all
// pending tasks in one plan, on the snapshot and on what the plan itself has placed, so that a node is never
// overfilled. It never moves a task that has a node and never looks at what only one manager knows.
package placement

import (
	"cmp"
	"reflect"
	"slices"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/reconcile"
	"shoal.dev/shoal/internal/store"
)

// keyPending is the only key: all tasks that wait for a node.
const keyPending reconcile.Key = "pending"

// Planner places tasks.
type Planner struct{}

var _ reconcile.Planner = Planner{}

// Name is "placement".
func (Planner) Name() string { return "placement" }

// Keys asks for a plan when a task came to wait, and when something may have made room.
func (Planner) Keys(_ *store.Snapshot, e store.Event) []reconcile.Key {
	if matters(e) {
		return []reconcile.Key{keyPending}
	}
	return nil
}

func matters(e store.Event) bool {
	switch e.Kind {
	case cluster.KindTask:
		old, _ := e.Old.(*cluster.Task)
		t, _ := e.New.(*cluster.Task)
		switch {
		case t == nil:
			return placed(old) && !old.Ended()
		case pending(t):
			return old == nil || !pending(old)
		}
		return old != nil && placed(old) && (t.Ended() != old.Ended() || t.WantsToRun() != old.WantsToRun())
	case cluster.KindSwarm:
		return allows(e)
	case cluster.KindService:
		return gated(e)
	case cluster.KindNode:
		old, _ := e.Old.(*cluster.Node)
		n, _ := e.New.(*cluster.Node)
		return old == nil || n == nil || old.Status != n.Status || old.DiskFull != n.DiskFull ||
			!reflect.DeepEqual(old.Spec, n.Spec) || !reflect.DeepEqual(old.Description, n.Description)
	}
	return false
}

// AllKeys is the one key.
func (Planner) AllKeys(*store.Snapshot) []reconcile.Key { return []reconcile.Key{keyPending} }

// pending says whether the task waits for a node.
func pending(t *cluster.Task) bool {
	return (t.NodeID == "" || t.Global) && t.Status.State == swarm.TaskStatePending && t.WantsToRun()
}

// placed says whether the task takes room on its node.
func placed(t *cluster.Task) bool {
	return t.NodeID != "" && !cluster.Before(t.Status.State, swarm.TaskStateAssigned)
}

// Plan places every pending task for which there is room, the oldest first.
func (Planner) Plan(snap *store.Snapshot, _ reconcile.Key, env reconcile.Env) reconcile.Plan {
	var tasks []*cluster.Task
	for t := range snap.WaitingTasks(swarm.TaskStatePending) {
		if pending(t) {
			tasks = append(tasks, t)
		}
	}
	if len(tasks) == 0 {
		return reconcile.Plan{}
	}
	slices.SortFunc(tasks, func(a, b *cluster.Task) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.ServiceID, b.ServiceID),
			cmp.Compare(a.Slot, b.Slot), cmp.Compare(a.ID, b.ID))
	})
	b := newBoard(snap)
	var plan reconcile.Plan
	var jobs = map[jobKey]*job{}
	var left []*cluster.Task
	job := func(t *cluster.Task) *job {
		k := jobKey{t.ServiceID, t.SpecVersion}
		j := jobs[k]
		if j == nil || !sameWants(j.task, t) {
			j = b.newJob(t, env.Now)
			jobs[k] = j
		}
		return j
	}
	waits := waits{snap: snap}
	for _, t := range tasks {
		if waits.forWhat(t) != "" {
			left = append(left, t)
			continue
		}
		n, generic := job(t).place(t)
		if n == nil {
			left = append(left, t)
			continue
		}
		c := cluster.Fork(t)
		c.NodeID, c.GenericResources = n.ID, generic
		c.Status = swarm.TaskStatus{State: swarm.TaskStateAssigned, Message: "scheduler assigned task to node", Timestamp: env.Now}
		if t.Global {
			c.Status.Message = "scheduler confirmed task can run on preassigned node"
		}
		plan.Groups = append(plan.Groups, store.Group{Why: "placed on node " + n.ID, Changes: []store.Change{store.PutBoth(c)}})
	}
	// The explanations come last, when the nodes are as full as this plan leaves them: otherwise the next plan, finding
	// them fuller, would say something else.
	for _, t := range left {
		problem := waits.forWhat(t)
		if problem == "" {
			problem = job(t).refusal(t)
		}
		plan.Reasons = append(plan.Reasons, "task "+t.ID+": "+problem)
		if t.Status.Err != problem {
			c := cluster.Fork(t)
			c.Status.Err, c.Status.Timestamp = problem, env.Now
			plan.Groups = append(plan.Groups, store.Group{Why: problem, Changes: []store.Change{store.PutState(c)}})
		}
	}
	return plan
}

// jobKey tells tasks apart that cannot be placed alike.
type jobKey struct {
	service string
	version uint64
}

// sameWants says whether two tasks ask the same of a node.
func sameWants(a, b *cluster.Task) bool {
	return a == b || slices.Equal(a.HostPorts, b.HostPorts) && (a.Access == nil) == (b.Access == nil) &&
		(a.Spec.ContainerSpec == b.Spec.ContainerSpec || slices.Equal(plugins(&a.Spec), plugins(&b.Spec))) &&
		(a.Spec.Placement == b.Spec.Placement || reflect.DeepEqual(a.Spec.Placement, b.Spec.Placement)) &&
		(a.Spec.Resources == b.Spec.Resources || reflect.DeepEqual(cluster.Reservations(&a.Spec), cluster.Reservations(&b.Spec)))
}
