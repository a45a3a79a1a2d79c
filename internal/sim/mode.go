package sim

import (
	"fmt"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/store"
)

// mode picks a new service's mode and says what it is.
func (w *world) mode(s *cluster.Service) string {
	n, most := uint64(w.rng.IntN(8)), uint64(1+w.rng.IntN(3))
	switch w.rng.IntN(8) {
	case 0, 1:
		s.Spec.Mode.Global = &swarm.GlobalService{}
		w.stats.Modes[1]++
		return "--mode global"
	case 2, 3:
		s.Spec.Mode.ReplicatedJob = &swarm.ReplicatedJob{TotalCompletions: &n, MaxConcurrent: &most}
		s.JobStatus = &swarm.JobStatus{LastExecution: w.leader.store.Now()}
		w.stats.Modes[2]++
		return fmt.Sprintf("--mode replicated-job --replicas %d --max-concurrent %d", n, most) + w.schedule(s)
	case 4:
		s.Spec.Mode.GlobalJob = &swarm.GlobalJob{}
		s.JobStatus = &swarm.JobStatus{LastExecution: w.leader.store.Now()}
		w.stats.Modes[3]++
		return "--mode global-job" + w.schedule(s)
	}
	s.Spec.Mode.Replicated = &swarm.ReplicatedService{Replicas: &n}
	w.stats.Modes[0]++
	return fmt.Sprintf("--replicas %d", n) + w.autoscale(s)
}

// again makes an updated service's next run, if it is a job; of one that has a schedule by force only.
func (w *world) again(s *cluster.Service) {
	if s.JobStatus == nil {
		return
	}
	s.UpdateStatus = nil
	if cluster.Scheduled(&s.Spec) && s.Spec.TaskTemplate.ForceUpdate <= s.PreviousSpec.TaskTemplate.ForceUpdate {
		return
	}
	s.JobStatus.JobIteration.Index++
	s.JobStatus.LastExecution = w.leader.store.Now()
	w.stats.Runs++
}

// label moves a node into another zone.
func (w *world) label(n *cluster.Node) {
	zone := string('a' + rune(w.rng.IntN(3)))
	w.update("node update --label-add zone="+zone+" "+n.ID, func(tx *store.Tx) error {
		n, ok := store.Get[*cluster.Node](tx.Snapshot, n.ID)
		if !ok {
			return nil
		}
		c := n.Clone().(*cluster.Node)
		c.Spec.Labels = map[string]string{"zone": zone}
		w.stats.Relabeled++
		tx.Write(store.PutSpec(c))
		return nil
	})
}

// placed says whether the task was given to its node.
func placed(t *cluster.Task) bool {
	return t.NodeID != "" && cluster.StateOrder(t.Status.State) >= cluster.StateOrder(swarm.TaskStateAssigned)
}

func slotName(t *cluster.Task) string {
	if t.Global {
		return t.NodeID
	}
	return fmt.Sprint(t.Slot)
}

// suits says whether the node meets the task's constraints; written apart from package cluster on purpose.
func suits(n *cluster.Node, t *cluster.Task) bool { return meets(n, t.Spec.Placement) }

func meets(n *cluster.Node, p *swarm.Placement) bool {
	for _, c := range p.Constraints {
		if c == "node.labels.zone != a" && n.Spec.Labels["zone"] == "a" {
			return false
		}
	}
	return true
}

func paused(snap *store.Snapshot, id string) bool {
	n, ok := store.Get[*cluster.Node](snap, id)
	return ok && n.Spec.Availability == swarm.NodeAvailabilityPause
}

// current says whether the task is of the job's current run; of a service that is no job, every task is.
func current(s *cluster.Service, t *cluster.Task) bool {
	return s.JobStatus == nil || t.JobIteration != nil && t.JobIteration.Index == s.JobStatus.JobIteration.Index
}

// created checks a new task: that a global one is on a node that is for it, and that a job's slot is not done already.
func (tr *truth) created(before *store.Snapshot, svc *cluster.Service, t *cluster.Task) {
	w := tr.w
	if w.o.Late || tr.unknown(svc) {
		return
	}
	if !current(svc, t) || (svc.JobStatus != nil) != (t.JobIteration != nil) {
		w.violate("task %s is of run %v of service %s, which is at %v", t.ID, t.JobIteration, svc.ID, svc.JobStatus)
	}
	if j := svc.Spec.Mode.ReplicatedJob; j != nil && uint64(t.Slot) >= *j.TotalCompletions {
		w.violate("task %s has slot %d of job %s, which has %d", t.ID, t.Slot, svc.ID, *j.TotalCompletions)
	}
	if rests(svc) {
		w.violate("task %s of service %s is of no run: %+v", t.ID, svc.ID, svc.Schedule)
	}
	if svc.JobStatus != nil {
		for o := range before.TasksByService(svc.ID) {
			if o.SlotClaim() == t.SlotClaim() && current(svc, o) && o.Status.State == swarm.TaskStateComplete && !tr.unknown(o) {
				w.violate("task %s of %s.%s does again what task %s has done", t.ID, svc.ID, slotName(t), o.ID)
			}
		}
	}
	if !t.Global {
		return
	}
	n, ok := store.Get[*cluster.Node](before, t.NodeID)
	if ok && tr.unknown(n) {
		return
	}
	if !ok || n.Status.State == swarm.NodeStateDown || n.Spec.Availability != swarm.NodeAvailabilityActive || !suits(n, t) {
		w.violate("task %s of global service %s was made for node %s, which is not for it", t.ID, svc.ID, t.NodeID)
	}
	if svc.JobStatus != nil && n.CreatedAt.After(svc.JobStatus.LastExecution) {
		w.violate("task %s of global job %s is on node %s, which came after the job began", t.ID, svc.ID, t.NodeID)
	}
}

