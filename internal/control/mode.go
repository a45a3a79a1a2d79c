package control

import (
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/store"
)

func modeOf(m swarm.ServiceMode) string {
	switch {
	case m.Global != nil:
		return "global"
	case m.ReplicatedJob != nil:
		return "replicated-job"
	case m.GlobalJob != nil:
		return "global-job"
	}
	return "replicated"
}

// statusOf counts as Docker does, of a job the tasks of its current run. But a task on a node that is down does not run.
func statusOf(snap *store.Snapshot, s *cluster.Service) *swarm.ServiceStatus {
	st := &swarm.ServiceStatus{}
	m := s.Spec.Mode
	switch {
	case m.Replicated != nil:
		st.DesiredTasks = s.Replicas()
	case m.ReplicatedJob != nil && m.ReplicatedJob.MaxConcurrent != nil:
		st.DesiredTasks = *m.ReplicatedJob.MaxConcurrent
	}
	completed := map[string]bool{} // by slot: a task on a node that was thought to be lost may complete one twice
	global := m.Global != nil || m.GlobalJob != nil
	for t := range snap.TasksByService(s.ID) {
		if s.JobStatus != nil {
			if t.JobIteration == nil || t.JobIteration.Index != s.JobStatus.JobIteration.Index {
				continue
			}
			if t.Status.State == swarm.TaskStateComplete {
				completed[t.SlotClaim()] = true
			}
		}
		if global && t.DesiredState == goal(s) && (s.JobStatus == nil || t.Status.State != swarm.TaskStateComplete) {
			st.DesiredTasks++
		}
		if t.Status.State != swarm.TaskStateRunning || !t.WantsToRun() {
			continue
		}
		if n, ok := store.Get[*cluster.Node](snap, t.NodeID); ok && n.Status.State != swarm.NodeStateDown {
			st.RunningTasks++
		}
	}
	st.CompletedTasks = uint64(len(completed))
	return st
}

// goal is the desired state of the service's tasks.
func goal(s *cluster.Service) swarm.TaskState {
	if s.JobStatus != nil {
		return swarm.TaskStateComplete
	}
	return swarm.TaskStateRunning
}

// wholeMode is the mode with the numbers that Docker fills in.
func wholeMode(m swarm.ServiceMode) swarm.ServiceMode {
	one := uint64(1)
	switch {
	case m == swarm.ServiceMode{}:
		m.Replicated = &swarm.ReplicatedService{Replicas: &one}
	case m.Replicated != nil && m.Replicated.Replicas == nil:
		m.Replicated = &swarm.ReplicatedService{Replicas: &one}
	case m.ReplicatedJob != nil:
		j := *m.ReplicatedJob
		if j.MaxConcurrent == nil {
			j.MaxConcurrent = &one
		}
		if j.TotalCompletions == nil {
			j.TotalCompletions = j.MaxConcurrent
		}
		m.ReplicatedJob = &j
	}
	return m
}

func isJob(m swarm.ServiceMode) bool { return m.ReplicatedJob != nil || m.GlobalJob != nil }
