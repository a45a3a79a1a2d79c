package link

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/pki"
)

// ServerConfig says how a manager listens.
type ServerConfig struct {
	// Listener is used if it is set; otherwise ListenAddr ("0.0.0.0:2377") is listened on.
	Listener   net.Listener
	ListenAddr string
	// AdvertiseAddr is host:port under which other managers reach this one: RaftLayer().Addr(). Empty: the listener's.
	AdvertiseAddr string
	// Identity is this node's; a renewed one counts from the next connection on.
	Identity *pki.Holder
	// Handler serves the requests of peers; PeerFrom(r.Context()) says who asks.
	Handler http.Handler
	// Join serves certificate requests of strangers; nil refuses them.
	Join http.Handler
	// Admit is asked about every new link and Raft connection whose certificate is good; an error refuses it, and the
	// peer is told its text. nil admits all. It must not block.
	Admit func(Peer) error
	// Epoch is the swarm's as this manager knows it, sent with every Raft connection that it opens. One of a manager that
	// says a lower epoch is refused: it belongs to a history that was cut, and would bring it back. nil is epoch 0, and
	// 0 and 1 are as one: a manager that has no record yet says 0. It must not block.
	Epoch func() uint64
	// OnSuperseded is called when another manager refuses a Raft connection of this one for its epoch: who, and in what words.
	// It must return at once. It may be nil.
	OnSuperseded func(addr, reason string)
	// DeadAfter is how long a peer may be silent before the link is closed; 0 means 5 s.
	DeadAfter time.Duration
	// Dial opens the connections of RaftLayer.
	Dial Dialer
	Log  *slog.Logger
}

// Server is a manager's port.
type Server struct {
	cfg      ServerConfig
	listener net.Listener
	join     *joinServer
	gate     *gate
	conns    sync.WaitGroup

	mu    sync.Mutex
	links map[string][]*Link // by node, the newest last
	raft  *raftLayer
	// pipes are the Raft connections that were accepted.
	pipes  map[*raftConn]struct{}
	closed bool
}

// NewServer listens; call Run to serve. An address that is in use is an error that says so.
func NewServer(c ServerConfig) (*Server, error) {
	if c.DeadAfter == 0 {
		c.DeadAfter = DefaultDeadAfter
	}
	l := c.Listener
	if l == nil {
		var err error
		if l, err = net.Listen("tcp", c.ListenAddr); err != nil {
			return nil, fmt.Errorf("listening for other nodes: %w", err)
		}
	}
	if c.AdvertiseAddr == "" {
		c.AdvertiseAddr = l.Addr().String()
	}
	return &Server{
		cfg: c, listener: l, join: newJoinServer(c.Join, c.Log), gate: newGate(),
		links: map[string][]*Link{}, pipes: map[*raftConn]struct{}{},
	}, nil
}

// Run serves until ctx ends. Then it closes the listener and every connection, and returns nil.
func (s *Server) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, func() { _ = s.listener.Close() })
	defer func() {
		stop()
		cancel()
		_ = s.listener.Close()
		s.closeAll()
		s.conns.Wait()
	}()
	s.conns.Go(func() { s.join.run(ctx) })
	backoff := time.Millisecond
	for {
		c, err := s.listener.Accept()
		if ctx.Err() != nil {
			if err == nil {
				_ = c.Close()
			}
			return nil
		}
		if errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("listening for other nodes: %w", err)
		}
		if err != nil { // no file descriptors, mostly: others may let go of some
			s.cfg.Log.Warn("cannot accept a connection", "error", err)
			select {
			case <-time.After(backoff):
			case <-ctx.Done():
			}
			backoff = min(2*backoff, time.Second)
			continue
		}
		backoff = time.Millisecond
		host := hostOf(c.RemoteAddr())
		if !s.gate.enter(host) {
			_ = c.Close()
			continue
		}
		s.conns.Go(func() {
			defer s.gate.leave(host)
			if err := s.handle(ctx, c); err != nil {
				s.cfg.Log.Debug("a connection was refused", "from", c.RemoteAddr().String(), "error", err)
				_ = c.Close()
			}
		})
	}
}