// stoppedByJob says whether a job may stop the task: it is of an older run, or another one has done its work.
func stoppedByJob(snap *store.Snapshot, svc *cluster.Service, t *cluster.Task) bool {
	if j := svc.Spec.Mode.ReplicatedJob; !current(svc, t) || j != nil && uint64(t.Slot) >= *j.TotalCompletions {
		return true
	}
	for o := range snap.TasksByService(svc.ID) {
		if o.SlotClaim() == t.SlotClaim() && current(svc, o) && o.Status.State == swarm.TaskStateComplete {
			return true
		}
	}
	return false
}

// checkJob checks that no more of a job's tasks are at work at the same time than it says.
func (w *world) checkJob(snap *store.Snapshot, s *cluster.Service) {
	j := s.Spec.Mode.ReplicatedJob
	if j == nil || w.o.Late {
		return
	}
	working := uint64(0)
	for t := range snap.TasksByService(s.ID) {
		if current(s, t) && t.WantsToRun() && !t.Ended() {
			working++
		}
	}
	if working > *j.MaxConcurrent {
		w.violate("%d tasks of job %s are at work, at most %d", working, s.ID, *j.MaxConcurrent)
	}
}

// finished says whether the task was the last of its slot: its restart policy wants no other. One that was stopped
// counts only where nothing is ever restarted.
func finished(t *cluster.Task) bool {
	rp := t.Spec.RestartPolicy
	switch {
	case t.WantsToRun():
		return false
	case rp == nil:
		return false
	case rp.Condition == swarm.RestartPolicyConditionNone:
		return true
	case rp.Condition == swarm.RestartPolicyConditionOnFailure && t.Status.State == swarm.TaskStateComplete:
		return true
	}
	return rp.MaxAttempts != nil && t.Attempt >= *rp.MaxAttempts && (t.Status.State == swarm.TaskStateFailed || t.Status.State == swarm.TaskStateRejected || t.Status.State == swarm.TaskStateComplete)
}

// slotState is what the slots of a service are at, by claim.
type slotState struct {
	live, done, finished bool
}

func slotsOf(snap *store.Snapshot, s *cluster.Service) map[string]*slotState {
	out := map[string]*slotState{}
	for t := range snap.TasksByService(s.ID) {
		if !current(s, t) || t.DesiredState == swarm.TaskStateRemove {
			continue
		}
		st := out[t.SlotClaim()]
		if st == nil {
			st = &slotState{}
			out[t.SlotClaim()] = st
		}
		c, ok := store.Get[*cluster.Claim](snap, t.SlotClaim())
		st.live = st.live || t.WantsToRun() && !t.Ended()
		st.done = st.done || s.JobStatus != nil && t.Status.State == swarm.TaskStateComplete
		st.finished = st.finished || ok && c.Owner == t.ID && finished(t)
	}
	return out
}

// unsettledMode says what the service's tasks, taken together, are not as its mode wants, or "".
func unsettledMode(snap *store.Snapshot, s *cluster.Service) string {
	slots := slotsOf(snap, s)
	m := s.Spec.Mode
	switch {
	case m.Replicated != nil:
		if uint64(len(slots)) != s.Replicas() {
			return fmt.Sprintf("service %s has %d slots, not %d", s.ID, len(slots), s.Replicas())
		}
		return ""
	case m.ReplicatedJob != nil:
		live, ended := uint64(0), uint64(0)
		for _, st := range slots {
			switch {
			case st.live:
				live++
			case st.done, st.finished:
				ended++
			}
		}
		if rests(s) {
			if live > 0 {
				return fmt.Sprintf("job %s has %d slots at work between its runs", s.ID, live)
			}
			return ""
		}
		if want := min(*m.ReplicatedJob.TotalCompletions-ended, *m.ReplicatedJob.MaxConcurrent); live != want {
			return fmt.Sprintf("job %s has %d slots at work and %d that have ended, of %d", s.ID, live, ended, *m.ReplicatedJob.TotalCompletions)
		}
		return ""
	}
	for n := range store.List[*cluster.Node](snap) {
		st := slots[cluster.ClaimSlotNode(s.ID, n.ID)]
		if st == nil {
			st = &slotState{}
		}
		delete(slots, cluster.ClaimSlotNode(s.ID, n.ID))
		wanted := nodeReady(n) && n.Spec.Availability == swarm.NodeAvailabilityActive && meets(n, s.Spec.TaskTemplate.Placement)
		if s.JobStatus != nil && (n.CreatedAt.After(s.JobStatus.LastExecution) || rests(s)) {
			wanted = false
		}
		switch {
		case wanted && !st.live && !st.done && !st.finished:
			return fmt.Sprintf("global service %s has no task on node %s", s.ID, n.ID)
		case !wanted && st.live && !paused(snap, n.ID):
			return fmt.Sprintf("global service %s has a task on node %s, which is not for it", s.ID, n.ID)
		}
	}
	for k := range slots {
		return fmt.Sprintf("global service %s has %s, whose node is gone", s.ID, k)
	}
	return ""
}
