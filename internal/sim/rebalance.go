package sim

import (
	"fmt"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/reconcile"
	"shoal.dev/shoal/internal/store"
)

// balance gives a new service the policy, or not.
func (w *world) balance(s *cluster.Service) {
	if s.Spec.Mode.Replicated != nil && w.rng.IntN(2) == 0 {
		s.Spec.Labels = map[string]string{cluster.LabelRebalance: cluster.RebalanceAuto}
	}
}

// rebalance asks for a service to be balanced, as control does.
func (w *world) rebalance(id string) {
	w.update("service rebalance "+id, func(tx *store.Tx) error {
		s, ok := store.Get[*cluster.Service](tx.Snapshot, id)
		if !ok || s.Spec.Mode.Replicated == nil {
			return fmt.Errorf("rebalance can only be used with replicated mode")
		}
		c := s.Clone().(*cluster.Service)
		c.Rebalancing = true
		tx.Write(store.PutState(c))
		return nil
	})
}

// moves checks that a task that is marked to move is one of a service that is to be balanced, and that no more are replaced
// at a time than the service allows.
func (tr *truth) moves(after *store.Snapshot, t *cluster.Task) {
	svc, ok := store.Get[*cluster.Service](after, t.ServiceID)
	if !ok || tr.unknown(svc) || tr.w.o.Late {
		return
	}
	tr.w.stats.Moved++
	if !svc.Rebalancing && svc.Spec.Labels[cluster.LabelRebalance] != cluster.RebalanceAuto {
		tr.w.violate("task %s moves and nobody wants service %s to be balanced", t.ID, svc.ID)
	}
	if rolling(svc) {
		tr.w.violate("task %s moves during an update of service %s", t.ID, svc.ID)
	}
	limit := uint64(1)
	if svc.Spec.UpdateConfig != nil {
		limit = svc.Spec.UpdateConfig.Parallelism
	}
	busy := map[int]bool{}
	for o := range after.TasksByService(svc.ID) {
		if tr.known(o) && o.WantsToRun() && (o.Moving || o.Status.State != swarm.TaskStateRunning) || o.ID == t.ID {
			busy[o.Slot] = true
		}
	}
	if limit > 0 && uint64(len(busy)) > limit {
		tr.w.violate("%d slots of service %s are being replaced or moved, at most %d: %v", len(busy), svc.ID, limit, busy)
	}
}

// known says whether the leader's round could know the task as it is, but for its being marked in it.
func (tr *truth) known(t *cluster.Task) bool {
	return !tr.unknown(t) || t.Moving && t.StateVersion <= tr.round
}

// stoppedByMove says whether a task was stopped because it moved: after its successor ran, unless the service wants it
// stopped first.
func stoppedByMove(after *store.Snapshot, svc *cluster.Service, t *cluster.Task) bool {
	c, ok := store.Get[*cluster.Claim](after, t.SlotClaim())
	if !t.Moving || !ok || c.Owner == t.ID {
		return false
	}
	if u := svc.Spec.UpdateConfig; u != nil && u.Order == swarm.UpdateOrderStopFirst {
		return true
	}
	o := taskOf(after, c.Owner)
	return o == nil || o.Status.State == swarm.TaskStateRunning
}

// unbalanced says which service could still be spread better, or "".
func (w *world) unbalanced(snap *store.Snapshot) string {
	for _, p := range w.o.Planners {
		if p.Name() != "rebalance" {
			continue
		}
		for _, k := range p.AllKeys(snap) {
			if plan := p.Plan(snap, k, reconcile.Env{Now: w.leader.store.Now(), NewID: w.newID, Observed: w.leader}); len(plan.Groups) > 0 {
				return fmt.Sprintf("service %s: %s", k, plan.Groups[0].Why)
			}
		}
	}
	for s := range store.List[*cluster.Service](snap) {
		if why := w.uneven(snap, s); why != "" {
			return why
		}
	}
	return ""
}

// uneven finds a node that could have a task of another that has two more; written apart from package placement on
// purpose.
func (w *world) uneven(snap *store.Snapshot, s *cluster.Service) string {
	if !s.Rebalances() || s.UpdateStatus != nil && s.UpdateStatus.State != swarm.UpdateStateCompleted && s.UpdateStatus.State != swarm.UpdateStateRollbackCompleted {
		return ""
	}
	own, failed := map[string]int{}, map[string]int{}
	var ts []*cluster.Task
	for t := range snap.TasksByService(s.ID) {
		switch {
		case t.WantsToRun() && t.Status.State != swarm.TaskStateRunning, t.WantsToRun() && !sameTemplate(s, t), t.WantsToRun() && t.Moving:
			return "" // it comes first
		case t.WantsToRun():
			own[t.NodeID]++
			ts = append(ts, t)
		case t.Status.State == swarm.TaskStateFailed && time.Since(t.Status.Timestamp) < 10*time.Minute:
			failed[t.NodeID]++
		}
	}
	for _, t := range ts {
		from, _ := store.Get[*cluster.Node](snap, t.NodeID)
		if rp := t.Spec.RestartPolicy; rp != nil && rp.Condition == swarm.RestartPolicyConditionNone || len(t.Spec.Placement.Preferences) > 0 ||
			from == nil || !nodeReady(from) || from.Spec.Availability != swarm.NodeAvailabilityActive {
			continue
		}
		for n := range store.List[*cluster.Node](snap) {
			if own[from.ID]-own[n.ID] >= 2 && failed[n.ID] < 5 && fits(snap, s, t, n) {
				return fmt.Sprintf("node %s has %d tasks of service %s and %s could have more than its %d", from.ID, own[from.ID], s.ID, n.ID, own[n.ID])
			}
		}
	}
	return ""
}
