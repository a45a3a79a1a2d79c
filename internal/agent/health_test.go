package agent_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
)

func checkedTask() *cluster.Task {
	t := newTask("a", 0)
	t.Spec.ContainerSpec.Healthcheck = &container.HealthConfig{Test: []string{"CMD", "x"}}
	return t
}

func TestATaskRunsOnceItIsHealthy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.agent()
		b.create(checkedTask())
		b.until("the container runs", func() bool { return b.eng.running() == 1 })
		settle(time.Minute)
		c := b.eng.get(name("a"))
		st := b.status("a")
		if st.State != swarm.TaskStateStarting || st.Message != "starting" || st.ContainerStatus.ContainerID != c.id || st.ContainerStatus.PID != c.state.Pid {
			t.Errorf("before it is healthy: %+v %+v", st, st.ContainerStatus)
		}
		b.eng.health(name("a"), container.Healthy)
		st = b.await("a", swarm.TaskStateRunning)
		if st.Message != "started" || st.ContainerStatus.ContainerID != c.id || st.ContainerStatus.PID != c.state.Pid {
			t.Errorf("healthy: %+v %+v", st, st.ContainerStatus)
		}
		settle(time.Minute)
		b.desire("a", swarm.TaskStateShutdown)
		b.await("a", swarm.TaskStateShutdown)
	})
}

// Many tasks that are not healthy yet take no place from those that are to start.
func TestUnhealthyTasksHoldNobodyUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.agent()
		for _, id := range []string{"t1", "t2", "t3", "t4", "t5", "t6"} {
			task := checkedTask()
			task.ID = id
			b.create(task)
		}
		b.until("all containers run", func() bool { return b.eng.running() == 6 })
	})
}

func TestUnhealthy(t *testing.T) {
	for _, tc := range []struct {
		name    string
		healthy bool // before
		code    int  // that it stops with
		err     string
	}{
		{"while it starts", false, 143, "task: non-zero exit (143): dockerexec: unhealthy container"},
		{"while it runs", true, 137, "task: non-zero exit (137): dockerexec: unhealthy container"},
		{"and stops well", true, 0, "task: dockerexec: unhealthy container"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				b.eng.stopCode = tc.code
				b.agent()
				b.create(checkedTask())
				b.until("the container runs", func() bool { return b.eng.running() == 1 })
				if tc.healthy {
					b.eng.health(name("a"), container.Healthy)
					b.await("a", swarm.TaskStateRunning)
				}
				// An engine that fails for a moment changes nothing.
				fails := 3
				b.eng.faults(func(method, _ string) error {
					if method == "Stop" && fails > 0 {
						fails--
						return errors.New("no")
					}
					return nil
				})
				b.eng.health(name("a"), container.Unhealthy)
				st := b.await("a", swarm.TaskStateFailed)
				if st.Err != tc.err || st.ContainerStatus.ExitCode != tc.code {
					t.Errorf("%q, %+v", st.Err, st.ContainerStatus)
				}
				c := b.eng.get(name("a"))
				if c.state.Running || c.timeout == nil || *c.timeout != 10*time.Second {
					t.Errorf("stopped with %v: %+v", c.timeout, c.state)
				}
			})
		})
	}
}

// A container that ends by itself before it is healthy has failed for its own reason.
func TestEndsBeforeItIsHealthy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.agent()
		b.create(checkedTask())
		b.until("the container runs", func() bool { return b.eng.running() == 1 })
		b.eng.exit(name("a"), container.State{ExitCode: 4})
		if st := b.await("a", swarm.TaskStateFailed); st.Err != "task: non-zero exit (4)" {
			t.Errorf("%q", st.Err)
		}
	})
}

