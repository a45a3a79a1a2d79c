package node

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"shoal.dev/shoal/internal/control"
)

// StaleHeader is set on answers that a manager gave from its own replica while the swarm had no leader.
const StaleHeader = "Shoal-Stale"

// countTimeout bounds the asking of managers for a refusal: who does not answer within it cannot be reached.
const countTimeout = time.Second

// noLeader says that the swarm has no leader and how many managers are missing, as seen from here.
func (m *manager) noLeader(ctx context.Context) string {
	servers, err := m.cons.Servers()
	if err != nil || len(servers) == 0 {
		return control.NoLeader
	}
	ctx, cancel := context.WithTimeout(ctx, countTimeout)
	defer cancel()
	var voters int
	var reachable atomic.Int64
	var asked sync.WaitGroup
	for _, s := range servers {
		if !s.Voter {
			continue
		}
		voters++
		asked.Go(func() {
			if s.ID == m.st.NodeID {
				reachable.Add(1)
			} else if l, err := m.peers.to(ctx, s.Addr); err == nil && l.Err() == nil {
				reachable.Add(1)
			}
		})
	}
	asked.Wait()
	return fmt.Sprintf("%s (%d of %d managers can be reached from here; %d are needed)", control.NoLeader, reachable.Load(), voters, voters/2+1)
}

// stale is an error of [control.ErrStale]'s class with the text for the user.
type stale struct{ error }

func (s stale) Is(target error) bool { return target == control.ErrStale }
func (s stale) Unwrap() error        { return s.error }

// serveStale lets reads be answered from this manager's own replica while the swarm has no leader, and says so.
func serveStale(next http.Handler, w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		next.ServeHTTP(w, r)
		return
	}
	var mark atomic.Bool
	next.ServeHTTP(&staleWriter{ResponseWriter: w, mark: &mark}, r.WithContext(control.AllowStale(r.Context(), &mark)))
}

// staleWriter adds the header where the mark was set before the answer began.
type staleWriter struct {
	http.ResponseWriter
	mark  *atomic.Bool
	begun bool
}

func (w *staleWriter) begin() {
	if !w.begun && w.mark.Load() {
		w.Header().Set(StaleHeader, "the swarm has no leader: this manager's own knowledge, which may be old")
	}
	w.begun = true
}

func (w *staleWriter) WriteHeader(status int) {
	w.begin()
	w.ResponseWriter.WriteHeader(status)
}

func (w *staleWriter) Write(p []byte) (int, error) {
	w.begin()
	return w.ResponseWriter.Write(p)
}

// Unwrap lets streams flush and set deadlines.
func (w *staleWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
