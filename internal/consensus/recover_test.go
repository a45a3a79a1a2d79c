package consensus

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/store"
)

// raiseEpoch is an amendment that a test can see.
func raiseEpoch(ctx context.Context, s *store.Store) error {
	_, err := s.Update(ctx, func(tx *store.Tx) error {
		old := tx.Swarm()
		if old == nil {
			sw := &cluster.Swarm{Epoch: 1}
			tx.Write(store.Create(sw))
			return nil
		}
		sw := old.Clone().(*cluster.Swarm)
		sw.Epoch++
		tx.Write(store.PutState(sw))
		return nil
	})
	return err
}

func (m *member) config(addr string) Config {
	return Config{Dir: m.dir, NodeID: m.id, Addr: addr, Key: testKey(), Log: slog.New(slog.DiscardHandler)}
}

// alone checks that the member leads a group of itself and takes writes.
func (m *member) alone(t *testing.T, epoch uint64, newTask string) {
	t.Helper()
	eventually(t, m.id+" leads", m.IsLeader)
	servers, err := m.Servers()
	if d := cmp.Diff([]Server{{m.id, m.addr, true}}, servers); err != nil || d != "" {
		t.Errorf("its group: %v %s", err, d)
	}
	mustWrite(t, m, newTask)
	if sw := m.store.Snapshot().Swarm(); sw == nil || sw.Epoch != epoch {
		t.Errorf("the epoch is not %d: %+v", epoch, sw)
	}
}

func TestASurvivorIsMadeASwarmOfItsOwn(t *testing.T) {
	for name, opts := range map[string]func(*Config){
		"from the log":    nil,
		"from a snapshot": func(c *Config) { c.SnapshotInterval, c.Tuning.TrailingLogs = 4, 1 },
	} {
		t.Run(name, func(t *testing.T) {
			ms := group(t, 3, opts)
			survivor := ms[1]
			var last uint64
			for _, id := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
				last = mustWrite(t, ms[0], id)
			}
			if err := survivor.store.WaitIndex(t.Context(), last); err != nil {
				t.Fatal(err)
			}
			if opts != nil {
				eventually(t, "a snapshot", func() bool { return survivor.Stats().SnapshotIndex > 0 })
			}
			ms[0].Close()
			ms[2].Close()
			eventually(t, "nobody leads", func() bool { _, _, ok := survivor.Leader(); return !ok })
			if err := survivor.Close(); err != nil {
				t.Fatal(err)
			}
			if err := Recover(t.Context(), survivor.config(survivor.addr), raiseEpoch); err != nil {
				t.Fatal(err)
			}
			alone := survivor.restart(t)
			alone.alone(t, 1, "i")
			for _, id := range []string{"a", "h", "i"} {
				if !has(alone, id) {
					t.Errorf("%s is lost", id)
				}
			}
			// Another manager joins it.
			next := start(t, "m9", "127.0.0.1:0", t.TempDir(), opts)
			if err := alone.AddVoter(t.Context(), next.id, next.addr); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the new one has the records", func() bool { return has(next, "a") && has(next, "i") })

			// And once more, at another address, after a restart in between.
			next.Close()
			alone.Close()
			again := start(t, alone.id, "127.0.0.1:0", alone.dir, opts)
			again.Close()
			if err := Recover(t.Context(), again.config(again.addr), raiseEpoch); err != nil {
				t.Fatal(err)
			}
			third := again.restart(t)
			third.alone(t, 2, "j")
			if !has(third, "a") || !has(third, "i") {
				t.Error("records are lost")
			}
		})
	}
}

func TestAnEntryThatNoMajorityConfirmedIsKept(t *testing.T) {
	ms := group(t, 3, nil)
	mustWrite(t, ms[0], "confirmed")
	ms[1].Close()
	ms[2].Close()
	ctx, cancel := context.WithCancel(t.Context())
	before := ms[0].Stats().LastIndex
	done := make(chan struct{})
	go func() { defer close(done); _, _ = write(ctx, ms[0], "unconfirmed") }()
	eventually(t, "it is in the log", func() bool { return ms[0].Stats().LastIndex > before })
	cancel()
	<-done
	ms[0].Close()
	if err := Recover(t.Context(), ms[0].config(ms[0].addr), raiseEpoch); err != nil {
		t.Fatal(err)
	}
	m := ms[0].restart(t)
	m.alone(t, 1, "after")
	if !has(m, "confirmed") || !has(m, "unconfirmed") {
		t.Error("records are lost")
	}
}

