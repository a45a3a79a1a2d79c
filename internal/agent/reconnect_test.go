package agent_test

import (
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/dispatch/protocol"
	"shoal.dev/shoal/internal/store"
)

func TestALostSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.agent()
		b.create(newTask("a", 0), newTask("b", 0))
		b.await("a", swarm.TaskStateRunning)
		b.await("b", swarm.TaskStateRunning)

		b.setDown(true)
		settle(time.Hour)
		b.eng.exit(name("a"), container.State{ExitCode: 5})
		settle(time.Minute)
		if n := b.eng.running(); n != 1 || b.eng.count("Stop") != 1 { // the ended task's container is stopped once more
			t.Errorf("%d containers run and %d were stopped while no manager was there", n, b.eng.count("Stop"))
		}
		if s := b.status("a").State; s != swarm.TaskStateRunning {
			t.Fatalf("the swarm knows already: %s", s)
		}
		b.create(newTask("c", 0))
		b.setDown(false)
		began := time.Now()
		if st := b.await("a", swarm.TaskStateFailed); st.Err != "task: non-zero exit (5)" {
			t.Errorf("status %+v", st)
		}
		b.await("c", swarm.TaskStateRunning)
		if d := time.Since(began); d > 1100*time.Millisecond {
			t.Errorf("it took %s to come back", d)
		}
		if b.eng.count("Start") != 3 {
			t.Errorf("%d starts", b.eng.count("Start"))
		}
	})
}

func TestAManagerThatFallsSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.agent()
		b.create(newTask("old", 0))
		b.await("old", swarm.TaskStateRunning)
		settle(3 * time.Second)
		dials := b.connections()
		b.mu.Lock()
		b.link.Stall()
		b.mu.Unlock()
		b.create(newTask("a", 0))
		b.eng.exit(name("old"), container.State{}) // its status is under way when the session ends
		began := time.Now()
		b.await("a", swarm.TaskStateRunning)
		b.await("old", swarm.TaskStateComplete)
		if d := time.Since(began); d > 8*time.Second {
			t.Errorf("it took %s to find another manager", d)
		}
		if n := b.connections(); n != dials+1 {
			t.Errorf("%d connections", n-dials)
		}
	})
}

// A status whose request was under way when its session ended goes with the next session, unasked.
func TestAStatusThatWasUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		first := true
		b.wrap = func(rt http.RoundTripper) http.RoundTripper {
			return tripper(func(r *http.Request) (*http.Response, error) {
				if b.connections() == 1 && r.URL.Path == protocol.PathStatus {
					if first {
						first = false
						time.AfterFunc(time.Second, func() { b.setDown(true); b.setDown(false) })
					}
					<-r.Context().Done()
					return nil, r.Context().Err()
				}
				return rt.RoundTrip(r)
			})
		}
		b.agent()
		task := newTask("a", 0)
		task.DesiredState = swarm.TaskStateReady
		b.create(task)
		b.await("a", swarm.TaskStateReady)
	})
}

// lossy loses the answers to statuses: the manager took them, the agent does not know.
type lossy struct {
	next http.RoundTripper
	mu   sync.Mutex
	left int
	seen []protocol.TaskStatus
}

func (l *lossy) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Path != protocol.PathStatus {
		return l.next.RoundTrip(r)
	}
	var req protocol.StatusRequest
	body, _ := r.GetBody()
	b, _ := io.ReadAll(body)
	if err := store.Unmarshal(b, &req); err != nil {
		return nil, err
	}
	l.mu.Lock()
	l.seen = append(l.seen, req.Nodes[0].Statuses...)
	l.left--
	lose := l.left >= 0
	l.mu.Unlock()
	resp, err := l.next.RoundTrip(r)
	if err == nil && lose {
		resp.Body.Close()
		return nil, errors.New("connection reset by peer")
	}
	return resp, err
}

func TestStatusesAreSentUntilTheyAreTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		l := &lossy{left: 1000}
		b.wrap = func(rt http.RoundTripper) http.RoundTripper { l.next = rt; return l }
		b.agent()
		b.create(newTask("a", 0))
		b.await("a", swarm.TaskStateRunning)
		settle(20 * time.Second)
		index := b.store.Index()
		l.mu.Lock()
		n := len(l.seen)
		l.mu.Unlock()
		settle(20 * time.Second)
		l.mu.Lock()
		again := len(l.seen) - n
		l.left = 0
		l.mu.Unlock()
		if again < 5 || again > 40 {
			t.Errorf("sent %d times again in 20 s", again)
		}
		if b.store.Index() != index {
			t.Error("a status that came twice was written twice")
		}
		settle(5 * time.Second)
		l.mu.Lock()
		n = len(l.seen)
		l.mu.Unlock()
		settle(time.Minute)
		l.mu.Lock()
		defer l.mu.Unlock()
		if len(l.seen) != n {
			t.Errorf("sent again although it was taken: %+v", l.seen[n:])
		}
	})
}

// Two deliveries of one frame, as a reconnect makes them, do nothing twice.
func TestASecondCompleteFrameChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.agent()
		b.create(newTask("a", 5))
		b.await("a", swarm.TaskStateRunning)
		index := b.store.Index()
		for range 5 {
			b.setDown(true)
			b.setDown(false)
			settle(3 * time.Second)
		}
		if n := b.connections(); n < 6 {
			t.Fatalf("%d connections", n)
		}
		if b.eng.count("Start") != 1 || b.eng.count("Create") != 1 || b.eng.count("Stop") != 0 || b.store.Index() != index {
			t.Errorf("calls %v, index %d, want %d", b.eng.calls, b.store.Index(), index)
		}
	})
}

func TestRestartOfTheDaemon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		stop := b.agent()
		b.create(newTask("lives", 0), newTask("dies", 0), newTask("unwanted", 0), newTask("removed", 0), newTask("lost", 0))
		waiting := newTask("waiting", 0)
		waiting.DesiredState = swarm.TaskStateReady
		b.create(waiting)
		for _, id := range []string{"lives", "dies", "unwanted", "removed", "lost"} {
			b.await(id, swarm.TaskStateRunning)
		}
		b.await("waiting", swarm.TaskStateReady)
		stop()
		if n := b.eng.running(); n != 5 {
			t.Fatalf("%d containers run after the daemon stopped", n)
		}

		b.eng.exit(name("dies"), container.State{ExitCode: 9})
		b.desire("unwanted", swarm.TaskStateShutdown)
		b.remove("removed")
		b.desire("waiting", swarm.TaskStateRunning)
		lost := b.eng.get(name("lost")).id
		b.eng.mu.Lock()
		delete(b.eng.containers, lost)
		b.eng.mu.Unlock()

		b.setDown(true)
		b.agent()
		settle(time.Hour)
		if n := b.eng.running(); n != 3 || b.eng.get(name("removed")) == nil {
			t.Errorf("%d containers run: something was stopped before a manager said so", n)
		}
		b.setDown(false)
		if st := b.await("dies", swarm.TaskStateFailed); st.Err != "task: non-zero exit (9)" || st.ContainerStatus.ExitCode != 9 {
			t.Errorf("dies: %+v", st)
		}
		b.await("unwanted", swarm.TaskStateShutdown)
		b.await("waiting", swarm.TaskStateRunning)
		if st := b.await("lost", swarm.TaskStateFailed); st.Err != "No such container: "+lost {
			t.Errorf("lost: %+v", st)
		}
		b.until("the container without a task is gone", func() bool { return b.eng.get(name("removed")) == nil })
		settle(time.Minute)
		if st := b.status("lives"); st.State != swarm.TaskStateRunning {
			t.Errorf("lives: %+v", st)
		}
		if b.eng.count("Start") != 6 || b.eng.count("Create") != 6 {
			t.Errorf("something was started again: %v", b.eng.calls)
		}
		if b.eng.get(name("lives")) == nil || b.eng.get(name("dies")) == nil {
			t.Error("a container of a task with a record is gone")
		}
	})
}

