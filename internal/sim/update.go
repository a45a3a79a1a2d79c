package sim

import (
	"fmt"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/store"
)

// badImage is one whose containers never start.
const badImage = "hello:nope"

// updateConfig is how a service is updated; nil: as the defaults say.
func (w *world) updateConfig() *swarm.UpdateConfig {
	if w.rng.IntN(4) == 0 {
		return nil
	}
	return &swarm.UpdateConfig{
		Parallelism:     uint64(w.rng.IntN(4)),
		Delay:           time.Duration(w.rng.IntN(3)) * time.Second,
		Monitor:         time.Duration(w.rng.IntN(3)) * 3 * time.Second,
		MaxFailureRatio: float32(w.rng.IntN(3)) / 4,
		Order:           []swarm.UpdateOrder{"", swarm.UpdateOrderStopFirst, swarm.UpdateOrderStartFirst, swarm.UpdateOrderStartFirst}[w.rng.IntN(4)],
		FailureAction: []swarm.FailureAction{
			"", swarm.UpdateFailureActionPause, swarm.UpdateFailureActionContinue, swarm.UpdateFailureActionRollback,
		}[w.rng.IntN(4)],
	}
}

// updateService changes what a service runs or how it is updated, or goes back, as control does.
func (w *world) updateService(id string) {
	var what string
	var change func(*swarm.ServiceSpec)
	switch w.rng.IntN(9) {
	case 8:
		p := hostPort(uint32(w.rng.IntN(3)))
		what, change = fmt.Sprintf("--publish-add %+v", p), func(s *swarm.ServiceSpec) {
			if s.EndpointSpec != nil && s.EndpointSpec.Ports[0].PublishMode == swarm.PortConfigPublishModeHost {
				s.EndpointSpec = &swarm.EndpointSpec{Ports: []swarm.PortConfig{p}}
			}
		}
	case 0:
		what, change = "--rollback", nil
	case 1:
		what, change = "--force", func(s *swarm.ServiceSpec) { s.TaskTemplate.ForceUpdate++ }
	case 2:
		c := w.updateConfig()
		what, change = fmt.Sprintf("--update-… %+v", c), func(s *swarm.ServiceSpec) {
			if s.Mode.ReplicatedJob == nil && s.Mode.GlobalJob == nil {
				s.UpdateConfig = c
			}
		}
	case 3:
		what, change = "--image "+badImage, func(s *swarm.ServiceSpec) { s.TaskTemplate.ContainerSpec.Image = badImage }
	default:
		image := fmt.Sprintf("hello:%d", 1+w.rng.IntN(3))
		what, change = "--image "+image, func(s *swarm.ServiceSpec) { s.TaskTemplate.ContainerSpec.Image = image }
	}
	w.update(fmt.Sprintf("service update %s %s", what, id), func(tx *store.Tx) error {
		s, ok := store.Get[*cluster.Service](tx.Snapshot, id)
		if !ok {
			return fmt.Errorf("no such service")
		}
		c := s.Clone().(*cluster.Service)
		prev := s.Clone().(*cluster.Service).Spec
		if change != nil {
			change(&c.Spec)
			c.UpdateStatus = nil
		} else {
			if s.PreviousSpec == nil {
				return fmt.Errorf("service %s does not have a previous spec", id)
			}
			now := w.leader.store.Now()
			c.Spec = *c.PreviousSpec
			c.UpdateStatus = &swarm.UpdateStatus{State: swarm.UpdateStateRollbackStarted, StartedAt: &now}
		}
		c.PreviousSpec = &prev
		w.again(c)
		tx.Write(store.PutBoth(c))
		return nil
	})
}

// updateRules are how the service's tasks are replaced; written apart from package service on purpose.
func updateRules(s *cluster.Service) swarm.UpdateConfig {
	c := s.Spec.UpdateConfig
	if st := s.UpdateStatus; st != nil && (st.State == swarm.UpdateStateRollbackStarted || st.State == swarm.UpdateStateRollbackPaused || st.State == swarm.UpdateStateRollbackCompleted) {
		c = s.Spec.RollbackConfig
	}
	if c == nil {
		return swarm.UpdateConfig{Parallelism: 1}
	}
	return *c
}

// sameTemplate says whether the task is what the service says now; the users here change nothing else of a template.
func sameTemplate(s *cluster.Service, t *cluster.Task) bool {
	return samePorts(s, t) && t.Spec.ContainerSpec.Image == s.Spec.TaskTemplate.ContainerSpec.Image && t.Spec.ForceUpdate == s.Spec.TaskTemplate.ForceUpdate
}

// rolling says whether an update of the service goes on.
func rolling(s *cluster.Service) bool {
	return s.UpdateStatus != nil && (s.UpdateStatus.State == swarm.UpdateStateUpdating || s.UpdateStatus.State == swarm.UpdateStateRollbackStarted)
}

// stoppedByUpdate says why an update may stop a task, or not, before it has ended.
func (tr *truth) stoppedByUpdate(before, after *store.Snapshot, svc *cluster.Service, t *cluster.Task) bool {
	old := taskOf(before, t.ID)
	successor := false // somebody else has the slot
	if c, ok := store.Get[*cluster.Claim](after, t.SlotClaim()); ok && c.Owner != t.ID {
		o := taskOf(after, c.Owner)
		if had, ok := store.Get[*cluster.Claim](before, c.ID); ok && had.Owner != t.ID {
			// It stood in for its successor, which runs or has finished, or for which it need not wait any more.
			return o == nil || !o.WantsToRun() || o.Status.State == swarm.TaskStateRunning || updateRules(svc).Order != swarm.UpdateOrderStartFirst
		}
		successor = o != nil && o.WantsToRun()
	}
	if !successor || sameTemplate(svc, t) {
		return false
	}
	if !rolling(svc) {
		return updateRules(svc).Order == swarm.UpdateOrderStartFirst // a successor that did not run gave the slot back
	}
	if old.Status.State != swarm.TaskStateRunning {
		return true
	}
	rules := updateRules(svc)
	if rules.Order == swarm.UpdateOrderStartFirst && !inTheWay(before, svc, old) {
		tr.w.violate("task %s of %s.%s was stopped before its successor runs", t.ID, t.ServiceID, slotName(t))
	}
	return true
}

