package swarm

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/store"
)

const (
	// settleTime is how long a swarm may take after the last fault to become what its users want: an election, a
	// heartbeat's three periods for each node, restart delays, and managers that come back as workers, who ask every 10 s.
	settleTime = 90 * time.Second
	// calmTime is for how long nothing may be written before a swarm counts as settled: addresses become free when every
	// node has let go of them, and old tasks go.
	calmTime = 8 * time.Second
	// restTime is for how long nothing may change afterwards.
	restTime = 20 * time.Second
	// glance is how often a swarm that settles is looked at.
	glance = 250 * time.Millisecond
)

// heal ends all faults and makes every host a member.
func (w *world) heal() {
	w.note("all faults end")
	w.net.alter(func() {
		clear(w.net.cut)
		clear(w.net.slow)
		clear(w.net.lossy)
	})
	for _, h := range w.hosts {
		h.crashAt.Store(0)
		h.diskLag.Store(0)
		h.full.Store(false)
		h.start()
	}
}

// settle waits until the swarm is what its users want and checks that it stays so.
func (w *world) settle() {
	began := time.Now()
	var why string
	var index uint64
	since := began
	for time.Since(began) < settleTime {
		w.mu.Lock()
		if now := w.audit.Index(); now != index {
			index, since = now, time.Now()
		}
		w.mu.Unlock()
		if why = w.unsettled(); why == "" {
			if time.Since(since) >= calmTime {
				break
			}
			why = "it goes on writing"
		}
		time.Sleep(glance)
	}
	if why != "" {
		w.violate("not settled %v after the last fault: %s", settleTime, why)
		return
	}
	w.note("settled after %v", time.Since(began).Round(time.Millisecond))
	w.mu.Lock()
	w.stats.Slowest = max(w.stats.Slowest, time.Since(began))
	before := w.audit.Index()
	w.mu.Unlock()
	time.Sleep(restTime)
	w.mu.Lock()
	after := w.audit.Index()
	w.mu.Unlock()
	if after != before {
		w.violate("a settled swarm wrote %d entries in %v", after-before, restTime)
	}
	if why := w.unsettled(); why != "" {
		w.violate("the swarm did not stay settled: %s", why)
	}
	w.compare()
}

// admit makes members of those that are none, and takes out nodes that are no host's any more.
func (w *world) admit() string {
	for i, h := range w.hosts {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		var info struct{ Swarm swarm.Info }
		err := h.get(ctx, "/info", &info)
		cancel()
		if err != nil {
			return fmt.Sprintf("%s: %v", h.name, err)
		}
		h.setID(info.Swarm.NodeID)
		if info.Swarm.LocalNodeState != swarm.LocalNodeStateInactive {
			continue
		}
		var others []*host
		for j, o := range w.hosts {
			if j != i {
				others = append(others, o)
			}
		}
		if err := w.join(h, false, others...); err != nil {
			return fmt.Sprintf("%s does not join: %v", h.name, err)
		}
	}
	for n := range store.List[*cluster.Node](w.snapshot()) {
		if w.hostOf(n.ID) != nil {
			continue
		}
		if n.Spec.Role == swarm.NodeRoleManager { // its host lost it before it was a voter
			w.setNodeID(n.ID, func(s *swarm.NodeSpec) { s.Role = swarm.NodeRoleWorker })
		}
		w.anyManager(0, func(m *host) bool {
			a, err := w.do(m, patience, http.MethodDelete, "/nodes/"+n.ID+"?force=1", nil)
			return err == nil && a.status == http.StatusOK
		})
		return "node " + n.ID + " is no host's"
	}
	return ""
}

// unsettled says what is not yet as users want it, or "".
func (w *world) unsettled() string {
	for _, h := range w.hosts {
		l := h.alive()
		if l == nil {
			return h.name + " does not run"
		}
	}
	if why := w.admit(); why != "" {
		return why
	}
	snap := w.snapshot()
	managers := 0
	for n := range store.List[*cluster.Node](snap) {
		if n.Status.State != swarm.NodeStateReady {
			w.freeIfStranded(w.hostOf(n.ID))
			return fmt.Sprintf("node %s (%s) is %s", n.ID, w.hostOf(n.ID).name, n.Status.State)
		}
		if n.Spec.Role == swarm.NodeRoleManager {
			managers++
		}
		if n.Spec.Availability != swarm.NodeAvailabilityActive {
			w.setNode(w.hostOf(n.ID), func(s *swarm.NodeSpec) { s.Availability = swarm.NodeAvailabilityActive })
			return fmt.Sprintf("node %s is %s", n.ID, n.Spec.Availability)
		}
	}
	for _, h := range w.hosts {
		if why := w.unsettledHost(snap, h, managers); why != "" {
			return h.name + " " + why
		}
	}
	return w.unsettledTasks(snap)
}

