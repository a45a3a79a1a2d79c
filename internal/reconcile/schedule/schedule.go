// Package schedule runs jobs at the times of their schedules.
//
// It decides when a job runs on its own, when a time is skipped and why, and whether a run has ended and how. It owns
// the service's Schedule, and the JobStatus of a service that has a schedule together with package control, which runs
// jobs by hand. It makes no tasks: package service makes those of the run that JobStatus names.
//
// A time that comes while there is no leader is made up for once there is one, within the schedule's deadline, and of
// several only the last. All that it remembers is in the record, so that a new leader runs nothing twice.
package schedule

import (
	"fmt"
	"reflect"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/reconcile"
	"shoal.dev/shoal/internal/store"
)

const (
	// late is how late a run begins before that is worth saying.
	late = 30 * time.Second
	// emptyAfter is when a run that has no task at all has ended: nothing was for it.
	emptyAfter = 10 * time.Second
	// defaultHistory is how many runs are kept in a swarm that does not say: as many as package reap keeps of tasks.
	defaultHistory = 5
	// minHistory is the run at work and what was skipped since; maxHistory bounds the record.
	minHistory, maxHistory = 2, 50
)

// Planner plans one service a key; the key is the service's ID.
type Planner struct{}

var _ reconcile.Planner = Planner{}

// Name is "schedule".
func (Planner) Name() string { return "schedule" }

// Keys is a service that has a schedule, or had one, when it changed or a task of it ended or gave up.
func (Planner) Keys(snap *store.Snapshot, e store.Event) []reconcile.Key {
	switch e.Kind {
	case cluster.KindService:
		if s, _ := e.New.(*cluster.Service); s != nil && concerns(s) {
			return []reconcile.Key{reconcile.Key(s.ID)}
		}
	case cluster.KindTask:
		old, _ := e.Old.(*cluster.Task)
		t, _ := e.New.(*cluster.Task)
		if t == nil || t.JobIteration == nil || old != nil && old.Status.State == t.Status.State && old.WantsToRun() == t.WantsToRun() {
			return nil
		}
		if s, ok := store.Get[*cluster.Service](snap, t.ServiceID); ok && concerns(s) {
			return []reconcile.Key{reconcile.Key(s.ID)}
		}
	}
	return nil
}

func concerns(s *cluster.Service) bool { return s.Schedule != nil || cluster.Scheduled(&s.Spec) }

// AllKeys is every service that has a schedule, or had one.
func (Planner) AllKeys(snap *store.Snapshot) []reconcile.Key {
	var keys []reconcile.Key
	for s := range store.List[*cluster.Service](snap) {
		if concerns(s) {
			keys = append(keys, reconcile.Key(s.ID))
		}
	}
	return keys
}

// Plan plans one service.
func (Planner) Plan(snap *store.Snapshot, key reconcile.Key, env reconcile.Env) reconcile.Plan {
	old, ok := store.Get[*cluster.Service](snap, string(key))
	if !ok || !concerns(old) {
		return reconcile.Plan{}
	}
	pl := &plan{snap: snap, now: env.Now, svc: old.Clone().(*cluster.Service)}
	sched, err := cluster.ScheduleOf(&old.Spec)
	switch {
	case err != nil: // control lets none of these in
		return reconcile.Plan{Reasons: []string{err.Error()}}
	case sched == nil || old.JobStatus == nil:
		pl.svc.Schedule, pl.why = nil, "it has no schedule any more"
	default:
		pl.plan(sched)
	}
	if reflect.DeepEqual(old.Schedule, pl.svc.Schedule) && reflect.DeepEqual(old.JobStatus, pl.svc.JobStatus) {
		return pl.out
	}
	pl.out.Groups = []store.Group{{Why: pl.why, Changes: []store.Change{store.PutState(pl.svc)}}}
	return pl.out
}

// plan is a plan of one service in the making.
type plan struct {
	snap *store.Snapshot
	now  time.Time
	svc  *cluster.Service // to be written
	st   *cluster.ScheduleStatus
	why  string
	out  reconcile.Plan
}

func (pl *plan) plan(s *cluster.Schedule) {
	if pl.svc.Schedule == nil {
		pl.svc.Schedule = &cluster.ScheduleStatus{}
	}
	pl.st = pl.svc.Schedule
	if pl.st.Schedule != s.String() {
		pl.st.Schedule, pl.why = s.String(), "the schedule is another"
		pl.since(s, pl.now)
	}
	pl.notice()
	pl.end()
	if !pl.st.Next.IsZero() && !pl.now.Before(pl.st.Next) {
		pl.due(s)
	}
	if n := len(pl.st.Runs) - history(pl.snap.Swarm()); n > 0 {
		pl.st.Runs = pl.st.Runs[n:]
	}
	if next := pl.st.Next; !next.IsZero() && (pl.out.Again.IsZero() || next.Before(pl.out.Again)) {
		pl.out.Again = next
	}
}

// since notes that all times up to one are dealt with.
func (pl *plan) since(s *cluster.Schedule, at time.Time) {
	at = at.UTC()
	pl.st.Since, pl.st.Next = at, time.Time{}
	if !s.Suspended {
		pl.st.Next = s.Next(at, at)
	}
}