// parallel checks that an update has no more slots in work than it may: those whose new task, which the update made and
// which is not another try, does not run yet.
func (tr *truth) parallel(before, after *store.Snapshot, svc *cluster.Service, t *cluster.Task) {
	rules := updateRules(svc)
	if rules.Parallelism == 0 || !rolling(svc) || tr.unknown(svc) || tr.w.o.Late || !sameTemplate(svc, t) {
		return
	}
	had, ok := store.Get[*cluster.Claim](before, t.SlotClaim())
	if !ok {
		return
	}
	replaced := taskOf(before, had.Owner)
	if replaced == nil || !replaced.WantsToRun() || sameTemplate(svc, replaced) || replaced.Status.State != swarm.TaskStateRunning || tr.unknown(replaced) {
		return // nobody loses anything by it
	}
	if n, ok := store.Get[*cluster.Node](before, replaced.NodeID); !ok || tr.unknown(n) || n.Status.State == swarm.NodeStateDown || n.Spec.Availability == swarm.NodeAvailabilityDrain || !suits(n, replaced) {
		return
	}
	busy := map[string]bool{}
	for o := range after.TasksByService(svc.ID) {
		if !sameTemplate(svc, o) || o.Attempt > 0 || o.CreatedAt.Before(*svc.UpdateStatus.StartedAt) || !o.WantsToRun() || o.Global && paused(before, o.NodeID) {
			continue // an update does not wait for a paused node
		}
		switch {
		case o.Ended():
		case o.Status.State != swarm.TaskStateRunning:
			busy[o.SlotClaim()] = true
		case o.CreatedAt.Before(t.CreatedAt) && t.CreatedAt.Before(o.RunningAt.Add(rules.Delay)):
			busy[o.SlotClaim()] = true
		}
	}
	if uint64(len(busy)) > rules.Parallelism {
		tr.w.violate("service %s has %d slots in work, at most %d: %v since %v by %s", svc.ID, len(busy), rules.Parallelism, busy, svc.UpdateStatus.StartedAt.Sub(tr.w.start), t.ID)
	}
	tr.w.stats.Updated++
}

// unsettledUpdate says what is not as the service's update wants it, or "".
func unsettledUpdate(snap *store.Snapshot, s *cluster.Service) string {
	if s.JobStatus != nil {
		return ""
	}
	stuck, old := false, ""
	for t := range snap.TasksByService(s.ID) {
		if !t.WantsToRun() || t.Global && paused(snap, t.NodeID) {
			continue
		}
		if !sameTemplate(s, t) {
			old = t.ID
		}
		stuck = stuck || t.Status.State != swarm.TaskStateRunning // a task without room holds the update up
	}
	switch st := s.UpdateStatus; {
	case st != nil && (st.State == swarm.UpdateStatePaused || st.State == swarm.UpdateStateRollbackPaused), stuck:
	case rolling(s):
		return fmt.Sprintf("service %s is %s", s.ID, st.State)
	case old != "" && updateRules(s).Order != swarm.UpdateOrderStartFirst:
		return fmt.Sprintf("task %s of service %s has an older template", old, s.ID)
	}
	return ""
}

// startFirst says whether two tasks may hold a slot: one has the claim, and the other stands in for it. A third there
// never is.
func startFirst(snap *store.Snapshot, a, b *cluster.Task) bool {
	c, ok := store.Get[*cluster.Claim](snap, a.SlotClaim())
	svc, there := store.Get[*cluster.Service](snap, a.ServiceID)
	if !ok || c.Owner != a.ID && c.Owner != b.ID {
		return false
	}
	holders := 0
	for t := range snap.TasksByService(a.ServiceID) {
		if t.SlotClaim() == a.SlotClaim() && t.WantsToRun() {
			holders++
		}
	}
	if holders > 2 || !there {
		return holders == 2 // the service is gone, and they soon are
	}
	allowed := func(c *swarm.UpdateConfig) bool { return c != nil && c.Order == swarm.UpdateOrderStartFirst }
	if allowed(svc.Spec.UpdateConfig) || allowed(svc.Spec.RollbackConfig) {
		return true
	}
	// The configuration has just changed, and no plan knows it yet.
	return svc.PreviousSpec == nil || allowed(svc.PreviousSpec.UpdateConfig) || allowed(svc.PreviousSpec.RollbackConfig)
}

// service notes a change of an update's state.
func (tr *truth) service(before *store.Snapshot, e store.Event) {
	old, _ := e.Old.(*cluster.Service)
	s, _ := e.New.(*cluster.Service)
	if s != nil {
		tr.run(before, old, s)
	}
	if s == nil || s.UpdateStatus == nil || old != nil && old.UpdateStatus != nil && old.UpdateStatus.State == s.UpdateStatus.State {
		return
	}
	tr.w.note("  ~ service %s: %s", s.ID, s.UpdateStatus.State)
	switch s.UpdateStatus.State {
	case swarm.UpdateStatePaused, swarm.UpdateStateRollbackPaused:
		tr.w.stats.Paused++
	case swarm.UpdateStateRollbackStarted:
		tr.w.stats.Rollbacks++
	}
}
