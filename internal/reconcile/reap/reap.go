// Package reap deletes what has served its time: tasks that were to be removed and have ended, old tasks beyond the
// history that the swarm keeps, the claims of slots that have no task left, the marks of removed nodes whose certificates
// are over, and older versions of secrets and configs that nothing uses.
//
// It owns the deletion of tasks, slot claims, those marks and those versions, and the last status of a task that nobody else can report on: one
// that never had a node, or whose node is gone. It never decides that a task shall end.
package reap

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/reconcile"
	"shoal.dev/shoal/internal/store"
)

// defaultHistory is how many ended tasks of a slot are kept in a swarm that does not say; Swarm's.
const defaultHistory = 5

// Planner plans the tasks of one service a key; the key is the service's ID. The mark of a removed node is a key, too, and so is an older version
// of a secret or a config.
type Planner struct{}

var _ reconcile.Planner = Planner{}

// Name is "reap".
func (Planner) Name() string { return "reap" }

// Keys is the service of a task that may have served its time, of a slot that another task holds now, and of the tasks on
// a node that is gone.
func (p Planner) Keys(snap *store.Snapshot, e store.Event) []reconcile.Key {
	return append(p.ofTasks(snap, e), freed(snap, e)...)
}

// ofTasks are the keys but for those of older versions.
func (p Planner) ofTasks(snap *store.Snapshot, e store.Event) []reconcile.Key {
	switch e.Kind {
	case cluster.KindTask:
		old, _ := e.Old.(*cluster.Task)
		t, _ := e.New.(*cluster.Task)
		switch {
		case t == nil:
			return []reconcile.Key{reconcile.Key(old.ServiceID)}
		case t.WantsToRun() || old != nil && old.DesiredState == t.DesiredState && old.Ended() == t.Ended() && old.NodeID == t.NodeID:
			return nil
		}
		return []reconcile.Key{reconcile.Key(t.ServiceID)}
	case cluster.KindClaim:
		if strings.HasPrefix(e.ID, removedPrefix) && e.Old == nil {
			return []reconcile.Key{reconcile.Key(e.ID)}
		}
		if rest, ok := strings.CutPrefix(e.ID, slotPrefix("")); ok && e.Old != nil && e.New != nil {
			id, _, _ := strings.Cut(rest, "/")
			return []reconcile.Key{reconcile.Key(id)}
		}
	case cluster.KindNode:
		if e.New != nil {
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
	case cluster.KindService:
		old, _ := e.Old.(*cluster.Service)
		s, _ := e.New.(*cluster.Service)
		if updating(old) && !updating(s) {
			return []reconcile.Key{reconcile.Key(e.ID)}
		}
	case cluster.KindSwarm:
		old, _ := e.Old.(*cluster.Swarm)
		s, _ := e.New.(*cluster.Swarm)
		if old != nil && s != nil && history(old) != history(s) {
			return p.AllKeys(snap)
		}
	}
	return nil
}

// AllKeys is every service that has tasks or slots, whether it is there or gone.
func (Planner) AllKeys(snap *store.Snapshot) []reconcile.Key {
	seen := map[string]bool{}
	var keys []reconcile.Key
	add := func(id string) {
		if !seen[id] {
			seen[id] = true
			keys = append(keys, reconcile.Key(id))
		}
	}
	for t := range store.List[*cluster.Task](snap) {
		add(t.ServiceID)
	}
	for c := range store.Prefix[*cluster.Claim](snap, slotPrefix("")) {
		id, _, _ := strings.Cut(strings.TrimPrefix(c.ID, slotPrefix("")), "/")
		add(id)
	}
	for c := range store.Prefix[*cluster.Claim](snap, removedPrefix) {
		add(c.ID)
	}
	return append(keys, olderVersions(snap)...)
}

// removedPrefix is what the IDs of the marks of removed nodes begin with; each is a key of its own.
var removedPrefix = cluster.ClaimRemoved("")

// removed deletes the mark of a removed node when no certificate of it can be valid any more.
func removed(snap *store.Snapshot, id string, env reconcile.Env) reconcile.Plan {
	c, ok := store.Get[*cluster.Claim](snap, id)
	s := snap.Swarm()
	if !ok || s == nil {
		return reconcile.Plan{}
	}
	if over := s.CertsOver(c.CreatedAt); env.Now.Before(over) {
		return reconcile.Plan{Again: over}
	}
	return reconcile.Plan{Groups: []store.Group{{Why: "the removed node's certificates are over", Changes: []store.Change{store.Delete(c)}}}}
}

// slotPrefix is what the IDs of a service's slot claims begin with; of all of them, for "".
func slotPrefix(serviceID string) string {
	if serviceID == "" {
		return "slot/"
	}
	return strings.TrimSuffix(cluster.ClaimSlot(serviceID, 0), "0") // also what the claims of nodes begin with
}

// updating says whether the service is being updated or rolled back. It may be nil.
func updating(s *cluster.Service) bool {
	return s != nil && s.UpdateStatus != nil &&
		(s.UpdateStatus.State == swarm.UpdateStateUpdating || s.UpdateStatus.State == swarm.UpdateStateRollbackStarted)
}

// history is how many ended tasks of a slot are kept; negative: all.
func history(s *cluster.Swarm) int64 {
	if s == nil || s.Spec.Orchestration.TaskHistoryRetentionLimit == nil {
		return defaultHistory
	}
	return *s.Spec.Orchestration.TaskHistoryRetentionLimit
}

// Plan plans one service's tasks.
func (Planner) Plan(snap *store.Snapshot, key reconcile.Key, env reconcile.Env) reconcile.Plan {
	id := string(key)
	if id == "" {
		return reconcile.Plan{}
	}
	if strings.HasPrefix(id, removedPrefix) {
		return removed(snap, id, env)
	}
	if file, ok := versionOf(key); ok {
		return prune(snap, file, env)
	}
	r := &reaper{snap: snap, env: env, keep: history(snap.Swarm()), gone: map[string]bool{}}
	if svc, ok := store.Get[*cluster.Service](snap, id); ok && updating(svc) && r.keep == 0 {
		r.keep = 1 // the service planner counts the slots whose tasks failed
	}
	slots := map[string][]*cluster.Task{} // by the ID of the slot's claim
	for t := range snap.TasksByService(id) {
		slots[t.SlotClaim()] = append(slots[t.SlotClaim()], t)
	}
	for _, s := range slices.Sorted(maps.Keys(slots)) {
		c, _ := store.Get[*cluster.Claim](snap, s)
		r.slot(slots[s], c)
	}
	for c := range store.Prefix[*cluster.Claim](snap, slotPrefix(id)) {
		if slots[c.ID] == nil {
			r.group("the slot has no task", store.Delete(c))
		}
	}
	return r.out
}

// reaper is a plan in the making.
type reaper struct {
	snap *store.Snapshot
	env  reconcile.Env
	keep int64
	gone map[string]bool // by node ID, nodes that were looked up
	out  reconcile.Plan
}

func (r *reaper) group(why string, changes ...store.Change) {
	r.out.Groups = append(r.out.Groups, store.Group{Why: why, Changes: changes})
}

// slot plans the tasks of one slot and its claim, which may be nil.
func (r *reaper) slot(tasks []*cluster.Task, claim *cluster.Claim) {
	var dead, old []*cluster.Task
	for _, t := range tasks {
		if t.WantsToRun() {
			continue
		}
		// Nobody reports on a task that no node has or whose node is gone.
		orphan := !t.Ended() && (unplaced(t) || r.nodeGone(t.NodeID))
		switch {
		case t.DesiredState == swarm.TaskStateRemove:
			if t.Ended() || orphan {
				dead = append(dead, t)
			}
		case orphan:
			r.end(t)
		case completes(t, tasks, claim):
		case t.Ended() && (claim == nil || claim.Owner != t.ID): // the owner says whether the slot has finished
			old = append(old, t)
		}
	}
	dead = append(dead, r.excess(old)...)
	if len(dead) == 0 {
		return
	}
	if len(dead) < len(tasks) || claim == nil {
		for _, t := range dead {
			r.group("the task has served its time", store.Delete(t))
		}
		return
	}
	// The last tasks of the slot take the claim with them, so that none is left behind.
	changes := []store.Change{store.Delete(claim)}
	for _, t := range dead {
		changes = append(changes, store.Delete(t))
	}
	r.group("the slot has served its time", changes...)
}

// completes says whether the task has done the work of its job's slot while the slot is still another's: the service planner
// is about to give it the slot, which must not lose who completed it before that.
func completes(t *cluster.Task, tasks []*cluster.Task, claim *cluster.Claim) bool {
	if claim == nil || t.JobIteration == nil || t.Status.State != swarm.TaskStateComplete {
		return false
	}
	i := slices.IndexFunc(tasks, func(o *cluster.Task) bool { return o.ID == claim.Owner })
	return i >= 0 && tasks[i].JobIteration != nil && *tasks[i].JobIteration == *t.JobIteration && tasks[i].Status.State != swarm.TaskStateComplete
}

// excess is the oldest of a slot's ended tasks, those beyond what is kept.
func (r *reaper) excess(old []*cluster.Task) []*cluster.Task {
	keep := r.keep
	if keep < 0 {
		return nil
	}
	for _, t := range old {
		// The service planner counts the tasks of a slot for this policy.
		if rp := t.Spec.RestartPolicy; rp != nil && rp.MaxAttempts != nil && *rp.MaxAttempts > 0 && *rp.MaxAttempts < 1<<31 {
			keep = max(keep, int64(*rp.MaxAttempts)+1)
		}
	}
	if int64(len(old)) <= keep {
		return nil
	}
	slices.SortFunc(old, func(a, b *cluster.Task) int {
		return cmp.Or(b.CreatedAt.Compare(a.CreatedAt), cmp.Compare(b.Version.Index, a.Version.Index), cmp.Compare(a.ID, b.ID))
	})
	return old[keep:]
}

// unplaced says whether no node has ever had the task; one of a global service names its node before that.
func unplaced(t *cluster.Task) bool {
	return t.NodeID == "" || cluster.Before(t.Status.State, swarm.TaskStateAssigned)
}

func (r *reaper) nodeGone(id string) bool {
	gone, ok := r.gone[id]
	if !ok {
		_, there := store.Get[*cluster.Node](r.snap, id)
		gone = !there
		r.gone[id] = gone
	}
	return gone
}

// end gives a task that nobody reports on its last status. Writing both parts makes sure that it has not been placed
// at the same time.
func (r *reaper) end(t *cluster.Task) {
	c := cluster.Fork(t)
	c.Status.Timestamp, c.Status.Err = r.env.Now, ""
	c.Status.State, c.Status.Message = swarm.TaskStateShutdown, "shutdown"
	why := "the task never had a node"
	if !unplaced(t) {
		c.Status.State, c.Status.Message = swarm.TaskStateOrphaned, "Task belonged to a node that has been deleted"
		why = "the task's node is gone"
	}
	r.group(why, store.PutBoth(c))
}
