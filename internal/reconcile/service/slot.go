package service

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/store"
)

const (
	// defaultDelay is the restart delay of a service that says nothing; Swarm's.
	defaultDelay = 5 * time.Second
	// stopTimeout is how long a replacement waits for its predecessor to end before it is started anyway; Swarm's.
	stopTimeout = time.Minute
)

// slot brings one slot to one task that is meant to run, or leaves it finished if the restart policy says so. While an
// update rolls, a task of an older template that does not run gives way at once: nobody misses it. Those that run are
// roll's.
func (pl *plan) slot(s *slot, rolling bool) {
	if pl.settleOthers(s) {
		return
	}
	cur := s.current
	if rolling && !pl.runs(cur) && pl.dirty(cur) {
		pl.renew(s)
		return
	}
	if !cur.WantsToRun() {
		return // finished: its policy wants no other
	}
	if cur.Ended() {
		pl.restart(s)
		return
	}
	if why := pl.lost(cur); why != "" {
		pl.move(s, why)
		return
	}
	if cur.DesiredState == swarm.TaskStateReady {
		pl.promote(s)
		return
	}
	if cur.Moving && pl.runs(cur) && !rolling && !pl.dirty(cur) {
		pl.relocate(s)
	}
}

// settleOthers decides on the tasks beside the current one that are meant to run. There is one at most, and only while
// its successor, which is started first, does not run yet. It says whether it changed anything.
func (pl *plan) settleOthers(s *slot) bool {
	keep := pl.standIn(s)
	if relocating(s) {
		pl.again(pl.env.Now.Add(moveCheck))
	}
	if keep != nil && keep.Moving && !s.current.WantsToRun() && !pl.dirty(keep) {
		// Where it was to move, its successor could not run.
		t := cluster.Fork(keep)
		t.Moving = false
		pl.group(s.String()+" stays with the task that runs", pl.claim(s, keep), store.PutSpec(t))
		return true
	}
	if keep != nil && pl.dirty(s.current) && !pl.dirty(keep) {
		// The service has gone back to the template of the task that never stopped.
		changes := []store.Change{pl.claim(s, keep)}
		if s.current.WantsToRun() {
			changes = append(changes, desire(s.current, swarm.TaskStateShutdown))
		}
		pl.group(s.String()+" goes back to the task that runs", changes...)
		return true
	}
	changed := false
	for _, t := range s.tasks {
		if t != s.current && t != keep && t.WantsToRun() {
			pl.group(s.String()+" has another task", desire(t, swarm.TaskStateShutdown))
			changed = true
		}
	}
	return changed
}

// standIn is the task that runs on until the slot's current one, which is its successor, does; nil: there is none. One
// that the service has gone back to runs on whatever the order: a rollback has an order of its own, and nothing is to
// be stopped first.
func (pl *plan) standIn(s *slot) *cluster.Task {
	cur := s.current
	st := pl.svc.UpdateStatus
	paused := st != nil && (st.State == swarm.UpdateStatePaused || st.State == swarm.UpdateStateRollbackPaused)
	finished := !cur.WantsToRun() && !pl.dirty(cur) && !paused && !relocating(s) // and that is as it shall be
	if cur.Status.State == swarm.TaskStateRunning || finished {
		return nil
	}
	first := pl.config().Order == swarm.UpdateOrderStartFirst
	var best *cluster.Task
	for _, t := range s.tasks {
		if t == cur || t.DesiredState != swarm.TaskStateRunning || t.Status.State != swarm.TaskStateRunning || pl.lost(t) != "" {
			continue
		}
		if !first && !t.Moving && (!pl.dirty(cur) || pl.dirty(t)) {
			continue
		}
		if best == nil || cmp.Or(compareBool(pl.dirty(best), pl.dirty(t)), t.CreatedAt.Compare(best.CreatedAt), cmp.Compare(t.ID, best.ID)) > 0 {
			best = t
		}
	}
	return best
}

// lost says why the task's node cannot be expected to run it, or "".
func (pl *plan) lost(t *cluster.Task) string {
	if t.NodeID == "" {
		return ""
	}
	n, ok := store.Get[*cluster.Node](pl.snap, t.NodeID)
	switch {
	case !ok:
		return "its node is gone"
	case n.Status.State == swarm.NodeStateDown:
		return "its node is down"
	case n.Spec.Availability == swarm.NodeAvailabilityDrain:
		return "its node is drained"
	case !t.Global && !pl.meets(t.Spec.Placement, n):
		return "its node does not meet its constraints any more"
	}
	return ""
}

// meets says whether the node satisfies the constraints.
func (pl *plan) meets(p *swarm.Placement, n *cluster.Node) bool {
	if p == nil || len(p.Constraints) == 0 {
		return true
	}
	text := strings.Join(p.Constraints, "\x00")
	parsed, ok := pl.constraints[text]
	if !ok {
		for _, e := range p.Constraints {
			c, err := cluster.ParseConstraint(e)
			if err != nil {
				continue // control lets none of these in
			}
			parsed = append(parsed, c)
		}
		if pl.constraints == nil {
			pl.constraints = map[string][]cluster.Constraint{}
		}
		pl.constraints[text] = parsed
	}
	return !slices.ContainsFunc(parsed, func(c cluster.Constraint) bool { return !c.Match(n) })
}

