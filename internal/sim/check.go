package sim

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/reconcile"
	"shoal.dev/shoal/internal/reconcile/liveness"
	"shoal.dev/shoal/internal/store"
)

// truth is a replica that has every entry at once and looks at each.
type truth struct {
	w     *world
	store *store.Store
	watch *store.Watcher
	// round is the log's length when the leader's last round began: what changed after it, the round could not know.
	round uint64
}

func newTruth(w *world) *truth {
	t := &truth{w: w, store: store.New()}
	t.watch, _ = t.store.Watch()
	return t
}

func (tr *truth) apply(index uint64, entry []byte) *store.Result {
	before := tr.store.Snapshot()
	res := tr.store.Apply(index, entry)
	if res.Err != nil {
		tr.w.violate("%v", res.Err)
	}
	events, _ := tr.watch.Take()
	after := tr.store.Snapshot()
	for _, e := range events {
		switch e.Kind {
		case cluster.KindTask:
			tr.task(before, after, e)
		case cluster.KindNode:
			tr.node(e)
		case cluster.KindService:
			tr.service(before, e)
		}
	}
	tr.state(after)
	return res
}

// since says whether the leader's round could not know of a change of the record.
func (tr *truth) unknown(o cluster.Object) bool {
	return o.GetMeta().Version.Index > tr.round || *o.GetStateVersion() > tr.round
}

// task checks one change of a task.
func (tr *truth) task(before, after *store.Snapshot, e store.Event) {
	old, _ := e.Old.(*cluster.Task)
	t, _ := e.New.(*cluster.Task)
	w := tr.w
	if t == nil {
		w.note("  - task %s", old.ID)
		if _, there := store.Get[*cluster.Node](after, old.NodeID); there && placed(old) && !old.Ended() {
			w.violate("task %s was deleted while node %s may run it", old.ID, old.NodeID)
		}
		return
	}
	if old == nil {
		w.note("  + task %s of %s.%s, desired %s, %s", t.ID, t.ServiceID, slotName(t), t.DesiredState, t.Spec.ContainerSpec.Image)
		if svc, ok := store.Get[*cluster.Service](after, t.ServiceID); ok {
			tr.parallel(before, after, svc, t)
			tr.created(before, svc, t)
		}
		return
	}
	if cluster.Before(t.DesiredState, old.DesiredState) {
		w.violate("the desired state of task %s went back from %s to %s", t.ID, old.DesiredState, t.DesiredState)
	}
	if cluster.Before(t.Status.State, old.Status.State) {
		w.violate("the state of task %s went back from %s to %s", t.ID, old.Status.State, t.Status.State)
	}
	if old.NodeID != "" && t.NodeID != old.NodeID {
		w.violate("task %s moved from node %s to %s", t.ID, old.NodeID, t.NodeID)
	}
	if old.DesiredState != t.DesiredState {
		w.note("  ~ task %s of %s.%s: desired %s, was %s (%s)", t.ID, t.ServiceID, slotName(t), t.DesiredState, old.DesiredState, t.Status.State)
	}
	if !old.Moving && t.Moving {
		w.note("  ~ task %s of %s.%s: moves", t.ID, t.ServiceID, slotName(t))
		tr.moves(after, t)
	}
	if !placed(old) && placed(t) && !t.Ended() {
		w.note("  ~ task %s of %s.%s: on node %s", t.ID, t.ServiceID, slotName(t), t.NodeID)
		tr.assigned(after, t)
	}
	if old.WantsToRun() && !t.WantsToRun() && !old.Ended() {
		tr.stopped(before, after, t)
	}
}

