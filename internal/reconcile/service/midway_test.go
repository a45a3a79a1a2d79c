package service_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/reconcile/plantest"
)

// running counts the tasks that run and are meant to.
func (r *rollout) running() (n int) {
	for _, t := range r.Tasks("web") {
		if t.WantsToRun() && t.Status.State == swarm.TaskStateRunning {
			n++
		}
	}
	return n
}

// tick is a turn with the store's clock, which says when tasks were made, going on as well.
func (r *rollout) tick(bad string) {
	r.Helper()
	r.work(bad)
	time.Sleep(time.Second)
	r.At = time.Now()
	r.rest()
}

// until takes turns until the update is in the state; between two of them no fewer than least tasks run.
func (r *rollout) until(want swarm.UpdateState, least int, bad string) {
	r.Helper()
	for range 60 {
		if state, _ := r.status(); state == want {
			return
		}
		r.tick(bad)
		if n := r.running(); n < least {
			r.Fatalf("only %d tasks run: %s", n, r.shown())
		}
	}
	state, says := r.status()
	r.Fatalf("%s: %s (%s), want %s", state, says, r.shown(), want)
}

// TestANewUpdateInTheMiddleOfOne leaves no task of either older version, and never more than one slot at a time.
func TestANewUpdateInTheMiddleOfOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRollout(t, 4, swarm.UpdateConfig{Parallelism: 1, Monitor: time.Second})
		r.image("hello:2")
		for r.shown() == "4 hello:1" || r.shown() == "3 hello:1" {
			r.tick("")
		}
		if got := r.shown(); got == "4 hello:2" {
			t.Fatalf("the first update is not in the middle: %s", got)
		}
		r.image("hello:3")
		r.until(swarm.UpdateStateCompleted, 3, "")
		if got := r.shown(); got != "4 hello:3" {
			t.Errorf("%s run", got)
		}
		if v := plantest.Get[*cluster.Service](r.Swarm, "web"); v.PreviousSpec.TaskTemplate.ContainerSpec.Image != "hello:2" {
			t.Errorf("the way back leads to %s", v.PreviousSpec.TaskTemplate.ContainerSpec.Image)
		}
	})
}

// TestAPausedUpdateGoesOnWithTheNextOne stands still until somebody says what to do.
func TestAPausedUpdateGoesOnWithTheNextOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRollout(t, 3, swarm.UpdateConfig{Parallelism: 1, Monitor: time.Second})
		r.image("hello:bad")
		r.until(swarm.UpdateStatePaused, 2, "hello:bad")
		before := r.shown()
		for range 20 {
			r.tick("hello:bad")
		}
		if state, says := r.status(); state != swarm.UpdateStatePaused || r.shown() != before {
			t.Errorf("%s: %s, %s after %s", state, says, r.shown(), before)
		}
		r.image("hello:2")
		if state, _ := r.status(); state == swarm.UpdateStatePaused {
			t.Error("the next update did not begin")
		}
		r.until(swarm.UpdateStateCompleted, 2, "")
		if got := r.shown(); got != "3 hello:2" {
			t.Errorf("%s run", got)
		}
	})
}

// TestAnUpdateWhileANodeDies completes on the nodes that are left: a lost node is no failure of the new version.
func TestAnUpdateWhileANodeDies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRollout(t, 6, swarm.UpdateConfig{Parallelism: 1, Monitor: time.Second, FailureAction: swarm.UpdateFailureActionRollback})
		r.image("hello:2")
		for range 4 {
			r.tick("")
		}
		plantest.Change(r.Swarm, "n2", func(n *cluster.Node) { n.Status.State = swarm.NodeStateDown })
		r.rest()
		for range 60 {
			for _, k := range r.Tasks("web") {
				if k.NodeID == "" { // placement passes the node over
					plantest.Change(r.Swarm, k.ID, func(k *cluster.Task) { k.NodeID = "n1" })
				}
			}
			if state, _ := r.status(); state == swarm.UpdateStateCompleted {
				break
			}
			r.tick("")
		}
		state, says := r.status()
		if state != swarm.UpdateStateCompleted {
			t.Errorf("%s: %s", state, says)
		}
		r.work("")
		if got := r.shown(); got != "6 hello:2" {
			t.Errorf("%s run", got)
		}
		for _, k := range r.Tasks("web") {
			if k.WantsToRun() && k.NodeID == "n2" {
				t.Errorf("task %s is on the node that died", k.ID)
			}
		}
	})
}