// A returning node whose tasks were replaced meanwhile stops them.
func TestATaskThatEndedForTheSwarmIsStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.agent()
		b.create(newTask("a", 0))
		b.await("a", swarm.TaskStateRunning)
		b.setDown(true)
		b.update(func(tx *store.Tx) {
			task, _ := store.Get[*cluster.Task](tx.Snapshot, "a")
			task = task.Clone().(*cluster.Task)
			task.DesiredState, task.Status.State = swarm.TaskStateShutdown, swarm.TaskStateOrphaned
			tx.Write(store.PutBoth(task))
		})
		settle(time.Minute)
		b.setDown(false)
		b.until("nothing runs", func() bool { return b.eng.running() == 0 })
		settle(time.Minute)
		if s := b.status("a").State; s != swarm.TaskStateOrphaned {
			t.Errorf("the task is %s", s)
		}
	})
}

// rogue is a manager that sends one complete frame and then nothing but its life.
func rogue(f protocol.Frame) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != protocol.PathSession {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		f.Now = time.Now()
		protocol.Write(w, &f)
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
}

func TestAManagerOfThePastIsNotBelieved(t *testing.T) {
	for _, tc := range []struct {
		name           string
		epoch, version uint64 // added to what the agent has seen
		believed       bool
	}{
		{"the same version", 0, 0, true},
		{"an older version", 0, ^uint64(0), false},
		{"an older epoch", ^uint64(0), 100, false},
		{"a newer epoch", 1, ^uint64(0), true},
	} {
		for _, restart := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				stop := b.agent()
				b.create(newTask("a", 0))
				b.await("a", swarm.TaskStateRunning)
				settle(5 * time.Second)
				// It knows nothing of the task.
				f := protocol.Frame{Complete: true, Epoch: 1 + tc.epoch, Version: b.store.Index() + tc.version, HeartbeatPeriod: time.Second}
				if restart {
					stop()
				}
				b.serve(rogue(f))
				b.setDown(true)
				b.setDown(false)
				if restart {
					b.agent()
				}
				settle(10 * time.Second)
				if stopped := b.eng.running() == 0; stopped != tc.believed {
					t.Errorf("%s, restart %v: believed %v, want %v", tc.name, restart, stopped, tc.believed)
				}
			})
		}
	}
}

// A task that a restored swarm knows again runs again.
func TestATaskThatComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		real := b.handler
		b.agent()
		b.create(newTask("a", 0))
		b.await("a", swarm.TaskStateRunning)
		settle(5 * time.Second)
		b.eng.mu.Lock()
		c, _ := b.eng.find(name("a"))
		c.stubborn = true
		b.eng.mu.Unlock()
		b.serve(rogue(protocol.Frame{Complete: true, Epoch: 1, Version: b.store.Index() + 1}))
		b.setDown(true)
		b.setDown(false)
		settle(3 * time.Second) // it is being stopped now
		b.update(func(tx *store.Tx) {
			task, _ := store.Get[*cluster.Task](tx.Snapshot, "a")
			task = task.Clone().(*cluster.Task)
			task.Status = swarm.TaskStatus{State: swarm.TaskStateAssigned}
			tx.Write(store.PutBoth(task))
			sw := tx.Swarm().Clone().(*cluster.Swarm)
			sw.Epoch = 2
			tx.Write(store.PutState(sw))
		})
		b.serve(real)
		b.setDown(true)
		b.setDown(false)
		b.await("a", swarm.TaskStateRunning)
		if n := b.eng.count("Create"); n != 2 || b.eng.running() != 1 {
			t.Errorf("%d containers were made, %d run", n, b.eng.running())
		}
	})
}

