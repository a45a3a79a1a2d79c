package sim

import (
	"fmt"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/store"
)

// schedule puts half of the jobs on a schedule, which begins when its time comes.
func (w *world) schedule(s *cluster.Service) string {
	if w.rng.IntN(2) == 0 {
		return ""
	}
	s.JobStatus = &swarm.JobStatus{}
	l := map[string]string{cluster.LabelSchedule: fmt.Sprintf("@every %ds", 5+w.rng.IntN(30))}
	if w.rng.IntN(2) == 0 {
		l[cluster.LabelConcurrency] = cluster.ConcurrencyReplace
	}
	if w.rng.IntN(3) == 0 {
		l[cluster.LabelDeadline] = "2s"
	}
	if !w.faults { // a swarm in which jobs come and go never settles
		l[cluster.LabelSuspend] = "true"
	}
	s.Spec.Labels = l
	return fmt.Sprintf(" --label %v", l)
}

// calm suspends all schedules for good.
func (w *world) calm() {
	for s := range store.List[*cluster.Service](w.snapshot()) {
		if !cluster.Scheduled(&s.Spec) {
			continue
		}
		w.update("service update --schedule-suspend "+s.ID, func(tx *store.Tx) error {
			c := s.Clone().(*cluster.Service)
			for _, spec := range []*swarm.ServiceSpec{&c.Spec, c.PreviousSpec} {
				if spec != nil && cluster.Scheduled(spec) {
					spec.Labels[cluster.LabelSuspend] = "true"
				}
			}
			tx.Write(store.PutBoth(c))
			return nil
		})
	}
}

// suspend suspends or resumes a schedule, or changes it.
func (w *world) suspend(id string) {
	if !w.faults {
		return
	}
	every := fmt.Sprintf("@every %ds", 5+w.rng.IntN(30))
	again := w.rng.IntN(3) == 0
	w.update("service update --schedule-… "+id, func(tx *store.Tx) error {
		s, ok := store.Get[*cluster.Service](tx.Snapshot, id)
		if !ok || !cluster.Scheduled(&s.Spec) {
			return fmt.Errorf("no such schedule")
		}
		c := s.Clone().(*cluster.Service)
		prev := s.Clone().(*cluster.Service).Spec
		c.PreviousSpec = &prev
		if _, off := c.Spec.Labels[cluster.LabelSuspend]; off {
			delete(c.Spec.Labels, cluster.LabelSuspend)
		} else if again {
			c.Spec.Labels[cluster.LabelSchedule] = every
		} else {
			c.Spec.Labels[cluster.LabelSuspend] = "true"
		}
		tx.Write(store.PutBoth(c))
		return nil
	})
}

// rests says whether a scheduled job has nothing to do until its next run.
func rests(s *cluster.Service) bool {
	if s.JobStatus == nil || s.JobStatus.LastExecution.IsZero() {
		return s.JobStatus != nil
	}
	last := s.Schedule.Last()
	return last != nil && last.Run == s.JobStatus.JobIteration.Index && last.Result != cluster.RunRunning
}

// run checks one change of how far a schedule is.
func (tr *truth) run(before *store.Snapshot, old, s *cluster.Service) {
	w := tr.w
	if s.Schedule == nil {
		return
	}
	working := 0
	for i, r := range s.Schedule.Runs {
		if r.Result == cluster.RunRunning {
			working++
		}
		for _, o := range s.Schedule.Runs[:i] {
			if r.Run != 0 && r.Run == o.Run || !r.Scheduled.IsZero() && !r.Scheduled.After(o.Scheduled) {
				w.violate("service %s has two runs for one: %+v and %+v", s.ID, o, r)
			}
		}
	}
	if working > 1 {
		w.violate("service %s has %d runs at work: %+v", s.ID, working, s.Schedule.Runs)
	}
	if s.Schedule.Next.Before(s.Schedule.Since) && !s.Schedule.Next.IsZero() {
		w.violate("service %s runs next at %s, before %s", s.ID, s.Schedule.Next, s.Schedule.Since)
	}
	last, had := s.Schedule.Last(), (*cluster.JobRun)(nil)
	if old != nil {
		had = old.Schedule.Last()
	}
	if n := len(s.Schedule.Runs); n > 0 && s.Schedule.Runs[n-1].Result == cluster.RunSkipped {
		w.stats.Skipped++
	}
	if last == nil || last.Scheduled.IsZero() || had != nil && had.Run == last.Run {
		return
	}
	w.note("  ~ service %s: run %d of %s", s.ID, last.Run, last.Scheduled)
	w.stats.Scheduled++
	if last.StartedAt.Before(last.Scheduled) || s.JobStatus.JobIteration.Index != last.Run {
		w.violate("service %s is at %+v after run %+v", s.ID, s.JobStatus, last)
	}
	if s.Spec.Labels[cluster.LabelConcurrency] == cluster.ConcurrencyReplace || tr.unknown(old) || old.Schedule.Last() == nil {
		return
	}
	for t := range before.TasksByService(s.ID) { // under forbid none of the run before may be at work
		if had != nil && t.JobIteration != nil && t.JobIteration.Index == had.Run && t.WantsToRun() && !t.Ended() && !tr.unknown(t) {
			w.violate("run %d of service %s began while task %s of run %d was at work", last.Run, s.ID, t.ID, had.Run)
		}
	}
}
