package dispatch_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/dispatch"
	"shoal.dev/shoal/internal/dispatch/protocol"
	"shoal.dev/shoal/internal/store"
)

func TestStatusNeverGoesBack(t *testing.T) {
	const assigned, preparing, running, complete, failed = swarm.TaskStateAssigned, swarm.TaskStatePreparing,
		swarm.TaskStateRunning, swarm.TaskStateComplete, swarm.TaskStateFailed
	for _, tc := range []struct {
		name  string
		had   protocol.TaskStatus
		sent  protocol.TaskStatus
		taken bool
	}{
		{"a later state", status("a", assigned, 1), status("a", preparing, 2), true},
		{"a later state of an earlier time", status("a", assigned, 2), status("a", running, 1), true},
		{"an earlier state", status("a", running, 1), status("a", preparing, 2), false},
		{"the same again", status("a", running, 1), status("a", running, 1), false},
		{"the same state with news", status("a", preparing, 1), status("a", preparing, 2), true},
		{"the same state, older", status("a", preparing, 2), status("a", preparing, 1), false},
		{"an end", status("a", running, 1), status("a", complete, 2), true},
		{"another end", status("a", complete, 1), status("a", failed, 2), false},
		{"an unknown state", status("a", running, 1), status("a", "dancing", 2), false},
		{"of no task", status("a", running, 1), status("gone", running, 2), false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, "m1", "n1")
				rec := task("a", "n1", 0)
				rec.Status = tc.had.Status
				w.create(rec)
				before := w.store.Index()
				err := report(w.dial(w.leader(), "n1"), "n1", tc.sent)
				if err != nil && tc.sent.Status.State != "dancing" {
					t.Fatal(err)
				}
				want := tc.had.Status.Message
				if tc.taken {
					want = tc.sent.Status.Message
				}
				if got := w.task("a").Status.Message; got != want {
					t.Errorf("the task is %q, want %q", got, want)
				}
				if wrote := w.store.Index() != before; wrote != tc.taken {
					t.Errorf("written: %v, want %v", wrote, tc.taken)
				}
			})
		})
	}
}

func TestStatusWritesOnlyTheState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "m1", "n1")
		w.create(task("a", "n1", 7))
		v := w.task("a").Version
		if err := report(w.dial(w.leader(), "n1"), "n1", status("a", swarm.TaskStateRunning, 1)); err != nil {
			t.Fatal(err)
		}
		got := w.task("a")
		if got.Version != v || got.Spec.ContainerSpec == nil || len(got.NetworksAttachments) != 1 || got.DesiredState != swarm.TaskStateRunning {
			t.Errorf("a status changed the specification: %+v", got)
		}
	})
}

