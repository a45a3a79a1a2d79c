package reconcile_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/reconcile"
	"shoal.dev/shoal/internal/reconcile/address"
	"shoal.dev/shoal/internal/reconcile/liveness"
	"shoal.dev/shoal/internal/reconcile/placement"
	"shoal.dev/shoal/internal/reconcile/plantest"
	"shoal.dev/shoal/internal/reconcile/reap"
	"shoal.dev/shoal/internal/reconcile/service"
	"shoal.dev/shoal/internal/store"
)

// fake is a planner made of a function. Its keys are the IDs of claims that change.
type fake struct {
	mu    sync.Mutex
	plans []reconcile.Key
	plan  func(snap *store.Snapshot, k reconcile.Key, n int) reconcile.Plan
}

func (f *fake) Name() string { return "fake" }
func (f *fake) Keys(_ *store.Snapshot, e store.Event) []reconcile.Key {
	return []reconcile.Key{reconcile.Key(e.ID)}
}
func (f *fake) AllKeys(snap *store.Snapshot) (keys []reconcile.Key) {
	for c := range store.List[*cluster.Claim](snap) {
		keys = append(keys, reconcile.Key(c.ID))
	}
	return keys
}
func (f *fake) Plan(snap *store.Snapshot, k reconcile.Key, _ reconcile.Env) reconcile.Plan {
	f.mu.Lock()
	f.plans = append(f.plans, k)
	n := len(f.plans)
	f.mu.Unlock()
	if f.plan == nil {
		return reconcile.Plan{}
	}
	return f.plan(snap, k, n)
}

func (f *fake) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.plans)
}

func runner(s *plantest.Swarm, ps ...reconcile.Planner) *reconcile.Runner {
	return reconcile.NewRunner(reconcile.Config{
		Store: s.Store, Observed: s, Planners: ps, NewID: cluster.NewID, Log: slog.New(slog.DiscardHandler),
	})
}

func claim(s *plantest.Swarm, id string) { s.Helper(); s.Put(&cluster.Claim{ID: id}) }

func create(id string) store.Group {
	return store.Group{Changes: []store.Change{store.Create(&cluster.Claim{ID: id})}}
}

func step(t *testing.T, r *reconcile.Runner, now time.Time) time.Time {
	t.Helper()
	next, err := r.Step(t.Context(), now)
	if err != nil {
		t.Fatal(err)
	}
	return next
}

func TestStepPlansWhatIsDirty(t *testing.T) {
	s := plantest.New(t)
	claim(s, "old")
	f := &fake{}
	r := runner(s, f)
	defer r.Close()
	step(t, r, s.At)
	claim(s, "a")
	claim(s, "b")
	plantest.Change(s, "a", func(c *cluster.Claim) { c.Owner = "x" })
	if next := step(t, r, s.At); !next.IsZero() {
		t.Errorf("steps again at %v", next)
	}
	if got := fmt.Sprint(f.plans); got != "[old a b]" {
		t.Errorf("planned %s", got)
	}
	r.Poke("fake", "p", "p")
	r.Poke("other", "q")
	step(t, r, s.At)
	if got := fmt.Sprint(f.plans); got != "[old a b p]" {
		t.Errorf("planned %s", got)
	}
}

func TestTimers(t *testing.T) {
	s := plantest.New(t)
	claim(s, "a")
	at := s.At.Add(time.Minute)
	f := &fake{plan: func(_ *store.Snapshot, _ reconcile.Key, n int) reconcile.Plan {
		switch n {
		case 1:
			return reconcile.Plan{Again: at, Reasons: []string{"not yet"}}
		case 2:
			return reconcile.Plan{Again: at.Add(time.Hour), Reasons: []string{"still not"}}
		}
		return reconcile.Plan{}
	}}
	r := runner(s, f)
	defer r.Close()
	if next := step(t, r, s.At); !next.Equal(at) {
		t.Errorf("next %v, want %v", next, at)
	}
	if got := fmt.Sprint(r.Reasons()); got != "[{fake a not yet}]" {
		t.Error(got)
	}
	step(t, r, at.Add(-1))
	if f.count() != 1 {
		t.Error("planned before its time")
	}
	if next := step(t, r, at); !next.Equal(at.Add(time.Hour)) || f.count() != 2 {
		t.Errorf("next %v after %d plans", next, f.count())
	}
	claim(s, "b") // other keys leave the timer alone
	if next := step(t, r, at); !next.Equal(at.Add(time.Hour)) {
		t.Errorf("next %v", next)
	}
	plantest.Change(s, "a", func(c *cluster.Claim) { c.Owner = "x" })
	if next := step(t, r, at); !next.IsZero() || len(r.Reasons()) != 0 {
		t.Errorf("a plan without a time clears the timer: next %v, %v", next, r.Reasons())
	}
}

