package dispatch_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/dispatch/protocol"
	"shoal.dev/shoal/internal/network"
	"shoal.dev/shoal/internal/store"
)

func TestSessionSendsAllThenWhatChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "m1", "n1", "n2")
		w.create(task("a", "n1", 0), task("other", "n2", 0))
		unassigned := task("u", "", 0)
		unassigned.Status.State = swarm.TaskStatePending
		w.create(unassigned)
		ss := mustOpen(t, w.dial(w.leader(), "n1"))

		f := ss.next()
		if !f.Complete || f.Epoch != 1 || f.Version != w.store.Index() || f.HeartbeatPeriod != 2*time.Second {
			t.Errorf("first frame %+v", f)
		}
		if d := cmp.Diff([]string{"a"}, ids(f.Tasks)); d != "" {
			t.Error(d)
		}
		if d := cmp.Diff([]swarm.Peer{{NodeID: "m1", Addr: "198.18.0.1:2377"}}, f.Managers); d != "" {
			t.Error(d)
		}
		w.create(task("b", "n1", 0), task("other2", "n2", 0))
		if f := ss.next(); f.Complete || !slices.Equal(ids(f.Tasks), []string{"b"}) || f.Version != w.store.Index() {
			t.Errorf("after a creation: %+v", f)
		}
		w.change("u", func(t *cluster.Task) { t.NodeID, t.Status.State = "n1", swarm.TaskStateAssigned })
		if f := ss.next(); !slices.Equal(ids(f.Tasks), []string{"u"}) {
			t.Errorf("after an assignment: %+v", f)
		}
		// A task that knows its node before it is assigned, as those of a global service do.
		global := task("g", "n1", 0)
		global.Status.State = swarm.TaskStatePending
		w.create(global)
		time.Sleep(3 * time.Second) // its creation alone is nothing to send
		w.update(func(tx *store.Tx) {
			t, _ := store.Get[*cluster.Task](tx.Snapshot, "g")
			t = t.Clone().(*cluster.Task)
			t.Status.State = swarm.TaskStateAssigned
			tx.Write(store.PutState(t))
		})
		if f := ss.next(); !slices.Equal(ids(f.Tasks), []string{"g"}) {
			t.Errorf("after an assignment of the state only: %+v", f)
		}
		if err := report(w.dial(w.leader(), "n1"), "n1", status("a", swarm.TaskStateRunning, 1)); err != nil {
			t.Fatal(err)
		}
		w.change("a", func(t *cluster.Task) { t.DesiredState = swarm.TaskStateShutdown })
		// The status alone is not sent back: the next frame is that of the desired state.
		if f := ss.next(); !slices.Equal(ids(f.Tasks), []string{"a"}) || f.Tasks[0].DesiredState != swarm.TaskStateShutdown {
			t.Errorf("after a stop: %+v", f)
		}
		w.remove(w.task("a"))
		if f := ss.next(); !slices.Equal(f.Removed, []string{"a"}) {
			t.Errorf("after a removal: %+v", f)
		}
	})
}

func TestTheFirstChangeIsNotDelayed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "m1", "n1")
		ss := mustOpen(t, w.dial(w.leader(), "n1"))
		ss.next()
		time.Sleep(10 * time.Second)
		began := time.Now()
		w.create(task("a", "n1", 0))
		ss.next()
		if d := time.Since(began); d != 0 {
			t.Errorf("a change after a quiet time took %s", d)
		}
	})
}

func TestKeepAliveCarriesTheVersion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "m1", "n1", "n2")
		ss := mustOpen(t, w.dial(w.leader(), "n1"))
		ss.next()
		w.create(task("other", "n2", 0))
		w.store.Advance(w.store.Index() + 5) // entries that are not the store's
		last := time.Now()
		for range 10 {
			f := <-ss.frames
			if d := time.Since(last); d > 2*time.Second {
				t.Errorf("no frame for %s", d)
			}
			last = time.Now()
			if len(f.Tasks) > 0 {
				t.Errorf("another node's task: %v", ids(f.Tasks))
			}
			if f.Version == w.store.Index() {
				return
			}
		}
		t.Errorf("version %d never came", w.store.Index())
	})
}