// freeIfStranded lets a host leave that knows nobody any more who could tell it of the swarm: every manager that it knows
// of was replaced while it was away. Users do the same; admit has it join again.
func (w *world) freeIfStranded(h *host) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var info struct{ Swarm swarm.Info }
	if h.get(ctx, "/info", &info) != nil || len(info.Swarm.RemoteManagers) == 0 {
		return
	}
	for _, p := range info.Swarm.RemoteManagers {
		if o := w.hostOf(p.NodeID); o != nil && o != h && !w.isWorker(o) {
			return
		}
	}
	w.mu.Lock()
	w.stats.Stranded++
	w.mu.Unlock()
	if _, err := w.do(h, membership, http.MethodPost, "/swarm/leave?force=1", nil); err != nil {
		w.note("%s does not leave: %v", h.name, err)
	}
}

// unsettledHost checks that a host is what its node's record says, and that a manager answers reads.
func (w *world) unsettledHost(snap *store.Snapshot, h *host, managers int) string {
	n, ok := store.Get[*cluster.Node](snap, h.id())
	if !ok {
		return "has no record"
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var info struct{ Swarm swarm.Info }
	if err := h.get(ctx, "/info", &info); err != nil {
		return err.Error()
	}
	if info.Swarm.ControlAvailable != (n.Spec.Role == swarm.NodeRoleManager) {
		return fmt.Sprintf("is to be a %s and says that it is a manager: %v", n.Spec.Role, info.Swarm.ControlAvailable)
	}
	if !info.Swarm.ControlAvailable {
		return ""
	}
	if len(info.Swarm.RemoteManagers) != managers {
		return fmt.Sprintf("knows %d managers of %d", len(info.Swarm.RemoteManagers), managers)
	}
	a, err := h.ask(ctx, http.MethodGet, "/services", nil)
	switch {
	case err != nil:
		return err.Error()
	case a.status != http.StatusOK || a.stale:
		return fmt.Sprintf("answers %d, stale: %v: %s", a.status, a.stale, a.message())
	}
	return ""
}

// unsettledTasks checks that every service has its replicas, that each of them runs once, where its record says, and that
// nothing else runs.
func (w *world) unsettledTasks(snap *store.Snapshot) string {
	at := map[string]*host{}
	for _, h := range w.hosts {
		for task := range h.running() {
			if other := at[task]; other != nil {
				return fmt.Sprintf("task %s runs on %s and on %s", task, other.name, h.name)
			}
			at[task] = h
		}
	}
	wanted := map[string]bool{}
	for s := range store.List[*cluster.Service](snap) {
		slots := map[int]string{}
		for t := range snap.TasksByService(s.ID) {
			if !t.WantsToRun() {
				continue
			}
			if other := slots[t.Slot]; other != "" {
				return fmt.Sprintf("tasks %s and %s are both slot %d of %s", other, t.ID, t.Slot, s.Spec.Name)
			}
			slots[t.Slot], wanted[t.ID] = t.ID, true
			if h := at[t.ID]; h == nil || h.id() != t.NodeID || t.Status.State != swarm.TaskStateRunning {
				return fmt.Sprintf("task %s of %s.%d is %s (%s)", t.ID, s.Spec.Name, t.Slot, t.Status.State, t.Status.Err)
			}
		}
		if want := *s.Spec.Mode.Replicated.Replicas; uint64(len(slots)) != want {
			return fmt.Sprintf("service %s has %d tasks of %d", s.Spec.Name, len(slots), want)
		}
	}
	for task, h := range at {
		if !wanted[task] {
			return fmt.Sprintf("task %s runs on %s and is not to", task, h.name)
		}
	}
	return ""
}

// compare checks that all managers have what was committed.
func (w *world) compare() {
	for _, h := range w.hosts {
		l := h.alive()
		if l == nil || h.retire {
			continue
		}
		n, ok := store.Get[*cluster.Node](w.snapshot(), h.id())
		s := l.store.Load()
		if !ok || n.Spec.Role != swarm.NodeRoleManager || s == nil {
			continue
		}
		w.mu.Lock()
		err := w.audit.Compare(s.Snapshot())
		w.mu.Unlock()
		if err != nil {
			w.violate("manager %s has other records than were committed: %v", h.name, err)
		}
	}
}

// watch looks at all containers until the end: no two that run may have one address.
func (w *world) watch(ctx context.Context) {
	tick := time.NewTicker(glance)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		has := map[string]string{}
		for _, h := range w.hosts {
			for task, c := range h.running() {
				h.mu.Lock()
				a, ok := h.kernel.Ingress(c.ID)
				h.mu.Unlock()
				if !ok || !a.IsValid() {
					continue
				}
				me := "task " + task + " on " + h.name
				if other := has[a.String()]; other != "" {
					w.violate("%s and %s run with address %s", other, me, a)
				}
				has[a.String()] = me
			}
		}
	}
}
