package sim_test

import (
	"flag"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"shoal.dev/shoal/internal/reconcile"
	"shoal.dev/shoal/internal/sim"
)

var (
	seed  = flag.Uint64("sim.seed", 0, "replay this seed only")
	seeds = flag.Uint64("sim.seeds", 200, "how many seeds to run")
)

// run is one seed in a bubble of its own. One in four has entries that arrive late.
func run(t *testing.T, seed uint64, o sim.Options) (stats sim.Stats, err error) {
	o.Late = seed%4 == 3
	synctest.Test(t, func(*testing.T) { stats, err = sim.Run(seed, o) })
	return stats, err
}

func TestSimulator(t *testing.T) {
	if *seed != 0 {
		_, err := run(t, *seed, sim.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	shards := uint64(runtime.GOMAXPROCS(0))
	var mu sync.Mutex
	var sum sim.Stats
	t.Run("seeds", func(t *testing.T) {
		for shard := range shards {
			t.Run(fmt.Sprint(shard), func(t *testing.T) {
				t.Parallel()
				for s := shard + 1; s <= *seeds; s += shards {
					stats, err := run(t, s, sim.Options{})
					if err != nil {
						t.Fatal(err)
					}
					mu.Lock()
					sum.Add(stats)
					mu.Unlock()
				}
			})
		}
	})
	t.Logf("%d seeds: %+v", *seeds, sum)
	if *seeds >= 200 && (sum.Conflicts == 0 || sum.Downs == 0 || sum.Leaders < int(*seeds)*2 || sum.Failed == 0 || sum.Updated == 0 || sum.Paused == 0 || sum.Rollbacks == 0 || sum.Runs == 0 || sum.Completed == 0 || sum.Scheduled == 0 || sum.Skipped == 0 || sum.Moved == 0 || sum.Scaled == 0) {
		t.Error("the runs are too tame to show anything")
	}
}

// A long run has everything in it, so that everything meets everything: all modes, updates that end, pause and go back,
// drains, losses and leader changes.
func TestALongRunHasEverything(t *testing.T) {
	stats, err := run(t, 1, sim.Options{Steps: 3000})
	if err != nil {
		t.Fatal(err)
	}
	for name, n := range map[string]int{
		"replicated services": stats.Modes[0], "global services": stats.Modes[1], "replicated jobs": stats.Modes[2], "global jobs": stats.Modes[3],
		"updated tasks": stats.Updated, "paused updates": stats.Paused, "rollbacks": stats.Rollbacks, "drained nodes": stats.Drained,
		"relabeled nodes": stats.Relabeled, "lost nodes": stats.Downs, "leaders after the first": stats.Leaders - 1,
		"failed tasks": stats.Failed, "runs of jobs": stats.Runs, "scheduled runs": stats.Scheduled,
	} {
		if n == 0 {
			t.Errorf("no %s: %+v", name, stats)
		}
	}
}

// A run is the same to the byte when it is replayed; otherwise a seed is worth nothing.
func TestARunIsRepeatable(t *testing.T) {
	for s := uint64(1); s <= 5; s++ {
		a, errA := run(t, s, sim.Options{Planners: broken(t)})
		b, errB := run(t, s, sim.Options{Planners: broken(t)})
		if a != b || fmt.Sprint(errA) != fmt.Sprint(errB) {
			t.Fatalf("seed %d: %+v and %+v\n%v\n\n%v", s, a, b, errA, errB)
		}
	}
}

// broken is the planners without the one that deletes, so that runs fail and leave a trace to compare.
func broken(t *testing.T) []reconcile.Planner {
	t.Helper()
	return slices.DeleteFunc(sim.Planners(), func(p reconcile.Planner) bool { return p.Name() == "reap" })
}
