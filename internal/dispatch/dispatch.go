// Package dispatch is the manager's side of the agents: it sends each node what is for it, takes in what nodes report
// and knows who was heard.
//
// It runs on every manager and serves from that manager's own replica. It decides what a node may see and say, and
// that a status never goes back. It owns sessions and liveness, neither of which goes through Raft. It never plans, and
// never decides that a node is down.
package dispatch

import (
	"context"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/moby/moby/api/types/swarm"
	"golang.org/x/sync/errgroup"

	"shoal.dev/shoal/internal/dispatch/protocol"
	"shoal.dev/shoal/internal/store"
)

// Config is what a [Server] needs.
type Config struct {
	Store *store.Store
	// NodeID is this manager's.
	NodeID string
	// Leader says who leads: self if this manager does, else how to reach the leader. An error means that nobody is
	// known to lead.
	Leader func() (rt http.RoundTripper, self bool, err error)
	// DataPathPort is the UDP port of the tunnels.
	DataPathPort uint16
	// Managers are the managers that agents may connect to now.
	Managers func() []swarm.Peer
	// Notify is called when there is news of a node that the store does not have: it is heard again after two heartbeat
	// periods, its session ended, or its kernel holds a newer version, so that what depends on it can be planned at
	// once. It must not block. It may be nil.
	Notify func(nodeID string)
	Log    *slog.Logger
}

// Server serves the agents that connect to this manager. Its methods are safe for concurrent use.
type Server struct {
	cfg  Config
	log  *slog.Logger
	live liveness
	in   reports
	use  usage

	mu       sync.Mutex          // guards what follows
	view     *view               // nil before Run
	viewed   chan struct{}       // closed when there is another view
	sessions map[string]*session // by node

	refresh chan struct{} // capacity 1; asks for a new view
}

// New returns a server that serves once [Server.Run] runs.
func New(cfg Config) *Server {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Notify == nil {
		cfg.Notify = func(string) {}
	}
	if cfg.Managers == nil {
		cfg.Managers = func() []swarm.Peer { return nil }
	}
	return &Server{
		cfg: cfg, log: cfg.Log,
		live:     newLiveness(),
		in:       newReports(),
		viewed:   make(chan struct{}),
		refresh:  make(chan struct{}, 1),
		sessions: map[string]*session{},
	}
}

// Handler serves the routes under /dispatch/v1/. Requests must carry their peer, see [link.PeerFrom].
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+protocol.PathSession, s.serveSession)
	mux.HandleFunc("POST "+protocol.PathStatus, s.serveStatus)
	mux.HandleFunc("POST "+protocol.PathHeartbeat, s.serveHeartbeat)
	mux.HandleFunc("POST "+protocol.PathHeard, s.serveHeard)
	mux.HandleFunc("POST "+protocol.PathUsage, s.serveUsage)
	return mux
}

// Run keeps what nodes are sent up to date, commits what they report and tells the leader whom this manager hears. It
// returns when ctx ends, and ends all sessions.
func (s *Server) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.runViews(ctx) })
	g.Go(func() error { return s.runReports(ctx) })
	g.Go(func() error { return s.runHeard(ctx) })
	err := g.Wait()
	s.endSessions(errStops)
	return err
}

// heartbeat is the swarm's heartbeat period.
func heartbeat(snap *store.Snapshot) time.Duration {
	if sw := snap.Swarm(); sw != nil && sw.Spec.Dispatcher.HeartbeatPeriod > 0 {
		return sw.Spec.Dispatcher.HeartbeatPeriod
	}
	return protocol.DefaultHeartbeat
}
