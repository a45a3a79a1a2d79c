//go:build !race

package swarm_test

import (
	"flag"
	"log/slog"
	"os"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"shoal.dev/shoal/internal/sim/swarm"
)

var (
	seed  = flag.Uint64("swarm.seed", 0, "run this seed only, and print what happened")
	seeds = flag.Uint64("swarm.seeds", 0, "how many seeds to run")
	debug = flag.Bool("swarm.debug", false, "print what the daemons log")
)

// bubble runs fn in a bubble of its own. yamux keeps timers in a pool of the process; one of another bubble must not come
// back, and what was collected twice does not.
func bubble(t *testing.T, fn func(*testing.T)) {
	runtime.GC()
	runtime.GC()
	synctest.Test(t, fn)
}

// disks is a folder for the hosts' disks: in memory where there is such a file system, since nobody pulls the plug here.
func disks(t *testing.T) string {
	dir, err := os.MkdirTemp("/dev/shm", "shoal-swarm")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func run(t *testing.T, seed uint64) (stats swarm.Stats, err error) {
	o := swarm.Options{Dir: disks(t)}
	if *debug {
		o.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	var r *swarm.Result
	bubble(t, func(t *testing.T) { r, err = swarm.Run(seed, o) })
	if err != nil {
		return stats, err
	}
	if err = r.Check(); err != nil || testing.Verbose() && *debug {
		for _, l := range r.Trace() {
			t.Log(l)
		}
	}
	return r.Stats, err
}

func TestSwarm(t *testing.T) {
	first, last := uint64(1), *seeds
	if *seed != 0 {
		first, last = *seed, *seed
	}
	var sum swarm.Stats
	for s := first; s <= last; s++ {
		began := time.Now()
		stats, err := run(t, s)
		t.Logf("seed %d in %v: %+v", s, time.Since(began).Round(time.Millisecond), stats)
		if err != nil {
			t.Error(err)
		}
		sum.Add(stats)
	}
	t.Logf("%+v", sum)
}
