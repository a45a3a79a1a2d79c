//go:build !race

package swarm

import (
	"flag"
	"fmt"
	"log/slog"
	"os"
	"testing"
	"time"
)

var (
	seed  = flag.Uint64("swarm.seed", 0, "run this seed only, and print what happened")
	first = flag.Uint64("swarm.first", 1, "the first seed to run")
	seeds = flag.Uint64("swarm.seeds", 10, "how many seeds to run; two with -short")
	soak  = flag.Duration("swarm.soak", 0, "run one seed after the other for so long instead")
	debug = flag.Bool("swarm.debug", false, "print what the daemons log")
)

// disks is a folder for the hosts' disks: in memory where there is such a file system, since nobody pulls the plug here.
// It must be removed when the run is over: thousands of runs do not fit.
func disks(t *testing.T) (dir string, remove func()) {
	parent := "/dev/shm"
	if _, err := os.Stat(parent); err != nil {
		parent = ""
	}
	dir, err := os.MkdirTemp(parent, "shoal-swarm")
	if err != nil {
		t.Fatal(err)
	}
	return dir, func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	}
}

func logger() *slog.Logger {
	if !*debug {
		return nil
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func run(t *testing.T, seed uint64) (stats Stats, err error) {
	dir, remove := disks(t)
	defer remove()
	o := Options{Dir: dir, Log: logger()}
	var r *Result
	bubble(t, func(t *testing.T) { r, err = Run(seed, o) })
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

// TestSwarm runs seeds. One that fails is printed with everything that happened, and how to run it again.
func TestSwarm(t *testing.T) {
	from, n := *first, *seeds
	switch {
	case *seed != 0:
		from, n = *seed, 1
	case testing.Short():
		n = min(n, 2)
	}
	var sum Stats
	began := time.Now()
	ran := uint64(0)
	for ; ran < n || time.Since(began) < *soak; ran++ {
		s := from + ran
		start := time.Now()
		stats, err := run(t, s)
		if err != nil {
			t.Errorf("%v\nagain: go test ./internal/sim/swarm -run 'TestSwarm$' -count=5 -swarm.seed=%d", err, s)
			if *soak == 0 {
				break
			}
			fmt.Fprintf(os.Stderr, "FAILED: %.2000v\n", err)
		}
		sum.Add(stats)
		t.Logf("seed %d in %v: %+v", s, time.Since(start).Round(time.Millisecond), stats)
		if *soak > 0 {
			fmt.Fprintf(os.Stderr, "seed %d, failed so far: %v, %+v\n", s, t.Failed(), sum)
		}
	}
	t.Logf("%d seeds: %+v", ran, sum)
	if !t.Failed() && ran >= 10 && (sum.Writes < 1000 || sum.Reads < 1000 || sum.Crashes == 0 || sum.Stale == 0 || sum.Lost == 0) {
		t.Error("the runs are too tame to show anything")
	}
}
