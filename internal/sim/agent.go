package sim

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/reconcile/liveness"
	"shoal.dev/shoal/internal/store"
)

// agent is a node: what its engine runs and what its kernel routes.
type agent struct {
	w         *world
	id        string
	alive     bool
	connected bool
	slow      int  // chance in percent that a step does nothing but heartbeat
	lossy     bool // statuses get lost and come twice
	fresh     bool // it has had the whole state since it was connected
	contact   time.Time
	beat      time.Time
	seen      uint64 // version of the state that it knows
	tasks     map[string]*local
	routes    map[string]string // address to task, in its kernel
}

// local is a task as the node knows it.
type local struct {
	id       string
	addr     string
	port     string // that it publishes on the node
	job      bool   // its container ends by itself
	bad      bool   // its image is not there, until the faults are over
	state    swarm.TaskState
	desired  swarm.TaskState
	held     bool // to be stopped, but not yet
	reported swarm.TaskState
	exitAt   time.Time // zero: it runs on
}

// running says whether the task's container runs.
func (l *local) running() bool { return l.state == swarm.TaskStateRunning }

// connect begins a session.
func (a *agent) connect() {
	a.connected, a.fresh = true, false
	for _, l := range a.tasks {
		l.reported = "" // a session begins with everything
	}
}

// step is a heartbeat, new assignments, a little progress and reports.
func (a *agent) step() {
	if !a.alive {
		return
	}
	m := a.w.leader
	now := m.store.Now()
	if a.connected && now.Sub(a.beat) >= liveness.DefaultPeriod/2 {
		a.beat = now
	}
	if a.connected {
		m.heard[a.id] = now
		a.contact = now
	}
	if a.w.rng.IntN(100) < a.slow {
		return
	}
	if a.connected {
		a.fetch()
	}
	for _, id := range slices.Sorted(maps.Keys(a.tasks)) {
		a.advance(a.tasks[id], now)
	}
	if a.connected {
		a.report(now)
	}
}

// fetch takes the state from the leader or from a manager that is behind it, but never goes back.
func (a *agent) fetch() {
	m := a.w.leader
	if a.w.chance(50) {
		m = a.w.managers[a.w.rng.IntN(len(a.w.managers))]
	}
	if a.w.chance(70) {
		m.catchUp()
	}
	if m.store.Index() < a.seen {
		return // it waits until the manager has caught up
	}
	snap := m.store.Snapshot()
	if _, ok := store.Get[*cluster.Node](snap, a.id); !ok {
		return // a manager that does not know a node tells it nothing
	}
	a.seen = snap.Index()
	assigned := map[string]*cluster.Task{}
	for t := range snap.TasksByNode(a.id) {
		if !placed(t) {
			continue
		}
		assigned[t.ID] = t
	}
	for id := range a.tasks { // the order does not matter
		if assigned[id] == nil {
			delete(a.tasks, id) // it stops and removes what it is not to run
		}
	}
	for id, t := range assigned {
		l := a.tasks[id]
		if l == nil {
			if t.Ended() {
				continue
			}
			l = &local{id: id, job: t.JobIteration != nil, bad: t.Spec.ContainerSpec.Image == badImage, state: swarm.TaskStateAssigned, reported: swarm.TaskStateAssigned}
			a.tasks[id] = l
		}
		for _, p := range t.HostPorts {
			l.port = fmt.Sprint(p.Protocol, p.PublishedPort)
		}
		l.desired, l.held = t.DesiredState, t.Held()
		for _, n := range t.NetworksAttachments {
			l.addr = n.Addresses[0].Addr().String()
		}
	}
	a.routes = map[string]string{}
	for t := range store.List[*cluster.Task](snap) {
		if placed(t) && !t.Ended() {
			for _, n := range t.NetworksAttachments {
				a.routes[n.Addresses[0].Addr().String()] = t.ID
			}
		}
	}
	a.fresh = true
	a.w.leader.appl[a.id] = a.seen
	a.w.checkRoutes(a)
}

var life = []swarm.TaskState{
	swarm.TaskStateAssigned, swarm.TaskStateAccepted, swarm.TaskStatePreparing, swarm.TaskStateReady,
	swarm.TaskStateStarting, swarm.TaskStateRunning,
}

// advance moves a task on.
func (a *agent) advance(l *local, now time.Time) {
	w := a.w
	switch {
	case cluster.Terminal(l.state):
	case l.held:
	case cluster.Before(swarm.TaskStateComplete, l.desired):
		if !w.chance(60) { // it takes its time to stop
			l.state = swarm.TaskStateShutdown
		}
	case l.running():
		if !l.exitAt.IsZero() && now.After(l.exitAt) && (w.faults || l.job) {
			l.state = swarm.TaskStateFailed
			if w.rng.IntN(3) == 0 || l.job && !w.chance(40) {
				l.state = swarm.TaskStateComplete
			}
			if l.job && l.state == swarm.TaskStateComplete {
				w.stats.Completed++
				break
			}
			w.stats.Failed++
		}
	default:
		for range 1 + w.rng.IntN(3) {
			if l.state == swarm.TaskStateReady && l.desired == swarm.TaskStateReady || l.running() {
				break
			}
			if l.state == swarm.TaskStatePreparing && (l.bad && w.faults || w.chance(5)) {
				l.state = swarm.TaskStateRejected
				break
			}
			l.state = life[slices.Index(life, l.state)+1]
		}
		if l.running() {
			w.stats.Started++
			if w.chance(25) || l.job {
				l.exitAt = now.Add(time.Duration(w.rng.IntN(20_000)) * time.Millisecond)
			}
			if l.job {
				l.exitAt = l.exitAt.Add(-l.exitAt.Sub(now) * 3 / 4)
			}
			w.checkContainers(a, l)
		}
	}
}

// report writes statuses, as dispatch does: never backwards, and only of the node's own tasks.
func (a *agent) report(now time.Time) {
	w := a.w
	states := map[string]swarm.TaskState{}
	for _, id := range slices.Sorted(maps.Keys(a.tasks)) {
		l := a.tasks[id]
		if l.reported == l.state {
			if !a.lossy || w.rng.IntN(4) > 0 {
				continue // otherwise it comes twice
			}
		}
		if a.lossy && w.rng.IntN(2) == 0 {
			continue // lost on the way; it is sent again
		}
		states[id] = l.state
	}
	if len(states) == 0 {
		return
	}
	ok := w.update("", func(tx *store.Tx) error {
		for _, id := range slices.Sorted(maps.Keys(states)) {
			t, found := store.Get[*cluster.Task](tx.Snapshot, id)
			if !found || t.NodeID != a.id || !cluster.Before(t.Status.State, states[id]) || t.Ended() {
				continue
			}
			c := t.Clone().(*cluster.Task)
			st := c.Status
			st.State, st.Timestamp = states[id], now
			c.SetStatus(st, now)
			tx.Write(store.PutState(c))
		}
		return nil
	})
	for _, id := range slices.Sorted(maps.Keys(states)) {
		if l := a.tasks[id]; ok && l.reported != states[id] {
			l.reported = states[id]
			w.note("%s: task %s is %s", a.id, id, states[id])
		}
	}
}
