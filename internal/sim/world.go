package sim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/reconcile"
	"shoal.dev/shoal/internal/store"
)

// world is everything in a run.
type world struct {
	rng      *rand.Rand
	o        Options
	start    time.Time
	log      [][]byte // committed entries; an entry's index is its place, from 1
	managers []*manager
	leader   *manager
	agents   map[string]*agent
	lates    [][]byte // those that will still come
	truth    *truth
	faults   bool
	loads    map[string]int64 // by service, what its tasks together use of a billionth of a CPU
	ids      int
	trace    []string
	stats    Stats
	// onNote and onViolation take the place of the trace and of the end of the run, for an [Audit].
	onNote, onViolation func(string)
}

// manager is one manager: a replica, and a runner while it leads.
type manager struct {
	w      *world
	name   string
	store  *store.Store
	runner *reconcile.Runner
	since  time.Time // when it became the leader
	begun  bool
	heard  map[string]time.Time
	appl   map[string]uint64
	zombie bool // it still believes to be the leader
}

func (w *world) note(format string, args ...any) {
	if w.onNote != nil {
		w.onNote(fmt.Sprintf(format, args...))
		return
	}
	w.trace = append(w.trace, fmt.Sprintf("%9.3fs #%d ", time.Since(w.start).Seconds(), len(w.log))+fmt.Sprintf(format, args...))
}

func (w *world) violate(format string, args ...any) {
	if w.onViolation != nil {
		w.onViolation(fmt.Sprintf(format, args...))
		return
	}
	w.note("VIOLATION: "+format, args...)
	panic(violation(fmt.Sprintf(format, args...)))
}

func (w *world) chance(percent int) bool { return w.faults && w.rng.IntN(100) < percent }

// newID is unique and not in the order of creation, like the real ones.
func (w *world) newID() string {
	w.ids++
	return fmt.Sprintf("%06x-%d", w.rng.IntN(1<<24), w.ids)
}

func (w *world) sorted() []*agent {
	var as []*agent
	for _, id := range slices.Sorted(maps.Keys(w.agents)) {
		as = append(as, w.agents[id])
	}
	return as
}

func (w *world) boot() {
	w.truth = newTruth(w)
	for i := range w.o.Managers {
		m := &manager{w: w, name: fmt.Sprintf("m%d", i+1), store: store.New()}
		m.store.SetProposer(m)
		w.managers = append(w.managers, m)
	}
	w.lead(w.managers[0])
	s := &cluster.Swarm{}
	s.ID = "swarm-id"
	if n := int64(w.rng.IntN(4)); n < 3 {
		s.Spec.Orchestration.TaskHistoryRetentionLimit = &n
	}
	w.update("swarm init", func(tx *store.Tx) error { tx.Write(store.Create(s)); return nil })
	w.update("ingress network", func(tx *store.Tx) error { tx.Write(store.Create(ingress(w.rng.IntN(4) == 0))); return nil })
	for range w.o.Nodes {
		w.addNode()
	}
}

// lead makes m the leader. What an earlier one believes does not matter to the log.
func (w *world) lead(m *manager) {
	w.stats.Leaders++
	w.note("%s leads", m.name)
	if old := w.leader; old != nil && old != m {
		old.zombie = true
	}
	w.leader = m
	m.stop()
	m.zombie, m.begun = false, false
	m.since = m.store.Now()
	m.heard, m.appl = map[string]time.Time{}, map[string]uint64{}
	m.runner = reconcile.NewRunner(reconcile.Config{
		Store: m.store, Observed: m, Planners: w.o.Planners, NewID: w.newID, Log: slog.New(slog.DiscardHandler),
	})
	for _, a := range w.sorted() {
		if a.connected {
			a.connect() // a session with the new leader; it may take a while
		}
	}
}

func (m *manager) stop() {
	if m.runner != nil {
		m.runner.Close()
		m.runner = nil
	}
}

func (w *world) changeLeader() {
	var others []*manager
	for _, m := range w.managers {
		if m != w.leader {
			others = append(others, m)
		}
	}
	if w.rng.IntN(4) == 0 || len(others) == 0 {
		w.lead(w.leader) // it lost leadership and won again
		return
	}
	w.lead(others[w.rng.IntN(len(others))])
}

