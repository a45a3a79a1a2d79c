package agent_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/engine/fake"
)

// The task of a job wants to be complete. It runs once, and not again when the node begins anew.
func TestAJobsTaskRunsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		eng := fake.New()
		t.Cleanup(eng.Close)
		if err := eng.Offer("hello:1"); err != nil {
			t.Fatal(err)
		}
		b.use = eng
		stop := b.agent()
		task := newTask("job", 0)
		task.DesiredState, task.JobIteration = swarm.TaskStateComplete, &swarm.Version{}
		task.Spec.ContainerSpec.Args = []string{"sleep", "5s"}
		b.create(task)
		b.await("job", swarm.TaskStateRunning)
		st := b.await("job", swarm.TaskStateComplete)
		in, err := eng.Inspect(t.Context(), st.ContainerStatus.ContainerID)
		if err != nil {
			t.Fatal(err)
		}
		stop()
		settle(20 * time.Second)
		b.agent()
		settle(20 * time.Second)
		again, err := eng.Inspect(t.Context(), st.ContainerStatus.ContainerID)
		if err != nil || again.State.Running || again.State.StartedAt != in.State.StartedAt {
			t.Errorf("%+v, was %+v: %v", again, in.State, err)
		}
		if st := b.await("job", swarm.TaskStateComplete); st.Err != "" {
			t.Errorf("%+v", st)
		}
	})
}