// assigned checks that a task may run where it was placed (invariant 4).
func (tr *truth) assigned(snap *store.Snapshot, t *cluster.Task) {
	if tr.w.o.Late {
		return
	}
	n, ok := store.Get[*cluster.Node](snap, t.NodeID)
	if !ok || tr.unknown(n) {
		return
	}
	if !nodeReady(n) || n.Spec.Availability != swarm.NodeAvailabilityActive {
		tr.w.violate("task %s was placed on node %s, which is %s and %s", t.ID, n.ID, n.Status.State, n.Spec.Availability)
	}
	for _, e := range t.Spec.Placement.Constraints {
		if c, err := cluster.ParseConstraint(e); err != nil || !c.Match(n) {
			tr.w.violate("task %s was placed on node %s against %s", t.ID, n.ID, e)
		}
	}
	var own uint64
	for o := range snap.TasksByNode(n.ID) {
		if o.ServiceID == t.ServiceID && placed(o) && o.WantsToRun() && !o.Ended() {
			own++
		}
	}
	if limit := t.Spec.Placement.MaxReplicas; limit > 0 && own > limit {
		tr.w.violate("node %s runs %d tasks of service %s, at most %d", n.ID, own, t.ServiceID, limit)
	}
}

// stopped checks that a task that had not ended was stopped for a reason (invariant 5).
func (tr *truth) stopped(snap, after *store.Snapshot, t *cluster.Task) {
	svc, ok := store.Get[*cluster.Service](snap, t.ServiceID)
	if !ok || tr.unknown(svc) || tr.w.o.Late {
		return
	}
	if n, ok := store.Get[*cluster.Node](snap, t.NodeID); t.NodeID != "" {
		if !ok || tr.unknown(n) || n.Status.State == swarm.NodeStateDown || n.Spec.Availability == swarm.NodeAvailabilityDrain {
			return
		}
	}
	if n, ok := store.Get[*cluster.Node](snap, t.NodeID); ok && !suits(n, t) {
		return
	}
	if svc.Spec.Mode.Replicated != nil {
		slots := map[int]bool{}
		for o := range snap.TasksByService(svc.ID) {
			if o.DesiredState != swarm.TaskStateRemove {
				slots[o.Slot] = true
			}
		}
		if uint64(len(slots)) > svc.Replicas() && t.DesiredState == swarm.TaskStateRemove {
			return
		}
	}
	if svc.JobStatus != nil && stoppedByJob(snap, svc, t) {
		return
	}
	if stoppedByMove(after, svc, t) || tr.stoppedByUpdate(snap, after, svc, t) {
		return
	}
	tr.w.violate("task %s of %s.%s was stopped (desired %s) without a reason", t.ID, t.ServiceID, slotName(t), t.DesiredState)
}

// node checks one change of a node.
func (tr *truth) node(e store.Event) {
	old, _ := e.Old.(*cluster.Node)
	n, _ := e.New.(*cluster.Node)
	if n == nil || old != nil && old.Status.State == n.Status.State {
		return
	}
	tr.w.note("  ~ node %s is %s", n.ID, n.Status.State)
	a := tr.w.agents[n.ID]
	if n.Status.State != swarm.NodeStateDown || a == nil {
		return
	}
	tr.w.stats.Downs++
	if silent := time.Since(a.contact); silent < liveness.Silence(liveness.DefaultPeriod) && !tr.w.o.Late {
		tr.w.violate("node %s was declared down after %v", n.ID, silent)
	}
}

