//go:build !race

package swarm

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/swarm"
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
		quick := make(chan struct{})
		go func() {
			defer close(quick)
			w.slowEntries(20*time.Second, 11*time.Second, w.hosts[:3]...)
		}()
		w.downFor(time.Second, false, w.hosts[:3]...)
		<-quick
		w.mustSettle(t)
		if after := w.containers(); !maps.Equal(before, after) {
			t.Errorf("tasks ran %v and now %v", before, after)
		}
	})
}

// A swarm that is restored from the backup of one that locks its managers locks its own with the same key: nobody else has
// one to hand out.
func TestARestoredSwarmIsLockedByTheOldKey(t *testing.T) {
	scenario(t, 1, 1, func(t *testing.T, w *world) {
		w.create(t, "web", 1)
		w.mustSettle(t)
		old, h := w.hosts[0], w.hosts[1]
		must := func(h *host, method, path string, body any) answer {
			t.Helper()
			a, err := w.do(h, membership, method, path, body)
			if err != nil || a.status != http.StatusOK {
				t.Fatalf("%s %s: %d %s, %v", method, path, a.status, a.message(), err)
			}
			return a
		}
		key := func(h *host) (k swarm.UnlockKeyResponse) {
			t.Helper()
			if err := json.Unmarshal(must(h, http.MethodGet, "/swarm/unlockkey", nil).body, &k); err != nil || k.UnlockKey == "" {
				t.Fatalf("%s has unlock key %q, %v", h.name, k.UnlockKey, err)
			}
			return k
		}
		var s swarm.Swarm
		if err := json.Unmarshal(must(old, http.MethodGet, "/swarm", nil).body, &s); err != nil {
			t.Fatal(err)
		}
		s.Spec.EncryptionConfig.AutoLockManagers = true
		must(old, http.MethodPost, fmt.Sprintf("/swarm/update?version=%d", s.Version.Index), s.Spec)
		want := key(old)
		backup := must(old, http.MethodGet, "/shoal/v1/swarm/backup", nil).body

		must(h, http.MethodPost, "/swarm/leave?force=1", nil)
		w.mu.Lock()
		h.retire = true // what it applies is another history
		w.mu.Unlock()
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/shoal/v1/swarm/restore?advertise="+h.ip+":2377", bytes.NewReader(backup))
		r.Header.Set("Content-Type", "application/vnd.shoal.backup")
		rec := httptest.NewRecorder()
		h.alive().api.ServeHTTP(rec, r)
		if rec.Code != http.StatusOK {
			t.Fatalf("restoring: %d %s", rec.Code, rec.Body)
		}
		if got := key(h); got != want {
			t.Errorf("the restored swarm has another unlock key: %v, want %v", got, want)
		}
		h.crash(false)
		h.start()
		state := func() swarm.LocalNodeState {
			var info struct{ Swarm swarm.Info }
			if err := h.get(t.Context(), "/info", &info); err != nil {
				t.Fatal(err)
			}
			return info.Swarm.LocalNodeState
		}
		if got := state(); got != swarm.LocalNodeStateLocked {
			t.Errorf("after a restart it is %s", got)
		}
		must(h, http.MethodPost, "/swarm/unlock", swarm.UnlockRequest(want))
		if got := state(); got != swarm.LocalNodeStateActive {
			t.Errorf("unlocked it is %s", got)
		}
	})
}
