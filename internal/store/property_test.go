package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/swarm"
	"pgregory.net/rapid"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/store"
)

// model is what a store of tasks must be, written down simply.
type model map[string]modelTask

type modelTask struct {
	spec, state   uint64 // versions
	desired, have swarm.TaskState
	node          string
}

// apply does to the model what an entry at index does to the store, and says whether the group applied.
func (m model) apply(index uint64, changes []store.Change) bool {
	for _, c := range changes {
		old, there := m[c.ID]
		spec := old.spec
		if (c.Delete || c.Parts&store.PartSpec != 0) && spec != c.Expect {
			return false
		}
		if !c.Delete && c.Parts&store.PartState != 0 && (there || c.Parts == store.PartState) && (!there || old.state != c.ExpectState) {
			return false
		}
	}
	for _, c := range changes {
		if c.Delete {
			delete(m, c.ID)
			continue
		}
		t := c.Value.(*cluster.Task)
		n, there := m[c.ID]
		if !there || c.Parts&store.PartSpec != 0 {
			n.spec, n.desired, n.node = index, t.DesiredState, t.NodeID
		}
		if !there || c.Parts&store.PartState != 0 {
			n.state, n.have = index, t.Status.State
		}
		m[c.ID] = n
	}
	return true
}

func contents(s *store.Store) model {
	m := model{}
	for t := range store.List[*cluster.Task](s.Snapshot()) {
		m[t.ID] = modelTask{t.Version.Index, t.StateVersion, t.DesiredState, t.Status.State, t.NodeID}
	}
	return m
}

var (
	desired = []swarm.TaskState{swarm.TaskStateRunning, swarm.TaskStateShutdown, swarm.TaskStateRemove}
	states  = []swarm.TaskState{swarm.TaskStateNew, swarm.TaskStatePending, swarm.TaskStateRunning, swarm.TaskStateFailed}
)

// Any sequence of entries, stale ones among them, leaves the store as the model, on every replica, also on one that
// was restored half-way; the indexes and the watcher agree with the records.
func TestStoreIsItsModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		a, b, together := store.New(), store.New(), store.New()
		var kept []store.Entry // not applied to together yet
		var results []*store.Result
		w, _ := a.Watch()
		defer w.Close()
		watched := map[string]bool{}
		m := model{}
		old := []*cluster.Task{} // versions that were once read
		for index := uint64(1); index <= uint64(rapid.IntRange(1, 25).Draw(rt, "entries")); index++ {
			for k := range store.List[*cluster.Task](a.Snapshot()) {
				old = append(old, k)
			}
			var groups []store.Group
			for range rapid.IntRange(0, 3).Draw(rt, "groups") {
				var g store.Group
				for i := range rapid.IntRange(1, 2).Draw(rt, "changes") {
					k := &cluster.Task{}
					k.ID = fmt.Sprint("t", rapid.IntRange(0, 3).Draw(rt, "task"))
					if i > 0 && k.ID == g.Changes[0].ID {
						continue // a group changes a record once
					}
					if len(old) > 0 && rapid.Bool().Draw(rt, "existing") {
						if o := rapid.SampledFrom(old).Draw(rt, "read"); i == 0 || o.ID != g.Changes[0].ID {
							k = o.Clone().(*cluster.Task)
						}
					}
					k.DesiredState = rapid.SampledFrom(desired).Draw(rt, "desired")
					k.Status.State = rapid.SampledFrom(states).Draw(rt, "state")
					if k.Version.Index == 0 {
						cpu := rapid.Int64Range(0, 2).Draw(rt, "cpu")
						k.Spec.Resources = &swarm.ResourceRequirements{Reservations: &swarm.Resources{NanoCPUs: cpu, MemoryBytes: 3 * cpu}}
					}
					if rapid.Bool().Draw(rt, "attached") {
						k.NetworksAttachments = []swarm.NetworkAttachment{{}}
					}
					k.NodeID = rapid.SampledFrom([]string{"", "n1", "n2"}).Draw(rt, "node")
					switch what := rapid.IntRange(0, 3).Draw(rt, "what"); {
					case k.Version.Index == 0:
						g.Changes = append(g.Changes, store.Create(k))
					case what == 0:
						g.Changes = append(g.Changes, store.PutState(k))
					case what == 1:
						g.Changes = append(g.Changes, store.PutSpec(k))
					case what == 2:
						g.Changes = append(g.Changes, store.PutBoth(k))
					default:
						g.Changes = append(g.Changes, store.Delete(k))
					}
				}
				groups = append(groups, g)
			}
			entry := encode(rt, groups)
			before := a.Snapshot()
			was := contents(a)
			res := a.Apply(index, entry)
			b.Apply(index, entry)
			kept, results = append(kept, store.Entry{Index: index, Data: entry}), append(results, res)
			if rapid.Bool().Draw(rt, "apply together") {
				if d := cmp.Diff(results, together.ApplyAll(kept), cmp.Comparer(sameError)); d != "" {
					rt.Fatalf("entries up to %d, applied together: %s", index, d)
				}
				if d := cmp.Diff(contents(a), contents(together), cmp.AllowUnexported(modelTask{})); d != "" || together.Index() != index {
					rt.Fatalf("entries up to %d, applied together, at version %d: %s", index, together.Index(), d)
				}
				checkLoads(rt, together)
				kept, results = nil, nil
			}
			if res.Err != nil {
				rt.Fatal(res.Err)
			}
			for i, g := range groups {
				if applied := m.apply(index, g.Changes); applied != (res.Groups[i] == nil) {
					rt.Fatalf("group %d %v: %v", i, g.Changes, res.Groups[i])
				}
			}
			for id, k := range was { // a snapshot does not change
				if got, ok := store.Get[*cluster.Task](before, id); !ok || got.Status.State != k.have {
					rt.Fatalf("the snapshot before entry %d changed", index)
				}
			}
			if rapid.IntRange(0, 5).Draw(rt, "restore") == 0 {
				var buf bytes.Buffer
				if err := a.Snapshot().Persist(&buf); err != nil {
					rt.Fatal(err)
				}
				b = store.New()
				if err := b.Restore(&buf); err != nil {
					rt.Fatal(err)
				}
			}
			for _, s := range []*store.Store{a, b} {
				opt := cmp.AllowUnexported(modelTask{})
				if d := cmp.Diff(m, contents(s), opt); d != "" {
					rt.Fatalf("entry %d: %s", index, d)
				}
				checkIndexes(rt, s, m)
				checkLoads(rt, s)
			}
			events, _ := w.Take()
			for _, e := range events {
				if (e.Old != nil) != watched[e.ID] {
					rt.Fatalf("event %+v of a record that was there: %v", e, watched[e.ID])
				}
				watched[e.ID] = e.New != nil
			}
		}
		for id := range watched {
			if _, ok := m[id]; ok != watched[id] {
				rt.Fatalf("the watcher believes that %s is there: %v", id, watched[id])
			}
		}
	})
}