// rival applies entries at once or fails.
type rival struct {
	s   *store.Store
	err error
}

func (p *rival) Propose(_ context.Context, entry []byte) (*store.Result, error) {
	if p.err != nil {
		return nil, p.err
	}
	return p.s.Apply(p.s.Index()+1, entry), nil
}

func TestConflictsAreTriedAgainAndRest(t *testing.T) {
	s := plantest.New(t)
	claim(s, "taken")
	claim(s, "k")
	f := &fake{plan: func(_ *store.Snapshot, k reconcile.Key, n int) reconcile.Plan {
		if k != "k" {
			return reconcile.Plan{}
		}
		return reconcile.Plan{Groups: []store.Group{create("taken")}}
	}}
	r := runner(s, f)
	defer r.Close()
	now := s.At
	var waits []string
	for range 6 {
		next := step(t, r, now)
		waits = append(waits, next.Sub(now).String())
		now = next
	}
	if got := strings.Join(waits, " "); got != "0s 10ms 20ms 40ms 80ms 160ms" {
		t.Errorf("waits %s", got)
	}
	before := f.count()
	step(t, r, now.Add(-time.Millisecond)) // still resting
	if f.count() != before {
		t.Error("planned while it rests")
	}
}

func TestProgressDoesNotRest(t *testing.T) {
	s := plantest.New(t)
	claim(s, "taken")
	f := &fake{plan: func(_ *store.Snapshot, k reconcile.Key, n int) reconcile.Plan {
		if k != "taken" {
			return reconcile.Plan{}
		}
		return reconcile.Plan{Groups: []store.Group{create("taken"), create(fmt.Sprint("new", n))}}
	}}
	r := runner(s, f)
	defer r.Close()
	for range 5 {
		if next := step(t, r, s.At); !next.Equal(s.At) {
			t.Fatalf("next in %v, want now", next.Sub(s.At))
		}
	}
}

func TestErrors(t *testing.T) {
	s := plantest.New(t)
	claim(s, "k")
	p := &rival{s: s.Store, err: errors.New("the line is dead")}
	s.Store.SetProposer(p)
	f := &fake{plan: func(snap *store.Snapshot, _ reconcile.Key, _ int) reconcile.Plan {
		if _, ok := store.Get[*cluster.Claim](snap, "done"); ok {
			return reconcile.Plan{}
		}
		return reconcile.Plan{Groups: []store.Group{create("done")}}
	}}
	r := runner(s, f)
	defer r.Close()
	if next := step(t, r, s.At); !next.Equal(s.At) {
		t.Error("an unknown outcome is not tried again")
	}
	p.err = nil
	step(t, r, s.At)
	if _, ok := store.Get[*cluster.Claim](s.Store.Snapshot(), "done"); !ok {
		t.Error("not done when the line was back")
	}
	p.err = store.ErrNotLeader
	plantest.Get[*cluster.Claim](s, "done")
	f.plan = func(*store.Snapshot, reconcile.Key, int) reconcile.Plan {
		return reconcile.Plan{Groups: []store.Group{create("more")}}
	}
	r.Poke("fake", "k")
	if _, err := r.Step(t.Context(), s.At); !errors.Is(err, store.ErrNotLeader) {
		t.Errorf("%v", err)
	}
}

