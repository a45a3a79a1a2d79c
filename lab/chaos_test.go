package lab_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	diff "github.com/google/go-cmp/cmp"

	"shoal.dev/shoal/lab"
)

const (
	chaosManagers = 5
	chaosNodes    = 10
	// chaosClients write at the same time.
	chaosClients = 10
	// chaosDisk is the disk of a manager, in bytes: room for what the load writes and its log, twice.
	chaosDisk = 256 << 20
	// healWithin is how long a swarm that is whole again may take until it takes writes.
	healWithin = 30 * time.Second
)

// trouble is something that happens to the swarm, and what ends it.
type trouble struct {
	name string
	// begin does it and returns what mends it.
	begin func(context.Context, *chaos) (mend func(context.Context) error, err error)
	hold  time.Duration // in the short form
}

// chaos is a swarm in trouble.
type chaos struct {
	*world
	load *load
	rand *rand.Rand
}

// TestChaos lets things happen to a swarm of five managers and five workers while clients write through all managers, and
// counts the acknowledged writes that are lost or were made twice. The short form is one of each trouble. With
// SHOAL_CHAOS=10m troubles come in an order that the seed decides (SHOAL_CHAOS_SEED), for so long, those that SHOAL_CHAOS_ONLY
// matches; see docs/chaos.md.
func TestChaos(t *testing.T) {
	w := newWorld(t, chaosNodes)
	for n := 1; n <= chaosManagers; n++ {
		if err := w.SmallDisk(n, chaosDisk); err != nil {
			t.Fatal(err)
		}
	}
	w.swarm(chaosNodes, chaosManagers)
	w.shoal(1, "service", "create", "--quiet", "--name", "hello", "--replicas", "10", "hello:1")
	ctx, end := context.WithCancel(t.Context())
	defer end()
	c := &chaos{world: w, load: newLoad(w, chaosManagers)}
	wait := c.load.start(ctx, t, chaosClients)
	if long := os.Getenv("SHOAL_CHAOS"); long != "" {
		c.long(long)
	} else {
		c.rand = rand.New(rand.NewPCG(1, 1))
		for _, tr := range troubles() {
			c.suffer(tr, tr.hold)
		}
	}
	end()
	wait()
	t.Log(c.load.summary())
	c.audit()
	w.running(1, "hello", 10, time.Minute)
}

// long goes on for a while.
func (c *chaos) long(forSo string) {
	d, err := time.ParseDuration(forSo)
	if err != nil {
		c.t.Fatal(err)
	}
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("SHOAL_CHAOS_SEED"); s != "" {
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			c.t.Fatal(err)
		}
	}
	c.rand = rand.New(rand.NewPCG(seed, seed))
	fmt.Printf("chaos: %s with SHOAL_CHAOS_SEED=%d\n", d, seed)
	c.calm()
	only, err := regexp.Compile(os.Getenv("SHOAL_CHAOS_ONLY"))
	if err != nil {
		c.t.Fatal(err)
	}
	all := slices.DeleteFunc(troubles(), func(tr trouble) bool { return !only.MatchString(tr.name) })
	for until := time.Now().Add(d); time.Now().Before(until) && c.load.sound(); {
		// Drawn before anything is waited for, so that a seed gives the same order however fast the machine is.
		tr, hold := all[c.rand.IntN(len(all))], time.Duration(500+c.rand.IntN(6000))*time.Millisecond
		c.suffer(tr, hold)
		fmt.Printf("chaos: %s\n", c.load.summary())
	}
}

// calm counts the changes of leader under the load alone: there should be none.
func (c *chaos) calm() {
	changes, last := 0, c.leader(1, healWithin)
	for until := time.Now().Add(20 * time.Second); time.Now().Before(until); {
		if now := c.leader(1+changes%chaosManagers, healWithin); now != last {
			changes, last = changes+1, now
		}
	}
	fmt.Printf("chaos: %d changes of leader in 20 s of load without trouble; %s\n", changes, c.load.summary())
}

// suffer lets one trouble come and go, and waits until writes are taken again.
func (c *chaos) suffer(tr trouble, hold time.Duration) {
	c.t.Helper()
	ctx := c.t.Context()
	began, before := time.Now(), c.load.acknowledged()
	mend, err := tr.begin(ctx, c)
	if err != nil {
		c.t.Fatalf("%s: %v", tr.name, err)
	}
	select {
	case <-time.After(hold):
	case <-ctx.Done():
	}
	during := c.load.acknowledged() - before
	if err := mend(ctx); err != nil {
		c.t.Fatalf("the end of %s: %v", tr.name, err)
	}
	healing := time.Now()
	after := c.load.acknowledged()
	c.until(healWithin, "writes are taken after "+tr.name, func(context.Context) error {
		if now := c.load.acknowledged(); now < after+2*chaosClients {
			return fmt.Errorf("%d were", now-after)
		}
		return nil
	})
	line := fmt.Sprintf("%s for %s: %d writes meanwhile; healed %s after its end", tr.name, hold, during, time.Since(healing).Round(10*time.Millisecond))
	c.t.Log(line)
	if os.Getenv("SHOAL_CHAOS") != "" {
		fmt.Printf("chaos: at %s %s\n", began.Format(time.TimeOnly), line)
	}
}