// A manager that does not reach the leader refuses heartbeats; the agent looks for another, but not without end.
func TestAManagerThatIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		var cut atomic.Bool
		cut.Store(true)
		b.wrap = func(rt http.RoundTripper) http.RoundTripper {
			return tripper(func(r *http.Request) (*http.Response, error) {
				if cut.Load() && r.URL.Path == protocol.PathHeartbeat {
					return &http.Response{StatusCode: http.StatusServiceUnavailable, Body: io.NopCloser(strings.NewReader("cut off"))}, nil
				}
				return rt.RoundTrip(r)
			})
		}
		b.agent()
		settle(8 * time.Second)
		if n := b.connections(); n < 2 {
			t.Errorf("%d connections after 8 s", n)
		}
		settle(10 * time.Minute)
		if n := b.connections(); n > 40 {
			t.Errorf("%d connections in 10 minutes", n)
		}
		cut.Store(false)
		settle(time.Minute)
		n := b.connections()
		settle(time.Hour)
		if m := b.connections(); m != n {
			t.Errorf("%d more connections although all is well", m-n)
		}
	})
}

type tripper func(*http.Request) (*http.Response, error)

func (f tripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestHeartbeatsKeepTheNodeAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.agent()
		settle(5 * time.Second)
		for range 200 {
			settle(137 * time.Millisecond)
			if at, ok := b.srv.LastHeard("n1"); !ok || b.store.Now().Sub(at) > 2*time.Second {
				t.Fatalf("last heard %s ago, %v", b.store.Now().Sub(at), ok)
			}
		}
		b.update(func(tx *store.Tx) {
			sw := tx.Swarm().Clone().(*cluster.Swarm)
			sw.Spec.Dispatcher.HeartbeatPeriod = 500 * time.Millisecond
			tx.Write(store.PutSpec(sw))
		})
		settle(5 * time.Second)
		for range 50 {
			settle(137 * time.Millisecond)
			if at, _ := b.srv.LastHeard("n1"); b.store.Now().Sub(at) > 500*time.Millisecond {
				t.Fatalf("with a period of 0.5 s last heard %s ago", b.store.Now().Sub(at))
			}
		}
	})
}

func TestADamagedMemoryIsNoReasonNotToRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		if err := os.WriteFile(filepath.Join(b.dir, "agent.json"), []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
		b.agent()
		b.create(newTask("a", 0))
		b.await("a", swarm.TaskStateRunning)
	})
}

// A manager that takes heartbeats but sends nothing is no use.
func TestAManagerThatSendsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.serve(rogue(protocol.Frame{Complete: true, Epoch: 1, Version: 1, HeartbeatPeriod: time.Second}))
		b.agent()
		settle(2500 * time.Millisecond)
		b.serve(b.srv.Handler()) // from the next connection on, three periods and at most a second after the frame
		b.create(newTask("a", 0))
		settle(1600 * time.Millisecond)
		if s := b.status("a").State; s != swarm.TaskStateRunning {
			t.Errorf("the task is %s", s)
		}
	})
}

// A swarm that was restored from a backup learns again what it knew.
func TestARestoredSwarmLearnsWhatRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.agent()
		b.create(newTask("a", 0))
		b.await("a", swarm.TaskStateRunning)
		settle(3 * time.Second)
		b.setDown(true)
		b.update(func(tx *store.Tx) {
			task, _ := store.Get[*cluster.Task](tx.Snapshot, "a")
			task = task.Clone().(*cluster.Task)
			task.Status = swarm.TaskStatus{State: swarm.TaskStateAssigned}
			tx.Write(store.PutState(task))
			sw := tx.Swarm().Clone().(*cluster.Swarm)
			sw.Epoch = 2
			tx.Write(store.PutState(sw))
		})
		b.setDown(false)
		b.await("a", swarm.TaskStateRunning)
		if n := b.eng.count("Start"); n != 1 {
			t.Errorf("started %d times", n)
		}
	})
}