func TestEntriesStayUnderTheLimit(t *testing.T) {
	s := plantest.New(t)
	claim(s, "k")
	f := &fake{plan: func(snap *store.Snapshot, k reconcile.Key, n int) reconcile.Plan {
		if n > 1 {
			return reconcile.Plan{}
		}
		var p reconcile.Plan
		for i := range 300 {
			g := create(fmt.Sprint("big", i))
			g.Changes[0].Value.(*cluster.Claim).OwnerName = strings.Repeat("x", 100_000)
			p.Groups = append(p.Groups, g)
		}
		return p
	}}
	r := runner(s, f)
	defer r.Close()
	step(t, r, s.At)
	for i := range 300 {
		plantest.Get[*cluster.Claim](s, fmt.Sprint("big", i))
	}
}

func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := plantest.New(t)
		due := time.Now().Add(30 * time.Second)
		f := &fake{}
		f.plan = func(_ *store.Snapshot, k reconcile.Key, _ int) reconcile.Plan {
			if k == "late" && time.Now().Before(due) {
				return reconcile.Plan{Again: due}
			}
			return reconcile.Plan{}
		}
		r := runner(s, f)
		ctx, cancel := context.WithCancelCause(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		synctest.Wait()
		claim(s, "a")
		claim(s, "late")
		synctest.Wait()
		if n := f.count(); n != 2 {
			t.Errorf("%d plans, want 2", n)
		}
		r.Poke("fake", "x")
		synctest.Wait()
		if n := f.count(); n != 3 {
			t.Errorf("%d plans after a poke, want 3", n)
		}
		time.Sleep(31 * time.Second)
		synctest.Wait()
		if n := f.count(); n != 4 {
			t.Errorf("%d plans after the timer, want 4", n)
		}
		lost := errors.New("leadership lost")
		cancel(lost)
		if err := <-done; !errors.Is(err, lost) {
			t.Errorf("Run returned %v", err)
		}
	})
}

func TestRunEndsWithLeadership(t *testing.T) {
	s := plantest.New(t)
	s.Store.SetProposer(&rival{s: s.Store, err: store.ErrNotLeader})
	if err := runner(s, &fake{}).Run(t.Context()); !errors.Is(err, store.ErrNotLeader) {
		t.Errorf("%v", err)
	}
}

func planners() []reconcile.Planner {
	return []reconcile.Planner{liveness.Planner{}, service.Planner{}, address.Planner{}, placement.Planner{}, reap.Planner{}}
}

// assigned waits until a service has so many assigned tasks.
func assigned(t testing.TB, s *store.Store, id string, n int) {
	t.Helper()
	w, snap := s.Watch()
	defer w.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		have := 0
		for k := range snap.TasksByService(id) {
			if k.Status.State == swarm.TaskStateAssigned {
				have++
			}
		}
		if have == n {
			return
		}
		if _, _, err := w.Next(ctx); err != nil {
			t.Fatalf("%d of %d tasks assigned: %v", have, n, err)
		}
		snap = s.Snapshot()
	}
}

// BenchmarkCreate is from a service's record to its tasks' being assigned, without Raft.
func BenchmarkCreate(b *testing.B) {
	for _, n := range []uint64{1, 10, 100, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s := plantest.New(b)
			network := &cluster.Network{}
			network.ID = "ing"
			network.Spec.Name, network.Spec.Ingress = "ingress", true
			network.IPAMOptions = &swarm.IPAMOptions{Configs: []swarm.IPAMConfig{{Subnet: plantest.Subnet("10.0.0.0/8")}}}
			s.Put(network)
			for i := range 10 {
				id := fmt.Sprint("n", i)
				s.Node(id)
				s.Heard[id] = time.Now().Add(time.Hour)
			}
			r := runner(s, planners()...)
			ctx, cancel := context.WithCancel(b.Context())
			done := make(chan error, 1)
			go func() { done <- r.Run(ctx) }()
			k := 0
			for b.Loop() {
				k++
				id := fmt.Sprint("web", k)
				s.Service(id, n, func(v *cluster.Service) {
					v.Spec.EndpointSpec = &swarm.EndpointSpec{Ports: []swarm.PortConfig{{Protocol: "tcp", TargetPort: 80}}}
				})
				assigned(b, s.Store, id, int(n))
			}
			cancel()
			<-done
		})
	}
}