// state checks what must hold of every state.
func (tr *truth) state(snap *store.Snapshot) {
	w := tr.w
	slots := map[string]string{}
	addrs := map[string]string{}
	used := map[string]int64{}
	onPort := map[string]string{}
	gpus := map[string]string{}
	for t := range store.List[*cluster.Task](snap) {
		if t.WantsToRun() && !(t.JobIteration != nil && t.Ended()) {
			k := t.SlotClaim()
			if other := slots[k]; other != "" && !startFirst(snap, t, taskOf(snap, other)) {
				w.violate("tasks %s and %s both hold slot %s.%s", other, t.ID, t.ServiceID, slotName(t))
			}
			slots[k] = t.ID
		}
		if t.Ended() {
			continue
		}
		if placed(t) && t.Spec.Resources != nil {
			used[t.NodeID] += t.Spec.Resources.Reservations.NanoCPUs
			for _, r := range t.GenericResources {
				gpu := t.NodeID + "/" + r.NamedResourceSpec.Value
				if other := gpus[gpu]; other != "" && !w.o.Late {
					w.violate("tasks %s and %s share gpu %s", other, t.ID, gpu)
				}
				gpus[gpu] = t.ID
			}
		}
		for _, p := range t.HostPorts {
			port := fmt.Sprint(t.NodeID, " ", p.Protocol, p.PublishedPort)
			if other := onPort[port]; placed(t) && other != "" && !w.o.Late {
				w.violate("tasks %s and %s have one port of a node: %s", other, t.ID, port)
			}
			if placed(t) {
				onPort[port] = t.ID
			}
		}
		for _, a := range t.NetworksAttachments {
			addr := a.Addresses[0].Addr()
			if other := addrs[addr.String()]; other != "" {
				w.violate("tasks %s and %s share address %s", other, t.ID, addr)
			}
			addrs[addr.String()] = t.ID
			c, ok := store.Get[*cluster.Claim](snap, cluster.ClaimAddr(a.Network.ID, addr))
			if !ok || c.Owner != t.ID || c.ReleasedAt != 0 {
				w.violate("task %s has address %s without its claim: %+v", t.ID, addr, c)
			}
		}
	}
	indexes := map[uint16]string{}
	for n := range store.List[*cluster.Node](snap) {
		if !w.o.Late && used[n.ID] > n.Description.Resources.NanoCPUs {
			w.violate("node %s has %d billionths of a CPU reserved of %d", n.ID, used[n.ID], n.Description.Resources.NanoCPUs)
		}
		if n.Index != 0 {
			if other := indexes[n.Index]; other != "" {
				w.violate("nodes %s and %s share number %d", other, n.ID, n.Index)
			}
			indexes[n.Index] = n.ID
		}
		if n.IngressAddr.IsValid() {
			if other := addrs[n.IngressAddr.String()]; other != "" {
				w.violate("node %s and %s share address %s", n.ID, other, n.IngressAddr)
			}
			addrs[n.IngressAddr.String()] = n.ID
		}
	}
	ports := map[string]string{}
	for s := range store.List[*cluster.Service](snap) {
		w.checkJob(snap, s)
		for _, p := range s.Endpoint.Ports {
			if p.PublishMode == swarm.PortConfigPublishModeHost {
				continue
			}
			k := cluster.ClaimPort(string(p.Protocol), p.PublishedPort)
			if other := ports[k]; other != "" {
				w.violate("services %s and %s share %s", other, s.ID, k)
			}
			ports[k] = s.ID
			if c, ok := store.Get[*cluster.Claim](snap, k); !ok || c.Owner != s.ID {
				w.violate("service %s has %s without its claim: %+v", s.ID, k, c)
			}
		}
	}
	for _, a := range w.sorted() {
		w.checkRoutes(a)
	}
}

// checkRoutes checks that no ready node routes an address to a task that does not own it any more while another does
// (invariant 3). A node that has just come back has not had the state yet.
func (w *world) checkRoutes(a *agent) {
	snap := w.snapshot()
	n, ok := store.Get[*cluster.Node](snap, a.id)
	if !ok || !nodeReady(n) || !a.fresh {
		return
	}
	for addr, task := range a.routes {
		if c, ok := store.Get[*cluster.Claim](snap, "addr/ingress-id/"+addr); ok && c.Owner != task {
			w.violate("address %s is %s's and node %s routes it to %s", addr, c.Owner, a.id, task)
		}
	}
}

// checkContainers checks that a container that starts shares its address with none that runs.
func (w *world) checkContainers(a *agent, l *local) {
	for _, o := range a.tasks {
		if o != l && o.running() && l.port != "" && o.port == l.port && !w.o.Late {
			w.violate("containers of tasks %s and %s on %s both publish %s", l.id, o.id, a.id, l.port)
		}
	}
	if l.addr == "" {
		return
	}
	for _, b := range w.sorted() {
		for _, o := range b.tasks {
			if o != l && o.running() && o.addr == l.addr && b.alive {
				w.violate("containers of tasks %s on %s and %s on %s run with address %s", l.id, a.id, o.id, b.id, l.addr)
			}
		}
	}
}