func TestWhoMaySayWhat(t *testing.T) {
	own := status("a", swarm.TaskStateRunning, 1)
	for _, tc := range []struct {
		name, peer, node string
		forwarded        bool
		st               protocol.TaskStatus
		refusal          string // "" if it is taken
	}{
		{"a worker of itself", "n1", "n1", false, own, ""},
		{"a worker of another node", "n2", "n1", false, own, "node n2 may not report for node n1"},
		{"a worker of another node, as if passed on", "n2", "n1", true, own, "node n2 is not a manager of the swarm"},
		{"a worker of another node's task", "n2", "n2", false, own, "task a is not assigned to node n2"},
		{"a manager that passes on", "m2", "n1", true, own, ""},
		{"a manager that does not", "m2", "n1", false, own, "node m2 may not report for node n1"},
		{"a stranger", "x", "x", false, own, "node x is not part of the swarm"},
		{"nonsense", "n1", "n1", false, status("a", "dancing", 1), `task a has the unknown state "dancing"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, "m1", "m2", "n1", "n2")
				w.create(task("a", "n1", 0))
				err := protocol.Post(t.Context(), w.dial(w.leader(), tc.peer), protocol.PathStatus, protocol.StatusRequest{
					Nodes: []protocol.NodeReport{{NodeID: tc.node, Statuses: []protocol.TaskStatus{tc.st}}}, Forwarded: tc.forwarded,
				})
				took := w.task("a").Status.State == swarm.TaskStateRunning
				if tc.refusal == "" && (err != nil || !took) {
					t.Errorf("not taken: %v", err)
				}
				if tc.refusal != "" && (!protocol.Refused(err) || err.Error() != tc.refusal || took) {
					t.Errorf("error %q, taken %v; want %q", err, took, tc.refusal)
				}
			})
		})
	}
}

// A node's certificate alone does not make it a manager: its record must say so too.
func TestADemotedManagerMayNotSpeakForOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "m1", "m2", "n1")
		w.create(task("a", "n1", 0))
		w.update(func(tx *store.Tx) {
			n, _ := store.Get[*cluster.Node](tx.Snapshot, "m2")
			n = n.Clone().(*cluster.Node)
			n.Spec.Role = swarm.NodeRoleWorker
			tx.Write(store.PutSpec(n))
		})
		l := w.dial(w.leader(), "m2")
		err := protocol.Post(t.Context(), l, protocol.PathStatus, protocol.StatusRequest{Forwarded: true,
			Nodes: []protocol.NodeReport{{NodeID: "n1", Statuses: []protocol.TaskStatus{status("a", swarm.TaskStateRunning, 1)}}}})
		if !protocol.Refused(err) {
			t.Errorf("statuses: %v", err)
		}
		if err := protocol.Post(t.Context(), l, protocol.PathHeard, protocol.HeardRequest{}); !protocol.Refused(err) {
			t.Errorf("whom it hears: %v", err)
		}
	})
}

func TestFollowerPassesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "m1", "m2", "n1")
		w.create(task("a", "n1", 0))
		follower := w.server(w.dial(w.leader(), "m2"))
		l := w.dial(follower, "n1")
		if err := report(l, "n1", status("a", swarm.TaskStateRunning, 1)); err != nil {
			t.Fatal(err)
		}
		if s := w.task("a").Status.State; s != swarm.TaskStateRunning {
			t.Errorf("the task is %s", s)
		}
		d := swarm.NodeDescription{Hostname: "host1"}
		if _, err := open(t, l, protocol.SessionRequest{Description: d, Addr: "198.18.0.9"}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		n, _ := store.Get[*cluster.Node](w.store.Snapshot(), "n1")
		if n.Description.Hostname != "host1" || n.Status.Addr != "198.18.0.9" {
			t.Errorf("the node is %+v %+v", n.Description, n.Status)
		}
	})
}

// What a manager passes on is looked at again: one bad status is dropped, the others count.
func TestTheLeaderLooksAtWhatIsPassedOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "m1", "m2", "n1", "n2")
		w.create(task("a", "n1", 0), task("b", "n2", 0))
		err := protocol.Post(t.Context(), w.dial(w.leader(), "m2"), protocol.PathStatus, protocol.StatusRequest{Forwarded: true,
			Nodes: []protocol.NodeReport{{NodeID: "n2", Statuses: []protocol.TaskStatus{
				status("a", swarm.TaskStateRunning, 1), status("b", swarm.TaskStateRunning, 1),
			}}}})
		if err != nil {
			t.Fatal(err)
		}
		if a, b := w.task("a").Status.State, w.task("b").Status.State; a != swarm.TaskStateAssigned || b != swarm.TaskStateRunning {
			t.Errorf("a is %s, b is %s", a, b)
		}
	})
}

// Two managers that take each other for the leader must not pass a status round and round.
func TestNothingIsPassedOnTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "m1", "m2", "n1")
		w.create(task("a", "n1", 0))
		a := w.server(http.RoundTripper(refuser{}))
		b := w.server(w.dial(a, "m2"))
		err := report(w.dial(b, "n1"), "n1", status("a", swarm.TaskStateRunning, 1))
		if err == nil || !strings.Contains(err.Error(), store.ErrNotLeader.Error()) || protocol.Refused(err) {
			t.Errorf("error %v", err)
		}
	})
}

type refuser struct{}

func (refuser) RoundTrip(*http.Request) (*http.Response, error) {
	return nil, errors.New("the other manager was asked")
}

func TestFactsAreWrittenOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "m1", "n1")
		l := w.dial(w.leader(), "n1")
		d := swarm.NodeDescription{Hostname: "host1", Engine: swarm.EngineDescription{Labels: map[string]string{}}}
		var index uint64
		for i := range 2 {
			if _, err := open(t, l, protocol.SessionRequest{Description: d, Addr: "198.18.0.9"}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if i == 0 {
				index = w.store.Index()
			}
		}
		if w.store.Index() != index {
			t.Error("facts that did not change were written again")
		}
	})
}

// slowLog is a log whose entries take a while.
type slowLog struct {
	next    store.Proposer
	mu      sync.Mutex
	entries int
}

func (p *slowLog) Propose(ctx context.Context, entry []byte) (*store.Result, error) {
	time.Sleep(10 * time.Millisecond)
	p.mu.Lock()
	p.entries++
	p.mu.Unlock()
	return p.next.Propose(ctx, entry)
}

func TestStatusesOfManyNodesShareEntries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 200
		nodes := []string{"m1"}
		for i := range n {
			nodes = append(nodes, fmt.Sprint("n", i))
		}
		w := newWorld(t, nodes...)
		for i := range n {
			w.create(task(fmt.Sprint("t", i), fmt.Sprint("n", i), 0))
		}
		log := &slowLog{next: store.NewLocal(w.store)}
		w.store.SetProposer(log)
		srv := w.leader()
		links := make([]http.RoundTripper, n)
		for i := range n {
			links[i] = w.dial(srv, fmt.Sprint("n", i))
		}
		began := time.Now()
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() {
				if err := report(links[i], fmt.Sprint("n", i), status(fmt.Sprint("t", i), swarm.TaskStateRunning, 1)); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if log.entries > 3 || time.Since(began) > 50*time.Millisecond {
			t.Errorf("%d entries and %s for %d nodes", log.entries, time.Since(began), n)
		}
		for i := range n {
			if s := w.task(fmt.Sprint("t", i)).Status.State; s != swarm.TaskStateRunning {
				t.Errorf("task %d is %s", i, s)
			}
		}
	})
}

// racer writes the same record just before a status does.
type racer struct {
	next store.Proposer
	once sync.Once
	race func()
}

func (p *racer) Propose(ctx context.Context, entry []byte) (*store.Result, error) {
	p.once.Do(p.race)
	return p.next.Propose(ctx, entry)
}

func TestAConflictIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "m1", "n1")
		w.create(task("a", "n1", 0), task("b", "n1", 0))
		local := store.NewLocal(w.store)
		r := &racer{next: local, race: func() {
			w.store.SetProposer(local)
			w.change("a", func(t *cluster.Task) { t.Status = status("a", swarm.TaskStatePreparing, 1).Status })
		}}
		srv := w.leader()
		w.store.SetProposer(r)
		if err := report(w.dial(srv, "n1"), "n1", status("a", swarm.TaskStateRunning, 2), status("b", swarm.TaskStateRunning, 2)); err != nil {
			t.Fatal(err)
		}
		for _, id := range []string{"a", "b"} {
			if s := w.task(id).Status.State; s != swarm.TaskStateRunning {
				t.Errorf("task %s is %s", id, s)
			}
		}
	})
}

func TestWithoutALeaderStatusesAreToBeSentAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "m1", "n1")
		w.create(task("a", "n1", 0))
		s := dispatch.New(dispatch.Config{Store: w.store, NodeID: "m1", Leader: func() (http.RoundTripper, bool, error) {
			return nil, false, errors.New("no quorum")
		}})
		w.run(s)
		l := w.dial(s, "n1")
		err := report(l, "n1", status("a", swarm.TaskStateRunning, 1))
		var se *protocol.StatusError
		if !errors.As(err, &se) || se.Code != http.StatusServiceUnavailable {
			t.Errorf("error %v", err)
		}
		beat := func() error {
			return protocol.Post(t.Context(), l, protocol.PathHeartbeat, protocol.HeartbeatRequest{})
		}
		if err := beat(); err != nil {
			t.Errorf("a heartbeat at first: %v", err)
		}
		time.Sleep(5 * time.Second)
		if err := beat(); !errors.As(err, &se) || se.Code != http.StatusServiceUnavailable {
			t.Errorf("a heartbeat of a manager that is cut off: %v", err)
		}
	})
}
