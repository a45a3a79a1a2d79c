package service

import (
	"time"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/store"
)

// replicatedJob brings a job on. Every completion has a slot, from 0 as in Swarm; a slot whose task failed for good is
// not tried again, so that the job ends with fewer.
func (pl *plan) replicatedJob(j *swarm.ReplicatedJob) {
	concurrent := uint64(1)
	if j.MaxConcurrent != nil {
		concurrent = *j.MaxConcurrent
	}
	total := concurrent
	if j.TotalCompletions != nil {
		total = *j.TotalCompletions
	}
	working := pl.retire(func(t *cluster.Task) bool { return uint64(t.Slot) >= total })
	active, dying := pl.slots()
	taken := map[int]bool{}
	for _, s := range active {
		taken[s.number] = true
		if pl.completed(s) {
			continue
		}
		if uint64(s.number) >= total { // scaled within a run, as only a job on a schedule can be
			for _, t := range s.tasks {
				pl.remove(t, "the job has fewer slots")
			}
			continue
		}
		pl.slot(s, false)
		if s.current.WantsToRun() {
			working++ // also while it waits for its next try
		}
	}
	for n := 0; uint64(n) < total && working < concurrent; n++ {
		if !taken[n] {
			pl.start(pl.vacant(place{number: n}, dying))
			working++
		}
	}
}

// rests says whether the service is a job on a schedule between two runs, or before the first: what its specification
// says now is for the next.
func (pl *plan) rests() bool {
	job := pl.svc.JobStatus
	if job == nil {
		return false
	}
	last := pl.svc.Schedule.Last()
	return job.LastExecution.IsZero() || last != nil && last.Run == job.JobIteration.Index && last.Result != cluster.RunRunning
}

// rest begins nothing; what is left of a node that is gone goes.
func (pl *plan) rest() {
	for t := range pl.snap.TasksByService(pl.svc.ID) {
		if _, there := store.Get[*cluster.Node](pl.snap, t.NodeID); t.Global && !there {
			pl.remove(t, "its node is gone")
		}
	}
}

// old says whether the task is of an older run of the job.
func (pl *plan) old(t *cluster.Task) bool {
	job := pl.svc.JobStatus
	return job != nil && (t.JobIteration == nil || t.JobIteration.Index != job.JobIteration.Index)
}

// retire stops the tasks of older runs of a job, and removes those of which the job has no slot any more; useless, which
// may be nil, says which these are. It returns how many may still run, and notes their slots.
func (pl *plan) retire(useless func(*cluster.Task) bool) (working uint64) {
	if pl.svc.JobStatus == nil {
		return 0
	}
	pl.leaving = map[place]time.Time{}
	for t := range pl.snap.TasksByService(pl.svc.ID) {
		if !pl.old(t) {
			continue
		}
		until := t.UpdatedAt.Add(stopTimeout) // since its desired state changed
		runs := pl.stopping(t) && pl.env.Now.Before(until)
		if t.WantsToRun() && !t.Ended() { // if this change conflicts, it goes on
			until, runs = pl.env.Now.Add(stopTimeout), true
		}
		switch {
		case useless != nil && useless(t):
			pl.remove(t, "the job has fewer slots")
		case t.WantsToRun():
			pl.group("an older run of the job", desire(t, swarm.TaskStateShutdown))
		}
		if runs {
			working++
			pl.leaving[placeOf(t)] = until
			pl.again(until)
		}
	}
	return working
}

// completed says whether the slot of a job is done: one of its tasks is complete, perhaps one on a node that was thought
// to be lost. No other of them runs on, and the slot is that task's.
func (pl *plan) completed(s *slot) bool {
	if pl.svc.JobStatus == nil {
		return false
	}
	done := s.current
	for _, t := range s.tasks {
		if done.Status.State != swarm.TaskStateComplete {
			done = t
		}
	}
	if done.Status.State != swarm.TaskStateComplete {
		return false
	}
	var changes []store.Change
	if done != s.current {
		changes = append(changes, pl.claim(s, done))
	}
	for _, t := range s.tasks {
		if t != done && t.WantsToRun() {
			changes = append(changes, desire(t, swarm.TaskStateShutdown))
		}
	}
	if len(changes) > 0 {
		pl.group(s.String()+" is complete", changes...)
	}
	return true
}