// unsettled says what is not yet as users want it, or "".
func (w *world) unsettled() string {
	snap := w.snapshot()
	for n := range store.List[*cluster.Node](snap) {
		if w.dead(n.ID) {
			if n.Status.State != swarm.NodeStateDown {
				return fmt.Sprintf("node %s is dead and %q", n.ID, n.Status.State)
			}
			continue
		}
		if !nodeReady(n) || n.Index == 0 || !n.IngressAddr.IsValid() {
			return fmt.Sprintf("node %s is %q with number %d and address %v", n.ID, n.Status.State, n.Index, n.IngressAddr)
		}
	}
	for t := range store.List[*cluster.Task](snap) {
		if why := w.unsettledTask(snap, t); why != "" {
			return fmt.Sprintf("task %s of %s.%s (%s, desired %s, node %q, %q): %s", t.ID, t.ServiceID, slotName(t), t.Status.State, t.DesiredState, t.NodeID, t.Status.Err, why)
		}
	}
	for s := range store.List[*cluster.Service](snap) {
		if why := unsettledUpdate(snap, s); why != "" {
			return why
		}
		if why := unsettledMode(snap, s); why != "" {
			return why
		}
	}
	if why := w.unbalanced(snap); why != "" {
		return why
	}
	for c := range store.List[*cluster.Claim](snap) {
		if why := leaked(snap, c); why != "" {
			return fmt.Sprintf("claim %s of %s: %s", c.ID, c.Owner, why)
		}
	}
	return ""
}

// dead says whether the node will never come back.
func (w *world) dead(id string) bool {
	a := w.agents[id]
	return a != nil && !a.alive
}

func (w *world) unsettledTask(snap *store.Snapshot, t *cluster.Task) string {
	if t.Held() {
		return "it may not be stopped yet"
	}
	if !t.WantsToRun() && !t.Ended() && w.dead(t.NodeID) {
		return "" // nobody can stop it
	}
	svc, ok := store.Get[*cluster.Service](snap, t.ServiceID)
	if !ok {
		return "its service is gone"
	}
	if !t.WantsToRun() {
		if !t.Ended() {
			return "it has not ended"
		}
		return ""
	}
	if t.Status.State == swarm.TaskStateComplete && t.DesiredState == swarm.TaskStateComplete {
		return ""
	}
	if t.Status.State == swarm.TaskStateRunning && t.DesiredState == swarm.TaskStateRunning {
		a := w.agents[t.NodeID]
		if a == nil || !a.alive || a.tasks[t.ID] == nil || !a.tasks[t.ID].running() {
			return "its node does not run it"
		}
		n, _ := store.Get[*cluster.Node](snap, t.NodeID)
		if n.Spec.Availability == swarm.NodeAvailabilityDrain {
			return "its node is drained"
		}
		if !suits(n, t) {
			return "its node does not suit it"
		}
		return ""
	}
	if t.Status.State == swarm.TaskStateNew && strings.HasPrefix(t.Status.Err, "could not find an available IP") {
		return ""
	}
	if t.Status.State == swarm.TaskStatePending && (strings.HasPrefix(t.Status.Err, "no suitable node") || t.Global && t.Status.Err != "") {
		for n := range store.List[*cluster.Node](snap) {
			if (!t.Global || n.ID == t.NodeID) && fits(snap, svc, t, n) {
				return "it fits on node " + n.ID
			}
		}
		return ""
	}
	return "it does not run"
}

// fits says whether a node has room for the task; written apart from package placement on purpose.
func fits(snap *store.Snapshot, svc *cluster.Service, t *cluster.Task, n *cluster.Node) bool {
	if !nodeReady(n) || n.Spec.Availability != swarm.NodeAvailabilityActive {
		return false
	}
	if !suits(n, t) {
		return false
	}
	var used int64
	var own uint64
	gpus := len(n.Description.Resources.GenericResources)
	for o := range snap.TasksByNode(n.ID) {
		if o.Ended() || !placed(o) {
			continue
		}
		if o.Spec.Resources != nil {
			used += o.Spec.Resources.Reservations.NanoCPUs
			gpus -= len(o.Spec.Resources.Reservations.GenericResources)
		}
		if o.ServiceID == svc.ID && o.WantsToRun() {
			own++
		}
		if sharePort(o, t) {
			return false
		}
	}
	if limit := t.Spec.Placement.MaxReplicas; limit > 0 && own >= limit {
		return false
	}
	if t.Spec.Resources != nil && len(t.Spec.Resources.Reservations.GenericResources) > gpus {
		return false
	}
	return t.Spec.Resources == nil || used+t.Spec.Resources.Reservations.NanoCPUs <= n.Description.Resources.NanoCPUs
}