// notice notes a run that a user began.
func (pl *plan) notice() {
	job := pl.svc.JobStatus
	if last := pl.st.Last(); job.LastExecution.IsZero() || last != nil && last.Run >= job.JobIteration.Index {
		return
	}
	pl.replaced()
	pl.add(cluster.JobRun{Run: job.JobIteration.Index, StartedAt: job.LastExecution, Result: cluster.RunRunning, Reason: "by hand"})
	pl.why = "it was run by hand"
}

// replaced notes that the run at work gives way to the next.
func (pl *plan) replaced() {
	if last := pl.st.Last(); last != nil && last.Result == cluster.RunRunning {
		last.Result, last.EndedAt, last.Reason = cluster.RunReplaced, pl.now, "another run began"
	}
}

func (pl *plan) add(r cluster.JobRun) { pl.st.Runs = append(pl.st.Runs, r) }

// end notes that the run at work has ended.
func (pl *plan) end() {
	last := pl.st.Last()
	if last == nil || last.Result != cluster.RunRunning {
		return
	}
	done, failed, works, total := pl.progress()
	switch {
	case works > 0 || done+failed < total:
		return
	case total == 0 && pl.now.Before(last.StartedAt.Add(emptyAfter)):
		pl.out.Again = last.StartedAt.Add(emptyAfter)
		return
	}
	last.EndedAt, last.Result = pl.now, cluster.RunComplete
	switch {
	case failed > 0:
		last.Result, last.Reason = cluster.RunFailed, fmt.Sprintf("%d of %d tasks failed for good", failed, total)
	case total == 0:
		last.Reason = "nothing was to be done"
	}
	pl.why = fmt.Sprintf("run %d has ended", last.Run)
}

// progress counts the slots of the run at work: those that are complete, those that were given up, those at work, and all.
func (pl *plan) progress() (done, failed, works, total int) {
	type slot struct{ done, works bool }
	slots := map[string]slot{}
	for t := range pl.snap.TasksByService(pl.svc.ID) {
		if t.DesiredState == swarm.TaskStateRemove || t.JobIteration == nil || t.JobIteration.Index != pl.svc.JobStatus.JobIteration.Index {
			continue
		}
		s := slots[t.SlotClaim()]
		s.done = s.done || t.Status.State == swarm.TaskStateComplete
		s.works = s.works || t.WantsToRun() && t.Status.State != swarm.TaskStateComplete
		slots[t.SlotClaim()] = s
	}
	for _, s := range slots {
		switch {
		case s.done:
			done++
		case s.works:
			works++
		default:
			failed++
		}
	}
	total = len(slots)
	if j := pl.svc.Spec.Mode.ReplicatedJob; j != nil {
		total = 1
		if j.MaxConcurrent != nil {
			total = int(*j.MaxConcurrent)
		}
		if j.TotalCompletions != nil {
			total = int(*j.TotalCompletions)
		}
	}
	return done, failed, works, total
}

// due decides on the times that have come: the last of them runs, if it is not too late and nothing forbids it.
func (pl *plan) due(s *cluster.Schedule) {
	since, next := pl.st.Since, pl.st.Next
	oldest := pl.now.Add(-s.Deadline)
	if since.After(oldest) {
		oldest = since
	}
	at, ok := s.Latest(since, oldest, pl.now)
	if !ok { // all are too long ago
		at, _ = s.Latest(since, since, pl.now)
		pl.skip(at, fmt.Sprintf("it would have begun %s late, more than the deadline of %s", pl.now.Sub(at).Round(time.Second), s.Deadline))
		pl.since(s, at)
		return
	}
	pl.since(s, at)
	last := pl.st.Last()
	if last != nil && last.Result == cluster.RunRunning && !s.Replace {
		pl.skip(at, fmt.Sprintf("run %d is still at work", last.Run))
		return
	}
	pl.replaced()
	job := pl.svc.JobStatus
	job.JobIteration.Index++
	job.LastExecution = pl.now
	r := cluster.JobRun{Run: job.JobIteration.Index, Scheduled: at, StartedAt: pl.now, Result: cluster.RunRunning}
	if by := pl.now.Sub(at); by > late {
		r.Reason = fmt.Sprintf("%s late", by.Round(time.Second))
		if next.Before(at) {
			r.Reason += ", and for earlier times as well"
		}
	}
	pl.add(r)
	pl.why = fmt.Sprintf("run %d is due", r.Run)
}

// skip notes that a time passes without a run; of several in a row the last stands for all.
func (pl *plan) skip(at time.Time, why string) {
	pl.why = "a time is skipped: " + why
	r := cluster.JobRun{Scheduled: at, Result: cluster.RunSkipped, Reason: why}
	if n := len(pl.st.Runs); n > 0 && pl.st.Runs[n-1].Result == cluster.RunSkipped {
		pl.st.Runs[n-1] = r
		return
	}
	pl.add(r)
}

// history is how many runs are kept.
func history(s *cluster.Swarm) int {
	n := int64(defaultHistory)
	if s != nil && s.Spec.Orchestration.TaskHistoryRetentionLimit != nil {
		if n = *s.Spec.Orchestration.TaskHistoryRetentionLimit; n < 0 { // all
			n = maxHistory
		}
	}
	return int(min(max(n, minHistory), maxHistory))
}
