package consensus

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"go.etcd.io/bbolt"

	"shoal.dev/shoal/internal/store"
)

func entries(from, to uint64) []*raft.Log {
	var out []*raft.Log
	for i := from; i <= to; i++ {
		out = append(out, &raft.Log{
			Index: i, Term: 1 + i/10, Type: raft.LogCommand, Data: fmt.Appendf(nil, "%s %d", canary, i),
			Extensions: bytes.Repeat([]byte{7}, int(i%3)), AppendedAt: time.Unix(int64(i), 5),
		})
	}
	return out
}

func openLog(t testing.TB, path string) *logStore {
	t.Helper()
	s, err := openLogStore(path, testKey())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// checkLog checks that the log has exactly these entries.
func checkLog(t testing.TB, s *logStore, from, to uint64) {
	t.Helper()
	first, _ := s.FirstIndex()
	last, _ := s.LastIndex()
	if first != from || last != to {
		t.Errorf("the log has %d to %d, want %d to %d", first, last, from, to)
	}
	for _, want := range entries(max(from, 1), to) {
		var got raft.Log
		if err := s.GetLog(want.Index, &got); err != nil {
			t.Errorf("entry %d: %v", want.Index, err)
			continue
		}
		if len(want.Extensions) == 0 {
			want.Extensions = nil
			got.Extensions = nil
		}
		if diff := cmp.Diff(*want, got); diff != "" {
			t.Errorf("entry %d: %s", want.Index, diff)
		}
	}
	var l raft.Log
	for _, i := range []uint64{from - 1, to + 1} {
		if err := s.GetLog(i, &l); !errors.Is(err, raft.ErrLogNotFound) {
			t.Errorf("entry %d: %v", i, err)
		}
	}
}

func TestLogStore(t *testing.T) {
	const n = 2600 // more than a batch of deletions, more than are kept in memory
	tests := []struct {
		name     string
		do       func(s *logStore) error
		from, to uint64
	}{
		{"nothing", func(*logStore) error { return nil }, 1, n},
		{"the oldest deleted", func(s *logStore) error { return s.DeleteRange(1, 2500) }, 2501, n},
		{"below the oldest, too", func(s *logStore) error { return s.DeleteRange(0, 10) }, 11, n},
		{"the newest deleted, and nothing in their place yet", func(s *logStore) error { return s.DeleteRange(100, n) }, 1, n},
		{"the newest deleted and written again", func(s *logStore) error {
			return errors.Join(s.DeleteRange(100, n), s.StoreLogs(entries(100, 120)))
		}, 1, 120},
		{"all deleted", func(s *logStore) error { return s.DeleteRange(1, n) }, 0, 0},
		{"none deleted", func(s *logStore) error { return s.DeleteRange(n+1, n+5) }, 1, n},
		{"a hole after a snapshot", func(s *logStore) error { return s.StoreLogs(entries(9000, 9010)) }, 9000, 9010},
		{"one more", func(s *logStore) error { return s.StoreLog(entries(n+1, n+1)[0]) }, 1, n + 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "log.db")
			s := openLog(t, path)
			if err := errors.Join(s.StoreLogs(entries(1, 1000)), s.StoreLogs(entries(1001, n))); err != nil {
				t.Fatal(err)
			}
			if err := tt.do(s); err != nil {
				t.Fatal(err)
			}
			checkLog(t, s, tt.from, tt.to)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = openLog(t, path)
			defer s.Close()
			checkLog(t, s, tt.from, tt.to)
		})
	}
	s := openLog(t, filepath.Join(t.TempDir(), "log.db"))
	defer s.Close()
	checkLog(t, s, 0, 0)
	if err := s.StoreLogs(entries(1, 10)); err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteRange(3, 5); err == nil {
		t.Error("a deletion from the middle was accepted")
	}
	if err := s.StoreLogs([]*raft.Log{{Index: 11}, {Index: 13}}); err == nil {
		t.Error("entries with a hole were accepted")
	}
	if err := errors.Join(s.SetUint64([]byte("a"), 7), s.Set([]byte("b"), []byte("x"))); err != nil {
		t.Fatal(err)
	}
	a, err1 := s.GetUint64([]byte("a"))
	none, err2 := s.GetUint64([]byte("none"))
	b, err3 := s.Get([]byte("b"))
	if err := errors.Join(err1, err2, err3); err != nil || a != 7 || none != 0 || string(b) != "x" {
		t.Errorf("%d %d %q %v", a, none, b, err)
	}
	if _, err := s.GetUint64([]byte("b")); err == nil || !strings.Contains(err.Error(), `"b"`) {
		t.Errorf("a number of one byte: %v", err)
	}
	if _, err := openLogStore(s.path, testKey()); err == nil || !strings.Contains(err.Error(), s.path+" is in use by another process") {
		t.Errorf("opened twice: %v", err)
	}
}