// restart replaces a task that ended, after the delay that its policy wants, or finishes the slot.
func (pl *plan) restart(s *slot) {
	cur := s.current
	if !pl.mayRestart(s) {
		pl.group(s.String()+" has finished", desire(cur, swarm.TaskStateShutdown))
		return
	}
	t := pl.newTask(s.place)
	if cur.Follows(pl.svc) {
		t.Attempt = cur.Attempt + 1
	}
	delay := defaultDelay
	if rp := cur.Spec.RestartPolicy; rp != nil && rp.Delay != nil {
		delay = *rp.Delay
	}
	if pl.lost(cur) != "" {
		delay = 0 // it ended because of its node, or at the same time
	}
	if delay > 0 {
		t.DesiredState = swarm.TaskStateReady
		t.StartAt = pl.env.Now.Add(delay)
		pl.again(t.StartAt)
	}
	pl.replace(s, t, "the task has ended")
}

// move replaces a task that its node cannot run, without a delay: the task did nothing wrong.
func (pl *plan) move(s *slot, why string) {
	cur := s.current
	if condition(cur) == swarm.RestartPolicyConditionNone {
		pl.group(s.String()+" has finished: "+why, desire(cur, swarm.TaskStateShutdown))
		return
	}
	t := pl.newTask(s.place)
	if cur.Follows(pl.svc) {
		t.Attempt = cur.Attempt
	}
	if pl.stopping(cur) {
		pl.await(t)
	}
	pl.replace(s, t, why)
}

// await makes a new task wait until those before it in its slot have ended; see promote.
func (pl *plan) await(t *cluster.Task) {
	t.DesiredState = swarm.TaskStateReady
	t.StartAt = pl.env.Now
	pl.again(pl.env.Now.Add(stopTimeout))
}

// occupied says whether a task of the slot that is to stop may still run.
func (pl *plan) occupied(s *slot) bool {
	_, leaving := pl.leaving[s.place]
	return leaving || slices.ContainsFunc(s.tasks, func(t *cluster.Task) bool {
		return t.DesiredState == swarm.TaskStateShutdown && pl.stopping(t)
	})
}

func (pl *plan) replace(s *slot, t *cluster.Task, why string) {
	pl.group(s.String()+": "+why,
		desire(s.current, swarm.TaskStateShutdown), store.Create(t), pl.claim(s, t))
}

// promote lets a replacement start when its delay is over and its predecessor has ended.
func (pl *plan) promote(s *slot) {
	cur := s.current
	if pl.env.Now.Before(cur.StartAt) {
		pl.again(cur.StartAt)
		return
	}
	for _, t := range s.tasks {
		deadline := cur.CreatedAt.Add(stopTimeout)
		if t.DesiredState == swarm.TaskStateShutdown && pl.stopping(t) && pl.env.Now.Before(deadline) {
			pl.again(deadline)
			return
		}
	}
	if at, ok := pl.leaving[s.place]; ok {
		pl.again(at)
		return
	}
	pl.group(s.String()+" may start", desire(cur, pl.goal()))
}

// stopping says whether a task that is to stop may be expected to: it runs on a node that is there.
func (pl *plan) stopping(t *cluster.Task) bool {
	if t.Ended() || t.NodeID == "" || cluster.Before(t.Status.State, swarm.TaskStateAssigned) {
		return false
	}
	n, ok := store.Get[*cluster.Node](pl.snap, t.NodeID)
	return ok && n.Status.State != swarm.NodeStateDown
}

func condition(t *cluster.Task) swarm.RestartPolicyCondition {
	if rp := t.Spec.RestartPolicy; rp != nil && rp.Condition != "" {
		return rp.Condition
	}
	return swarm.RestartPolicyConditionAny
}

// mayRestart says whether the restart policy wants another task after the current one, which has ended.
func (pl *plan) mayRestart(s *slot) bool {
	cur := s.current
	switch condition(cur) {
	case swarm.RestartPolicyConditionNone:
		return false
	case swarm.RestartPolicyConditionOnFailure:
		if cur.Status.State == swarm.TaskStateComplete {
			return false
		}
	}
	rp := cur.Spec.RestartPolicy
	if rp == nil || rp.MaxAttempts == nil || *rp.MaxAttempts == 0 {
		return true
	}
	if rp.Window == nil || *rp.Window == 0 {
		return cur.Attempt < *rp.MaxAttempts
	}
	// Package reap keeps at least so many tasks of a slot as the policy counts.
	var n uint64
	for _, t := range s.tasks {
		if t.Attempt > 0 && t.CreatedAt.After(pl.env.Now.Add(-*rp.Window)) {
			n++
		}
	}
	return n < *rp.MaxAttempts
}
