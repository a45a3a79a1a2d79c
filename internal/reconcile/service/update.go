package service

import (
	"reflect"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/store"
)

// defaultMonitor is how long a task of an update is watched if the service does not say; Docker's.
const defaultMonitor = 5 * time.Second

// config is how the service's tasks are replaced now.
func (pl *plan) config() swarm.UpdateConfig {
	c := pl.svc.Spec.UpdateConfig
	if pl.back() {
		c = pl.svc.Spec.RollbackConfig
	}
	out := swarm.UpdateConfig{Parallelism: 1}
	if c != nil {
		out = *c
	}
	if out.Monitor == 0 {
		out.Monitor = defaultMonitor
	}
	if out.FailureAction == "" {
		out.FailureAction = swarm.UpdateFailureActionPause
	}
	return out
}

// back says whether the update is a rollback.
func (pl *plan) back() bool {
	if pl.svc.UpdateStatus == nil {
		return false
	}
	switch pl.svc.UpdateStatus.State {
	case swarm.UpdateStateRollbackStarted, swarm.UpdateStateRollbackPaused, swarm.UpdateStateRollbackCompleted:
		return true
	}
	return false
}

// publishes says whether the service publishes ports on the routing mesh.
func publishes(svc *cluster.Service) bool {
	if svc.Spec.EndpointSpec == nil {
		return false
	}
	for _, p := range svc.Spec.EndpointSpec.Ports {
		if p.PublishMode != swarm.PortConfigPublishModeHost {
			return true
		}
	}
	return false
}

// dirty says whether the task is not what the service says now: its template or the ports
// that it publishes on its node are others, or it was made when the service
// did not publish anything, so that the routing mesh cannot reach it. Another version with the same template, such as
// after a change of the scale or the labels, makes nothing dirty.
func (pl *plan) dirty(t *cluster.Task) bool {
	if pl.ingress && t.Status.State != swarm.TaskStateNew && len(t.NetworksAttachments) == 0 && t.WantsToRun() && !t.Ended() {
		return true
	}
	return !t.Follows(pl.svc)
}

// rolls says whether tasks of an older template are to be replaced now. It keeps the update's status: begun, failed. ok is
// false if it has failed just now: then nothing else is planned before that is known.
func (pl *plan) rolls(active []*slot) (rolling, ok bool) {
	st := pl.svc.UpdateStatus
	switch {
	case st == nil, st.State == swarm.UpdateStateCompleted, st.State == swarm.UpdateStateRollbackCompleted:
		if pl.pending(active) {
			pl.status("the template has changed", swarm.UpdateStatus{
				State: swarm.UpdateStateUpdating, Message: "update in progress", StartedAt: &pl.env.Now,
			})
		}
		return false, true // tasks of an update come after its beginning
	case st.State == swarm.UpdateStatePaused, st.State == swarm.UpdateStateRollbackPaused:
		return false, true
	}
	failed, first := 0, (*cluster.Task)(nil)
	for _, s := range active {
		if t := pl.failure(s); t != nil {
			failed++
			if first == nil || t.EndedAt.Before(first.EndedAt) {
				first = t
			}
		}
	}
	c := pl.config()
	if c.FailureAction == swarm.UpdateFailureActionContinue || failed == 0 || float32(failed)/float32(len(active)) <= c.MaxFailureRatio {
		return true, true
	}
	pl.fail(c, first)
	return false, false
}

// fail acts on an update of which too many tasks failed; t is the first of them.
func (pl *plan) fail(c swarm.UpdateConfig, t *cluster.Task) {
	st := *pl.svc.UpdateStatus
	why := "due to failure or early termination of task " + t.ID
	prev := pl.svc.PreviousSpec
	switch {
	case pl.back():
		st.State, st.Message = swarm.UpdateStateRollbackPaused, "update paused "+why // Swarm's words for this, too
		if c.FailureAction == swarm.UpdateFailureActionRollback {
			st.Message = "rollback paused " + why // which is not rolled back
		}
	case c.FailureAction == swarm.UpdateFailureActionRollback && prev != nil && !reflect.DeepEqual(prev.TaskTemplate, pl.svc.Spec.TaskTemplate):
		svc := pl.svc.Clone().(*cluster.Service)
		// The ports stay as they are: they are claimed, and others may have claimed the old ones since.
		endpoint := svc.Spec.EndpointSpec
		svc.Spec, svc.PreviousSpec = *svc.PreviousSpec, nil
		svc.Spec.EndpointSpec = endpoint
		svc.UpdateStatus = &swarm.UpdateStatus{
			State: swarm.UpdateStateRollbackStarted, Message: "update rolled back " + why, StartedAt: &pl.env.Now,
		}
		pl.group("the update has failed: back to the previous specification", store.PutBoth(svc))
		return
	default:
		st.State, st.Message = swarm.UpdateStatePaused, "update paused "+why
	}
	pl.status("too many tasks have failed", st)
}

