package store_test

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/store"
)

func newStore(t *testing.T) *store.Store {
	t.Helper()
	s := store.New()
	store.NewLocal(s)
	return s
}

func fullTask(id string) *cluster.Task {
	delay := 5 * time.Second
	t := &cluster.Task{}
	t.ID, t.ServiceID, t.Slot, t.NodeID = id, "svc", 3, "n1"
	t.Spec.ContainerSpec = &swarm.ContainerSpec{Image: "hello:1", Env: []string{"A=1"}, Labels: map[string]string{"a": "b"}}
	t.Spec.RestartPolicy = &swarm.RestartPolicy{Delay: &delay}
	t.Status = swarm.TaskStatus{State: swarm.TaskStateRunning, Timestamp: time.Unix(1, 123456789).UTC()}
	t.NetworksAttachments = []swarm.NetworkAttachment{{Network: swarm.Network{ID: "net"}, Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.5/24")}}}
	t.StartAt = time.Unix(2, 5).UTC()
	return t
}

func TestRecordsSurviveTheLogAndASnapshot(t *testing.T) {
	s := newStore(t)
	replicas := uint64(0)
	svc := &cluster.Service{}
	svc.ID, svc.Spec.Name = "svc", "web"
	svc.Spec.Mode.Replicated = &swarm.ReplicatedService{Replicas: &replicas}
	glob := &cluster.Service{}
	glob.ID, glob.Spec.Name = "glob", "glob"
	glob.Spec.Mode.Global = &swarm.GlobalService{}
	_, err := s.Update(t.Context(), func(tx *store.Tx) error {
		tx.Write(store.Create(fullTask("t1")))
		tx.Write(store.Create(svc))
		tx.Write(store.Create(glob))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	if err := s.Snapshot().Persist(&buf); err != nil {
		t.Fatal(err)
	}
	other := store.New()
	if err := other.Restore(&buf); err != nil {
		t.Fatal(err)
	}
	if other.Index() != s.Index() {
		t.Errorf("index %d, want %d", other.Index(), s.Index())
	}
	for _, st := range []*store.Store{s, other} {
		got, ok := store.Get[*cluster.Task](st.Snapshot(), "t1")
		if !ok {
			t.Fatal("the task is gone")
		}
		ignore := cmpopts.IgnoreFields(swarm.Meta{}, "Version", "CreatedAt", "UpdatedAt")
		addr := cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })
		ip := cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
		if d := cmp.Diff(fullTask("t1"), got, ignore, addr, ip, cmpopts.IgnoreFields(cluster.Task{}, "StateVersion")); d != "" {
			t.Error(d)
		}
		w, ok := st.Snapshot().ServiceByName("web")
		if !ok || w.Spec.Mode.Replicated == nil || w.Spec.Mode.Replicated.Replicas == nil || *w.Spec.Mode.Replicated.Replicas != 0 {
			t.Errorf("zero replicas did not survive: %+v", w)
		}
		if g, _ := st.Snapshot().ServiceByName("glob"); g.Spec.Mode.Global == nil {
			t.Error("global mode did not survive")
		}
	}
}

func TestStatusesDoNotDisturbPlans(t *testing.T) {
	s := newStore(t)
	ctx := t.Context()
	if _, err := s.Update(ctx, func(tx *store.Tx) error { tx.Write(store.Create(fullTask("t1"))); return nil }); err != nil {
		t.Fatal(err)
	}
	old, _ := store.Get[*cluster.Task](s.Snapshot(), "t1")
	plan := old.Clone().(*cluster.Task)
	plan.DesiredState = swarm.TaskStateShutdown
	status := old.Clone().(*cluster.Task)
	status.Status.State = swarm.TaskStateFailed
	status.DesiredState = swarm.TaskStateRemove // not its part: must be ignored
	for i, c := range []store.Change{store.PutState(status), store.PutSpec(plan)} {
		_, errs, err := s.Propose(ctx, []store.Group{{Changes: []store.Change{c}}})
		if err != nil || errs[0] != nil {
			t.Fatalf("change %d: %v %v", i, err, errs)
		}
	}
	got, _ := store.Get[*cluster.Task](s.Snapshot(), "t1")
	if got.Status.State != swarm.TaskStateFailed || got.DesiredState != swarm.TaskStateShutdown {
		t.Errorf("state %s, desired %s", got.Status.State, got.DesiredState)
	}
	_, errs, err := s.Propose(ctx, []store.Group{{Changes: []store.Change{store.PutState(status)}}})
	var conflict *store.ConflictError
	if err != nil || !errors.As(errs[0], &conflict) {
		t.Errorf("a stale status was taken: %v %v", err, errs)
	}
}

func TestGroupsApplyWholeOrNotAtAll(t *testing.T) {
	s := newStore(t)
	claim := func(id string) store.Change { return store.Create(&cluster.Claim{ID: id}) }
	_, errs, err := s.Propose(t.Context(), []store.Group{
		{Changes: []store.Change{claim("a"), claim("b")}},
		{Changes: []store.Change{claim("c"), claim("a")}},
		{Changes: []store.Change{claim("d")}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if errs[0] != nil || errs[1] == nil || errs[2] != nil {
		t.Errorf("%v", errs)
	}
	var ids []string
	for c := range store.List[*cluster.Claim](s.Snapshot()) {
		ids = append(ids, c.ID)
	}
	if d := cmp.Diff([]string{"a", "b", "d"}, ids); d != "" {
		t.Error(d)
	}
}

func TestWatcherMissesNothing(t *testing.T) {
	s := newStore(t)
	w, snap := s.Watch()
	defer w.Close()
	if snap.Index() != 0 {
		t.Fatal(snap.Index())
	}
	for range 3 {
		id := cluster.NewID()
		if _, err := s.Update(t.Context(), func(tx *store.Tx) error { tx.Write(store.Create(&cluster.Claim{ID: id})); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	events, index, err := w.Next(t.Context())
	if err != nil || len(events) != 3 || index != s.Index() {
		t.Errorf("%v %d %v", events, index, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := w.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Next after cancel: %v", err)
	}
}

func TestRestoreRefusesDamage(t *testing.T) {
	s := newStore(t)
	if _, err := s.Update(t.Context(), func(tx *store.Tx) error { tx.Write(store.Create(fullTask("t1"))); return nil }); err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	if err := s.Snapshot().Persist(&buf); err != nil {
		t.Fatal(err)
	}
	for n := range buf.Len() {
		if err := s.Restore(bytes.NewReader(buf.Bytes()[:n])); err == nil {
			t.Fatalf("a snapshot cut at %d of %d bytes was taken", n, buf.Len())
		}
	}
	if _, ok := store.Get[*cluster.Task](s.Snapshot(), "t1"); !ok {
		t.Error("a refused snapshot changed the store")
	}
}

func FuzzApply(f *testing.F) {
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		s := store.New()
		s.Apply(1, data) // must not panic
	})
}
