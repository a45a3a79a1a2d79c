package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"sync"
	"sync/atomic"
	"time"

	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"

	"shoal.dev/shoal/lab"
)

// Options says what to measure.
type Options struct {
	Runs  int            // of each measurement
	Only  *regexp.Regexp // names of the measurements to make; nil is all
	Sides []Side         // who is measured, in one lab and in turn; none is Shoal alone
	Out   io.Writer      // for progress
}

// Side is one of those that are compared.
type Side struct {
	Name   string // as the table shows it, with the version
	Daemon string // absolute path; "" is shoald
}

// Images of the lab's registry that the measurements run.
const (
	helloImage = "hello:1"
	shellImage = "busybox:latest"
)

// measurement is a part of the benchmark with a swarm of its own, so that none finds the leavings of another.
type measurement struct {
	name            string
	nodes, managers int                                        // of each side; without managers there is no swarm
	prepare         func(context.Context, *rig, *Report) error // once; may be nil
	run             func(context.Context, *rig, *Report, int) error
}

// Measurements is what there is, in order. All but the loss of a worker are on three managers, as the figures for
// Docker were.
func measurements() []measurement {
	return []measurement{
		{"containers", 1, 0, nil, containers},
		{"memory", 1, 0, nil, memory},
		{"logs", 1, 0, nil, logs},
		{"ps", 1, 0, thousand, ps},
		{"pull", 1, 0, bigImage, pulls},
		{"idle", 3, 3, nil, idle},
		{"start 1", 3, 3, nil, start(1)},
		{"start 10", 3, 3, nil, start(10)},
		{"start 100", 3, 3, nil, start(100)},
		{"creations", 3, 3, nil, creations},
		{"leader", 3, 3, six, leaderLoss},
		{"failover", 3, 3, nil, failover},
		{"membership", 3, 1, nil, membership},
		{"worker", 4, 3, six, workerLoss},
		{"anywhere", 3, 3, nil, anywhere},
		{"traffic", 2, 1, trafficServices, traffic},
	}
}

// alone says whether a measurement is of the first side only: Docker's routing mesh needs IPVS, which not every kernel has.
func (m measurement) alone() bool { return m.name == "traffic" }

// settle is how long a swarm is left alone before its idle cost is taken, and over how long that is.
const settle = 10 * time.Second

// measureWithin bounds one run of one measurement.
const measureWithin = 3 * time.Minute

// Run makes the measurements and puts their figures into the report. A measurement that fails is noted there and does
// not end the others.
func Run(ctx context.Context, l *lab.Lab, o Options, r *Report) error {
	for _, m := range measurements() {
		if o.Only != nil && !o.Only.MatchString(m.name) {
			continue
		}
		fmt.Fprintf(o.Out, "%s:", m.name)
		if err := m.all(ctx, l, o, r); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			fmt.Fprintf(o.Out, " %v", err)
			r.Failed = append(r.Failed, fmt.Sprintf("%s: %v", m.name, err))
		}
		fmt.Fprintln(o.Out)
	}
	return nil
}

func (m measurement) all(ctx context.Context, l *lab.Lab, o Options, r *Report) (err error) {
	sides := o.Sides
	if len(sides) == 0 {
		sides = []Side{{Name: "Shoal"}}
	}
	if m.alone() {
		sides = sides[:1]
	}
	up, cancel := context.WithTimeout(ctx, measureWithin)
	defer cancel()
	rigs, err := newRigs(up, l, sides, m)
	defer func() {
		for _, g := range rigs {
			g.close()
		}
	}()
	if err != nil {
		return err
	}
	if m.prepare != nil {
		for i, g := range rigs {
			if err := m.prepare(up, g, r); err != nil {
				return fmt.Errorf("%s: %w", sides[i].Name, err)
			}
		}
	}
	for i := range o.Runs {
		fmt.Fprintf(o.Out, " %d", i+1)
		// In turn: what the machine does meanwhile falls on all sides alike.
		for j, g := range rigs {
			r.side = sides[j].Name
			run, cancel := context.WithTimeout(ctx, measureWithin)
			err := m.run(run, g, r, i)
			cancel()
			if err != nil {
				return fmt.Errorf("%s, run %d: %w", r.side, i+1, err)
			}
		}
	}
	return nil
}

