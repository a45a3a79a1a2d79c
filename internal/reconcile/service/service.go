// Package service plans replicated services: which tasks there shall be.
//
// It decides how many tasks a service has and in which slots, when a task that ended is replaced, when one is moved off
// a node that is down, drained or gone, and in which order the tasks of an older template give way to those of the
// current one: rolling updates and rollbacks. It owns the desired state of tasks and the claims of slots while their
// service exists, the service's UpdateStatus, and its Spec for one thing: to go back to PreviousSpec when an update fails
// whose configuration says so. It never picks a node or an address and never deletes a task: it sets the desired state
// to remove and package reap deletes. Global services and jobs are not planned here; control refuses them.
//
// Everything that an update remembers is in records (UpdateStatus, the times of tasks), so that a new leader goes on
// where the old one stopped.
package service

import (
	"cmp"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/reconcile"
	"shoal.dev/shoal/internal/store"
)

// Planner plans one service a key; the key is the service's ID.
type Planner struct{}

var _ reconcile.Planner = Planner{}

// Name is "service".
func (Planner) Name() string { return "service" }

// Keys is the service that changed, the service of a task whose place in its life changed, and the services with
// tasks on a node that became usable or not.
func (Planner) Keys(snap *store.Snapshot, e store.Event) []reconcile.Key {
	switch e.Kind {
	case cluster.KindService:
		old, _ := e.Old.(*cluster.Service)
		svc, _ := e.New.(*cluster.Service)
		if old != nil && svc != nil && old.Version == svc.Version && reflect.DeepEqual(old.UpdateStatus, svc.UpdateStatus) {
			return nil // only its endpoint changed
		}
		return []reconcile.Key{reconcile.Key(e.ID)}
	case cluster.KindTask:
		old, _ := e.Old.(*cluster.Task)
		t, _ := e.New.(*cluster.Task)
		if old != nil && t != nil && old.Version == t.Version && old.Ended() == t.Ended() && !(t.RunningAt != old.RunningAt && updates(snap, t)) {
			return nil // a step of its life that changes nothing here
		}
		if t == nil {
			t = old
		}
		return []reconcile.Key{reconcile.Key(t.ServiceID)}
	case cluster.KindNode:
		old, _ := e.Old.(*cluster.Node)
		n, _ := e.New.(*cluster.Node)
		if old != nil && n != nil && old.Status.State == n.Status.State && old.Spec.Availability == n.Spec.Availability {
			return nil
		}
		var keys []reconcile.Key
		seen := map[string]bool{}
		for t := range snap.TasksByNode(e.ID) {
			if !seen[t.ServiceID] {
				seen[t.ServiceID] = true
				keys = append(keys, reconcile.Key(t.ServiceID))
			}
		}
		return keys
	}
	return nil
}

// updates says whether the task's service has an update that waits for its tasks.
func updates(snap *store.Snapshot, t *cluster.Task) bool {
	svc, ok := store.Get[*cluster.Service](snap, t.ServiceID)
	if !ok || svc.UpdateStatus == nil {
		return false
	}
	return svc.UpdateStatus.State != swarm.UpdateStateCompleted && svc.UpdateStatus.State != swarm.UpdateStateRollbackCompleted
}

// AllKeys is every service, and those that are gone while their tasks are not.
func (Planner) AllKeys(snap *store.Snapshot) []reconcile.Key {
	var keys []reconcile.Key
	seen := map[string]bool{}
	for s := range store.List[*cluster.Service](snap) {
		seen[s.ID] = true
		keys = append(keys, reconcile.Key(s.ID))
	}
	for t := range store.List[*cluster.Task](snap) {
		if !seen[t.ServiceID] {
			seen[t.ServiceID] = true
			keys = append(keys, reconcile.Key(t.ServiceID))
		}
	}
	return keys
}