// madeLog makes a closed log and returns its path.
func madeLog(t testing.TB, n uint64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "log.db")
	s := openLog(t, path)
	for i := uint64(1); i <= n; i += 10 {
		if err := s.StoreLogs(entries(i, i+9)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestADamagedLogIsNamed(t *testing.T) {
	edit := func(fn func(b *bbolt.Bucket) error) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			db, err := bbolt.Open(path, 0o600, &bbolt.Options{NoFreelistSync: true})
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(db.Update(func(tx *bbolt.Tx) error { return fn(tx.Bucket(bucketLog)) }), db.Close()); err != nil {
				t.Fatal(err)
			}
		}
	}
	tests := []struct {
		name   string
		damage func(*testing.T, string)
		want   string
	}{
		{"a changed bit", edit(func(b *bbolt.Bucket) error {
			v := bytes.Clone(b.Get(indexKey(17)))
			v[len(v)/2] ^= 1
			return b.Put(indexKey(17), v)
		}), "entry 17 of the swarm's log"},
		{"two entries swapped", edit(func(b *bbolt.Bucket) error {
			x, y := bytes.Clone(b.Get(indexKey(5))), bytes.Clone(b.Get(indexKey(6)))
			return errors.Join(b.Put(indexKey(5), y), b.Put(indexKey(6), x))
		}), "entry 5 of the swarm's log"},
		{"a cut entry", edit(func(b *bbolt.Bucket) error {
			return b.Put(indexKey(8), bytes.Clone(b.Get(indexKey(8))[:20]))
		}), "entry 8 of the swarm's log"},
		{"a missing entry", edit(func(b *bbolt.Bucket) error { return b.Delete(indexKey(30)) }), "entry 30 is missing"},
		{"a foreign key", edit(func(b *bbolt.Bucket) error { return b.Put([]byte("x"), nil) }), `an entry under "x"`},
		{"a cut file", func(t *testing.T, path string) {
			if err := os.Truncate(path, 6*int64(os.Getpagesize())); err != nil {
				t.Fatal(err)
			}
		}, "log.db"},
		{"half a page", func(t *testing.T, path string) {
			if err := os.Truncate(path, int64(os.Getpagesize())/2); err != nil {
				t.Fatal(err)
			}
		}, "log.db"},
		{"not a log at all", func(t *testing.T, path string) {
			if err := os.WriteFile(path, bytes.Repeat([]byte("text"), 10_000), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "log.db"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := madeLog(t, 100)
			tt.damage(t, path)
			s, err := openLogStore(path, testKey())
			if err == nil {
				s.Close()
				t.Fatal("it was opened")
			}
			if !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("%q does not say %q and %q", err, tt.want, path)
			}
			if strings.Contains(err.Error(), canary) {
				t.Errorf("the error has a record in it: %v", err)
			}
		})
	}
	t.Run("another key", func(t *testing.T) {
		path := madeLog(t, 10)
		if _, err := openLogStore(path, make([]byte, keySize)); err == nil || !strings.Contains(err.Error(), "written with another key") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("an empty file of a crash", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "log.db")
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		openLog(t, path).Close()
	})
}

// A changed byte anywhere must give an error or do no harm; it must never end the process or give another entry.
func TestAChangedByteAnywhereInTheLogDoesNoHarm(t *testing.T) {
	made := madeLog(t, 300)
	db, err := bbolt.Open(made, 0o600, &bbolt.Options{NoFreelistSync: true})
	if err != nil {
		t.Fatal(err)
	}
	var used int64
	if err := errors.Join(db.View(func(tx *bbolt.Tx) error { used = tx.Size(); return nil }), db.Close()); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(made)
	if err != nil {
		t.Fatal(err)
	}
	good = good[:used] // what follows is room to grow
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	opened, refused := 0, 0
	for i := range 60 {
		b := bytes.Clone(good)
		at := r.IntN(len(b))
		if i%2 == 0 { // the pages' headers are where it hurts
			at = at/os.Getpagesize()*os.Getpagesize() + r.IntN(64)
		}
		b[at] ^= 1 << r.IntN(8)
		path := filepath.Join(t.TempDir(), "log.db")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		t.Logf("seed %d: byte %d", seed, at)
		s, err := openLogStore(path, testKey())
		if err != nil {
			refused++
			continue
		}
		opened++
		first, _ := s.FirstIndex()
		last, _ := s.LastIndex()
		var l raft.Log
		for j := first; j <= last && j > 0; j++ {
			if err := s.GetLog(j, &l); err != nil || string(l.Data) != fmt.Sprintf("%s %d", canary, j) {
				t.Errorf("byte %d: entry %d is %q, %v", at, j, l.Data, err)
			}
		}
		if err := s.StoreLogs(entries(last+1, last+5)); err != nil {
			t.Errorf("byte %d: %v", at, err)
		}
		s.Close()
	}
	t.Logf("%d opened, %d refused", opened, refused)
	if refused == 0 {
		t.Error("no damage was found")
	}
}

