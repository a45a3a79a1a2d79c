package service

import (
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/store"
)

// global brings a global service or job to one task on every node that is for it. A node that is not stops its task; a
// paused one keeps what it has as it is, and what ends there is not replaced, as in Swarm.
func (pl *plan) global() {
	active, dying := pl.slots()
	have := map[string]bool{}
	var fit, vacant []*slot
	for _, s := range active {
		have[s.node] = true
		n, there := store.Get[*cluster.Node](pl.snap, s.node)
		switch {
		case !there:
			for _, t := range s.tasks {
				pl.remove(t, "its node is gone")
			}
		case pl.completed(s):
		case pl.unfit(n) != "":
			pl.halt(s, pl.unfit(n))
		case n.Spec.Availability == swarm.NodeAvailabilityPause:
			pl.pause(s)
		case pl.stopped(s):
			vacant = append(vacant, s)
		default:
			fit = append(fit, s)
		}
	}
	rolling := false
	if pl.svc.JobStatus == nil {
		ok := false
		if rolling, ok = pl.rolls(fit); !ok {
			return
		}
	}
	for _, s := range fit {
		pl.slot(s, rolling)
	}
	for n := range store.List[*cluster.Node](pl.snap) {
		if !have[n.ID] && pl.takes(n) {
			vacant = append(vacant, pl.vacant(place{node: n.ID}, dying))
		}
	}
	if rolling {
		pl.roll(fit, uint64(len(vacant)))
	}
	for _, s := range vacant {
		pl.start(s)
	}
}

// unfit says why a node is not for the global service, or "". A node that is not ready for the moment is.
func (pl *plan) unfit(n *cluster.Node) string {
	p := pl.svc.Spec.TaskTemplate.Placement
	switch {
	case n.Status.State == swarm.NodeStateDown:
		return "its node is down"
	case n.Spec.Availability == swarm.NodeAvailabilityDrain:
		return "its node is drained"
	case !pl.meets(p, n):
		return "its node does not meet the constraints"
	case p != nil && !cluster.RunsOn(p.Platforms, n.Description.Platform):
		return "its node is of another platform"
	}
	return ""
}

// takes says whether a node that has no task of the service gets one. A global job runs on the nodes that are there when
// it begins.
func (pl *plan) takes(n *cluster.Node) bool {
	if job := pl.svc.JobStatus; job != nil && n.CreatedAt.After(job.LastExecution) {
		return false
	}
	return n.Status.State == swarm.NodeStateReady && n.Spec.Availability != swarm.NodeAvailabilityPause && pl.unfit(n) == ""
}

// halt stops what is meant to run in the slot.
func (pl *plan) halt(s *slot, why string) {
	for _, t := range s.tasks {
		if t.WantsToRun() {
			pl.group(s.String()+": "+why, desire(t, swarm.TaskStateShutdown))
		}
	}
}

// pause leaves the slot of a paused node alone, but for what had begun.
func (pl *plan) pause(s *slot) {
	cur := s.current
	switch {
	case pl.settleOthers(s), !cur.WantsToRun():
	case cur.Ended():
		pl.group(s.String()+": the task has ended and its node is paused", desire(cur, swarm.TaskStateShutdown))
	case cur.DesiredState == swarm.TaskStateReady:
		pl.promote(s)
	}
}

// stopped says whether the slot's task was stopped because of its node, so that there is one again when the node is for
// the service, unless its restart policy wants no other.
func (pl *plan) stopped(s *slot) bool {
	cur := s.current
	if cur.WantsToRun() || condition(cur) == swarm.RestartPolicyConditionNone {
		return false
	}
	switch cur.Status.State {
	case swarm.TaskStateComplete, swarm.TaskStateFailed, swarm.TaskStateRejected:
		return pl.mayRestart(s)
	}
	return true
}
