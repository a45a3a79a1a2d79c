package overlay

import (
	"net"
	"testing"
)

// A connection counts once, on the task's node, whichever node it comes through; its later packets do not, and counting
// is no change of the ruleset.
func TestConnectionsAreCountedWhereTheTaskIs(t *testing.T) {
	l := meshLab(t)
	for _, h := range l.hosts {
		for _, from := range []*space{l.client, h.space} {
			if _, _, err := ask(from, "tcp", "", net.JoinHostPort(h.addr, "8081")); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i, h := range l.hosts {
		got, err := h.k.Connections()
		if err != nil {
			t.Fatal(err)
		}
		want := uint64(0)
		if i == 0 {
			want = 6
		}
		if n := got[l.boxes[0].ingress]; n != want || len(got) > 1 {
			t.Errorf("%s: %v, want %d", h.id, got, want)
		}
		l.sh(h.space, "nft", "add table ip other") // so that ours is looked at
		l.must(h.k.Repair(t.Context()))
		if len(h.k.did) > 0 {
			t.Errorf("%s: repaired: %v", h.id, h.k.did)
		}
	}
}