func makeSnapshot(t testing.TB, dir string, index uint64, content []byte) string {
	t.Helper()
	s, err := openSnapshots(dir, testKey(), hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	_, tr := raft.NewInmemTransport("")
	sink, err := s.Create(1, index, 3, raft.Configuration{}, 1, tr)
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range [][]byte{content[:len(content)/3], content[len(content)/3:]} {
		if _, err := sink.Write(part); err != nil {
			t.Fatal(err)
		}
	}
	if err := sink.Close(); err != nil {
		t.Fatal(err)
	}
	return sink.ID()
}

func TestSnapshotsComeBackAndHaveTheirSize(t *testing.T) {
	for _, size := range []int{0, 1, 100, chunkSize - 1, chunkSize, chunkSize + 1, 3 * chunkSize, 3*chunkSize + 5} {
		content := bytes.Repeat([]byte("a"), size)
		dir := t.TempDir()
		id := makeSnapshot(t, dir, 9, content)
		s, err := openSnapshots(dir, testKey(), hclog.NewNullLogger())
		if err != nil {
			t.Fatal(err)
		}
		m, rc, err := s.Open(id)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(rc)
		rc.Close()
		if err != nil || !bytes.Equal(got, content) || m.Size != int64(size) || m.Index != 9 {
			t.Errorf("%d bytes: %d came back, size %d, %v", size, len(got), m.Size, err)
		}
	}
}

func TestASealedStreamShowsEveryChange(t *testing.T) {
	var b bytes.Buffer
	w, err := newSealWriter(&b, testKey(), []byte("binding"))
	if err != nil {
		t.Fatal(err)
	}
	content := bytes.Repeat([]byte("0123456789"), 3*chunkSize/10)
	w.Write(content)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	read := func(data []byte, key []byte, binding string) error {
		r, err := newSealReader(bytes.NewReader(data), key, []byte(binding))
		if err != nil {
			return err
		}
		got, err := io.ReadAll(r)
		if !bytes.HasPrefix(content, got) {
			t.Error("what came out was not checked")
		}
		return err
	}
	good := b.Bytes()
	if err := read(good, testKey(), "binding"); err != nil {
		t.Fatal(err)
	}
	head, sealed := len(snapshotMagic)+saltSize, chunkSize+tagSize
	swapped := append(bytes.Clone(good[:head]), good[head+sealed:head+2*sealed]...)
	swapped = append(append(swapped, good[head:head+sealed]...), good[head+2*sealed:]...)
	flipped := bytes.Clone(good)
	flipped[head+sealed+9] ^= 4
	for name, err := range map[string]error{
		"another key":       read(good, make([]byte, keySize), "binding"),
		"another place":     read(good, testKey(), "other"),
		"a changed bit":     read(flipped, testKey(), "binding"),
		"parts swapped":     read(swapped, testKey(), "binding"),
		"cut between parts": read(good[:head+sealed], testKey(), "binding"),
		"cut in a part":     read(good[:len(good)-1], testKey(), "binding"),
		"cut in the header": read(good[:head-1], testKey(), "binding"),
		"the header only":   read(good[:head], testKey(), "binding"),
		"something after":   read(append(bytes.Clone(good), 0), testKey(), "binding"),
		"another magic":     read(append([]byte("X"), good[1:]...), testKey(), "binding"),
	} {
		if err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// snapshotState is the file with a snapshot's content.
func snapshotState(m *member) []string {
	f, _ := filepath.Glob(filepath.Join(m.dir, "snapshots", "*", "state.bin"))
	return f
}

func TestADamagedSnapshot(t *testing.T) {
	opts := func(c *Config) { c.SnapshotInterval = 20; c.Tuning.TrailingLogs = 5 }
	m := start(t, "m0", "127.0.0.1:0", t.TempDir(), opts)
	if err := m.Bootstrap(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it leads", m.IsLeader)
	for i := 0; len(snapshotState(m)) < 2; i++ {
		mustWrite(t, m, fmt.Sprint("t", i))
	}
	last := mustWrite(t, m, "last")
	_ = last
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	for _, f := range snapshotState(m) {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(f, b[:len(b)-3], 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := Open(Config{
		Dir: m.dir, NodeID: "m0", Addr: m.addr, Layer: listen(t, m.addr), Store: store.New(), Key: testKey(), Tuning: fast,
		Log: slog.New(slog.DiscardHandler),
	})
	if err == nil {
		c.Close()
		t.Fatal("it was opened: entries are lost in silence")
	}
	if !strings.Contains(err.Error(), "is damaged") || !strings.Contains(err.Error(), m.dir) {
		t.Errorf("got %v", err)
	}
}

func TestOpenRefuses(t *testing.T) {
	ok := Config{Dir: t.TempDir(), NodeID: "m", Addr: "a:1", Layer: tcpLayer{}, Store: store.New(), Key: testKey(), Log: slog.New(slog.DiscardHandler)}
	for name, change := range map[string]func(*Config){
		"no ID":     func(c *Config) { c.NodeID = "" },
		"no store":  func(c *Config) { c.Store = nil },
		"no layer":  func(c *Config) { c.Layer = nil },
		"short key": func(c *Config) { c.Key = c.Key[:16] },
	} {
		c := ok
		change(&c)
		if _, err := Open(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