// What an agent does not see because it is away, the next one finds.
func TestHealthWhileAway(t *testing.T) {
	for _, tc := range []struct {
		name          string
		before, after container.HealthStatus
		want          swarm.TaskState
	}{
		{"still starting", container.Starting, container.Starting, swarm.TaskStateStarting},
		{"became healthy", container.Starting, container.Healthy, swarm.TaskStateRunning},
		{"became unhealthy", container.Starting, container.Unhealthy, swarm.TaskStateFailed},
		{"stays healthy", container.Healthy, container.Healthy, swarm.TaskStateRunning},
		{"ran and became unhealthy", container.Healthy, container.Unhealthy, swarm.TaskStateFailed},
		{"probed anew", container.Healthy, container.Starting, swarm.TaskStateRunning},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				stop := b.agent()
				b.create(checkedTask())
				b.until("the container runs", func() bool { return b.eng.running() == 1 })
				b.eng.health(name("a"), tc.before)
				settle(time.Second)
				stop()
				b.eng.health(name("a"), tc.after)
				b.agent()
				settle(time.Minute)
				if st := b.status("a"); st.State != tc.want {
					t.Errorf("%+v", st)
				}
				if n := b.eng.count("Start"); n != 1 {
					t.Errorf("started %d times", n)
				}
			})
		})
	}
}

func TestHealthThatCannotBeFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.eng.faults(func(method, _ string) error {
			if method == "WaitHealth" {
				return errdefs.ErrUnavailable
			}
			return nil
		})
		b.agent()
		b.create(checkedTask())
		b.until("the container runs", func() bool { return b.eng.running() == 1 })
		b.eng.health(name("a"), container.Healthy)
		settle(time.Minute)
		if n := b.eng.count("WaitHealth"); n > 20 {
			t.Errorf("asked %d times in a minute", n)
		}
		b.eng.faults(nil)
		b.await("a", swarm.TaskStateRunning)
	})
}

// A task that connections are sent to as soon as it runs does not run before it can take them, unless that takes long.
func TestATaskOnTheMeshRunsOnceItListens(t *testing.T) {
	for _, tc := range []struct {
		name    string
		task    *cluster.Task
		listens time.Duration // from the start of its container
		fails   error
		runs    time.Duration // at most
		asked   bool
	}{
		{"soon", newTask("a", 3), 50 * time.Millisecond, nil, 60 * time.Millisecond, true},
		{"late", newTask("a", 3), time.Minute, nil, 1100 * time.Millisecond, true},
		{"it cannot be told", newTask("a", 3), time.Minute, errors.New("no such process"), 10 * time.Millisecond, true},
		{"on no mesh", newTask("a", 0), time.Minute, nil, 10 * time.Millisecond, false},
		{"with a health check", func() *cluster.Task {
			t := newTask("a", 3)
			t.Spec.ContainerSpec.Healthcheck = &container.HealthConfig{Test: []string{"CMD", "x"}}
			return t
		}(), time.Minute, nil, time.Minute, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				var first time.Time
				b.listens = func(pid int) (bool, error) {
					if pid != b.eng.get(name("a")).state.Pid {
						t.Errorf("process %d was looked at", pid)
					}
					if first.IsZero() {
						first = time.Now()
					}
					return time.Since(first) >= tc.listens, tc.fails
				}
				b.agent()
				b.create(tc.task)
				b.until("the container runs", func() bool { return b.eng.running() == 1 })
				if tc.task.Spec.ContainerSpec.Healthcheck != nil {
					b.eng.health(name("a"), container.Healthy)
				}
				began := time.Now()
				b.await("a", swarm.TaskStateRunning)
				if took := time.Since(began); took > tc.runs+30*time.Millisecond || tc.fails == nil && tc.asked && took < min(tc.listens, time.Second)-10*time.Millisecond {
					t.Errorf("it runs after %s", took)
				}
				synctest.Wait()
				if asked := !first.IsZero(); asked != tc.asked {
					t.Errorf("its sockets were looked at: %v", asked)
				}
			})
		})
	}
}

// A task that is not wanted any more waits for nothing.
func TestATaskThatDoesNotListenStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.listens = func(int) (bool, error) { return false, nil }
		b.agent()
		b.create(newTask("a", 3))
		b.until("the container runs", func() bool { return b.eng.running() == 1 })
		begin := time.Now()
		b.desire("a", swarm.TaskStateShutdown)
		b.await("a", swarm.TaskStateShutdown)
		if took := time.Since(begin); took > 500*time.Millisecond {
			t.Errorf("it stopped after %s", took)
		}
	})
}