func (pl *plan) status(why string, st swarm.UpdateStatus) {
	svc := pl.svc.Clone().(*cluster.Service)
	svc.UpdateStatus = &st
	pl.group(why, store.PutState(svc))
}

// pending says whether a slot has a task of an older template, or two tasks.
func (pl *plan) pending(active []*slot) bool {
	for _, s := range active {
		if pl.dirty(s.current) {
			return true
		}
		if doubled(s) {
			return true
		}
	}
	return false
}

// ours says whether the update made the task.
func (pl *plan) ours(t *cluster.Task) bool {
	st := pl.svc.UpdateStatus
	return !pl.dirty(t) && (st.StartedAt == nil || !t.CreatedAt.Before(*st.StartedAt))
}

// failure is the first task of the slot that the update made and that ended by itself before it had run for the time
// that it is watched; nil: none. A slot counts once, however often it is tried. Package reap keeps such a task.
func (pl *plan) failure(s *slot) *cluster.Task {
	monitor := pl.config().Monitor
	var first *cluster.Task
	for _, t := range s.tasks {
		switch t.Status.State {
		case swarm.TaskStateFailed, swarm.TaskStateRejected, swarm.TaskStateComplete:
		default:
			continue
		}
		if pl.ours(t) && (t.RunningAt.IsZero() || t.EndedAt.Sub(t.RunningAt) <= monitor) && (first == nil || t.CreatedAt.Before(first.CreatedAt)) {
			first = t
		}
	}
	return first
}

// busy says until when the slot counts against the update's parallelism: without an end while its new task does not run,
// then for the delay. The zero time: it does not.
func (pl *plan) busy(s *slot, delay time.Duration) (until time.Time, endless bool) {
	for _, t := range s.tasks {
		if !pl.ours(t) || t.Attempt > 0 {
			continue
		}
		from := t.EndedAt
		switch {
		case t.Ended():
		case t.Status.State == swarm.TaskStateRunning:
			from = t.RunningAt
		case t.WantsToRun():
			return time.Time{}, true
		}
		if at := from.Add(delay); at.After(until) {
			until = at
		}
	}
	if !pl.env.Now.Before(until) {
		until = time.Time{}
	}
	return until, false
}

// roll replaces running tasks of an older template, as many as the configuration allows, and ends the update when there
// are none left and the new ones have been watched. missing is how many slots have no task yet.
func (pl *plan) roll(active []*slot, missing uint64) {
	c := pl.config()
	var next []*slot
	now := missing // slots in work
	done := missing == 0
	for _, s := range active {
		until, endless := pl.busy(s, c.Delay)
		dirty, runs := pl.dirty(s.current), pl.runs(s.current)
		switch {
		case dirty && runs:
			next = append(next, s)
		case dirty, endless, s.current.WantsToRun() && pl.lost(s.current) != "": // slot has replaced it just now, or an earlier plan
			now++
			done = false
		case !until.IsZero():
			now++
			pl.again(until)
			done = false
		}
		if watched := s.current.RunningAt.Add(c.Monitor); runs && pl.ours(s.current) && pl.env.Now.Before(watched) {
			pl.again(watched)
			done = false
		}
		if doubled(s) {
			done = false
		}
	}
	for _, s := range next {
		done = false
		if c.Parallelism > 0 && now >= c.Parallelism {
			break
		}
		if doubled(s) {
			continue // slot sees to it
		}
		pl.renew(s)
		now++
	}
	if done {
		pl.finish()
	}
}

// runs says whether somebody would miss the task.
func (pl *plan) runs(t *cluster.Task) bool {
	return t.WantsToRun() && t.Status.State == swarm.TaskStateRunning && pl.lost(t) == ""
}

// doubled says whether a task beside the slot's current one is meant to run until that does.
func doubled(s *slot) bool {
	if !s.current.WantsToRun() {
		return false // it will not: its policy wants no other
	}
	for _, t := range s.tasks {
		if t != s.current && t.WantsToRun() {
			return true
		}
	}
	return false
}

func (pl *plan) finish() {
	st := *pl.svc.UpdateStatus
	st.CompletedAt = &pl.env.Now
	st.State, st.Message = swarm.UpdateStateCompleted, "update completed"
	if pl.back() {
		st.State, st.Message = swarm.UpdateStateRollbackCompleted, "rollback completed"
	}
	pl.status("all tasks have the template", st)
}

// renew replaces the slot's task by one of the service's template. A task that runs is stopped first, or left to stand
// in if the configuration says so.
func (pl *plan) renew(s *slot) {
	cur := s.current
	t := pl.newTask(s.place)
	if pl.runs(cur) && pl.config().Order == swarm.UpdateOrderStartFirst && pl.fitsBeside(t, cur) {
		pl.group(s.String()+" is updated, the new task first", store.Create(t), pl.claim(s, t))
		return
	}
	if pl.stopping(cur) || pl.occupied(s) {
		pl.await(t)
	}
	pl.replace(s, t, "it is updated")
}
