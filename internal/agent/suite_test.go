package agent_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/engine/fake"
)

// The same on the fake that passes the suite of the real engine.
func TestOnTheEngineOfTheSuite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		eng := fake.New()
		t.Cleanup(eng.Close)
		if err := eng.Offer("hello:1"); err != nil {
			t.Fatal(err)
		}
		b.use = eng
		stop := b.agent()
		for id, args := range map[string][]string{
			"lives": {"sleep"}, "ends": {"sleep", "5s"}, "fails": {"exit", "4"}, "starves": {"oom"}, "stubborn": {"stubborn;", "sleep"}, "later": {"sleep", "10s;", "exit", "6"},
		} {
			task := newTask(id, 0)
			task.Spec.ContainerSpec.Args = args
			b.create(task)
		}
		none := newTask("none", 0)
		none.Spec.ContainerSpec.Image = "gone:1"
		b.create(none)
		if st := b.await("none", swarm.TaskStateRejected); st.Err != "No such image: gone:1" {
			t.Errorf("none: %+v", st)
		}
		b.await("lives", swarm.TaskStateRunning)
		b.await("later", swarm.TaskStateRunning)
		b.await("ends", swarm.TaskStateComplete)
		if st := b.await("fails", swarm.TaskStateFailed); st.Err != "task: non-zero exit (4)" {
			t.Errorf("fails: %+v", st)
		}
		if st := b.await("starves", swarm.TaskStateFailed); st.Err != "task: non-zero exit (137): OOM killed" {
			t.Errorf("starves: %+v", st)
		}
		stop()
		settle(20 * time.Second)
		b.agent()
		if st := b.await("later", swarm.TaskStateFailed); st.Err != "task: non-zero exit (6)" {
			t.Errorf("later: %+v", st)
		}
		began := time.Now()
		b.desire("stubborn", swarm.TaskStateShutdown)
		b.desire("lives", swarm.TaskStateShutdown)
		b.await("lives", swarm.TaskStateShutdown)
		if d := time.Since(began); d > time.Second {
			t.Errorf("a stop took %s", d)
		}
		b.await("stubborn", swarm.TaskStateShutdown)
		if d := time.Since(began); d < 10*time.Second || d > 11*time.Second {
			t.Errorf("a stop of a stubborn container took %s", d)
		}
		for _, id := range []string{"lives", "ends", "fails", "starves", "stubborn", "later", "none"} {
			b.remove(id)
		}
		b.until("no container is left", func() bool {
			u, err := eng.Usage(t.Context())
			return err == nil && u.Running+u.Stopped == 0
		})
	})
}
