package consensus

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/store"
)

// canary is in what tests write; it must not be found on the disk.
const canary = "canary-8c1f7e"

func testKey() []byte {
	k := make([]byte, keySize)
	for i := range k {
		k[i] = byte(i * 7)
	}
	return k
}

// tcpLayer carries raft over the loopback device.
type tcpLayer struct{ net.Listener }

func (l tcpLayer) Dial(a raft.ServerAddress, d time.Duration) (net.Conn, error) {
	return net.DialTimeout("tcp", string(a), d)
}

func listen(t testing.TB, addr string) tcpLayer {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return tcpLayer{l}
}

// fast are time-outs for tests on a busy machine.
var fast = Tuning{
	Heartbeat: 300 * time.Millisecond, Election: 300 * time.Millisecond, Lease: 300 * time.Millisecond,
	Commit: 5 * time.Millisecond, SnapshotCheck: 50 * time.Millisecond,
}

type member struct {
	*Consensus
	id, addr, dir string
	store         *store.Store
	opts          func(*Config)
}

// start opens a member; addr may be that of one that was closed.
func start(t testing.TB, id, addr, dir string, opts func(*Config)) *member {
	t.Helper()
	l := listen(t, addr)
	m := &member{id: id, addr: l.Addr().String(), dir: dir, store: store.New(), opts: opts}
	c := Config{Dir: dir, NodeID: id, Addr: m.addr, Layer: l, Store: m.store, Key: testKey(), Tuning: fast, Log: slog.New(slog.DiscardHandler)}
	if opts != nil {
		opts(&c)
	}
	var err error
	if m.Consensus, err = Open(c); err != nil {
		t.Fatalf("opening %s: %v", id, err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func (m *member) restart(t testing.TB) *member {
	t.Helper()
	return start(t, m.id, m.addr, m.dir, m.opts)
}

// group starts n members of one group.
func group(t testing.TB, n int, opts func(*Config)) []*member {
	t.Helper()
	dir := t.TempDir()
	var ms []*member
	for i := range n {
		id := fmt.Sprintf("m%d", i)
		m := start(t, id, "127.0.0.1:0", filepath.Join(dir, id), opts)
		ms = append(ms, m)
		if i == 0 {
			if err := m.Bootstrap(); err != nil {
				t.Fatal(err)
			}
			eventually(t, "m0 leads", m.IsLeader)
			continue
		}
		if err := ms[0].AddVoter(t.Context(), id, m.addr); err != nil {
			t.Fatal(err)
		}
	}
	return ms
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	deadline := time.After(time.Minute)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("never: %s", what)
		}
	}
}

func leaderOf(t testing.TB, ms []*member) *member {
	t.Helper()
	var l *member
	eventually(t, "one leads", func() bool {
		for _, m := range ms {
			if _, err := m.ReadIndex(t.Context()); err == nil {
				l = m
				return true
			}
		}
		return false
	})
	return l
}

func task(id string) *cluster.Task {
	k := &cluster.Task{}
	k.ID, k.ServiceID, k.ServiceName = id, "svc", canary
	return k
}

// write creates a record through the member.
func write(ctx context.Context, m *member, id string) (uint64, error) {
	return writeRecord(ctx, m, task(id))
}

func writeRecord(ctx context.Context, m *member, k *cluster.Task) (uint64, error) {
	return m.store.Update(ctx, func(tx *store.Tx) error {
		tx.Write(store.Create(k))
		return nil
	})
}

func mustWrite(t testing.TB, m *member, id string) uint64 {
	t.Helper()
	i, err := write(t.Context(), m, id)
	if err != nil {
		t.Fatalf("writing %s: %v", id, err)
	}
	return i
}

func has(m *member, id string) bool {
	_, ok := store.Get[*cluster.Task](m.store.Snapshot(), id)
	return ok
}
