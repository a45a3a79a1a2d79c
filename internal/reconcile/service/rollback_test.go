package service_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/reconcile/plantest"
	"shoal.dev/shoal/internal/reconcile/service"
)

// back rolls the service back by hand, as control does.
func (r *rollout) back() {
	r.Helper()
	plantest.Change(r.Swarm, "web", func(v *cluster.Service) {
		now, prev := r.At, v.Clone().(*cluster.Service).Spec
		v.Spec, v.PreviousSpec = *v.PreviousSpec, &prev
		v.UpdateStatus = &swarm.UpdateStatus{State: swarm.UpdateStateRollbackStarted, StartedAt: &now, Message: "rollback in progress"}
	})
	r.rest()
}

// TestARollbackHasItsOwnConfiguration goes back all at once where updates go one after the other.
func TestARollbackHasItsOwnConfiguration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRollout(t, 4, swarm.UpdateConfig{Parallelism: 1, Monitor: time.Second}, func(v *cluster.Service) {
			v.Spec.RollbackConfig = &swarm.UpdateConfig{Parallelism: 0, Monitor: time.Second, Order: swarm.UpdateOrderStartFirst}
		})
		r.image("hello:2")
		r.until(swarm.UpdateStateCompleted, 3, "")
		r.back()
		r.work("")
		r.rest()
		if got := r.shown(); got != "4 hello:1" {
			t.Errorf("after one turn %s run", got)
		}
		r.until(swarm.UpdateStateRollbackCompleted, 4, "")
	})
}

// TestARollbackThatFailsPauses stands still: there is nothing to go back to. Its failure ratio is its own.
func TestARollbackThatFailsPauses(t *testing.T) {
	for _, tt := range []struct {
		name  string
		ratio float32
		state swarm.UpdateState
		shown string
	}{
		{"at the first", 0, swarm.UpdateStateRollbackPaused, "3 hello:2"},
		{"above its ratio", 0.3, swarm.UpdateStateRollbackPaused, "2 hello:2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRollout(t, 4, swarm.UpdateConfig{Parallelism: 1, Monitor: time.Second, MaxFailureRatio: 1}, func(v *cluster.Service) {
					v.Spec.RollbackConfig = &swarm.UpdateConfig{Parallelism: 1, Monitor: time.Second, MaxFailureRatio: tt.ratio}
				})
				r.image("hello:2")
				r.until(swarm.UpdateStateCompleted, 3, "")
				r.back()
				r.until(tt.state, 0, "hello:1")
				for range 5 {
					r.tick("hello:1")
				}
				if state, says := r.status(); state != tt.state || r.shown() != tt.shown {
					t.Errorf("%s: %s, %s run", state, says, r.shown())
				}
			})
		})
	}
}

// TestARollbackInTheMiddleOfAnUpdate leaves what was not updated yet alone.
func TestARollbackInTheMiddleOfAnUpdate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRollout(t, 4, swarm.UpdateConfig{Parallelism: 1, Monitor: time.Second})
		r.image("hello:2")
		for range 60 {
			if strings.Contains(r.shown(), "1 hello:2") {
				break
			}
			r.tick("")
		}
		kept := map[string]bool{}
		for _, k := range r.Tasks("web") {
			kept[k.ID] = k.WantsToRun() && k.Spec.ContainerSpec.Image == "hello:1" && k.Status.State == swarm.TaskStateRunning
		}
		r.back()
		r.until(swarm.UpdateStateRollbackCompleted, 2, "")
		if got := r.shown(); got != "4 hello:1" {
			t.Errorf("%s run", got)
		}
		for _, k := range r.Tasks("web") {
			if kept[k.ID] && !k.WantsToRun() {
				t.Errorf("task %s ran all the time and was replaced", k.ID)
			}
		}
	})
}

// TestANodeThatReturnsRunsNothingTwice: what it ran has other tasks in its slots, and is stopped.
func TestANodeThatReturnsRunsNothingTwice(t *testing.T) {
	s := plantest.New(t)
	s.Node("n1")
	s.Node("n2")
	s.Service("web", 2)
	var p service.Planner
	s.Plan(p)
	run(s, "web", "n1", "n2")
	state := func(to swarm.NodeState) {
		plantest.Change(s, "n1", func(n *cluster.Node) { n.Status.State = to })
		s.Settle(p)
	}
	state(swarm.NodeStateDown)
	run(s, "web", "n2")
	state(swarm.NodeStateReady)
	want := []string{"1 running/running n2", "1 running/shutdown n1", "2 running/running n2"}
	if d := cmp.Diff(want, show(s, "web")); d != "" {
		t.Error(d)
	}
}
