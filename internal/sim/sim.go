// Package sim is a simulated swarm: the real store and the real planners in the real runner, with agents, users and
// faults made up from one seed, step by step, without goroutines.
//
// It decides what happens when, all from the seed, and checks after every log entry what must never happen (DESIGN.md).
// A run is repeatable to the byte: it must be called in a testing/synctest bubble, whose clock it moves by sleeping.
// Nothing in the daemon imports it.
package sim

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"shoal.dev/shoal/internal/reconcile"
	"shoal.dev/shoal/internal/reconcile/address"
	"shoal.dev/shoal/internal/reconcile/authority"
	"shoal.dev/shoal/internal/reconcile/autoscale"
	"shoal.dev/shoal/internal/reconcile/gate"
	"shoal.dev/shoal/internal/reconcile/level"
	"shoal.dev/shoal/internal/reconcile/liveness"
	"shoal.dev/shoal/internal/reconcile/placement"
	"shoal.dev/shoal/internal/reconcile/reap"
	"shoal.dev/shoal/internal/reconcile/rebalance"
	"shoal.dev/shoal/internal/reconcile/schedule"
	"shoal.dev/shoal/internal/reconcile/service"
)

// Options says how hard a run is. The zero value of a number is its default.
type Options struct {
	Steps    int // of the part with faults; default 100
	Managers int // default 3
	Nodes    int // at the beginning; default 5
	// Late lets entries of an old leader reach the log after the new one has begun, which Raft does not do. What
	// claims protect must hold even then; room on nodes, which one serial planner protects, is not checked.
	Late bool
	// Planners replaces the real ones, in tests of the simulator.
	Planners []reconcile.Planner
}

// Planners are the planners of a manager, in their order.
func Planners() []reconcile.Planner {
	return []reconcile.Planner{liveness.Planner{}, schedule.Planner{}, autoscale.Planner{}, service.Planner{}, address.Planner{}, gate.Planner{}, placement.Planner{}, rebalance.Planner{}, reap.Planner{}, authority.Planner{}, level.Planner{}}
}

// settleTime is how long, in swarm time, a swarm may take to become what its users want after the last fault: restart
// delays, two minutes of waiting for tasks that do not stop, and room to spare.
const settleTime = 4 * time.Minute

// Failure is something that must never happen, with how it came to that.
type Failure struct {
	Seed  uint64
	What  string
	Steps []string
}

// maxSteps is how many of the last steps Error prints.
const maxSteps = 400

func (f *Failure) Error() string {
	steps := f.Steps
	more := ""
	if n := len(steps) - maxSteps; n > 0 {
		steps, more = steps[n:], fmt.Sprintf("… %d earlier steps\n", n)
	}
	return fmt.Sprintf("seed %d: %s\n%s%s\nreplay: go test ./internal/sim -run TestSimulator -sim.seed=%d",
		f.Seed, f.What, more, strings.Join(steps, "\n"), f.Seed)
}

// Stats counts what happened in a run, to show that a run is not empty.
type Stats struct {
	Entries, Conflicts, Leaders, Downs, Started, Failed int
	// Updated counts running tasks that an update replaced, Paused and Rollbacks what became of updates.
	Updated, Paused, Rollbacks int
	// Runs counts further runs of jobs, Completed their tasks that ended well.
	Runs, Completed int
	// Moved counts tasks that moved for a better spread.
	Moved int
	// Scheduled counts runs that schedules began, Skipped times that they passed over.
	Scheduled, Skipped int
	// Scaled counts changes of the number of replicas that usage asked for.
	Scaled int
	// Drained and Relabeled count what users did to nodes, Modes the services of each mode that they made: replicated, global,
	// and jobs of both.
	Drained, Relabeled int
	Modes              [4]int
}

// Add adds another run's counts.
func (s *Stats) Add(o Stats) {
	s.Entries += o.Entries
	s.Conflicts += o.Conflicts
	s.Leaders += o.Leaders
	s.Downs += o.Downs
	s.Started += o.Started
	s.Failed += o.Failed
	s.Updated += o.Updated
	s.Paused += o.Paused
	s.Rollbacks += o.Rollbacks
	s.Runs += o.Runs
	s.Completed += o.Completed
	s.Moved += o.Moved
	s.Scheduled += o.Scheduled
	s.Skipped += o.Skipped
	s.Scaled += o.Scaled
	s.Drained += o.Drained
	s.Relabeled += o.Relabeled
	for i, n := range o.Modes {
		s.Modes[i] += n
	}
}

// Run is one run. Its error is a *Failure.
func Run(seed uint64, o Options) (stats Stats, err error) {
	if o.Steps == 0 {
		o.Steps = 100
	}
	if o.Managers == 0 {
		o.Managers = 3
	}
	if o.Nodes == 0 {
		o.Nodes = 5
	}
	if o.Planners == nil {
		o.Planners = Planners()
	}
	w := &world{rng: rand.New(rand.NewPCG(seed, 1)), o: o, start: time.Now(), agents: map[string]*agent{}}
	defer func() {
		stats = w.stats
		if r := recover(); r != nil {
			v, ok := r.(violation)
			if !ok { // keep the stack
				panic(fmt.Sprintf("seed %d: %v", seed, r))
			}
			err = &Failure{Seed: seed, What: string(v), Steps: w.trace}
		}
	}()
	w.boot()
	w.faults = true
	for range o.Steps {
		w.step()
	}
	w.heal()
	w.settle()
	for range 2 { // and it still does what users say, now that nothing else happens that could wake it
		w.user()
		w.settle()
	}
	return w.stats, nil
}

// violation is what a check panics with; Run recovers it.
type violation string

// step is a little time and a little of everything.
func (w *world) step() {
	w.sleep(w.rng.IntN(600))
	switch n := w.rng.IntN(100); {
	case n < 25:
		w.user()
	case n < 40:
		w.fault()
	case n < 43:
		w.changeLeader()
	}
	w.deliverLate()
	for range w.rng.IntN(4) {
		w.plan()
	}
	for _, a := range w.sorted() {
		if w.rng.IntN(3) > 0 {
			a.step()
		}
	}
	for range w.rng.IntN(3) {
		w.plan()
	}
}

// sleep lets milliseconds of swarm time pass.
func (w *world) sleep(ms int) { time.Sleep(time.Duration(ms) * time.Millisecond) }

// heal ends all faults but one: in half of the runs a node stays dead for good, and the others must do without it.
func (w *world) heal() {
	w.note("healing")
	w.faults = false
	w.calm()
	w.lates = nil
	agents := w.sorted()
	dead := -1
	if len(agents) > 2 && w.rng.IntN(2) == 0 {
		dead = w.rng.IntN(len(agents))
	}
	for i, a := range agents {
		a.slow, a.lossy = 0, false
		if i == dead {
			w.note("%s is dead for good", a.id)
			a.alive, a.connected = false, false
			continue
		}
		a.alive = true
		a.connect()
	}
}

// settle lets the swarm come to rest and checks that it is what its users want.
func (w *world) settle() {
	begun := time.Now()
	deadline := begun.Add(settleTime)
	var why string
	for time.Now().Before(deadline) {
		w.plan()
		for _, a := range w.sorted() {
			a.step()
		}
		w.plan()
		if why = w.unsettled(); why == "" && time.Since(begun) < scaleTime && w.autoscales() {
			why = "usage may still ask for another number of replicas"
		}
		if why == "" {
			break
		}
		w.sleep(200)
	}
	if why != "" {
		w.violate("not settled %v after the last fault: %s", settleTime, why)
	}
	w.checkSettled()
}
