package swarm

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/sim"
	"shoal.dev/shoal/internal/store"
)

// world is everything in a run.
type world struct {
	o     Options
	seed  uint64
	start time.Time
	net   *fabric
	hosts []*host
	hist  history

	mu         sync.Mutex
	trace      []string
	violations []string
	audit      *sim.Audit
	log        map[uint64][sha256.Size]byte // what was committed, by index
	joinToken  swarm.JoinTokens
	forcing    *host // the one that is being made a swarm of its own
	stats      Stats
	over       atomic.Bool
	close      func()
}

func (w *world) note(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.noteLocked(fmt.Sprintf(format, args...))
}

func (w *world) noteLocked(text string) {
	w.trace = append(w.trace, fmt.Sprintf("%9.3fs %s", time.Since(w.start).Seconds(), text))
}

// violate notes what must not happen. The run goes on to its end, so that everything is closed.
func (w *world) violate(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.violateLocked(fmt.Sprintf(format, args...))
}

func (w *world) violateLocked(text string) {
	if len(w.violations) < maxViolations {
		w.violations = append(w.violations, text)
		w.noteLocked("VIOLATION: " + text)
	}
}

// maxViolations is how many are kept: the first says what is wrong.
const maxViolations = 5

// applied is called with every entry that a manager's store has applied.
func (w *world) applied(l *life, index uint64, entry []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if l.isDead() || l.host.retire || w.over.Load() {
		return
	}
	sum := sha256.Sum256(entry)
	if have, ok := w.log[index]; ok {
		if have != sum {
			w.violateLocked(fmt.Sprintf("%s applied another entry %d than the managers before it", l.host.name, index))
		}
		return
	}
	if index <= w.audit.Index() {
		return // of the time before the history was cut
	}
	w.log[index] = sum
	w.stats.Entries++
	w.audit.Apply(index, entry)
}

// restored is called when a manager's store was replaced by a snapshot.
func (w *world) restored(l *life, s *store.Store) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.forcing != l.host || l.isDead() {
		return
	}
	w.forcing = nil
	clear(w.log)
	if err := w.audit.Rebase(s); err != nil {
		w.violateLocked(fmt.Sprintf("reading the state of %s: %v", l.host.name, err))
	}
}

// snapshot is what was committed.
func (w *world) snapshot() *store.Snapshot {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.audit.Snapshot()
}

// up are the hosts whose daemons run.
func (w *world) up() []*host {
	var out []*host
	for _, h := range w.hosts {
		if h.alive() != nil {
			out = append(out, h)
		}
	}
	return out
}

// do asks a host's API for something of the swarm's life and notes it.
func (w *world) do(h *host, timeout time.Duration, method, path string, body any) (answer, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	a, err := h.ask(ctx, method, path, body)
	switch {
	case err != nil:
		w.note("%s: %s %s: %v", h.name, method, path, err)
	case a.status >= 300:
		w.note("%s: %s %s: %d %s", h.name, method, path, a.status, a.message())
	default:
		w.note("%s: %s %s", h.name, method, path)
	}
	return a, err
}

// membership bounds what changes a host's membership.
const membership = 40 * time.Second

// init makes a swarm of a host alone; with force, of one that has lost the others.
func (w *world) init(h *host, force bool) error {
	a, err := w.do(h, membership, http.MethodPost, "/swarm/init", swarm.InitRequest{ListenAddr: "0.0.0.0:2377", AdvertiseAddr: h.ip + ":2377", ForceNewCluster: force})
	if err == nil && a.status != http.StatusOK {
		err = fmt.Errorf("%d %s", a.status, a.message())
	}
	if err != nil {
		return err
	}
	return w.learn(h)
}

// learn reads the host's ID and the join tokens.
func (w *world) learn(h *host) error {
	ctx, cancel := context.WithTimeout(context.Background(), membership)
	defer cancel()
	var info struct{ Swarm swarm.Info }
	if err := h.get(ctx, "/info", &info); err != nil {
		return err
	}
	h.setID(info.Swarm.NodeID)
	w.mu.Lock()
	known := w.joinToken.Worker != ""
	w.mu.Unlock()
	if known {
		return nil
	}
	var s swarm.Swarm
	if err := h.get(ctx, "/swarm", &s); err != nil {
		return err
	}
	w.mu.Lock()
	w.joinToken = s.JoinTokens
	w.mu.Unlock()
	return nil
}

// join makes a host a member through others.
func (w *world) join(h *host, manager bool, through ...*host) error {
	w.mu.Lock()
	token := w.joinToken.Worker
	if manager {
		token = w.joinToken.Manager
	}
	w.mu.Unlock()
	r := swarm.JoinRequest{ListenAddr: "0.0.0.0:2377", AdvertiseAddr: h.ip + ":2377", JoinToken: token}
	for _, t := range through {
		r.RemoteAddrs = append(r.RemoteAddrs, t.ip+":2377")
	}
	a, err := w.do(h, membership, http.MethodPost, "/swarm/join", r)
	if err == nil && a.status != http.StatusOK {
		err = fmt.Errorf("%d %s", a.status, a.message())
	}
	if err != nil {
		return err
	}
	return w.learn(h)
}

// logger keeps what a daemon logs, for the trace of a failure.
func (w *world) logger(h *host) *slog.Logger {
	if w.o.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return w.o.Log.With("host", h.name)
}
