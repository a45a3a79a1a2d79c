//go:build !race

package swarm

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A manager whose log is lost must not begin as if it had never had one: it has forgotten its vote and what it confirmed.
func TestALostLogIsNamedAtTheStart(t *testing.T) {
	lose := map[string]func(string) error{
		"deleted": os.Remove,
		"emptied": func(name string) error { return os.Truncate(name, 0) },
	}
	scenario(t, 3, 1, func(t *testing.T, w *world) {
		w.create(t, "web", 2)
		w.mustSettle(t)
		for how, do := range lose {
			for _, h := range w.hosts[:2] { // the one that made the swarm, and one that joined it
				h.stop()
				name := filepath.Join(h.disk, "swarm", "raft", "log.db")
				kept := name + ".kept"
				if err := copyTree(name, kept); err != nil {
					t.Fatal(err)
				}
				if err := do(name); err != nil {
					t.Fatal(err)
				}
				h.start()
				l := h.alive()
				select {
				case <-l.done:
				case <-time.After(20 * time.Second):
				}
				if l.err == nil || !strings.Contains(l.err.Error(), name) || !strings.Contains(l.err.Error(), "lost or emptied") {
					t.Errorf("%s of %s: %v", how, h.name, l.err)
				}
				h.stop()
				w.violations = nil // that a daemon ended is one
				if err := os.Rename(kept, name); err != nil {
					t.Fatal(err)
				}
				h.start()
				w.mustSettle(t)
			}
		}
	})
}

// A new leader may need long until it has what the last one acknowledged. Nobody can have a session meanwhile, so whom it
// has not heard is not absent: no task may be moved.
func TestALeaderThatIsLongBehindMissesNobody(t *testing.T) {
	scenario(t, 3, 2, func(t *testing.T, w *world) {
		w.create(t, "web", 5)
		w.mustSettle(t)
		before := w.containers()
		for _, h := range w.hosts[:3] {
			h.entryLag.Store(int64(20 * time.Second))
		}
		w.downFor(time.Second, false, w.hosts[:3]...)
		time.Sleep(10 * time.Second)
		for _, h := range w.hosts[:3] {
			h.entryLag.Store(0)
		}
		w.mustSettle(t)
		if after := w.containers(); !maps.Equal(before, after) {
			t.Errorf("tasks ran %v and now %v", before, after)
		}
	})
}