// leaked says why a claim should not be there, or "".
func leaked(snap *store.Snapshot, c *cluster.Claim) string {
	if c.ReleasedAt != 0 {
		return "it is released and not deleted"
	}
	if t := taskOf(snap, c.Owner); t != nil {
		if strings.HasPrefix(c.ID, "addr/") && t.Ended() {
			return "its task has ended"
		}
		return ""
	}
	if _, ok := store.Get[*cluster.Node](snap, c.Owner); ok {
		return ""
	}
	if _, ok := store.Get[*cluster.Service](snap, c.Owner); ok {
		return ""
	}
	if strings.HasPrefix(c.ID, "slot/") { // the slot's last task takes it along
		for t := range store.List[*cluster.Task](snap) {
			if c.ID == t.SlotClaim() {
				return ""
			}
		}
	}
	return "its owner is gone"
}

// checkSettled checks that a settled swarm stays so (invariant 6) and that its policies were kept.
func (w *world) checkSettled() {
	w.leader.catchUp()
	snap := w.leader.store.Snapshot()
	env := reconcile.Env{Now: w.leader.store.Now(), NewID: w.newID, Observed: w.leader}
	for _, a := range w.sorted() {
		if a.alive {
			w.leader.heard[a.id] = env.Now
		}
	}
	for _, p := range w.o.Planners {
		for _, k := range p.AllKeys(snap) {
			for _, g := range p.Plan(snap, k, env).Groups {
				w.violate("%s %s plans a settled swarm: %s %v", p.Name(), k, g.Why, g.Changes)
			}
		}
	}
	for s := range store.List[*cluster.Service](snap) {
		for t := range snap.TasksByService(s.ID) {
			rp := t.Spec.RestartPolicy
			if rp != nil && rp.MaxAttempts != nil && t.Attempt > *rp.MaxAttempts {
				w.violate("task %s is attempt %d of at most %d", t.ID, t.Attempt, *rp.MaxAttempts)
			}
		}
		w.checkHistory(snap, s)
	}
	for _, a := range w.sorted() {
		if !a.alive {
			continue
		}
		for _, l := range a.tasks {
			t := taskOf(snap, l.id)
			if l.running() && (t == nil || t.NodeID != a.id || !t.WantsToRun()) {
				w.violate("node %s runs task %s, which it should not", a.id, l.id)
			}
		}
		if a.seen == 0 {
			w.violate("node %s has never had the state", a.id)
		}
	}
}

// checkHistory checks that no slot keeps more ended tasks than the swarm's settings say, besides the one that says
// that the slot has finished and those that the restart policy counts.
func (w *world) checkHistory(snap *store.Snapshot, s *cluster.Service) {
	limit := uint64(5)
	if n := snap.Swarm().Spec.Orchestration.TaskHistoryRetentionLimit; n != nil {
		limit = uint64(*n)
	}
	if rolling(s) {
		limit = max(limit, 1) // an update counts the slots whose tasks failed
	}
	if rp := s.Spec.TaskTemplate.RestartPolicy; rp != nil && rp.MaxAttempts != nil {
		limit = max(limit, *rp.MaxAttempts+1)
	}
	ended := map[string]uint64{}
	for t := range snap.TasksByService(s.ID) {
		if t.Ended() {
			ended[t.SlotClaim()]++
		}
	}
	for _, n := range slices.Sorted(maps.Keys(ended)) {
		if have := ended[n]; have > limit+1 {
			w.violate("%s has %d ended tasks, the limit is %d", n, have, limit)
		}
	}
}