// Every node's mesh, made of deltas, must be the one that derives from the records, however the agent lags.
func TestMeshFollowsTheRecords(t *testing.T) {
	for seed := range uint64(5) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rng := rand.New(rand.NewPCG(seed, 1))
				w := newWorld(t, "m1", "n1", "n2")
				svc := &cluster.Service{}
				svc.ID, svc.Spec.Name = "svc", "web"
				svc.Endpoint.Ports = []swarm.PortConfig{{Protocol: "tcp", TargetPort: 80, PublishedPort: 8080}}
				w.create(svc)
				srv := w.leader()
				l := w.dial(srv, "n1")
				ss := mustOpen(t, l)
				var have *network.Ingress
				frames := 0
				var version uint64
				drain := func() {
					synctest.Wait()
					for {
						select {
						case f := <-ss.frames:
							frames++
							if version = f.Version; f.Mesh == nil {
								continue
							}
							var err error
							if have, err = f.Mesh.Resolve(have); err != nil {
								t.Fatal(err)
							}
						default:
							return
						}
					}
				}
				for i := range 60 {
					id := fmt.Sprint("t", rng.IntN(6))
					old, ok := store.Get[*cluster.Task](w.store.Snapshot(), id)
					switch {
					case !ok:
						w.create(task(id, fmt.Sprint("n", 1+rng.IntN(2)), 1+rng.IntN(50)))
					case rng.IntN(3) == 0:
						w.remove(old)
					default:
						w.change(id, func(t *cluster.Task) { t.Status.State = swarm.TaskStateRunning })
					}
					switch rng.IntN(12) {
					case 0:
						l.Stall()
					case 1:
						l.Resume()
					}
					if rng.IntN(3) == 0 {
						time.Sleep(time.Duration(rng.IntN(20)) * time.Millisecond)
					}
					if i%10 == 9 {
						l.Resume()
						time.Sleep(3 * time.Second)
						drain()
						snap := w.store.Snapshot()
						net, _ := snap.IngressNetwork()
						want := network.Derive(network.Input{
							Nodes:    slices.Collect(store.List[*cluster.Node](snap)),
							Services: slices.Collect(store.List[*cluster.Service](snap)),
							Tasks:    slices.Collect(store.List[*cluster.Task](snap)),
							Network:  net, Port: 4789,
						})
						if version != snap.Index() {
							t.Errorf("step %d: version %d, the store has %d", i, version, snap.Index())
						}
						if d := network.Diff(have, want); d != nil || want == nil {
							t.Fatalf("step %d: the node is not where the records are: %s", i, d)
						}
					}
				}
				if frames < 5 {
					t.Errorf("only %d frames: nothing was tested", frames)
				}
			})
		})
	}
}

// An agent that was not reading gets one change for all that it missed.
func TestASlowAgentGetsTheSumOfChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "m1", "n1", "n2")
		l := w.dial(w.leader(), "n1")
		ss := mustOpen(t, l)
		have, err := ss.next().Mesh.Resolve(nil)
		if err != nil {
			t.Fatal(err)
		}
		l.Stall()
		for i := range 8 {
			w.create(task(fmt.Sprint("t", i), "n2", i+1))
			time.Sleep(100 * time.Millisecond)
		}
		l.Resume()
		frames := 0
		for len(have.Endpoints) < 8 {
			f := ss.next()
			frames++
			if have, err = f.Mesh.Resolve(have); err != nil {
				t.Fatal(err)
			}
			if f.Version == w.store.Index() && len(have.Endpoints) != 8 {
				t.Fatalf("at the newest version the node has %d of 8 endpoints", len(have.Endpoints))
			}
		}
		if frames > 4 {
			t.Errorf("%d frames: the session did not fall behind, nothing was tested", frames)
		}
	})
}