// encode makes an entry as Propose does, by way of a proposer that keeps it.
func encode(t *rapid.T, groups []store.Group) []byte {
	s := store.New()
	k := &keeper{}
	s.SetProposer(k)
	if _, _, err := s.Propose(t.Context(), groups); err != nil {
		t.Fatal(err)
	}
	return k.entry
}

func sameError(a, b error) bool { return fmt.Sprint(a) == fmt.Sprint(b) }

// checkLoads compares the loads that the store keeps with what its tasks add up to, in snapshots and in transactions.
func checkLoads(t *rapid.T, s *store.Store) {
	want, got := map[string]store.Load{}, map[string]store.Load{}
	for k := range store.List[*cluster.Task](s.Snapshot()) {
		if k.TakesRoom() {
			r := cluster.Reservations(&k.Spec)
			l := want[k.NodeID]
			want[k.NodeID] = store.Load{NodeID: k.NodeID, Tasks: l.Tasks + 1, NanoCPUs: l.NanoCPUs + r.NanoCPUs, MemoryBytes: l.MemoryBytes + r.MemoryBytes}
		}
	}
	for l := range s.Snapshot().Loads() {
		got[l.NodeID] = *l
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Fatal(d)
	}
	store.NewLocal(s)
	defer s.SetProposer(nil)
	gone := errors.New("not written")
	if _, err := s.Update(t.Context(), func(tx *store.Tx) error {
		for k := range store.List[*cluster.Task](s.Snapshot()) {
			tx.Write(store.Delete(k))
		}
		for l := range tx.Loads() {
			t.Fatalf("without tasks, %+v is left in the transaction", *l)
		}
		return gone
	}); err != gone {
		t.Fatal(err)
	}
}

func checkIndexes(t *rapid.T, s *store.Store, m model) {
	snap := s.Snapshot()
	want := map[string][]string{}
	for id, k := range m {
		if k.node != "" {
			want[k.node] = append(want[k.node], id)
		} else if k.have == swarm.TaskStateNew || k.have == swarm.TaskStatePending {
			want[string(k.have)] = append(want[string(k.have)], id)
		}
	}
	got := map[string][]string{}
	for _, n := range []string{"n1", "n2"} {
		for k := range snap.TasksByNode(n) {
			got[n] = append(got[n], k.ID)
		}
	}
	for k := range store.List[*cluster.Task](snap) {
		if len(k.NetworksAttachments) > 0 && !k.Ended() {
			want["attached"] = append(want["attached"], k.ID)
		}
	}
	for k := range snap.AttachedTasks() {
		got["attached"] = append(got["attached"], k.ID)
	}
	for _, st := range []swarm.TaskState{swarm.TaskStateNew, swarm.TaskStatePending, swarm.TaskStateRunning} {
		for k := range snap.WaitingTasks(st) {
			got[string(st)] = append(got[string(st)], k.ID)
		}
	}
	for _, x := range []map[string][]string{want, got} {
		for k := range x {
			slices.Sort(x[k])
		}
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Fatal(d)
	}
}
