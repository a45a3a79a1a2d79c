package link

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// The bounds for strangers. A join takes two or three requests; hosts behind one address translation may join together.
const (
	joinTimeout = 15 * time.Second
	joinHeader  = 8 << 10
	joinBody    = 64 << 10

	joinRate, joinBurst       = 100, 500 // requests a second in all
	joinHostRate, joinHostMax = 5, 50    // from one address

	// maxHosts is how many addresses are remembered; with more, those that were not heard for a minute are forgotten,
	// and with none of them, all.
	maxHosts = 10_000

	// The handshakes that may be under way at once, which nobody has proved anything for.
	maxHandshakes, maxHostHandshakes = 1024, 128
)

// joinServer serves strangers.
type joinServer struct {
	conns chan net.Conn
	srv   *http.Server
	log   *slog.Logger
}

func newJoinServer(h http.Handler, log *slog.Logger) *joinServer {
	if h == nil {
		h = http.NotFoundHandler()
	}
	return &joinServer{
		conns: make(chan net.Conn), log: log,
		srv: &http.Server{
			Handler:     newLimiter(http.MaxBytesHandler(h, joinBody)),
			ReadTimeout: joinTimeout, WriteTimeout: joinTimeout, IdleTimeout: joinTimeout,
			MaxHeaderBytes: joinHeader,
			ErrorLog:       slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		},
	}
}

// run serves until ctx ends.
func (j *joinServer) run(ctx context.Context) {
	stop := context.AfterFunc(ctx, func() { _ = j.srv.Close() })
	defer stop()
	_ = j.srv.Serve(&connListener{j.conns, ctx}) // always http.ErrServerClosed or ctx's end
}

// take hands over a connection.
func (j *joinServer) take(ctx context.Context, c net.Conn) error {
	// Not as a *tls.Conn: net/http would look at the protocol that it does not know.
	select {
	case j.conns <- plainConn{c}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

type plainConn struct{ net.Conn }

type connListener struct {
	conns <-chan net.Conn
	ctx   context.Context
}

func (l *connListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.ctx.Done():
		return nil, net.ErrClosed
	}
}
func (l *connListener) Close() error   { return nil }
func (l *connListener) Addr() net.Addr { return advertised("join") }

// limiter answers 429 to who asks too often.
type limiter struct {
	next http.Handler
	all  *rate.Limiter

	mu    sync.Mutex
	hosts map[string]*hostLimit
}

type hostLimit struct {
	rate *rate.Limiter
	last time.Time
}

func newLimiter(next http.Handler) *limiter {
	return &limiter{next: next, all: rate.NewLimiter(joinRate, joinBurst), hosts: map[string]*hostLimit{}}
}

func (l *limiter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	host := r.RemoteAddr
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	// The address first: one that asks too often does not use up what is there for all.
	if !l.host(host, time.Now()).Allow() || !l.all.Allow() {
		w.Header().Set("Retry-After", "1")
		http.Error(w, fmt.Sprintf("too many requests to join from %s: try again in a second", host), http.StatusTooManyRequests)
		return
	}
	l.next.ServeHTTP(w, r)
}

func (l *limiter) host(host string, now time.Time) *rate.Limiter {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.hosts[host]
	if h == nil {
		l.forget(now)
		h = &hostLimit{rate: rate.NewLimiter(joinHostRate, joinHostMax)}
		l.hosts[host] = h
	}
	h.last = now
	return h.rate
}

// forget bounds the memory.
func (l *limiter) forget(now time.Time) {
	if len(l.hosts) < maxHosts {
		return
	}
	for k, h := range l.hosts {
		if now.Sub(h.last) > time.Minute {
			delete(l.hosts, k)
		}
	}
	if len(l.hosts) >= maxHosts {
		clear(l.hosts)
	}
}

// gate bounds the handshakes that are under way.
type gate struct {
	mu    sync.Mutex
	all   int
	hosts map[string]int
}

func newGate() *gate { return &gate{hosts: map[string]int{}} }

func (g *gate) enter(host string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.all >= maxHandshakes || g.hosts[host] >= maxHostHandshakes {
		return false
	}
	g.all++
	g.hosts[host]++
	return true
}

func (g *gate) leave(host string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.all--
	if g.hosts[host]--; g.hosts[host] <= 0 {
		delete(g.hosts, host)
	}
}

func hostOf(a net.Addr) string {
	h, _, err := net.SplitHostPort(a.String())
	if err != nil {
		return a.String()
	}
	return h
}