func TestManagerBehindCatchesUpOrRefuses(t *testing.T) {
	for _, tc := range []struct {
		name  string
		epoch uint64
		after time.Duration // when the manager has caught up; 0: never
		code  int
	}{
		{"caught up in time", 1, 3 * time.Second, 0},
		{"never", 1, 0, http.StatusServiceUnavailable},
		{"of an older epoch", 2, 0, http.StatusServiceUnavailable},
		{"of a newer epoch, whose versions begin anew", 0, 0, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, "m1", "n1")
				l := w.dial(w.leader(), "n1")
				want := w.store.Index() + 3
				if tc.after > 0 {
					time.AfterFunc(tc.after, func() { w.store.Advance(want) })
				}
				began := time.Now()
				ss, err := open(t, l, protocol.SessionRequest{Epoch: tc.epoch, Version: want})
				var se *protocol.StatusError
				if errors.As(err, &se); err != nil && (se == nil || se.Code != tc.code) || err == nil && tc.code != 0 {
					t.Fatalf("error %v, want code %d", err, tc.code)
				}
				if d := time.Since(began); d > 6*time.Second {
					t.Errorf("it took %s", d)
				}
				if err != nil {
					return
				}
				if f := ss.next(); tc.epoch == 1 && f.Version < want {
					t.Errorf("version %d was sent, the node has seen %d", f.Version, want)
				}
			})
		})
	}
}

func TestNewestSessionWins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "m1", "n1", "n2")
		srv := w.leader()
		first, other := mustOpen(t, w.dial(srv, "n1")), mustOpen(t, w.dial(srv, "n2"))
		second := mustOpen(t, w.dial(srv, "n1"))
		if !first.ended(time.Second) {
			t.Error("the older session goes on")
		}
		w.create(task("a", "n1", 0))
		second.next()
		if f := second.next(); !slices.Equal(ids(f.Tasks), []string{"a"}) {
			t.Errorf("the newer session got %+v", f)
		}
		if other.ended(time.Second) {
			t.Error("another node's session ended")
		}
	})
}

func TestWhoMayHaveASession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "m1", "n1")
		srv := w.leader()
		_, err := open(t, w.dial(srv, "stranger"), protocol.SessionRequest{})
		if !protocol.Refused(err) || !strings.Contains(err.Error(), "stranger is not part of the swarm") {
			t.Errorf("a stranger: %v", err)
		}
		// A node whose record comes a moment after its certificate is let in.
		time.AfterFunc(time.Second, func() {
			n := &cluster.Node{}
			n.ID, n.Spec.Role = "new", swarm.NodeRoleWorker
			w.create(n)
		})
		mustOpen(t, w.dial(srv, "new"))

		ss := mustOpen(t, w.dial(srv, "n1"))
		ss.next()
		n, _ := store.Get[*cluster.Node](w.store.Snapshot(), "n1")
		w.remove(n)
		if !ss.ended(time.Second) {
			t.Error("the session of a removed node goes on")
		}
	})
}

func TestARestoredStoreBeginsSessionsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "m1", "n1")
		ss := mustOpen(t, w.dial(w.leader(), "n1"))
		ss.next()
		var buf strings.Builder
		if err := w.store.Snapshot().Persist(&buf); err != nil {
			t.Fatal(err)
		}
		if err := w.store.Restore(strings.NewReader(buf.String())); err != nil {
			t.Fatal(err)
		}
		if !ss.ended(time.Second) {
			t.Error("the session goes on with a view of what is gone")
		}
	})
}

func TestASilentAgentIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "m1", "n1")
		ss := mustOpen(t, w.dial(w.leader(), "n1"))
		if ss.ended(19 * time.Second) {
			t.Error("given up too early")
		}
		if !ss.ended(3 * time.Second) {
			t.Error("never given up")
		}
	})
}