// Plan plans one service.
func (Planner) Plan(snap *store.Snapshot, key reconcile.Key, env reconcile.Env) reconcile.Plan {
	id := string(key)
	if id == "" {
		return reconcile.Plan{}
	}
	pl := &plan{snap: snap, env: env}
	svc, ok := store.Get[*cluster.Service](snap, id)
	if !ok {
		for t := range snap.TasksByService(id) {
			pl.remove(t, "the service is gone")
		}
		return pl.out
	}
	want, ok := replicas(svc)
	if !ok {
		return reconcile.Plan{}
	}
	pl.svc = svc
	pl.ingress = publishes(svc)
	pl.scale(want)
	return pl.out
}

// replicas is how many tasks the service shall have; ok is false for a service that is not replicated.
func replicas(svc *cluster.Service) (n uint64, ok bool) {
	m := svc.Spec.Mode
	switch {
	case m.Global != nil || m.ReplicatedJob != nil || m.GlobalJob != nil:
		return 0, false
	case m.Replicated == nil || m.Replicated.Replicas == nil:
		return 1, true
	}
	return *m.Replicated.Replicas, true
}

// plan is a plan of one service in the making.
type plan struct {
	snap *store.Snapshot
	env  reconcile.Env
	svc  *cluster.Service
	out  reconcile.Plan
	// ingress says that the service's tasks need an address on the routing mesh.
	ingress bool
}

func (pl *plan) group(why string, changes ...store.Change) {
	pl.out.Groups = append(pl.out.Groups, store.Group{Why: why, Changes: changes})
}

func (pl *plan) again(at time.Time) {
	if pl.out.Again.IsZero() || at.Before(pl.out.Again) {
		pl.out.Again = at
	}
}

// remove sets the task's desired state to remove. Nothing that a task is meant to be comes after that.
func (pl *plan) remove(t *cluster.Task, why string) {
	if t.DesiredState != swarm.TaskStateRemove {
		pl.group(why, desire(t, swarm.TaskStateRemove))
	}
}

// desire is the change that gives a task a desired state.
func desire(t *cluster.Task, s swarm.TaskState) store.Change {
	c := t.Clone().(*cluster.Task)
	c.DesiredState = s
	return store.PutSpec(c)
}

// scale brings the service to so many slots and each slot to one task.
func (pl *plan) scale(want uint64) {
	active, dying := pl.slots()
	for _, n := range slices.Sorted(maps.Keys(dying)) {
		for _, t := range dying[n].tasks {
			pl.remove(t, "scaled down")
		}
	}
	if uint64(len(active)) > want {
		surplus := bySurplus(active)
		for _, s := range surplus[want:] {
			for _, t := range s.tasks {
				pl.remove(t, "scaled down")
			}
		}
		active = surplus[:want]
	}
	rolling, ok := pl.rolls(active)
	if !ok {
		return
	}
	have := make(map[int]bool, len(active))
	for _, s := range active {
		have[s.number] = true
		pl.slot(s, rolling)
	}
	if rolling {
		pl.roll(active, want-uint64(len(active)))
	}
	n := 0
	for missing := want - uint64(len(active)); missing > 0; missing-- {
		for n++; have[n]; n++ {
		}
		s := dying[n]
		if s == nil {
			s = &slot{number: n}
		}
		t := pl.newTask(n)
		pl.group(fmt.Sprintf("slot %d has no task", n), store.Create(t), pl.claim(s, t))
	}
}

// slot is one of a service's slots with all its tasks.
type slot struct {
	number  int
	tasks   []*cluster.Task
	claim   *cluster.Claim // nil: none
	current *cluster.Task  // the one that counts
}