// audit waits until all managers have the same and compares that with what was acknowledged.
func (c *chaos) audit() {
	var configs, services []object
	read := func(ctx context.Context, a *api) (cs, ss []object, err error) {
		err = errors.Join(a.do(ctx, http.MethodGet, "/configs", nil, &cs), a.do(ctx, http.MethodGet, "/services", nil, &ss))
		order := func(a, b object) int { return cmp.Compare(a.ID, b.ID) }
		slices.SortFunc(cs, order)
		slices.SortFunc(ss, order)
		return cs, ss, err
	}
	// What was under way when the clients ended may still be written.
	c.until(healWithin, "all managers have the same", func(ctx context.Context) error {
		for i, a := range c.load.apis {
			cs, ss, err := read(ctx, a)
			if err != nil {
				return fmt.Errorf("%s: %w", a.name, err)
			}
			if i == 0 {
				configs, services = cs, ss
			}
			if !diff.Equal(configs, cs) || !diff.Equal(services, ss) {
				return fmt.Errorf("%s has %d configs and %d services, the first %d and %d, or they differ", a.name, len(cs), len(ss), len(configs), len(services))
			}
		}
		return nil
	})
	if wrong := c.load.audit(configs, services); len(wrong) > 0 {
		c.t.Errorf("%d things are wrong, the first of them:\n%s", len(wrong), strings.Join(wrong[:min(len(wrong), 20)], "\n"))
	}
}

// some are so many different managers, the leader among them if it is known.
func (c *chaos) some(n int) []int {
	order := c.rand.Perm(chaosManagers)
	leader := c.leader(1+order[0], healWithin)
	picked := []int{leader}
	for _, i := range order {
		if len(picked) < n && i+1 != leader {
			picked = append(picked, i+1)
		}
	}
	return picked
}

// each does something to hosts and undoes it.
func each(hosts []int, do, undo func(int) error) (func(context.Context) error, error) {
	for _, n := range hosts {
		if err := do(n); err != nil {
			return nil, err
		}
	}
	return func(context.Context) error {
		var errs []error
		for _, n := range hosts {
			errs = append(errs, undo(n))
		}
		return errors.Join(errs...)
	}, nil
}

// to is a trouble of the leader and, with more than one manager, of others.
func to(managers int, do, undo func(context.Context, *chaos, int) error) func(context.Context, *chaos) (func(context.Context) error, error) {
	return func(ctx context.Context, c *chaos) (func(context.Context) error, error) {
		return each(c.some(managers), func(n int) error { return do(ctx, c, n) }, func(n int) error { return undo(ctx, c, n) })
	}
}

func troubles() []trouble {
	kill := func(ctx context.Context, c *chaos, n int) error { return c.KillDaemon(ctx, n) }
	start := func(ctx context.Context, c *chaos, n int) error { return c.Start(ctx, n) }
	cut := func(ctx context.Context, c *chaos, n int) error { return c.Cut(ctx, n) }
	heal := func(ctx context.Context, c *chaos, n int) error { return c.Heal(ctx, n) }
	freeze := func(_ context.Context, c *chaos, n int) error { return c.Freeze(n) }
	thaw := func(_ context.Context, c *chaos, n int) error { return c.Thaw(n) }
	worker := func(do, undo func(context.Context, *chaos, int) error) func(context.Context, *chaos) (func(context.Context) error, error) {
		return func(ctx context.Context, c *chaos) (func(context.Context) error, error) {
			n := chaosManagers + 1 + c.rand.IntN(chaosNodes-chaosManagers)
			return each([]int{n}, func(n int) error { return do(ctx, c, n) }, func(n int) error { return undo(ctx, c, n) })
		}
	}
	return []trouble{
		{"the leader's daemon killed", to(1, kill, start), 2 * time.Second},
		{"the leader's daemon frozen", to(1, freeze, thaw), 3 * time.Second},
		{"the leader's link cut", to(1, cut, heal), 3 * time.Second},
		{"the leader's daemon told to end", to(1, func(ctx context.Context, c *chaos, n int) error { return c.StopDaemon(ctx, n) }, start), time.Second},
		{"the leader's disk full", to(1, func(_ context.Context, c *chaos, n int) error { return c.FillDisk(n) },
			func(_ context.Context, c *chaos, n int) error { return c.FreeDisk(n) }), 3 * time.Second},
		{"the links of two managers bad", to(2, func(ctx context.Context, c *chaos, n int) error {
			return c.Worsen(ctx, n, lab.Weather{Loss: 10, Rate: "4mbit"})
		}, func(ctx context.Context, c *chaos, n int) error { return c.Clear(ctx, n) }), 4 * time.Second},
		{"the links of three managers cut", to(3, cut, heal), 2 * time.Second},
		{"two managers frozen", to(2, freeze, thaw), 2 * time.Second},
		{"a worker's link cut", worker(cut, heal), time.Second},
		{"a worker's daemon killed", worker(kill, start), time.Second},
		{"the leader without power", to(1, func(ctx context.Context, c *chaos, n int) error { return c.Kill(ctx, n) }, start), 2 * time.Second},
		{"all managers killed", to(chaosManagers, kill, start), 0},
	}
}
