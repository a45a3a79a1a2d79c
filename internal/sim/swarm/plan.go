package swarm

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// fault is something that goes wrong, or a change of the members, at a time. A schedule of faults is a function of the
// seed and of nothing else.
type fault struct {
	at   time.Duration // since the load began
	what string
	a, b int           // hosts, by their place
	set  []int         // the hosts of one side
	d    time.Duration // for how long
	n    int64
}

func (f fault) String() string {
	s := fmt.Sprintf("%7.2fs %s h%d", f.at.Seconds(), f.what, f.a+1)
	switch f.what {
	case cutOneWay, cutBoth, resets, swap:
		s += fmt.Sprintf(" h%d", f.b+1)
	case split:
		var names []string
		for _, i := range f.set {
			names = append(names, fmt.Sprintf("h%d", i+1))
		}
		s = fmt.Sprintf("%7.2fs %s {%s}", f.at.Seconds(), f.what, strings.Join(names, " "))
	case crashInWrite:
		s += fmt.Sprintf(" at write %d", f.n)
	case slowNet, slowDisk:
		s += fmt.Sprintf(" by %d ms", f.n)
	case lossyNet:
		s += fmt.Sprintf(" %d%%", f.n)
	}
	if f.d > 0 {
		s += fmt.Sprintf(" for %.2fs", f.d.Seconds())
	}
	return s
}

// What can happen.
const (
	isolate      = "is cut off"
	deaf         = "hears nothing"
	mute         = "is not heard"
	cutOneWay    = "is not heard by"
	cutBoth      = "is cut off from"
	split        = "are cut off from the rest:"
	slowNet      = "is far away,"
	lossyNet     = "loses segments,"
	resets       = "loses its connections to"
	kill         = "is killed"
	power        = "loses power"
	crashInWrite = "crashes in a write,"
	restart      = "restarts its daemon"
	slowDisk     = "has a slow disk,"
	fullDisk     = "has a full disk"
	blackout     = "and all other hosts lose power"
	killLeader   = "(whoever leads) is killed"
	cutLeader    = "(whoever leads) is cut off"
	promote      = "is promoted"
	demote       = "is demoted"
	swap         = "is demoted and promoted instead:"
	demoteLeader = "(whoever leads) is demoted"
	drain        = "is drained"
	leave        = "leaves, is removed and joins again"
	crashTask    = "has a container that fails"
)

// weights say how often what happens.
var weights = []struct {
	what string
	n    int
}{
	{isolate, 6}, {deaf, 4}, {mute, 4}, {cutOneWay, 6}, {cutBoth, 6}, {split, 8}, {slowNet, 4}, {lossyNet, 4}, {resets, 4},
	{kill, 6}, {power, 5}, {crashInWrite, 8}, {restart, 3}, {slowDisk, 3}, {fullDisk, 2}, {blackout, 1},
	{killLeader, 6}, {cutLeader, 8}, {promote, 5}, {demote, 3}, {swap, 3}, {demoteLeader, 4}, {drain, 2}, {leave, 2}, {crashTask, 3},
}

// schedule is what happens in a run.
type schedule struct {
	managers, workers int
	faults            []fault
	// force says that the majority is lost for good after the faults, and that a survivor is made a swarm of its own
	// (--force-new-cluster), to which other faults happen then.
	force bool
}

// between draws a duration.
func between(rng *rand.Rand, lo, hi time.Duration) time.Duration {
	return lo + time.Duration(rng.Int64N(int64(hi-lo)))
}

// plan draws a schedule from a seed.
func plan(seed uint64, length time.Duration) schedule {
	rng := rand.New(rand.NewPCG(seed, 0x5eed))
	s := schedule{managers: 3, workers: 1 + rng.IntN(3), force: rng.IntN(8) == 0}
	if rng.IntN(4) == 0 {
		s.managers = 5
	}
	total := 0
	for _, w := range weights {
		total += w.n
	}
	hosts := s.managers + s.workers
	// Some runs are wild and some leave time to recover.
	pace := between(rng, time.Second, 6*time.Second)
	for at := between(rng, 0, pace); at < length; at += between(rng, pace/4, 2*pace) {
		f := fault{at: at, a: rng.IntN(hosts), d: between(rng, 200*time.Millisecond, 8*time.Second)}
		if rng.IntN(3) > 0 { // what concerns managers is more likely to show something
			f.a = rng.IntN(s.managers)
		}
		f.b = (f.a + 1 + rng.IntN(hosts-1)) % hosts
		k := rng.IntN(total)
		i := slices.IndexFunc(weights, func(w struct {
			what string
			n    int
		}) bool {
			k -= w.n
			return k < 0
		})
		f.what = weights[i].what
		switch f.what {
		case split:
			f.set = rng.Perm(hosts)[:1+rng.IntN(hosts-1)]
			slices.Sort(f.set)
		case slowNet, slowDisk:
			f.n = int64(5 + rng.IntN(600))
		case lossyNet:
			f.n = int64(5 + rng.IntN(60))
		case crashInWrite:
			f.n = int64(1 + rng.IntN(40))
		case resets, restart, promote, demote, swap, demoteLeader, crashTask:
			f.d = 0
		}
		s.faults = append(s.faults, f)
	}
	return s
}