// TestARecoveryThatIsTornOrRefused cuts a recovery off at its worst places: the group must be the old one or the new one.
func TestARecoveryThatIsTornOrRefused(t *testing.T) {
	broken := errors.New("no amendment")
	for name, c := range map[string]struct {
		tear  func(t *testing.T, m *member) // after the folder was closed, before Recover
		amend Amend
		want  string // "" succeeds
	}{
		"the amendment fails": {nil, func(context.Context, *store.Store) error { return broken }, broken.Error()},
		"an amendment of two entries": {nil, func(ctx context.Context, s *store.Store) error {
			return errors.Join(raiseEpoch(ctx, s), raiseEpoch(ctx, s))
		}, "it may write one"},
		"a half-written snapshot is left": {func(t *testing.T, m *member) {
			dir := filepath.Join(m.dir, "snapshots", "9-99-1.tmp")
			if err := errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(filepath.Join(dir, "state.bin"), []byte("half"), 0o600)); err != nil {
				t.Fatal(err)
			}
		}, raiseEpoch, ""},
		"a changed log": {func(t *testing.T, m *member) {
			path := filepath.Join(m.dir, "log.db")
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			for i := 2 * os.Getpagesize(); i < len(data); i++ {
				data[i] ^= 0xff
			}
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
		}, raiseEpoch, "damaged"},
		"another key": {nil, nil, "another key"},
	} {
		t.Run(name, func(t *testing.T) {
			m := group(t, 1, nil)[0]
			mustWrite(t, m, "a")
			m.Close()
			if c.tear != nil {
				c.tear(t, m)
			}
			conf := m.config(m.addr)
			if name == "another key" {
				conf.Key = make([]byte, keySize)
			}
			err := Recover(t.Context(), conf, c.amend)
			if c.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				m.restart(t).alone(t, 1, "b")
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("%v, want %q", err, c.want)
			}
			if name == "a changed log" {
				return
			}
			old := m.restart(t)
			eventually(t, "it has its record", func() bool { return has(old, "a") })
			if old.store.Snapshot().Swarm() != nil {
				t.Error("a recovery that failed changed the records")
			}
		})
	}
	t.Run("between the snapshot and the log", func(t *testing.T) {
		m := group(t, 2, nil)[0]
		mustWrite(t, m, "a")
		m.Close()
		kept, err := os.ReadFile(filepath.Join(m.dir, "log.db"))
		if err != nil {
			t.Fatal(err)
		}
		if err := Recover(t.Context(), m.config(m.addr), raiseEpoch); err != nil {
			t.Fatal(err)
		}
		// The crash came before the old log was deleted.
		if err := os.WriteFile(filepath.Join(m.dir, "log.db"), kept, 0o600); err != nil {
			t.Fatal(err)
		}
		alone := m.restart(t)
		alone.alone(t, 1, "b")
		if !has(alone, "a") {
			t.Error("a record is lost")
		}
	})
}

func TestSeed(t *testing.T) {
	s := store.New()
	store.NewLocal(s)
	if _, err := s.Update(t.Context(), func(tx *store.Tx) error { tx.Write(store.Create(task("a"))); return nil }); err != nil {
		t.Fatal(err)
	}
	l := listen(t, "127.0.0.1:0")
	l.Close()
	m := &member{id: "m0", addr: l.Addr().String(), dir: t.TempDir()}
	if err := Seed(m.config(m.addr), s); err != nil {
		t.Fatal(err)
	}
	if err := Seed(m.config(m.addr), s); err == nil || !strings.Contains(err.Error(), "has the log of a swarm already") {
		t.Errorf("a second seed: %v", err)
	}
	m = m.restart(t)
	eventually(t, "it leads", m.IsLeader)
	if i := mustWrite(t, m, "b"); i <= s.Index() {
		t.Errorf("the index went back to %d", i)
	}
	m.Close()
	if m = m.restart(t); !has(m, "a") {
		t.Error("the record is lost")
	}
	eventually(t, "and what was written after", func() bool { return has(m, "b") })
}
