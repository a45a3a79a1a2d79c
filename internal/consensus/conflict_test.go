package consensus

import (
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"shoal.dev/shoal/internal/store"
)

// fullDisk refuses entries while it is full.
type fullDisk struct{ full atomic.Bool }

func (d *fullDisk) BeforeWrite(w Write) error {
	if d.full.Load() && len(w.Entries) > 0 {
		return errors.New("no space left on device")
	}
	return nil
}
func (*fullDisk) AfterWrite(Write)                     {}
func (*fullDisk) Applied(*store.Store, uint64, []byte) {}
func (*fullDisk) Restored(*store.Store)                {}

// A manager has entries that no majority took, and no room for those that a new leader sends in their place. It must have
// one or the other: with room it goes on. Found by the simulator (internal/sim/swarm, seed 2003): it had neither, said
// that it was behind until its daemon was started again, and could have been elected with a hole in its log.
func TestEntriesAreReplacedOnceThereIsRoom(t *testing.T) {
	var d fullDisk
	_, tr := raft.NewInmemTransport("m0")
	c, err := Open(Config{
		Dir: t.TempDir(), NodeID: "m0", Addr: "m0", Transport: tr, Store: store.New(), Key: testKey(), Probe: &d, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	addr, leader := raft.NewInmemTransportWithTimeout("leader", 10*time.Second)
	leader.Connect("m0", tr)
	send := func(term, prev, prevTerm, to uint64) bool {
		t.Helper()
		r := raft.AppendEntriesRequest{
			RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte("leader"), Addr: []byte(addr)},
			Term:      term, PrevLogEntry: prev, PrevLogTerm: prevTerm,
		}
		for i := prev + 1; i <= to; i++ {
			r.Entries = append(r.Entries, &raft.Log{Index: i, Term: term, Type: raft.LogNoop})
		}
		var resp raft.AppendEntriesResponse
		if err := leader.AppendEntries("m0", "m0", &r, &resp); err != nil {
			t.Fatal(err)
		}
		return resp.Success
	}
	if !send(1, 0, 0, 9) {
		t.Fatal("the first entries were not taken")
	}
	d.full.Store(true)
	if send(2, 5, 1, 6) {
		t.Fatal("an entry was taken without room for it")
	}
	if last, _ := c.logs.LastIndex(); last != c.raft.LastIndex() {
		t.Errorf("the log ends with entry %d, and raft goes on from %d", last, c.raft.LastIndex())
	}
	d.full.Store(false)
	if !send(2, 5, 1, 6) {
		t.Error("with room again the entry is not taken")
	}
	if last, _ := c.logs.LastIndex(); last != 6 || c.raft.LastIndex() != 6 {
		t.Errorf("the log ends with entry %d, and raft goes on from %d", last, c.raft.LastIndex())
	}
}
