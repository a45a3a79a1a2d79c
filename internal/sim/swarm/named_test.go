//go:build !race

package swarm

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/moby/moby/api/types/swarm"
)

// bubble runs fn in a bubble of its own. yamux keeps timers in a pool of the process; one of another bubble must not come
// back, and what was collected twice does not.
func bubble(t *testing.T, fn func(*testing.T)) {
	runtime.GC()
	runtime.GC()
	synctest.Test(t, fn)
}

// scenario makes a swarm and lets do do what it wants with it; then nothing may have happened that must not.
func scenario(t *testing.T, managers, workers int, do func(t *testing.T, w *world)) {
	t.Helper()
	dir, remove := disks(t)
	defer remove()
	var w *world
	bubble(t, func(t *testing.T) {
		w = newWorld(1, managers+workers, Options{Dir: dir, Log: logger()})
		defer w.close()
		if err := w.found(managers); err != nil {
			t.Error(err)
			return
		}
		do(t, w)
	})
	if err := w.result().Check(); err != nil {
		t.Error(err)
	}
	if t.Failed() {
		for _, l := range w.trace {
			t.Log(l)
		}
	}
}

// request asks any host but some for something until it is done, and says how long that took.
func (w *world) request(t *testing.T, method, path string, body any, not ...*host) time.Duration {
	t.Helper()
	began := time.Now()
	for time.Since(began) < time.Minute {
		for _, h := range w.up() {
			if slices.Contains(not, h) {
				continue
			}
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			a, err := h.ask(ctx, method, path, body)
			cancel()
			if err == nil && (a.status < 300 || a.status == http.StatusConflict) {
				return time.Since(began)
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("%s %s is not done within a minute", method, path)
	return 0
}

func (w *world) create(t *testing.T, name string, replicas uint64) time.Duration {
	t.Helper()
	return w.request(t, http.MethodPost, "/services/create", (&load{w: w}).spec(name, name, replicas))
}

// mustSettle waits until the swarm is what its users want.
func (w *world) mustSettle(t *testing.T) {
	t.Helper()
	w.settle()
	if len(w.violations) > 0 {
		t.Fatal(w.violations)
	}
}

func (w *world) mustLead(t *testing.T) *host {
	t.Helper()
	for range 200 {
		if h := w.leader(); h != nil {
			return h
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatal("nobody leads")
	return nil
}

// containers are the tasks that run, with their containers.
func (w *world) containers() map[string]string {
	out := map[string]string{}
	for _, h := range w.hosts {
		for task, c := range h.running() {
			out[task] = c.ID
		}
	}
	return out
}

// moby/moby#34384: a leader that is demoted leaves the swarm without one. Ours hands over first, and its tasks notice nothing.
func TestTheLeaderIsDemoted(t *testing.T) {
	scenario(t, 3, 1, func(t *testing.T, w *world) {
		w.create(t, "web", 4)
		w.mustSettle(t)
		before := w.containers()
		for range 2 {
			leader := w.mustLead(t)
			if !w.setNode(leader, func(s *swarm.NodeSpec) { s.Role = swarm.NodeRoleWorker }) {
				t.Fatal("the leader cannot be demoted")
			}
			if d := w.create(t, "after-"+leader.name, 0); d > 6*time.Second {
				t.Errorf("%v until a change was taken", d)
			}
			w.mustSettle(t)
			if w.mustLead(t) == leader {
				t.Error("a worker leads")
			}
			if !w.setNode(leader, func(s *swarm.NodeSpec) { s.Role = swarm.NodeRoleManager }) {
				t.Fatal("it cannot be promoted again")
			}
			w.mustSettle(t)
		}
		if after := w.containers(); !maps.Equal(before, after) {
			t.Errorf("tasks ran %v and now %v", before, after)
		}
	})
}

// moby/moby#30847: the swarm survives the first leader's death and not the second one's, although the first is back.
func TestTheLeaderDiesAgainAndAgain(t *testing.T) {
	scenario(t, 3, 1, func(t *testing.T, w *world) {
		w.create(t, "web", 2)
		for i := range 4 {
			leader := w.mustLead(t)
			leader.crash(i%2 == 1)
			if d := w.create(t, fmt.Sprint("after", i), 0); d > 8*time.Second {
				t.Errorf("death %d: %v until a change was taken", i, d)
			}
			leader.start()
			w.request(t, http.MethodGet, "/services/web", nil)
			time.Sleep(3 * time.Second)
		}
		w.mustSettle(t)
	})
}

// moby/moby#25431: after all managers were rebooted there is no leader, or the state is gone.
func TestAllManagersAreRebooted(t *testing.T) {
	scenario(t, 3, 1, func(t *testing.T, w *world) {
		for i := range 3 {
			w.create(t, fmt.Sprint("web", i), 2)
		}
		w.mustSettle(t)
		for _, power := range []bool{true, false} {
			w.downFor(2*time.Second, power, w.hosts[:3]...)
			if d := w.create(t, fmt.Sprint("after", power), 1); d > 10*time.Second {
				t.Errorf("%v until a change was taken", d)
			}
			w.mustSettle(t)
			for i := range 3 {
				w.request(t, http.MethodGet, fmt.Sprint("/services/web", i), nil)
			}
		}
	})
}

// moby/swarmkit#1741: after a partition two tasks run in one slot for good.
func TestASlotIsThereOnceAfterAPartition(t *testing.T) {
	scenario(t, 3, 2, func(t *testing.T, w *world) {
		w.create(t, "web", 5)
		w.mustSettle(t)
		for _, cutOff := range [][]*host{w.hosts[3:4], {w.mustLead(t)}, w.hosts[3:5]} {
			var ps []path
			for _, a := range cutOff {
				for _, b := range w.hosts {
					if b != a {
						ps = append(ps, path{a.ip, b.ip}, path{b.ip, a.ip})
					}
				}
			}
			before := 0
			for _, h := range cutOff {
				before += len(h.running())
			}
			w.cutFor(20*time.Second, ps)
			if n := len(w.containers()); n != 5+before {
				t.Errorf("%d tasks were cut off, and %d containers run", before, n)
			}
			w.mustSettle(t)
		}
	})
}

// moby/moby#34280: a node that is dead is shown as ready, also when the leader died with it.
func TestADeadNodeIsShownDown(t *testing.T) {
	scenario(t, 3, 2, func(t *testing.T, w *world) {
		w.mustSettle(t)
		for _, with := range []bool{false, true} {
			dead, limit := w.hosts[3], 8*time.Second
			down := []*host{dead}
			if with {
				down, limit = append(down, w.mustLead(t)), 14*time.Second // an election, and a period in which nobody counts as absent
			}
			for _, h := range down {
				h.crash(true)
			}
			began := time.Now()
			for _, m := range w.hosts[:3] {
				for m.alive() != nil {
					ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
					a, err := m.ask(ctx, http.MethodGet, "/nodes/"+dead.id(), nil)
					cancel()
					var n swarm.Node
					if err == nil && a.status == http.StatusOK && !a.stale && json.Unmarshal(a.body, &n) == nil && n.Status.State == swarm.NodeStateDown {
						break
					}
					if time.Since(began) > limit {
						t.Fatalf("%s shows a node that died %v ago as %q", m.name, time.Since(began), n.Status.State)
					}
					time.Sleep(100 * time.Millisecond)
				}
			}
			t.Logf("down after %v", time.Since(began))
			for _, h := range down {
				h.start()
			}
			w.mustSettle(t)
		}
	})
}

// moby/moby#33795: a new leader gives out addresses that tasks have. Every run looks for that after every entry and on
// every host; here with leaders that change while services grow and shrink.
func TestAddressesAreGivenOnceByEveryLeader(t *testing.T) {
	scenario(t, 3, 1, func(t *testing.T, w *world) {
		for i := range 5 {
			w.create(t, fmt.Sprint("web", i), 3)
			leader := w.mustLead(t)
			w.create(t, fmt.Sprint("more", i), 2)
			leader.crash(i%2 == 0)
			w.create(t, fmt.Sprint("new", i), 2)
			w.request(t, http.MethodDelete, fmt.Sprint("/services/web", i), nil)
			leader.start()
		}
		w.mustSettle(t)
		has := map[string]bool{}
		for _, h := range w.hosts {
			for _, c := range h.running() {
				if a, ok := h.kernel.Ingress(c.ID); ok {
					if has[a.String()] {
						t.Errorf("%v is there twice", a)
					}
					has[a.String()] = true
				}
			}
		}
		if len(has) != 20 {
			t.Errorf("%d addresses, 20 tasks", len(has))
		}
	})
}

// A manager whose daemon dies on its way to a vote comes back with a manager's certificate and no place among the
// managers; it must ask for one again. Found by seed 5.
func TestACrashOnTheWayToAVote(t *testing.T) {
	every := int64(5)
	if testing.Short() {
		every = 15
	}
	for write := int64(1); write <= 46; write += every {
		scenario(t, 1, 1, func(t *testing.T, w *world) {
			h := w.hosts[1]
			w.create(t, "web", 2)
			w.mustSettle(t)
			before := w.containers()
			h.crashAt.Store(write)
			w.setNode(h, func(s *swarm.NodeSpec) { s.Role = swarm.NodeRoleManager })
			time.Sleep(3 * time.Second)
			h.crashAt.Store(0)
			h.start()
			w.mustSettle(t)
			if after := w.containers(); !maps.Equal(before, after) {
				t.Errorf("write %d: tasks ran %v and now %v", write, before, after)
			}
		})
	}
}

// A majority that is lost for good: reads say that they may be old, changes are refused, and --force-new-cluster on the
// manager that is left keeps every record and every task. The others come back as workers and can be managers again.
func TestAMajorityIsLostForGood(t *testing.T) {
	scenario(t, 3, 2, func(t *testing.T, w *world) {
		for i := range 4 {
			w.create(t, fmt.Sprint("web", i), 2)
		}
		w.mustSettle(t)
		left, lost := w.hosts[0], w.hosts[1:3]
		before := map[string]string{}
		for _, h := range []*host{left, w.hosts[3], w.hosts[4]} {
			for task, c := range h.running() {
				before[task] = c.ID
			}
		}
		for _, h := range lost {
			h.retire = true
			h.crash(true)
		}
		time.Sleep(3 * time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		if a, err := left.ask(ctx, http.MethodGet, "/services/web0", nil); err != nil || a.status != http.StatusOK || !a.stale {
			t.Errorf("a read without a quorum: %v, stale %v, %v", a.status, a.stale, err)
		}
		if a, err := left.ask(ctx, http.MethodPost, "/services/create", (&load{w: w}).spec("lost", "lost", 0)); err != nil || a.status != http.StatusServiceUnavailable {
			t.Errorf("a change without a quorum: %v %v", a.status, err)
		}
		w.mu.Lock()
		w.forcing = left
		w.mu.Unlock()
		if err := w.init(left, true); err != nil {
			t.Fatal(err)
		}
		w.create(t, "after", 1)
		for _, h := range lost { // one at a time: two of three would go on with the old swarm
			h.start()
			for range 60 {
				time.Sleep(time.Second)
				var info struct{ Swarm swarm.Info }
				if h.get(ctx, "/info", &info) == nil && !info.Swarm.ControlAvailable {
					break
				}
			}
		}
		w.mustSettle(t)
		for _, h := range lost {
			w.setNode(h, func(s *swarm.NodeSpec) { s.Role = swarm.NodeRoleManager })
			w.mustSettle(t)
		}
		for i := range 4 {
			w.request(t, http.MethodGet, fmt.Sprint("/services/web", i), nil)
		}
		after := w.containers()
		for task, c := range before {
			if after[task] != c {
				t.Errorf("task %s ran in container %s and now in %q", task, c, after[task])
			}
		}
	})
}

// A manager that is cut off is demoted, and promoted again before it hears of that. It was taken out of the consensus and
// does not know it: it must get its vote again. Found by seed 1505.
func TestADemotionThatIsTakenBackUnheard(t *testing.T) {
	scenario(t, 3, 1, func(t *testing.T, w *world) {
		w.create(t, "web", 2)
		w.mustSettle(t)
		var h *host
		for _, m := range w.hosts[:3] {
			if m != w.mustLead(t) {
				h = m
			}
		}
		var ps []path
		for _, o := range w.hosts {
			if o != h {
				ps = append(ps, path{o.ip, h.ip}, path{h.ip, o.ip})
			}
		}
		healed := make(chan struct{})
		go func() {
			defer close(healed)
			w.cutFor(8*time.Second, ps)
		}()
		if !w.setNode(h, func(s *swarm.NodeSpec) { s.Role = swarm.NodeRoleWorker }) {
			t.Fatal("it cannot be demoted")
		}
		time.Sleep(2 * time.Second)
		if !w.setNode(h, func(s *swarm.NodeSpec) { s.Role = swarm.NodeRoleManager }) {
			t.Fatal("it cannot be promoted again")
		}
		<-healed
		w.mustSettle(t)
	})
}
