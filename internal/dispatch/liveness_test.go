package dispatch_test

import (
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/dispatch"
	"shoal.dev/shoal/internal/dispatch/protocol"
	"shoal.dev/shoal/internal/reconcile"
	"shoal.dev/shoal/internal/store"
)

var _ reconcile.Observed = (*dispatch.Server)(nil)

func heartbeat(t testing.TB, rt http.RoundTripper, applied uint64) {
	t.Helper()
	if err := protocol.Post(t.Context(), rt, protocol.PathHeartbeat, protocol.HeartbeatRequest{Applied: applied}); err != nil {
		t.Error(err)
	}
}

func TestTheLeaderKnowsWhomAnyManagerHears(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "m1", "m2", "n1", "n2")
		leader := w.leader()
		follower := w.server(w.dial(leader, "m2"))
		near, far := w.dial(leader, "n1"), w.dial(follower, "n2")
		time.Sleep(10 * time.Second)
		if _, ok := leader.LastHeard("n2"); ok {
			t.Error("a node that said nothing was heard")
		}
		mustOpen(t, far)
		time.Sleep(10 * time.Millisecond) // what is reported at once is reported together
		synctest.Wait()
		if at, ok := leader.LastHeard("n2"); !ok || w.store.Now().Sub(at) > 10*time.Millisecond {
			t.Errorf("a session through a follower is not known at once: %v %v", at, ok)
		}
		heartbeat(t, near, 7)
		heartbeat(t, far, 8)
		synctest.Wait()
		if leader.Applied("n1") != 7 {
			t.Errorf("n1 holds %d", leader.Applied("n1"))
		}
		time.Sleep(1500 * time.Millisecond)
		synctest.Wait()
		if leader.Applied("n2") != 8 {
			t.Errorf("n2 holds %d", leader.Applied("n2"))
		}
		for _, n := range []string{"n1", "n2"} {
			if at, ok := leader.LastHeard(n); !ok || w.store.Now().Sub(at) != 1500*time.Millisecond {
				t.Errorf("%s was heard %v ago, %v; want 1.5 s", n, w.store.Now().Sub(at), ok)
			}
		}
		// What nobody hears grows old, whoever reports it.
		time.Sleep(20 * time.Second)
		if at, _ := leader.LastHeard("n2"); w.store.Now().Sub(at) != 21500*time.Millisecond {
			t.Errorf("n2 was heard %v ago", w.store.Now().Sub(at))
		}
	})
}

func TestAStatusIsASignOfLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "m1", "n1")
		s := w.leader()
		w.create(task("a", "n1", 0))
		if err := report(w.dial(s, "n1"), "n1", status("a", swarm.TaskStateRunning, 1)); err != nil {
			t.Fatal(err)
		}
		if _, ok := s.LastHeard("n1"); !ok {
			t.Error("it was not heard")
		}
	})
}

func TestANewLeaderTrustsNoAbsence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "m1", "n1")
		s := w.leader()
		l := w.dial(s, "n1")
		heartbeat(t, l, 3)
		time.Sleep(time.Second)
		s.BecomeLeader()
		if _, ok := s.LastHeard("n1"); ok {
			t.Error("what was heard before the term counts")
		}
		time.Sleep(time.Second)
		if d := w.store.Now().Sub(s.LeaderSince()); d != time.Second {
			t.Errorf("leader for %s", d)
		}
		heartbeat(t, l, 3)
		if _, ok := s.LastHeard("n1"); !ok {
			t.Error("what is heard in the term does not count")
		}
	})
}

// Swarm time may jump; who was heard a second ago was heard a second ago.
func TestAJumpOfTimeMakesNobodySilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "m1", "n1")
		s := w.leader()
		heartbeat(t, w.dial(s, "n1"), 0)
		time.Sleep(time.Second)
		// An entry of a manager whose clock is an hour ahead takes swarm time with it.
		before := w.store.Now()
		type entry struct {
			At     time.Time
			Groups []store.Group
		}
		data, err := store.Marshal(struct {
			Format int
			Entry  entry
		}{1, entry{At: before.Add(time.Hour)}})
		if err != nil {
			t.Fatal(err)
		}
		if r := w.store.Apply(w.store.Index()+1, data); r.Err != nil {
			t.Fatal(r.Err)
		}
		if d := w.store.Now().Sub(before); d < time.Hour {
			t.Fatalf("swarm time went on by %s only", d)
		}
		if at, ok := s.LastHeard("n1"); !ok || w.store.Now().Sub(at) != time.Second {
			t.Errorf("heard %v ago", w.store.Now().Sub(at))
		}
		if d := w.store.Now().Sub(s.LeaderSince()); d != time.Second {
			t.Errorf("leader for %s", d)
		}
	})
}

func TestNotifyOnNews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "m1", "n1")
		var mu sync.Mutex
		news := 0
		s := dispatch.New(dispatch.Config{Store: w.store, NodeID: "m1",
			Leader: func() (http.RoundTripper, bool, error) { return nil, true, nil },
			Notify: func(string) { mu.Lock(); news++; mu.Unlock() },
		})
		w.run(s)
		l := w.dial(s, "n1")
		expect := func(what string, want int) {
			t.Helper()
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if news != want {
				t.Errorf("%s: %d calls, want %d", what, news, want)
			}
			news = 0
		}
		ss := mustOpen(t, l)
		expect("a session begins", 1)
		for range 5 {
			time.Sleep(2 * time.Second)
			heartbeat(t, l, 0)
		}
		expect("heartbeats", 0)
		ss.end()
		expect("a session ends", 1)
		time.Sleep(7 * time.Second)
		heartbeat(t, l, 0)
		expect("heard again", 1)
	})
}
