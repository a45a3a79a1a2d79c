package node

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httputil"
	"regexp"
	"strings"
	"time"

	"shoal.dev/shoal/internal/link"
)

// apiPrefix is where a manager serves the Engine API to other managers over a link.
const apiPrefix = "/api"

// leaderWait is how long a change waits for a leader: an election takes a second, with a split vote three.
const leaderWait = 4 * time.Second

var apiVersion = regexp.MustCompile(`^/v[0-9]+\.[0-9]+`)

// changesSwarm says whether a request changes the swarm's records, which only the leader does, or asks for what only the
// leader knows.
func changesSwarm(r *http.Request) bool {
	if r.Method == http.MethodGet && strings.HasPrefix(r.URL.Path, "/shoal/v1/services/") && strings.HasSuffix(r.URL.Path, "/autoscale") {
		return true
	}
	if r.Method != http.MethodPost && r.Method != http.MethodDelete && r.Method != http.MethodPut {
		return false
	}
	path := apiVersion.ReplaceAllString(r.URL.Path, "")
	for _, p := range []string{"/services/", "/nodes/", "/swarm/update", "/tasks/", "/secrets/", "/configs/", "/shoal/v1/services/", "/shoal/v1/secrets/", "/shoal/v1/configs/"} {
		if strings.HasPrefix(path, p) {
			return true
		}
	}
	return false
}

// forward passes changes of the swarm from a manager that follows to the one that leads. Everything else is answered
// here.
func (n *Node) forward(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m := n.manager()
		if m == nil || !changesSwarm(r) {
			serveStale(next, w, r)
			return
		}
		if err := m.mayChange(); err != nil {
			unavailable(w, err.Error())
			return
		}
		if !m.waitLeader(r.Context(), leaderWait) {
			unavailable(w, m.noLeader(r.Context()))
			return
		}
		if m.cons.IsLeader() {
			next.ServeHTTP(w, r)
			return
		}
		m.proxy(apiPrefix).ServeHTTP(w, r)
	})
}

// proxy passes requests to the leader, below prefix.
func (m *manager) proxy(prefix string) http.Handler {
	return &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL.Scheme, p.Out.URL.Host = "http", "leader"
			p.Out.URL.Path, p.Out.URL.RawPath = prefix+p.In.URL.Path, ""
			p.Out.Host = "leader"
		},
		Transport:     leaderTransport{m},
		FlushInterval: -1,
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			unavailable(w, err.Error())
		},
	}
}

// serveForwarded serves the Engine API to a manager that forwards a change. It is not forwarded again.
func (n *Node) serveForwarded(w http.ResponseWriter, r *http.Request) {
	p, ok := link.PeerFrom(r.Context())
	m := n.manager()
	if !ok || m == nil || !m.isManager(p) {
		http.Error(w, "only managers forward requests", http.StatusForbidden)
		return
	}
	r.URL.Path = strings.TrimPrefix(r.URL.Path, apiPrefix)
	if !changesSwarm(r) {
		http.Error(w, "only changes of the swarm are forwarded", http.StatusForbidden)
		return
	}
	if err := m.mayChange(); err != nil {
		unavailable(w, err.Error())
		return
	}
	n.api.ServeHTTP(w, r)
}

func unavailable(w http.ResponseWriter, text string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusServiceUnavailable)
	// The client is gone if this fails; there is nobody to tell.
	_ = json.NewEncoder(w).Encode(map[string]string{"message": text})
}

// waitLeader waits until a leader is known.
func (m *manager) waitLeader(ctx context.Context, d time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, _, ok := m.cons.Leader(); ok {
			return true
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return false
		}
	}
}