// slots are the service's slots by number: those that count, and those whose tasks are all being removed.
func (pl *plan) slots() (active []*slot, dying map[int]*slot) {
	all := map[int]*slot{}
	for t := range pl.snap.TasksByService(pl.svc.ID) {
		s := all[t.Slot]
		if s == nil {
			s = &slot{number: t.Slot}
			all[t.Slot] = s
		}
		s.tasks = append(s.tasks, t)
	}
	dying = map[int]*slot{}
	for n, s := range all {
		s.claim, _ = store.Get[*cluster.Claim](pl.snap, cluster.ClaimSlot(pl.svc.ID, n))
		s.current = s.pick()
		if s.current.DesiredState == swarm.TaskStateRemove {
			dying[n] = s
			continue
		}
		active = append(active, s)
	}
	slices.SortFunc(active, func(a, b *slot) int { return cmp.Compare(a.number, b.number) })
	return active, dying
}

// pick is the task that holds the slot: the claim's owner, or else the newest, one that is meant to run before one
// that is not.
func (s *slot) pick() *cluster.Task {
	var best *cluster.Task
	for _, t := range s.tasks {
		if s.claim != nil && t.ID == s.claim.Owner {
			return t
		}
		if best == nil || later(t, best) {
			best = t
		}
	}
	return best
}

// later says whether a holds the slot rather than b, both without its claim.
func later(a, b *cluster.Task) bool {
	return cmp.Or(
		compareBool(a.WantsToRun(), b.WantsToRun()),
		a.CreatedAt.Compare(b.CreatedAt),
		cmp.Compare(a.ID, b.ID),
	) > 0
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// bySurplus sorts slots so that those to keep come first: running before not running, then those that leave the
// service's tasks evenly spread over nodes, which is Swarm's rule.
func bySurplus(slots []*slot) []*slot {
	type ranked struct {
		*slot
		running bool
		nth     int // the nth of the service's tasks on its node
	}
	rs := make([]ranked, len(slots))
	for i, s := range slots {
		rs[i] = ranked{slot: s, running: s.current.WantsToRun() && s.current.Status.State == swarm.TaskStateRunning}
	}
	order := func(a, b ranked) int {
		return cmp.Or(-compareBool(a.running, b.running), cmp.Compare(a.nth, b.nth), cmp.Compare(a.number, b.number))
	}
	slices.SortFunc(rs, order)
	onNode := map[string]int{}
	for i := range rs {
		if node := rs[i].current.NodeID; node != "" {
			onNode[node]++
			rs[i].nth = onNode[node]
		} else {
			rs[i].nth = len(slots) + 1 // a task without a node is the cheapest to lose
		}
	}
	slices.SortFunc(rs, order)
	out := make([]*slot, len(rs))
	for i := range rs {
		out[i] = rs[i].slot
	}
	return out
}

// claim is the change that makes the task the slot's owner.
func (pl *plan) claim(s *slot, t *cluster.Task) store.Change {
	c := s.claim
	if c == nil && s.tasks == nil {
		c, _ = store.Get[*cluster.Claim](pl.snap, cluster.ClaimSlot(pl.svc.ID, s.number))
	}
	if c == nil {
		return store.Create(&cluster.Claim{ID: cluster.ClaimSlot(pl.svc.ID, s.number), Owner: t.ID, OwnerName: taskName(t)})
	}
	c = c.Clone().(*cluster.Claim)
	c.Owner, c.OwnerName = t.ID, taskName(t)
	return store.PutSpec(c)
}

func taskName(t *cluster.Task) string { return fmt.Sprintf("%s.%d", t.ServiceName, t.Slot) }

// newTask is a task of the service as it is now.
func (pl *plan) newTask(n int) *cluster.Task {
	t := &cluster.Task{
		ServiceName: pl.svc.Spec.Name,
		SpecVersion: pl.svc.Version.Index,
	}
	t.ID = pl.env.NewID()
	t.Labels = pl.svc.Spec.Labels
	t.Spec = pl.svc.Spec.TaskTemplate
	t.ServiceID = pl.svc.ID
	t.Slot = n
	t.DesiredState = swarm.TaskStateRunning
	t.Status = swarm.TaskStatus{State: swarm.TaskStateNew, Message: "created", Timestamp: pl.env.Now}
	return t
}
