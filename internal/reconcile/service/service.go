// Package service plans services: which tasks there shall be.
//
// It decides how many tasks a service has and in which slots, or on which nodes if it is global, when a task that ended
// is replaced, when one is moved off a node that is down, drained, gone or does not meet its constraints any more, in
// which order the tasks of an older template give way to those of the current one (rolling updates and rollbacks), and
// how far a job is. It owns the desired state of tasks and the claims of slots while their
// service exists, the service's UpdateStatus, and its Spec for one thing: to go back to PreviousSpec when an update fails
// whose configuration says so. It never picks a node or an address and never deletes a task: it sets the desired state
// to remove and package reap deletes.
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

// Keys is the service that changed, the service of a task whose place in its life changed, and, for a node that became
// another as far as placement goes, the global services and those with tasks there.
func (Planner) Keys(snap *store.Snapshot, e store.Event) []reconcile.Key {
	switch e.Kind {
	case cluster.KindService:
		old, _ := e.Old.(*cluster.Service)
		svc, _ := e.New.(*cluster.Service)
		if old != nil && svc != nil && old.Version == svc.Version && reflect.DeepEqual(old.UpdateStatus, svc.UpdateStatus) &&
			reflect.DeepEqual(old.JobStatus, svc.JobStatus) && old.Replicas() == svc.Replicas() {
			return nil // only its endpoint changed, or how far its schedule is
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
		if old != nil && n != nil && sameNode(old, n) {
			return nil
		}
		var keys []reconcile.Key
		seen := map[string]bool{}
		for s := range store.List[*cluster.Service](snap) {
			if s.Spec.Mode.Global != nil || s.Spec.Mode.GlobalJob != nil {
				seen[s.ID] = true
				keys = append(keys, reconcile.Key(s.ID))
			}
		}
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

// sameNode says whether nothing changed of a node that decides whether a service may be there.
func sameNode(a, b *cluster.Node) bool {
	return a.Status == b.Status && reflect.DeepEqual(a.Spec, b.Spec) && a.Description.Hostname == b.Description.Hostname &&
		a.Description.Platform == b.Description.Platform && maps.Equal(a.Description.Engine.Labels, b.Description.Engine.Labels)
}

// updates says whether the task's service has an update, or moves tasks, and so waits for those that come to run.
func updates(snap *store.Snapshot, t *cluster.Task) bool {
	svc, ok := store.Get[*cluster.Service](snap, t.ServiceID)
	if !ok || svc.UpdateStatus == nil || svc.Rebalances() {
		return ok && svc.Rebalances()
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
	pl.svc = svc
	pl.ingress = publishes(svc)
	switch m := svc.Spec.Mode; {
	case pl.rests():
		pl.rest()
	case m.Global != nil, m.GlobalJob != nil:
		pl.retire(nil)
		pl.global()
	case m.ReplicatedJob != nil:
		pl.replicatedJob(m.ReplicatedJob)
	default:
		pl.scale(svc.Replicas())
	}
	return pl.out
}

// plan is a plan of one service in the making.
type plan struct {
	snap *store.Snapshot
	env  reconcile.Env
	svc  *cluster.Service
	out  reconcile.Plan
	// ingress says that the service's tasks need an address on the routing mesh.
	ingress bool
	// leaving are the slots in which a task of an older run of a job may still run, and until when it is waited for.
	leaving map[place]time.Time
	// claims are those of the service's slots, by their ID.
	claims map[string]*cluster.Claim
	// constraints are those that were parsed, by their text.
	constraints map[string][]cluster.Constraint
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
	c := cluster.Fork(t)
	c.DesiredState = s
	return store.PutSpec(c)
}

// scale brings the service to so many slots and each slot to one task.
func (pl *plan) scale(want uint64) {
	active, dying := pl.slots()
	for _, s := range slices.SortedFunc(maps.Values(dying), bySlot) {
		for _, t := range s.tasks {
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
		pl.start(pl.vacant(place{number: n}, dying))
	}
}

// vacant is a slot that no task counts in; those that are being removed do not.
func (pl *plan) vacant(p place, dying map[place]*slot) *slot {
	if s := dying[p]; s != nil {
		return s
	}
	return &slot{place: p}
}

// start makes a task in a slot that has none.
func (pl *plan) start(s *slot) {
	t := pl.newTask(s.place)
	if pl.occupied(s) {
		pl.await(t)
	}
	pl.group(s.String()+" has no task", store.Create(t), pl.claim(s, t))
}

// place is what one task of a service holds at a time: a numbered slot, or a node if the service is global.
type place struct {
	number int
	node   string
}

func placeOf(t *cluster.Task) place {
	if t.Global {
		return place{node: t.NodeID}
	}
	return place{number: t.Slot}
}

func (p place) String() string {
	if p.node != "" {
		return "node " + p.node
	}
	return fmt.Sprintf("slot %d", p.number)
}

func (p place) claimID(service string) string {
	if p.node != "" {
		return cluster.ClaimSlotNode(service, p.node)
	}
	return cluster.ClaimSlot(service, p.number)
}

// slot is one of a service's slots with all its tasks; of a job, those of its current run.
type slot struct {
	place
	tasks   []*cluster.Task
	claim   *cluster.Claim // nil: none
	current *cluster.Task  // the one that counts
}

func bySlot(a, b *slot) int {
	return cmp.Or(cmp.Compare(a.number, b.number), cmp.Compare(a.node, b.node))
}

// slots are the service's slots in their order: those that count, and those whose tasks are all being removed.
func (pl *plan) slots() (active []*slot, dying map[place]*slot) {
	pl.claims = map[string]*cluster.Claim{}
	for c := range store.Prefix[*cluster.Claim](pl.snap, cluster.ClaimSlots(pl.svc.ID)) {
		pl.claims[c.ID] = c
	}
	all := map[place]*slot{}
	for t := range pl.snap.TasksByService(pl.svc.ID) {
		if pl.old(t) {
			continue
		}
		p := placeOf(t)
		s := all[p]
		if s == nil {
			s = &slot{place: p}
			all[p] = s
		}
		s.tasks = append(s.tasks, t)
	}
	dying = map[place]*slot{}
	for p, s := range all {
		s.claim = pl.claims[p.claimID(pl.svc.ID)]
		s.current = s.pick()
		if s.current.DesiredState == swarm.TaskStateRemove {
			dying[p] = s
			continue
		}
		active = append(active, s)
	}
	slices.SortFunc(active, bySlot)
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
		c = pl.claims[s.claimID(pl.svc.ID)]
	}
	if c == nil {
		return store.Create(&cluster.Claim{ID: s.claimID(pl.svc.ID), Owner: t.ID, OwnerName: t.Name()})
	}
	c = c.Clone().(*cluster.Claim)
	c.Owner, c.OwnerName = t.ID, t.Name()
	return store.PutSpec(c)
}

// newTask is a task of the service as it is now.
func (pl *plan) newTask(p place) *cluster.Task {
	t := &cluster.Task{
		ServiceName: pl.svc.Spec.Name,
		SpecVersion: pl.svc.Version.Index,
		Global:      p.node != "",
	}
	t.ID = pl.env.NewID()
	t.Labels = pl.svc.Spec.Labels
	t.Spec = pl.svc.Spec.TaskTemplate
	t.HostPorts = cluster.HostPorts(pl.svc.Spec.EndpointSpec)
	t.Access = cluster.AccessOf(pl.svc)
	t.ServiceID = pl.svc.ID
	t.Slot, t.NodeID = p.number, p.node
	t.DesiredState = pl.goal()
	if job := pl.svc.JobStatus; job != nil {
		t.JobIteration = &swarm.Version{Index: job.JobIteration.Index}
	}
	t.Status = swarm.TaskStatus{State: swarm.TaskStateNew, Message: "created", Timestamp: pl.env.Now}
	if !pl.ingress && len(cluster.Targets(&t.Spec)) == 0 { // it needs no address, and so nothing before a node
		t.Status.State, t.Status.Message = swarm.TaskStatePending, "pending task scheduling"
	}
	return t
}

// goal is the desired state of a task that is to run.
func (pl *plan) goal() swarm.TaskState {
	if pl.svc.JobStatus != nil {
		return swarm.TaskStateComplete
	}
	return swarm.TaskStateRunning
}
