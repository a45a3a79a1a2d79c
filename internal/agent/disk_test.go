package agent_test

import (
	"testing"
	"testing/synctest"
	"time"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/store"
)

// The swarm learns when a node's disk is full, when it is not any more, and what it is at the begin of a session; what does
// not change is not written.
func TestAFullDiskIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		is := func(want int) uint64 {
			t.Helper()
			settle(10 * time.Second)
			n, _ := store.Get[*cluster.Node](b.store.Snapshot(), "n1")
			if n.DiskFull != want || n.Description.Hostname != "host1" {
				t.Errorf("the node says %d and is %q, want %d", n.DiskFull, n.Description.Hostname, want)
			}
			return n.StateVersion
		}
		b.full.Store(91)
		stop := b.agent()
		is(91)
		b.full.Store(0)
		first := is(0)
		settle(time.Minute)
		if again := is(0); again != first {
			t.Errorf("written again: version %d after %d", again, first)
		}
		b.full.Store(95)
		is(95)
		stop()
		b.full.Store(0)
		b.agent()
		is(0)
	})
}