// plan is one round of the leader's runner, and sometimes one of a manager that does not know better.
func (w *world) plan() {
	for _, m := range w.managers {
		if m != w.leader && m.runner != nil && (!m.zombie || w.rng.IntN(3) == 0) {
			if _, err := m.runner.Step(context.Background(), m.store.Now()); err != nil || w.rng.IntN(2) == 0 {
				m.stop()
			}
		}
	}
	m := w.leader
	if !m.begun {
		if _, err := m.runner.Begin(context.Background()); err != nil {
			return
		}
		m.begun = true
	}
	for range 4 { // the rounds that follow each other at once
		m.catchUp()
		w.truth.round = uint64(len(w.log))
		next, err := m.runner.Step(context.Background(), m.store.Now())
		if err != nil || m != w.leader || m.runner == nil {
			return
		}
		if next.IsZero() || next.After(m.store.Now()) {
			if m.store.Index() == w.truth.round {
				return
			}
		}
	}
}

var errUnknown = errors.New("the outcome is not known")

// Propose is the log. It is where the world gets between a plan and its commit.
func (m *manager) Propose(_ context.Context, entry []byte) (*store.Result, error) {
	w := m.w
	if m != w.leader {
		if w.o.Late && m.zombie && w.faults {
			w.lates = append(w.lates, entry)
			w.note("%s: an old leader's entry is on its way", m.name)
			return nil, errUnknown
		}
		return nil, store.ErrNotLeader
	}
	m.catchUp()
	switch {
	case w.chance(1):
		w.note("an entry is lost")
		return nil, errUnknown
	case w.chance(1):
		w.note("an entry is lost with its leader")
		w.changeLeader()
		return nil, errUnknown
	case w.chance(1):
		w.append(entry)
		w.note("an entry is committed and its leader does not learn it")
		w.changeLeader()
		return nil, errUnknown
	}
	res := w.append(entry)
	m.catchUp()
	return res, nil
}

// append commits an entry.
func (w *world) append(entry []byte) *store.Result {
	w.log = append(w.log, entry)
	w.stats.Entries++
	res := w.truth.apply(uint64(len(w.log)), entry)
	for _, err := range res.Groups {
		if err != nil {
			w.stats.Conflicts++
		}
	}
	return res
}

// catchUp applies what was committed.
func (m *manager) catchUp() {
	for i := m.store.Index(); i < uint64(len(m.w.log)); i++ {
		m.store.Apply(i+1, m.w.log[i])
	}
}

func (w *world) deliverLate() {
	for len(w.lates) > 0 && w.rng.IntN(2) == 0 {
		e := w.lates[0]
		w.lates = w.lates[1:]
		w.note("an old leader's entry arrives")
		w.append(e)
	}
}

// update is a user's or an agent's write through the leader.
func (w *world) update(what string, fn func(*store.Tx) error) bool {
	w.leader.catchUp()
	_, err := w.leader.store.Update(context.Background(), fn)
	if what != "" {
		if err != nil {
			w.note("%s: %v", what, err)
		} else {
			w.note("%s", what)
		}
	}
	return err == nil
}

// LastHeard, LeaderSince, Applied and Usage are the manager's Observed.
func (m *manager) LastHeard(id string) (time.Time, bool) {
	t, ok := m.heard[id]
	return t, ok
}

func (m *manager) LeaderSince() time.Time { return m.since }

func (m *manager) Applied(id string) uint64 { return m.appl[id] }

// Usage is made up from the load of the task's service; see [world.usage].
func (m *manager) Usage(id string) (cluster.Usage, bool) { return m.w.usage(m, id) }

// snapshot is a consistent view of what is committed.
func (w *world) snapshot() *store.Snapshot { return w.truth.store.Snapshot() }

func taskOf(s *store.Snapshot, id string) *cluster.Task {
	t, _ := store.Get[*cluster.Task](s, id)
	return t
}

func nodeReady(n *cluster.Node) bool { return n.Status.State == swarm.NodeStateReady }
