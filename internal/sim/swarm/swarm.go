// Package swarm is the simulator's upper level: a whole swarm in one process. Its hosts run daemons as package node wires
// them, each with its own Raft, log on a disk, store, runner, dispatcher, agent and links with their certificates; only
// the containers, the kernel and the network between hosts are in memory.
//
// It decides what goes wrong and when: a schedule that is a function of the seed. It owns the hosts, their disks and the
// network, works at the control API of every manager meanwhile, and checks what DESIGN.md says must never happen, that no
// acknowledged write is lost or doubled, that every answer fits one order of all requests (porcupine), and that the swarm
// comes to rest after the last fault. It must run in a testing/synctest bubble. The schedule of a seed is always the
// same; how goroutines take turns within the same instant is not, so a seed that failed may have to be run some times.
// It never looks into a daemon to steer it, and nothing in the daemon imports it.
//
// Time is the bubble's: one clock for all hosts, which cannot jump. Skewed clocks are tested where they are read, in
// packages store, agent and pki.
package swarm

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"

	"shoal.dev/shoal/internal/sim"
)

// Options says how a run goes.
type Options struct {
	// Dir is where the hosts' disks are.
	Dir string
	// Length is how long things go wrong; 0 is a minute.
	Length time.Duration
	// Log gets what daemons log; it may be nil.
	Log *slog.Logger
}

// Stats counts what happened, to show that a run is not empty.
type Stats struct {
	Entries, Faults, Crashes, Forced, Stranded int
	// Forced are swarms that lost their majority for good and went on with a manager that was forced, Stranded hosts that
	// had to join again because every manager that they knew had been replaced.
	// Writes were acknowledged or refused for a reason, Reads answered, Stale answered without a quorum, Refused for want
	// of a leader, Lost are writes of which nobody knows what became of them.
	Writes, Reads, Stale, Refused, Lost int
	// Slowest is the longest time until a swarm was at rest after the last fault.
	Slowest time.Duration
}

// Add adds another run's counts.
func (s *Stats) Add(o Stats) {
	s.Entries += o.Entries
	s.Faults += o.Faults
	s.Crashes += o.Crashes
	s.Forced += o.Forced
	s.Stranded += o.Stranded
	s.Writes += o.Writes
	s.Reads += o.Reads
	s.Stale += o.Stale
	s.Refused += o.Refused
	s.Lost += o.Lost
	s.Slowest = max(s.Slowest, o.Slowest)
}

// Result is a run that is over.
type Result struct {
	Stats Stats
	Seed  uint64
	w     *world
}

// Trace is what happened, in the order of time.
func (r *Result) Trace() []string { return r.w.trace }

// Check says what must not have happened, nil if nothing did. It searches for an order of the requests, in real time, so
// it must be called outside of the bubble.
func (r *Result) Check() error {
	what := r.w.violations
	if err := r.w.hist.check(); err != nil {
		what = append(what, err.Error())
	}
	if len(what) == 0 {
		return nil
	}
	return fmt.Errorf("seed %d: %s", r.Seed, strings.Join(what, "\n"))
}

// newWorld makes hosts whose daemons run and that are in no swarm.
func newWorld(seed uint64, hosts int, o Options) *world {
	w := &world{o: o, seed: seed, start: time.Now(), net: newFabric(seed), log: map[uint64][32]byte{}}
	w.hist.ops, w.hist.byID = map[string][]porcupine.Operation{}, map[string]string{}
	w.audit = sim.NewAudit(w.noteLocked, w.violateLocked)
	ctx, cancel := context.WithCancel(context.Background())
	var helpers sync.WaitGroup
	helpers.Go(func() { w.net.run(ctx) })
	for i := range hosts {
		h := newHost(w, i+1)
		w.hosts = append(w.hosts, h)
		h.start()
	}
	helpers.Go(func() { w.watch(ctx) })
	w.close = func() {
		w.over.Store(true)
		for _, h := range w.hosts {
			h.stop()
			h.mu.Lock()
			last := h.last
			h.mu.Unlock()
			<-last.done
			if e := h.machine(); e != nil {
				e.Close()
			}
		}
		cancel()
		helpers.Wait()
	}
	return w
}

// found makes the hosts a swarm, the first of them managers.
func (w *world) found(managers int) error {
	if err := w.init(w.hosts[0], false); err != nil {
		return err
	}
	for i, h := range w.hosts[1:] {
		if err := w.join(h, i+1 < managers, w.hosts[0]); err != nil {
			return err
		}
	}
	return nil
}

// Run is one run of a seed. Its error says that the run could not begin.
func Run(seed uint64, o Options) (*Result, error) {
	if o.Length == 0 {
		o.Length = time.Minute
	}
	s := plan(seed, o.Length)
	w := newWorld(seed, s.managers+s.workers, o)
	defer w.close()
	w.note("seed %d: %d managers, %d workers", seed, s.managers, s.workers)
	if err := w.found(s.managers); err != nil {
		return nil, fmt.Errorf("seed %d: making the swarm: %w", seed, err)
	}
	work := w.work()
	w.perform(s.faults)
	w.heal()
	w.stats.Faults = len(s.faults)
	if s.force && w.forceNewCluster(work) {
		after := plan(mix(seed, uint64(s.managers)), o.Length/2).faults
		w.perform(within(after, len(w.hosts)))
		w.heal()
		w.stats.Faults += len(after)
	}
	w.rest(work)
	return w.result(), nil
}

// rest ends the load and waits until the swarm has settled.
func (w *world) rest(work *load) {
	time.Sleep(10 * time.Second) // the load goes on for a while without faults
	work.stop()
	w.settle()
	work.finally()
}

func (w *world) result() *Result {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := &w.stats
	s.Writes, s.Reads, s.Stale, s.Refused, s.Lost = w.hist.acked, w.hist.reads, w.hist.stale, w.hist.refused, w.hist.lost
	return &Result{Stats: *s, Seed: w.seed, w: w}
}