// handle does the handshake and hands the connection on. On an error the caller closes it.
func (s *Server) handle(ctx context.Context, c net.Conn) error {
	id := s.cfg.Identity.Get()
	if id == nil {
		return errors.New("this node has no certificate of a swarm")
	}
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	raw := newWireConn(c, s.cfg.DeadAfter)
	var epoch uint64
	conn := tls.Server(raw, &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			epoch = epochIn(h.SupportedProtos)
			return serverTLS(id, h)
		},
	})
	if err := conn.HandshakeContext(ctx); err != nil {
		return err
	}
	state := conn.ConnectionState()
	proto := state.NegotiatedProtocol
	if proto == protoJoin {
		return s.join.take(ctx, conn)
	}
	peer, err := verify(id, state.PeerCertificates, time.Now())
	if err == nil && proto == protoRaft && peer.Role != swarm.NodeRoleManager {
		err = fmt.Errorf("node %s is not a manager", peer.NodeID)
	}
	if err == nil && proto == protoRaft {
		err = s.checkEpoch(peer, epoch)
	}
	if err == nil && s.cfg.Admit != nil {
		err = s.cfg.Admit(peer)
	}
	if werr := withDeadline(ctx, conn, func() error { return writeWelcome(conn, err) }); err == nil {
		err = werr
	}
	if err != nil {
		return err
	}
	if proto == protoRaft {
		return s.takeRaft(ctx, newRaftConn(raw, conn, s, peer, validUntil(state.PeerCertificates[0])))
	}
	return s.takeLink(raw, conn, peer, validUntil(state.PeerCertificates[0]))
}

// serverTLS is the configuration for the protocol that the client names.
func serverTLS(id *pki.Identity, h *tls.ClientHelloInfo) (*tls.Config, error) {
	for _, p := range h.SupportedProtos {
		c := baseTLS(p)
		switch p {
		case protoLink, protoRaft:
			c.Certificates = []tls.Certificate{id.Cert}
			// The client proves here that it has the certificate's key; handle says who that is, and tells it if it is not welcome.
			c.ClientAuth = tls.RequireAnyClientCert
			return c, nil
		case protoJoin:
			cert, err := id.WithRoot()
			c.Certificates = []tls.Certificate{cert}
			return c, err
		}
	}
	return nil, errors.New("the client speaks none of our protocols")
}

func (s *Server) takeLink(raw *wireConn, conn *tls.Conn, peer Peer, until time.Time) error {
	lc := linkConfig{
		peer: peer, until: until, handler: s.cfg.Handler, deadAfter: s.cfg.DeadAfter, log: s.cfg.Log,
	}
	l, err := newLink(raw, conn, lc)
	if err != nil {
		return err
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return l.Close()
	}
	s.links[peer.NodeID] = append(s.links[peer.NodeID], l)
	s.mu.Unlock()
	context.AfterFunc(l.ctx, func() { s.dropLink(l) })
	l.run(lc) // only now: who serves its requests finds it
	return nil
}

func (s *Server) dropLink(l *Link) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := l.peer.NodeID
	s.links[id] = slices.DeleteFunc(s.links[id], func(o *Link) bool { return o == l })
	if len(s.links[id]) == 0 {
		delete(s.links, id)
	}
}

// Addr is the address that is listened on.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// Link returns the newest live link that the node opened to us: over it we reach the node's handler.
func (s *Server) Link(nodeID string) (*Link, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range slices.Backward(s.links[nodeID]) {
		if l.ctx.Err() == nil {
			return l, true
		}
	}
	return nil, false
}

// Links returns the live links that nodes opened to us, in no order. A node may have several.
func (s *Server) Links() []*Link {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*Link
	for _, ls := range s.links {
		out = append(out, ls...)
	}
	return out
}

// Disconnect closes every connection that the node opened to us: for one that was removed, whose certificate is still
// good. Admit keeps it away from then on.
func (s *Server) Disconnect(nodeID string) {
	s.mu.Lock()
	links := slices.Clone(s.links[nodeID])
	var pipes []*raftConn
	for p := range s.pipes {
		if p.peer.NodeID == nodeID {
			pipes = append(pipes, p)
		}
	}
	s.mu.Unlock()
	for _, l := range links {
		_ = l.Close()
	}
	for _, p := range pipes {
		_ = p.Close()
	}
}

func (s *Server) closeAll() {
	s.mu.Lock()
	s.closed = true
	var nodes []string
	for id := range s.links {
		nodes = append(nodes, id)
	}
	for p := range s.pipes {
		nodes = append(nodes, p.peer.NodeID)
	}
	layer := s.raft
	s.mu.Unlock()
	for _, id := range nodes {
		s.Disconnect(id)
	}
	if layer != nil {
		_ = layer.Close()
	}
}

// RaftLayer is Raft's part of the port. There is one at a time: the one that was given out before, or a new one if that was closed.
func (s *Server) RaftLayer() raft.StreamLayer {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.raft == nil || s.raft.isClosed() {
		s.raft = &raftLayer{server: s, accepted: make(chan net.Conn), done: make(chan struct{})}
	}
	return s.raft
}
