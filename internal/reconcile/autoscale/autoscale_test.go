package autoscale_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/swarm"
	"pgregory.net/rapid"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/reconcile/autoscale"
	"shoal.dev/shoal/internal/reconcile/plantest"
	"shoal.dev/shoal/internal/reconcile/service"
)

// harness is a swarm with one service, "web", whose tasks reserve a tenth of a CPU and are to use half of that.
type harness struct{ *plantest.Swarm }

func begin(t testing.TB, replicas uint64, labels map[string]string) harness {
	s := harness{plantest.New(t)}
	s.Node("n1")
	s.Service("web", replicas, func(v *cluster.Service) {
		v.Spec.Labels = map[string]string{cluster.LabelScaleMin: "1", cluster.LabelScaleMax: "10", cluster.LabelScaleCPU: "50"}
		if labels["connections"] != "" {
			v.Spec.EndpointSpec = &swarm.EndpointSpec{Ports: []swarm.PortConfig{{Protocol: "tcp", TargetPort: 80, PublishedPort: 80}}}
		}
		for k, l := range labels {
			v.Spec.Labels[cluster.LabelAutoscale+k] = l
		}
		v.Spec.TaskTemplate.Resources = &swarm.ResourceRequirements{Reservations: &swarm.Resources{NanoCPUs: 1e8, MemoryBytes: 100 << 20}}
	})
	s.plan()
	return s
}

// plan plans, and what was made runs.
func (s harness) plan() {
	s.Helper()
	s.Settle(autoscale.Planner{}, service.Planner{})
	for _, t := range s.Tasks("web") {
		switch {
		case t.WantsToRun() && t.Status.State != swarm.TaskStateRunning:
			plantest.Change(s.Swarm, t.ID, func(t *cluster.Task) { t.NodeID, t.Status.State = "n1", swarm.TaskStateRunning })
		case !t.WantsToRun() && !t.Ended():
			plantest.Change(s.Swarm, t.ID, func(t *cluster.Task) { t.Status.State = swarm.TaskStateShutdown })
		}
	}
}

// measure says what all tasks together use, in percent of one's reservation; those of the last ones are not known.
func (s harness) measure(total float64, unknown int) {
	s.Helper()
	clear(s.Uses)
	var run []string
	for _, t := range s.Tasks("web") {
		if t.WantsToRun() {
			run = append(run, t.ID)
		}
	}
	for _, id := range run[:max(0, len(run)-unknown)] {
		s.Uses[id] = cluster.Usage{At: s.At, NanoCPUs: int64(total / float64(len(run)) * 1e6), MemoryBytes: 10 << 20}
	}
}

// pass lets a load go on for a while, with measurements and plans, and returns the number of replicas then.
func (s harness) pass(d time.Duration, total float64, unknown int) uint64 {
	s.Helper()
	for ; d > 0; d -= autoscale.Period {
		s.At = s.At.Add(autoscale.Period)
		s.measure(total, unknown)
		s.plan()
	}
	return s.replicas()
}

func (s harness) replicas() uint64 {
	s.Helper()
	return plantest.Get[*cluster.Service](s.Swarm, "web").Replicas()
}

