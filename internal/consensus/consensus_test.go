package consensus

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"shoal.dev/shoal/internal/store"
)

func TestASingleManagerLeadsAtOnceAndKeepsItsRecords(t *testing.T) {
	dir := t.TempDir()
	slow := func(c *Config) { c.Tuning = Tuning{} } // the defaults: an election by time-out would take 1.5 s and more
	m := start(t, "m0", "127.0.0.1:0", dir, slow)
	began := time.Now()
	if err := m.Bootstrap(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it leads", m.IsLeader)
	mustWrite(t, m, "t1")
	if d := time.Since(began); d > time.Second {
		t.Errorf("the first write took %s", d)
	}
	if got := <-m.LeadershipCh(); !got {
		t.Error("the first notice is a loss")
	}
	if err := m.Bootstrap(); err == nil || !strings.Contains(err.Error(), "has the log of a swarm already") {
		t.Errorf("second Bootstrap: %v", err)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if _, ok := <-m.LeadershipCh(); ok {
		if _, ok := <-m.LeadershipCh(); ok {
			t.Error("Close left the channel open")
		}
	}
	if _, err := write(t.Context(), m, "t2"); err == nil {
		t.Error("a closed manager wrote")
	}

	began = time.Now()
	m = m.restart(t)
	eventually(t, "it has t1 again", func() bool { return has(m, "t1") })
	if d := time.Since(began); d > time.Second {
		t.Errorf("the return took %s", d)
	}
	eventually(t, "it leads again", m.IsLeader)
	mustWrite(t, m, "t3")
}

// Raft answers nothing that it had not begun when it ended.
func TestAClosedManagerKeepsNobodyWaiting(t *testing.T) {
	m := start(t, "m0", "127.0.0.1:0", t.TempDir(), nil)
	if err := m.Bootstrap(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it leads", m.IsLeader)
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	for i := range 16 { // some got into its queue before
		if _, err := write(t.Context(), m, fmt.Sprint("t", i)); err == nil {
			t.Error("a closed manager wrote")
		}
		if _, err := m.ReadIndex(t.Context()); err == nil {
			t.Error("a closed manager read")
		}
	}
	if d := time.Since(began); d > operationTimeout/2 {
		t.Errorf("they waited for %s", d)
	}
}

func TestALeadersDeathIsHealedAndItReturnsWithItsState(t *testing.T) {
	ms := group(t, 3, nil)
	for i := range 20 {
		mustWrite(t, ms[0], fmt.Sprint("a", i))
	}
	if err := ms[0].Close(); err != nil {
		t.Fatal(err)
	}
	l := leaderOf(t, ms[1:])
	mustWrite(t, l, "b")
	for i := range 20 {
		if !has(l, fmt.Sprint("a", i)) {
			t.Fatalf("acknowledged write a%d is lost", i)
		}
	}
	ms[0] = ms[0].restart(t)
	eventually(t, "the returned one has all", func() bool { return has(ms[0], "b") && has(ms[0], "a19") })
	if id, _, ok := ms[0].Leader(); !ok || id != l.id {
		t.Errorf("the returned one sees leader %q, not %q", id, l.id)
	}
	if _, err := write(t.Context(), ms[0], "c"); !errors.Is(err, store.ErrNotLeader) {
		t.Errorf("a write on a follower: %v", err)
	}
	if _, err := ms[0].ReadIndex(t.Context()); !errors.Is(err, store.ErrNotLeader) {
		t.Errorf("ReadIndex on a follower: %v", err)
	}
}

func TestReadsThroughAFollowerSeeEveryAcknowledgedWrite(t *testing.T) {
	ms := group(t, 3, nil)
	for i := range 50 {
		id := fmt.Sprint("t", i)
		mustWrite(t, ms[0], id)
		index, err := ms[0].ReadIndex(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		f := ms[1+i%2]
		if err := f.store.WaitIndex(t.Context(), index); err != nil {
			t.Fatal(err)
		}
		if !has(f, id) {
			t.Fatalf("the follower has entry %d and not %s", index, id)
		}
	}
	// Concurrent readers share rounds and all get an answer.
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			if _, err := ms[0].ReadIndex(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestALeaderWithoutAMajorityReadsAndWritesNothing(t *testing.T) {
	ms := group(t, 3, nil)
	mustWrite(t, ms[0], "a")
	ms[1].Close()
	ms[2].Close()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if _, err := write(ctx, ms[0], "b"); err == nil {
		t.Fatal("a write without a majority was acknowledged")
	} else if errors.Is(err, store.ErrNotLeader) {
		t.Errorf("the write reached a log and the error says that it did not: %v", err)
	}
	if _, err := ms[0].ReadIndex(ctx); !errors.Is(err, store.ErrNotLeader) {
		t.Errorf("ReadIndex without a majority: %v", err)
	}
	eventually(t, "it notices", func() bool { return !ms[0].IsLeader() })
}

func TestProposeHonoursItsDeadline(t *testing.T) {
	ms := group(t, 2, func(c *Config) {
		c.Tuning.Heartbeat, c.Tuning.Lease, c.Tuning.Election = 5*time.Second, 5*time.Second, 5*time.Second
	})
	ms[1].Close()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err := write(ctx, ms[0], "a")
	if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, store.ErrNotLeader) {
		t.Errorf("got %v", err)
	}
	if d := time.Since(began); d > 2*time.Second {
		t.Errorf("it took %s", d)
	}
}

func TestAManagerFarBehindGetsASnapshot(t *testing.T) {
	ms := group(t, 2, func(c *Config) { c.SnapshotInterval = 30; c.Tuning.TrailingLogs = 10 })
	for i := range 150 {
		mustWrite(t, ms[0], fmt.Sprint("t", i))
	}
	eventually(t, "the log is cut", func() bool { f, _ := ms[0].logs.FirstIndex(); return f > 50 })
	late := start(t, "late", "127.0.0.1:0", t.TempDir(), ms[0].opts)
	if err := ms[0].AddVoter(t.Context(), "late", late.addr); err != nil {
		t.Fatal(err)
	}
	i := mustWrite(t, ms[0], "last")
	if err := late.store.WaitIndex(t.Context(), i); err != nil {
		t.Fatal(err)
	}
	for i := range 150 {
		if !has(late, fmt.Sprint("t", i)) {
			t.Fatalf("t%d is missing", i)
		}
	}
	// Back with a gap in its own log: away during more than the others keep.
	if err := late.Close(); err != nil {
		t.Fatal(err)
	}
	first, _ := ms[0].logs.FirstIndex()
	for i := range 150 {
		mustWrite(t, ms[0], fmt.Sprint("u", i))
	}
	eventually(t, "the log is cut again", func() bool { f, _ := ms[0].logs.FirstIndex(); return f > first+80 })
	late = late.restart(t)
	eventually(t, "it has all", func() bool { return has(late, "u149") && has(late, "t0") })
	if err := late.Close(); err != nil {
		t.Fatal(err)
	}
	late = late.restart(t) // log and snapshot fit together on the disk, too
	eventually(t, "it still has all", func() bool { return has(late, "u149") && has(late, "t0") })
}

func TestMembership(t *testing.T) {
	ms := group(t, 3, nil)
	want := []Server{{"m0", ms[0].addr, true}, {"m1", ms[1].addr, true}, {"m2", ms[2].addr, true}}
	eventually(t, "the followers know the members", func() bool {
		s, err := ms[2].Servers()
		return err == nil && cmp.Equal(s, want)
	})
	if err := ms[0].AddVoter(t.Context(), "m1", ms[1].addr); err != nil {
		t.Errorf("adding a member again: %v", err)
	}
	if err := ms[1].AddVoter(t.Context(), "x", "127.0.0.1:1"); !errors.Is(err, store.ErrNotLeader) {
		t.Errorf("adding on a follower: %v", err)
	}
	if err := ms[0].AddVoter(t.Context(), "x", ms[1].addr); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "belongs to manager m1") {
		t.Errorf("adding with a used address: %v", err)
	}

	// One that does not answer is not left in the group, and the group goes on meanwhile.
	ctx, cancel := context.WithTimeout(t.Context(), 700*time.Millisecond)
	defer cancel()
	err := ms[0].AddVoter(ctx, "ghost", "127.0.0.1:1")
	if err == nil || !strings.Contains(err.Error(), "127.0.0.1:1") || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("adding a ghost: %v", err)
	}
	if s, _ := ms[0].Servers(); !cmp.Equal(s, want) {
		t.Errorf("members after the ghost: %v", s)
	}
	mustWrite(t, ms[0], "a")

	if err := ms[0].Transfer(t.Context()); err != nil {
		t.Fatal(err)
	}
	l := leaderOf(t, ms)
	if l == ms[0] {
		t.Fatal("leadership was not handed over")
	}
	if err := l.Remove(t.Context(), "m0"); err != nil {
		t.Fatal(err)
	}
	if err := l.Remove(t.Context(), "m0"); err != nil {
		t.Errorf("removing again: %v", err)
	}
	rest := ms[1:]
	other := rest[0]
	if other == l {
		other = rest[1]
	}
	other.Close()
	eventually(t, "the loss is noticed", func() bool { return !l.Reachable(other.id) })
	if l.IsLeader() {
		t.Log("still leading")
	}
}

func TestRemovingIsRefusedWhereTheRestWouldHaveNoMajority(t *testing.T) {
	ms := group(t, 3, func(c *Config) { c.Tuning.Lease = 200 * time.Millisecond })
	if err := ms[2].Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the loss is noticed", func() bool { return !ms[0].Reachable("m2") })
	err := ms[0].Remove(t.Context(), "m1")
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "loss of quorum (1 of the 2 other managers") && !strings.Contains(err.Error(), "loss of quorum") {
		t.Errorf("removing the live one: %v", err)
	}
	if err := ms[0].Remove(t.Context(), "m2"); err != nil {
		t.Errorf("removing the dead one: %v", err)
	}
	if err := ms[0].Remove(t.Context(), "m1"); err != nil {
		t.Errorf("removing the last but one: %v", err)
	}
	if err := ms[0].Remove(t.Context(), "m0"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("removing the last: %v", err)
	}
	mustWrite(t, ms[0], "a")
}

func TestLargeEntriesReachAFollowerInParts(t *testing.T) {
	ms := group(t, 2, nil)
	late := start(t, "late", "127.0.0.1:0", t.TempDir(), nil)
	// On a busy machine the lead may change while so much is written.
	byLeader := func(what string, do func(*member) error) {
		t.Helper()
		eventually(t, what, func() bool {
			for _, m := range ms {
				if !m.IsLeader() {
					continue
				}
				err := do(m)
				if err != nil {
					t.Log(err)
				}
				return err == nil
			}
			return false
		})
	}
	for i := range 12 {
		byLeader("a large entry is written", func(m *member) error {
			if has(m, fmt.Sprint("big", i)) { // by a try that was not confirmed
				return nil
			}
			k := task(fmt.Sprint("big", i))
			k.Spec.ForceUpdate = uint64(i)
			k.ServiceName = strings.Repeat("x", 1<<20)
			_, err := m.store.Update(t.Context(), func(tx *store.Tx) error { tx.Write(store.Create(k)); return nil })
			return err
		})
	}
	byLeader("a third manager is added", func(m *member) error { return m.AddVoter(t.Context(), "late", late.addr) })
	eventually(t, "it has all", func() bool { return has(late, "big11") && has(late, "big0") })
}

func TestNothingIsReadableOnTheDisk(t *testing.T) {
	m := start(t, "m0", "127.0.0.1:0", t.TempDir(), func(c *Config) { c.SnapshotInterval = 20; c.Tuning.TrailingLogs = 5 })
	if err := m.Bootstrap(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it leads", m.IsLeader)
	for i := range 100 {
		mustWrite(t, m, fmt.Sprint("t", i))
	}
	eventually(t, "there is a snapshot", func() bool { return m.Stats().SnapshotIndex > 20 })
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	files := 0
	err := filepath.WalkDir(m.dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		files++
		b, err := os.ReadFile(p)
		if strings.Contains(string(b), canary) {
			t.Errorf("%s has a record in plain text", p)
		}
		return err
	})
	if err != nil || files < 3 {
		t.Fatalf("%d files, %v", files, err)
	}
	m = m.restart(t)
	eventually(t, "all is back", func() bool { return has(m, "t0") && has(m, "t99") })
}
