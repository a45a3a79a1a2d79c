package dns

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/net/netutil"
)

// Addr is where containers find their name server; people write it into files.
const Addr = "127.0.0.11"

const (
	idleTimeout = 10 * time.Second // of a connection
	maxConns    = 64               // of one container
)

// Config is what a [Server] needs.
type Config struct{ Log *slog.Logger }

// Server answers all containers of a host. Its methods are safe for concurrent use.
type Server struct {
	cfg     Config
	names   atomic.Pointer[Names]
	waiting chan struct{}
}

// New returns a server that knows no names.
func New(cfg Config) *Server {
	s := &Server{cfg: cfg, waiting: make(chan struct{}, maxForwards)}
	s.names.Store(NewNames(nil))
	return s
}

// Set replaces the table of names.
func (s *Server) Set(n *Names) { s.names.Store(n) }

// Session answers one container. Its methods are safe for concurrent use.
type Session struct {
	server  *Server
	asker   atomic.Pointer[Asker]
	waiting chan struct{}
	udp     net.PacketConn
	tcp     net.Listener
	end     context.CancelFunc
}

// Serve answers the asker on the sockets, which are the session's from now on, until Close.
func (s *Server) Serve(a *Asker, udp net.PacketConn, tcp net.Listener) *Session {
	ctx, end := context.WithCancel(context.Background())
	x := &Session{server: s, waiting: make(chan struct{}, maxPerAsker), udp: udp, tcp: tcp, end: end}
	x.asker.Store(a)
	handler := func(overTCP bool) dns.Handler {
		return dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
			r := x.respond(ctx, q, overTCP)
			if r == nil {
				return
			}
			if err := w.WriteMsg(r); err != nil && ctx.Err() == nil {
				// What cannot be packed came from a server; the client shall not wait for it.
				_ = w.WriteMsg(fail(q, dns.RcodeServerFailure))
			}
		})
	}
	for _, d := range []*dns.Server{
		{PacketConn: udp, Handler: handler(false), UDPSize: maxUDP},
		{Listener: netutil.LimitListener(tcp, maxConns), Handler: handler(true), ReadTimeout: idleTimeout, IdleTimeout: func() time.Duration { return idleTimeout }},
	} {
		go func() {
			if err := d.ActivateAndServe(); err != nil && ctx.Err() == nil && !errors.Is(err, net.ErrClosed) {
				s.cfg.Log.Warn("a container's name server ended", "error", err)
			}
		}()
	}
	return x
}

// Set replaces what the container may see.
func (x *Session) Set(a *Asker) { x.asker.Store(a) }

// Close closes the sockets and ends what is under way.
func (x *Session) Close() error {
	x.end()
	return errors.Join(x.udp.Close(), x.tcp.Close())
}
