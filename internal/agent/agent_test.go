package agent_test

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/store"
)

func TestATaskRunsAndEnds(t *testing.T) {
	for _, tc := range []struct {
		name string
		exit container.State
		want swarm.TaskStatus
	}{
		{"well", container.State{}, swarm.TaskStatus{State: swarm.TaskStateComplete, Message: "finished"}},
		{"badly", container.State{ExitCode: 3}, swarm.TaskStatus{State: swarm.TaskStateFailed, Message: "started", Err: "task: non-zero exit (3)"}},
		{"without memory", container.State{ExitCode: 137, OOMKilled: true}, swarm.TaskStatus{State: swarm.TaskStateFailed, Message: "started", Err: "task: non-zero exit (137): OOM killed"}},
		{"with the runtime's words", container.State{ExitCode: 127, Error: "exec failed"}, swarm.TaskStatus{State: swarm.TaskStateFailed, Message: "started", Err: "task: non-zero exit (127): exec failed"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				b.agent()
				b.create(newTask("a", 0))
				st := b.await("a", swarm.TaskStateRunning)
				c := b.eng.get(name("a"))
				if st.ContainerStatus == nil || st.ContainerStatus.ContainerID != c.id || st.ContainerStatus.PID != c.state.Pid || st.Message != "started" {
					t.Errorf("status %+v %+v, container %s", st, st.ContainerStatus, c.id)
				}
				b.eng.exit(name("a"), tc.exit)
				got := b.await("a", tc.want.State)
				if got.Message != tc.want.Message || got.Err != tc.want.Err || got.ContainerStatus.ExitCode != tc.exit.ExitCode {
					t.Errorf("ended as %+v %+v", got, got.ContainerStatus)
				}
				settle(time.Minute)
				if b.eng.get(name("a")) == nil {
					t.Error("the container of an ended task went before its record")
				}
				if n := b.eng.count("Start"); n != 1 {
					t.Errorf("started %d times", n)
				}
				b.remove("a")
				b.until("the container is gone", func() bool { return b.eng.get(name("a")) == nil })
			})
		})
	}
}

func TestImages(t *testing.T) {
	for _, tc := range []struct {
		name, ref     string
		local, remote bool
		pulls         int
		state         swarm.TaskState
		err, message  string
	}{
		{"a tag is always looked up", "hello:1", true, true, 1, swarm.TaskStateRunning, "", "started"},
		{"a tag whose registry is away", "hello:1", true, false, 1, swarm.TaskStateRunning, "", "started"},
		{"a digest that is here", pinned, true, false, 0, swarm.TaskStateRunning, "", "started"},
		{"a digest that is not here", pinned, false, true, 1, swarm.TaskStateRunning, "", "started"},
		{"nowhere", "gone:1", false, false, 1, swarm.TaskStateRejected, "No such image: gone:1", "preparing: manifest unknown"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				b.eng.images = map[string]bool{tc.ref: tc.local}
				b.eng.remote = map[string]bool{tc.ref: tc.remote}
				b.agent()
				task := newTask("a", 0)
				task.Spec.ContainerSpec.Image = tc.ref
				b.create(task)
				st := b.await("a", tc.state)
				if st.Err != tc.err || st.Message != tc.message {
					t.Errorf("%q, %q", st.Err, st.Message)
				}
				if n := b.eng.count("Pull"); n != tc.pulls {
					t.Errorf("%d pulls, want %d", n, tc.pulls)
				}
			})
		})
	}
}

func TestManyTasksAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.eng.images = map[string]bool{}
		b.eng.pullTime, b.eng.startTime = 3*time.Second, 200*time.Millisecond
		b.agent()
		var tasks []*cluster.Task
		for i := range 40 {
			tasks = append(tasks, newTask(fmt.Sprint("t", i), 0))
		}
		b.create(tasks...)
		b.until("all run", func() bool { return b.eng.running() == 40 })
		if n := b.eng.count("Pull"); n != 1 {
			t.Errorf("%d pulls of one image", n)
		}
		if b.eng.maxStart != 4 {
			t.Errorf("%d starts at the same time, want 4", b.eng.maxStart)
		}
		for i := range 40 {
			b.await(fmt.Sprint("t", i), swarm.TaskStateRunning)
		}
		// A drain: everything is stopped at once, not one after the other.
		for i := range 40 {
			b.desire(fmt.Sprint("t", i), swarm.TaskStateShutdown)
		}
		b.until("none runs", func() bool { return b.eng.running() == 0 })
		for i := range 40 {
			b.await(fmt.Sprint("t", i), swarm.TaskStateShutdown)
		}
	})
}

func TestATaskWaitsForItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.agent()
		task := newTask("a", 0)
		task.DesiredState = swarm.TaskStateReady
		task.StartAt = b.store.Now().Add(20 * time.Second)
		b.create(task)
		b.await("a", swarm.TaskStateReady)
		settle(10 * time.Second)
		b.desire("a", swarm.TaskStateRunning)
		settle(9 * time.Second)
		if s := b.status("a"); s.State != swarm.TaskStateReady || b.eng.count("Start") != 0 {
			t.Errorf("started before its time: %+v", s)
		}
		settle(2 * time.Second)
		if s := b.status("a"); s.State != swarm.TaskStateRunning {
			t.Errorf("not started in time: %+v", s)
		}

		ready := newTask("b", 0)
		ready.DesiredState = swarm.TaskStateReady
		ready.StartAt = b.store.Now().Add(time.Second)
		b.create(ready)
		settle(time.Minute)
		if s := b.status("b"); s.State != swarm.TaskStateReady {
			t.Errorf("started although nobody wants it to run: %+v", s)
		}
	})
}

func TestAStopHasItsGracePeriod(t *testing.T) {
	seven := 7 * time.Second
	for _, tc := range []struct {
		name    string
		desired swarm.TaskState
		grace   *time.Duration
		want    time.Duration
	}{
		{"default", swarm.TaskStateShutdown, nil, 10 * time.Second},
		{"its own", swarm.TaskStateShutdown, &seven, seven},
		{"removal", swarm.TaskStateRemove, &seven, seven},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				b.agent()
				task := newTask("a", 0)
				task.Spec.ContainerSpec.StopGracePeriod = tc.grace
				b.create(task)
				b.await("a", swarm.TaskStateRunning)
				b.eng.mu.Lock()
				c, _ := b.eng.find(name("a"))
				c.stubborn = true
				b.eng.mu.Unlock()
				began := time.Now()
				b.desire("a", tc.desired)
				st := b.await("a", swarm.TaskStateShutdown)
				if d := time.Since(began); d < tc.want || d > tc.want+time.Second {
					t.Errorf("it took %s", d)
				}
				if got := b.eng.get(name("a")); got == nil || *got.timeout != tc.want || st.ContainerStatus.ExitCode != 143 {
					t.Errorf("container %+v, status %+v", got, st.ContainerStatus)
				}
				b.remove("a")
				b.until("the container is gone", func() bool { return b.eng.get(name("a")) == nil })
			})
		})
	}
}

func TestATaskThatIsNotWantedAnyMoreIsNotStarted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.eng.images = map[string]bool{}
		b.eng.pullTime = time.Minute
		b.agent()
		b.create(newTask("a", 0))
		b.await("a", swarm.TaskStatePreparing)
		b.desire("a", swarm.TaskStateShutdown)
		b.await("a", swarm.TaskStateShutdown)
		settle(2 * time.Minute)
		if n := b.eng.count("Create"); n != 0 {
			t.Errorf("%d containers were made", n)
		}
	})
}

func TestARecordThatIsGoneTakesARunningContainerWithIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.agent()
		b.create(newTask("a", 0))
		b.await("a", swarm.TaskStateRunning)
		b.remove("a")
		b.until("the container is gone", func() bool { return b.eng.get(name("a")) == nil })
		if b.eng.count("Stop") == 0 {
			t.Error("it was not stopped first")
		}
	})
}