func TestPlan(t *testing.T) {
	type l = map[string]string
	for _, c := range []struct {
		name     string
		replicas uint64
		labels   l
		do       func(s harness)
		want     uint64
		last     string // reason of the last decision
	}{
		{"on target", 2, nil, func(s harness) { s.pass(time.Hour, 100, 0) }, 2, ""},
		{"within the tolerance", 2, nil, func(s harness) { s.pass(time.Hour, 109, 0) }, 2, ""},
		{"more", 2, nil, func(s harness) { s.pass(15*time.Second, 200, 0) }, 4, "cpu 100% of 50%: 4 wanted"},
		{"no more than the bound", 2, nil, func(s harness) { s.pass(time.Minute, 5000, 0) }, 10, "cpu 833% of 50%: 10 wanted"},
		{"more a step at a time", 1, l{"up-step": "2"}, func(s harness) { s.pass(30*time.Second, 500, 0) }, 5, "cpu 167% of 50%: 10 wanted; 2 at a time"},
		{"more after its window", 2, l{"up-window": "1m"}, func(s harness) { s.pass(45*time.Second, 200, 0) }, 2, ""},
		{"fewer after the window", 4, nil, func(s harness) { s.pass(6*time.Minute, 50, 0) }, 1, "cpu 12% of 50%: 1 wanted"},
		{"not fewer before", 4, nil, func(s harness) { s.pass(4*time.Minute, 50, 0) }, 4, ""},
		{"fewer a step at a time", 8, l{"down-step": "3", "down-window": "0s"}, func(s harness) { s.pass(30*time.Second, 50, 0) }, 2, "cpu 10% of 50%: 1 wanted; 3 at a time"},
		{"no fewer than the bound", 4, l{"min": "3", "down-window": "0s"}, func(s harness) { s.pass(time.Hour, 0, 0) }, 3, "cpu 0% of 50%: 3 wanted"},
		{"a peak within the window keeps them", 2, nil, func(s harness) {
			s.pass(15*time.Second, 300, 0)
			s.pass(3*time.Minute, 50, 0)
		}, 6, "cpu 150% of 50%: 6 wanted"},
		{"nothing is known", 3, l{"down-window": "0s"}, func(s harness) { s.pass(time.Hour, 1000, 3) }, 3, ""},
		{"what is not known counts as idle for more", 4, nil, func(s harness) { s.pass(15*time.Second, 400, 2) }, 4, ""},
		{"and as on target for fewer", 4, l{"down-window": "0s"}, func(s harness) { s.pass(15*time.Second, 40, 2) }, 3, "cpu 10% of 50%, 2 of 4 tasks not measured: 3 wanted"},
		{"the one that wants most counts", 2, l{"memory": "5"}, func(s harness) { s.pass(15*time.Second, 10, 0) }, 4, "memory 10% of 5%: 4 wanted"},
		{"connections", 2, l{"connections": "20"}, func(s harness) {
			s.At = s.At.Add(autoscale.Period)
			s.measure(100, 0)
			for id, u := range s.Uses {
				u.Connections = 45
				s.Uses[id] = u
			}
			s.plan()
		}, 5, "connections 45.0/s of 20/s: 5 wanted"},
		{"scaled to nothing", 4, nil, func(s harness) {
			plantest.Change(s.Swarm, "web", func(v *cluster.Service) { *v.Spec.Mode.Replicated.Replicas, v.Scale = 0, nil })
			s.pass(time.Hour, 1000, 0)
		}, 0, ""},
		{"other bounds", 4, nil, func(s harness) {
			plantest.Change(s.Swarm, "web", func(v *cluster.Service) { v.Spec.Labels[cluster.LabelScaleMin] = "6" })
			s.plan()
		}, 6, "the bounds are 6 to 10"},
		{"a new leader waits", 2, nil, func(s harness) {
			s.At = s.At.Add(time.Hour)
			s.Leader = s.At.Add(-time.Second)
			s.measure(1000, 0)
			s.plan()
		}, 2, ""},
		{"what is old says nothing", 2, nil, func(s harness) {
			s.measure(1000, 0)
			s.At = s.At.Add(time.Minute)
			s.plan()
		}, 2, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := begin(t, c.replicas, c.labels)
			c.do(s)
			svc := plantest.Get[*cluster.Service](s.Swarm, "web")
			if n := svc.Replicas(); n != c.want {
				t.Errorf("%d replicas, want %d: %+v", n, c.want, svc.Scale)
			}
			last := ""
			if svc.Scale != nil && len(svc.Scale.Decisions) > 0 {
				last = svc.Scale.Decisions[len(svc.Scale.Decisions)-1].Reason
			}
			if d := cmp.Diff(c.last, last); d != "" {
				t.Error(d)
			}
			if n := *svc.Spec.Mode.Replicated.Replicas; n != c.replicas && n != 0 {
				t.Errorf("the specification says %d, said %d", n, c.replicas)
			}
		})
	}
}

// A load that stays as it is leads to one number of replicas and to no other, never outside of the bounds.
func TestAConstantLoadSettles(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		low := rapid.IntRange(1, 5).Draw(rt, "min")
		high := low + rapid.IntRange(0, 8).Draw(rt, "more")
		s := begin(t, uint64(rapid.IntRange(1, 12).Draw(rt, "replicas")), map[string]string{
			"min": fmt.Sprint(low), "max": fmt.Sprint(high), "down-window": rapid.SampledFrom([]string{"0s", "1m"}).Draw(rt, "down"),
			"up-window": rapid.SampledFrom([]string{"0s", "30s"}).Draw(rt, "up"),
		})
		load := float64(rapid.IntRange(0, 800).Draw(rt, "load"))
		var was []uint64
		for range 30 {
			n := s.pass(autoscale.Period, load, 0)
			if n < uint64(low) || n > uint64(high) {
				rt.Fatalf("%d replicas, from %d to %d", n, low, high)
			}
			was = append(was, n)
		}
		for _, n := range was[20:] {
			if n != was[29] {
				rt.Fatalf("it does not settle: %v", was)
			}
		}
		for i := 1; i+1 < len(was); i++ {
			if (was[i] > was[i-1]) && (was[i+1] < was[i]) || (was[i] < was[i-1]) && (was[i+1] > was[i]) {
				rt.Fatalf("it goes up and down: %v", was)
			}
		}
	})
}

// A load that changes never makes fewer before the window is over, and the record stays small.
func TestTheWindowIsKept(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := begin(t, 3, map[string]string{"down-window": "2m"})
		type point struct {
			at time.Time
			n  uint64
		}
		var wanted []point
		before := s.replicas()
		for range rapid.IntRange(1, 40).Draw(rt, "steps") {
			n := s.pass(autoscale.Period, float64(rapid.IntRange(0, 700).Draw(rt, "load")), 0)
			st := plantest.Get[*cluster.Service](s.Swarm, "web").Scale
			wanted = append(wanted, point{s.At, st.Wanted[len(st.Wanted)-1].Replicas})
			for _, p := range wanted {
				if n < before && p.at.After(s.At.Add(-2*time.Minute)) && p.n > n {
					rt.Fatalf("from %d to %d although %d were wanted %s before", before, n, p.n, s.At.Sub(p.at))
				}
			}
			if len(st.Wanted) > 12 || len(st.Decisions) > 10 {
				rt.Fatalf("%d wishes and %d decisions are kept", len(st.Wanted), len(st.Decisions))
			}
			before = n
		}
	})
}
