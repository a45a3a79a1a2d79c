package scale

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"runtime"
	"syscall"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/bench"
	"shoal.dev/shoal/internal/cluster"
)

// Options says what is measured.
type Options struct {
	// Runs is how often each is measured.
	Runs int
	// Only has what is measured, as the name of the shape and where its entries go: "1 service of …, in memory"; nil: all.
	Only *regexp.Regexp
	// Scale divides every size, for tests; 0 and 1 measure what the names say.
	Scale int
	// Out is told what is being done.
	Out io.Writer
}

func (o Options) wants(name string) bool { return o.Only == nil || o.Only.MatchString(name) }

func (o Options) size(n int) int { return max(n/max(o.Scale, 1), 1) }

// shape is a swarm, and a change of which the planning is measured.
type shape struct {
	name string
	// before makes the swarm that the change finds.
	before func(context.Context, *planning) error
	// change writes the change; the time runs from here until the planners have nothing more to say, with everything committed.
	change func(context.Context, *planning) error
	// tasks is how many tasks the change makes, and state how they are at the end.
	tasks int
	state swarm.TaskState
}

// Planning measures from a changed service to committed placements: the write of the change, all planners of a manager
// in their rounds, and the writes of the plans. Every shape is measured with entries that go through the encoding only
// ("in memory") and with the log of a single manager, synced to the disk ("single manager").
func Planning(ctx context.Context, o Options, r *bench.Report) error {
	for _, sh := range shapes(o) {
		for _, side := range []string{"in memory", "single manager"} {
			if !o.wants(sh.name + ", " + side) {
				continue
			}
			for range o.Runs {
				fmt.Fprintf(o.Out, "%s, %s\n", sh.name, side)
				if err := sh.measure(ctx, side, r); err != nil {
					return fmt.Errorf("%s, %s: %w", sh.name, side, err)
				}
			}
		}
	}
	return nil
}

func (sh shape) measure(ctx context.Context, side string, r *bench.Report) (err error) {
	p, done, err := newPlanning(ctx, side == "single manager")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	if err := sh.before(ctx, p); err != nil {
		return err
	}
	if err := p.lead(ctx); err != nil {
		return err
	}
	had := p.count(func(t *cluster.Task) bool { return t.Status.State == sh.state })
	runtime.GC()
	cpu, allocated, began := processTime(), allocations(), time.Now()
	if err := sh.change(ctx, p); err != nil {
		return err
	}
	if err := p.settle(ctx); err != nil {
		return err
	}
	took := time.Since(began)
	r.Add(side, sh.name, "ms", float64(took.Microseconds())/1000)
	r.Add(side, sh.name+", CPU", "ms", float64((processTime()-cpu).Microseconds())/1000)
	r.Add(side, sh.name+", allocated", "MB", float64(allocations()-allocated)/1e6)
	if n := p.count(func(t *cluster.Task) bool { return t.Status.State == sh.state }) - had; n != sh.tasks {
		return fmt.Errorf("%d tasks are %s, %d should be", n, sh.state, sh.tasks)
	}
	return nil
}

func shapes(o Options) []shape {
	all := []shape{
		one(o.size(1_000), o.size(10_000)), one(o.size(10_000), o.size(100_000)),
		many(o.size(1_000), o.size(1_000), 100),
		one(o.size(10_000), 1),
		pending(o.size(1_000), o.size(2_000)),
	}
	for _, others := range []int{0, 1_000, 10_000, 100_000} {
		all = append(all, beside(o.size(1_000), o.size(others+1)-1, 10))
	}
	for _, s := range [][2]int{{1_000, 1_000}, {1_000, 10_000}, {1_000, 100_000}, {100_000, 1_000}} {
		all = append(all, loose(o.size(s[0]), o.size(s[1])))
	}
	return all
}

// one is a service that is created on an empty swarm.
func one(nodes, tasks int) shape {
	return shape{
		name:   fmt.Sprintf("1 service of %d tasks onto %d nodes", tasks, nodes),
		before: func(ctx context.Context, p *planning) error { return p.nodes(ctx, nodes) },
		change: func(ctx context.Context, p *planning) error { return p.put(ctx, p.newService("web", uint64(tasks))) },
		tasks:  tasks, state: swarm.TaskStateAssigned,
	}
}

// many is services that are created at once.
func many(nodes, services, each int) shape {
	return shape{
		name:   fmt.Sprintf("%d services of %d tasks onto %d nodes", services, each, nodes),
		before: func(ctx context.Context, p *planning) error { return p.nodes(ctx, nodes) },
		change: func(ctx context.Context, p *planning) error { return p.put(ctx, p.services("web", services, each)...) },
		tasks:  services * each, state: swarm.TaskStateAssigned,
	}
}

// beside is a small service that is created in a swarm with tasks of others, which run.
func beside(nodes, others, tasks int) shape {
	return shape{
		name: fmt.Sprintf("1 service of %d tasks beside %d others on %d nodes", tasks, others, nodes),
		before: func(ctx context.Context, p *planning) error {
			if err := p.nodes(ctx, nodes); err != nil {
				return err
			}
			if err := p.put(ctx, p.services("other", others/100, 100)...); err != nil {
				return err
			}
			if err := p.lead(ctx); err != nil {
				return err
			}
			return p.run(ctx)
		},
		change: func(ctx context.Context, p *planning) error { return p.put(ctx, p.newService("web", uint64(tasks))) },
		tasks:  tasks, state: swarm.TaskStateAssigned,
	}
}

// pending is a service that asks for more than any node has.
func pending(nodes, tasks int) shape {
	return shape{
		name:   fmt.Sprintf("%d tasks that fit on none of %d nodes", tasks, nodes),
		before: func(ctx context.Context, p *planning) error { return p.nodes(ctx, nodes) },
		change: func(ctx context.Context, p *planning) error {
			s := p.newService("huge", uint64(tasks))
			s.Spec.TaskTemplate.Resources.Reservations.NanoCPUs = 1000e9
			return p.put(ctx, s)
		},
		tasks: tasks, state: swarm.TaskStatePending,
	}
}

// loose is tasks that belong to no service, as in the benchmark of Swarm's scheduler: they are placed one by one and get no
// address.
func loose(nodes, tasks int) shape {
	return shape{
		name:   fmt.Sprintf("%d tasks of no service onto %d nodes", tasks, nodes),
		before: func(ctx context.Context, p *planning) error { return p.nodes(ctx, nodes) },
		change: func(ctx context.Context, p *planning) error {
			all := make([]cluster.Object, tasks)
			for i := range all {
				t := &cluster.Task{}
				t.ID, t.DesiredState = p.id(), swarm.TaskStateRunning
				t.Status = swarm.TaskStatus{State: swarm.TaskStatePending, Timestamp: p.store.Now()}
				all[i] = t
			}
			return p.put(ctx, all...)
		},
		tasks: tasks, state: swarm.TaskStateAssigned,
	}
}

func (p *planning) services(name string, count, each int) []cluster.Object {
	all := make([]cluster.Object, count)
	for i := range all {
		all[i] = p.newService(fmt.Sprintf("%s-%d", name, i), uint64(each))
	}
	return all
}

// processTime is the CPU time of this process.
func processTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// allocations is how many bytes were allocated so far.
func allocations() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}