func TestFaultsOfTheEngine(t *testing.T) {
	once := func(method string, err error) func(string, string) error {
		done := false
		return func(m, _ string) error {
			if m == method && !done {
				done = true
				return err
			}
			return nil
		}
	}
	always := func(method string, err error) func(string, string) error {
		return func(m, _ string) error {
			if m == method {
				return err
			}
			return nil
		}
	}
	away := errdefs.ErrUnavailable.WithMessage("the engine starts")
	broken := errors.New("no such file or directory")
	for _, tc := range []struct {
		name  string
		fail  func(string, string) error
		state swarm.TaskState
		err   string
	}{
		{"away at a creation", once("Create", away), swarm.TaskStateRunning, ""},
		{"away at a start", once("Start", away), swarm.TaskStateRunning, ""},
		{"away at a list", once("List", away), swarm.TaskStateRunning, ""},
		{"away while waiting", once("Wait", away), swarm.TaskStateRunning, ""},
		{"a creation that fails", always("Create", broken), swarm.TaskStateRejected, "no such file or directory"},
		{"a start that fails", always("Start", broken), swarm.TaskStateFailed, "no such file or directory"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				b.eng.fail = tc.fail
				b.agent()
				b.create(newTask("a", 0))
				if st := b.await("a", tc.state); st.Err != tc.err {
					t.Errorf("error %q, want %q", st.Err, tc.err)
				}
				settle(time.Minute)
				b.await("a", tc.state)
				b.remove("a")
				b.until("the container is gone", func() bool { return b.eng.get(name("a")) == nil })
			})
		})
	}
	t.Run("a creation whose answer was lost", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			b.agent()
			first := true
			b.eng.faults(func(m, n string) error {
				if m == "Create" && first {
					first = false
					c := &fakeContainer{id: "lost", changed: make(chan struct{})}
					c.spec.Name, c.spec.Config = n, &container.Config{Labels: map[string]string{"com.docker.swarm.task.id": "a"}}
					c.state.Status = container.StateCreated
					b.eng.containers["lost"] = c
					return away
				}
				return nil
			})
			b.create(newTask("a", 0))
			if st := b.await("a", swarm.TaskStateRunning); st.ContainerStatus.ContainerID != "lost" {
				t.Errorf("status %+v", st.ContainerStatus)
			}
		})
	})
	t.Run("a stop and a removal that fail at first", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			b.agent()
			b.create(newTask("a", 0))
			b.await("a", swarm.TaskStateRunning)
			b.eng.mu.Lock()
			n := map[string]int{}
			b.eng.fail = func(m, _ string) error {
				if m == "Stop" || m == "Remove" {
					if n[m]++; n[m] < 4 {
						return broken
					}
				}
				return nil
			}
			b.eng.mu.Unlock()
			b.desire("a", swarm.TaskStateShutdown)
			b.await("a", swarm.TaskStateShutdown)
			b.remove("a")
			b.until("the container is gone", func() bool { return b.eng.get(name("a")) == nil })
		})
	})
}

func TestTheNetworkComesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		held := map[string]bool{}
		b.eng.onStart = func(n string) {
			for _, e := range b.net.get().Ingress.Endpoints {
				held[n] = held[n] || e.Addr.String() == "10.0.0.5"
			}
		}
		b.agent()
		b.create(newTask("a", 5))
		b.await("a", swarm.TaskStateRunning)
		if !held[name("a")] {
			t.Error("the task was started before the network held its address")
		}
		if got := b.eng.get(name("a")).spec.Ingress.String(); got != "10.0.0.5" {
			t.Errorf("the container has the address %s", got)
		}
		settle(5 * time.Second)
		if got, want := b.srv.Applied("n1"), b.store.Index(); got != want {
			t.Errorf("applied %d, want %d", got, want)
		}
		if d := b.net.get(); d.Self != "n1" || d.Version == 0 {
			t.Errorf("applied %+v", d)
		}
	})
}

func TestATaskThatIsSentConnectionsGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.agent()
		b.create(newTask("meshed", 4), newTask("plain", 0))
		b.await("meshed", swarm.TaskStateRunning)
		b.await("plain", swarm.TaskStateRunning)
		settle(5 * time.Second)
		for _, id := range []string{"meshed", "plain"} {
			b.change(id, func(t *cluster.Task) { t.DesiredState = swarm.TaskStateShutdown })
		}
		b.await("plain", swarm.TaskStateShutdown)
		settle(20 * time.Second)
		if st := b.status("meshed"); st.State != swarm.TaskStateRunning {
			t.Errorf("the task was stopped while nodes may send it connections: %+v", st)
		}
		b.change("meshed", func(t *cluster.Task) { t.Released = true })
		b.await("meshed", swarm.TaskStateShutdown)
	})
}

func TestANetworkThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.agent()
		b.create(newTask("old", 4))
		b.await("old", swarm.TaskStateRunning)
		settle(5 * time.Second)
		before := b.srv.Applied("n1")

		b.net.fault(errors.New("nft: not permitted"))
		b.create(newTask("a", 5), newTask("plain", 0))
		b.await("plain", swarm.TaskStateRunning) // it is on no network
		settle(20 * time.Second)
		if st := b.status("a"); st.State != swarm.TaskStateReady || st.Err != "the network of the node is not ready: nft: not permitted" {
			t.Errorf("status %+v", st)
		}
		if got := b.srv.Applied("n1"); got != before {
			t.Errorf("the node says that it holds version %d", got)
		}
		b.desire("old", swarm.TaskStateShutdown)
		b.await("old", swarm.TaskStateShutdown)
		if n := b.net.tries(); n > 30 {
			t.Errorf("%d tries: there is no back-off", n)
		}
		b.net.fault(nil)
		if st := b.await("a", swarm.TaskStateRunning); st.Err != "" {
			t.Errorf("status %+v", st)
		}
		settle(5 * time.Second)
		if got := b.srv.Applied("n1"); got != b.store.Index() {
			t.Errorf("applied %d, want %d", got, b.store.Index())
		}
	})
}

func TestTheNodeSaysWhatItIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.agent()
		b.until("the node is described", func() bool {
			n, _ := store.Get[*cluster.Node](b.store.Snapshot(), "n1")
			return n.Description.Hostname == "host1" && n.Status.Addr == "198.18.0.1"
		})
	})
}

// A node whose clock is wrong reports and starts in swarm time.
func TestTimesAreTheSwarms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		type entry struct {
			At     time.Time
			Groups []store.Group
		}
		data, err := store.Marshal(struct {
			Format int
			Entry  entry
		}{1, entry{At: time.Now().Add(time.Hour)}})
		if err != nil {
			t.Fatal(err)
		}
		b.store.Apply(b.store.Index()+1, data)
		b.agent()
		task := newTask("a", 0)
		task.StartAt = b.store.Now().Add(5 * time.Second)
		b.create(task)
		settle(6 * time.Second)
		st := b.await("a", swarm.TaskStateRunning)
		if d := b.store.Now().Sub(st.Timestamp).Abs(); d > 2*time.Second {
			t.Errorf("reported %s off swarm time", d)
		}
	})
}

func TestTasksThatCannotRunSayWhy(t *testing.T) {
	for _, tc := range []struct {
		name string
		edit func(*swarm.TaskSpec)
		err  string
	}{
		{"a secret that is gone", func(s *swarm.TaskSpec) {
			s.ContainerSpec.Secrets = []*swarm.SecretReference{{SecretID: "x", SecretName: "pass", File: &swarm.SecretReferenceFileTarget{Name: "a"}}}
		}, "secret not found: pass"},
		{"a config that is gone", func(s *swarm.TaskSpec) {
			s.ContainerSpec.Configs = []*swarm.ConfigReference{{ConfigID: "x", ConfigName: "page", File: &swarm.ConfigReferenceFileTarget{Name: "a"}}}
		}, "config not found: page"},
		{"a bad template", func(s *swarm.TaskSpec) { s.ContainerSpec.Hostname = "{{.Nothing}}" },
			`expanding hostname failed: template: expansion:1:2: executing "expansion" at <.Nothing>: can't evaluate field Nothing in type *template.facts`},
		{"a plugin", func(s *swarm.TaskSpec) { s.ContainerSpec = nil }, "the task has no container; plugins and network attachments as tasks are not there yet"},
		{"a bad host", func(s *swarm.TaskSpec) { s.ContainerSpec.Hosts = []string{"1.2.3.4"} }, `invalid host "1.2.3.4": it needs an address and a name`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				b.agent()
				task := newTask("a", 0)
				tc.edit(&task.Spec)
				b.create(task)
				if d := cmp.Diff(tc.err, b.await("a", swarm.TaskStateRejected).Err); d != "" {
					t.Error(d)
				}
			})
		})
	}
}