// idle takes the memory and the CPU time of each daemon of a swarm that has nothing to do.
func idle(ctx context.Context, g *rig, r *Report, _ int) error {
	wait := time.NewTimer(settle)
	defer wait.Stop()
	before, err := g.daemonCPU()
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-wait.C:
	}
	after, err := g.daemonCPU()
	if err != nil {
		return err
	}
	r.add("idle CPU of a manager", "% of a core", 100*(after-before).Seconds()/settle.Seconds()/float64(len(g.clients)))
	for n := range g.clients {
		mb, err := g.daemonPSS(n + 1)
		if err != nil {
			return err
		}
		r.add("idle memory of a manager, engine included (PSS)", "MB", mb)
	}
	return nil
}

// start measures from the request for a service of so many tasks until all run, and from the request to remove it
// until no host has a container of it, with the image already there.
func start(tasks int) func(context.Context, *rig, *Report, int) error {
	return func(ctx context.Context, g *rig, r *Report, run int) error {
		daemons, err := g.daemonCPU()
		if err != nil {
			return err
		}
		machine, err := machineCPU()
		if err != nil {
			return err
		}
		begin := time.Now()
		id, err := g.create(ctx, 1, fmt.Sprintf("start-%d", run), uint64(tasks))
		if err != nil {
			return err
		}
		if err := g.running(ctx, 1, id, tasks, nil); err != nil {
			return err
		}
		took := time.Since(begin)
		daemonsAfter, err := g.daemonCPU()
		if err != nil {
			return err
		}
		machineAfter, err := machineCPU()
		if err != nil {
			return err
		}
		r.add(fmt.Sprintf("service create until %d run", tasks), "s", took.Seconds())
		if tasks > 1 { // the kernel counts in hundredths of a second
			r.add(fmt.Sprintf("CPU of all daemons a task started, of %d", tasks), "ms", ms(daemonsAfter-daemons)/float64(tasks))
			r.add(fmt.Sprintf("CPU of the machine a task started, of %d", tasks), "ms", ms(machineAfter-machine)/float64(tasks))
		}
		begin = time.Now()
		if err := g.remove(ctx, id); err != nil {
			return err
		}
		r.add(fmt.Sprintf("service rm until %d are gone", tasks), "s", time.Since(begin).Seconds())
		return nil
	}
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

const (
	// writers is how many clients create services at once.
	writers = 64
	// maxCreations and createWithin bound the load: whichever comes first ends it.
	maxCreations = 4000
	createWithin = 8 * time.Second
)

// creations counts the services without tasks that are created a second through three managers.
func creations(ctx context.Context, g *rig, r *Report, run int) error {
	load, cancel := context.WithTimeout(ctx, createWithin)
	defer cancel()
	var next, done atomic.Int64
	var wg sync.WaitGroup
	ids := make(chan string, maxCreations)
	errs := make(chan error, writers)
	begin := time.Now()
	for i := range writers {
		c, err := g.newClient(i%len(g.clients) + 1)
		if err != nil {
			return err
		}
		defer c.Close()
		wg.Go(func() {
			for load.Err() == nil {
				n := next.Add(1)
				if n > maxCreations {
					return
				}
				id, err := create(load, c, fmt.Sprintf("c%d-%d", run, n), 0)
				if err != nil {
					if load.Err() == nil {
						errs <- err
					}
					return
				}
				done.Add(1)
				ids <- id
			}
		})
	}
	wg.Wait()
	took := time.Since(begin)
	close(ids)
	r.add(fmt.Sprintf("service creations, %d clients, three managers", writers), "/s", float64(done.Load())/took.Seconds())
	select {
	case err := <-errs:
		return err
	default:
	}
	return g.removeAll(ctx, ids)
}

// removeAll removes services, many at once, so that the next run starts with none.
func (r *rig) removeAll(ctx context.Context, ids <-chan string) error {
	var wg sync.WaitGroup
	var failed atomic.Pointer[error]
	for i := range writers {
		c := r.clients[i%len(r.clients)]
		wg.Go(func() {
			for id := range ids {
				if _, err := c.ServiceRemove(ctx, id, client.ServiceRemoveOptions{}); err != nil {
					failed.Store(&err)
				}
			}
		})
	}
	wg.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	return nil
}

// sixName is the service that must survive a loss.
const sixName = "six"

func six(ctx context.Context, g *rig, _ *Report) error {
	if _, err := g.create(ctx, 1, sixName, 6); err != nil {
		return err
	}
	return g.running(ctx, 1, sixName, 6, nil)
}

// leaderLoss measures from the moment at which the leader loses its power until another manager accepts a change,
// until its node is down, and until its tasks run elsewhere.
func leaderLoss(ctx context.Context, g *rig, r *Report, run int) error {
	lost, err := g.leader(ctx)
	if err != nil {
		return err
	}
	at := lost%3 + 1
	id, err := g.nodeIs(ctx, at, lost, swarm.NodeStateReady)
	if err != nil {
		return err
	}
	begin := time.Now()
	if err := g.lab.Kill(ctx, g.base+lost); err != nil {
		return err
	}
	if err := g.accepted(ctx, at, fmt.Sprintf("after-%d", run)); err != nil {
		return err
	}
	r.add("leader killed until the next change is accepted", "s", time.Since(begin).Seconds())
	return g.afterLoss(ctx, r, "leader", at, lost, id, begin)
}

// workerLoss measures from the moment at which a worker loses its power until it is down, and until its tasks run
// elsewhere.
func workerLoss(ctx context.Context, g *rig, r *Report, _ int) error {
	const lost = 4
	id, err := g.nodeIs(ctx, 1, lost, swarm.NodeStateReady)
	if err != nil {
		return err
	}
	begin := time.Now()
	if err := g.lab.Kill(ctx, g.base+lost); err != nil {
		return err
	}
	return g.afterLoss(ctx, r, "worker", 1, lost, id, begin)
}

// afterLoss takes the figures of a loss and mends it: the next run finds tasks on every node again.
func (r *rig) afterLoss(ctx context.Context, rep *Report, who string, at, lost int, id string, begin time.Time) error {
	if _, err := r.nodeIs(ctx, at, lost, swarm.NodeStateDown); err != nil {
		return err
	}
	rep.add(who+" killed until its node is down", "s", time.Since(begin).Seconds())
	if err := r.running(ctx, at, sixName, 6, map[string]bool{id: true}); err != nil {
		return err
	}
	rep.add(who+" killed until its tasks run elsewhere", "s", time.Since(begin).Seconds())
	if err := r.lab.Start(ctx, r.base+lost); err != nil {
		return err
	}
	if _, err := r.nodeIs(ctx, at, lost, swarm.NodeStateReady); err != nil {
		return err
	}
	for _, replicas := range []uint64{0, 6} {
		if err := r.scale(ctx, at, replicas); err != nil {
			return err
		}
	}
	return nil
}

// scale sets the number of tasks of the service that must survive, and waits for them.
func (r *rig) scale(ctx context.Context, at int, replicas uint64) error {
	c := r.clients[at-1]
	err := poll(ctx, 50*time.Millisecond, func() error {
		s, err := c.ServiceInspect(ctx, sixName, client.ServiceInspectOptions{})
		if err != nil {
			return err
		}
		if s.Service.Spec.Mode.Replicated == nil {
			return errors.New("it is not replicated")
		}
		s.Service.Spec.Mode.Replicated.Replicas = &replicas
		_, err = c.ServiceUpdate(ctx, s.Service.ID, client.ServiceUpdateOptions{Version: s.Service.Version, Spec: s.Service.Spec})
		return err
	})
	if err != nil {
		return err
	}
	return r.running(ctx, at, sixName, int(replicas), nil)
}
