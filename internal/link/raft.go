package link

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// raftLayer is a raft.StreamLayer on the server's port.
type raftLayer struct {
	server   *Server
	accepted chan net.Conn
	done     chan struct{}
	once     sync.Once
}

var _ raft.StreamLayer = (*raftLayer)(nil)

// Dial opens a connection to the manager at the address.
func (r *raftLayer) Dial(addr raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	s, err := dialManager(ctx, r.server.cfg.Dial, string(addr), protoRaft, r.server.cfg.Identity.Get(), r.server.cfg.DeadAfter, protoEpoch(r.server.epoch()))
	var refused *RefusedError
	if errors.As(err, &refused) && refused.Superseded && r.server.cfg.OnSuperseded != nil {
		r.server.cfg.OnSuperseded(string(addr), refused.Reason)
	}
	if err != nil {
		return nil, err
	}
	return newRaftConn(s.raw, s.conn, nil, s.peer, s.until), nil
}

// Accept returns a connection of another manager.
func (r *raftLayer) Accept() (net.Conn, error) {
	select {
	case c := <-r.accepted:
		return c, nil
	case <-r.done:
		return nil, net.ErrClosed
	}
}

// Close ends Accept. The port stays open for the rest.
func (r *raftLayer) Close() error {
	r.once.Do(func() { close(r.done) })
	return nil
}

func (r *raftLayer) isClosed() bool {
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

// Addr is the address that other managers reach us at.
func (r *raftLayer) Addr() net.Addr { return advertised(r.server.cfg.AdvertiseAddr) }

type advertised string

func (advertised) Network() string  { return "tcp" }
func (a advertised) String() string { return string(a) }

// raftConn is a connection between two managers. Close does not say goodbye, because that waits for a peer that does not read.
type raftConn struct {
	net.Conn
	raw    *wireConn
	server *Server // nil where we dialled
	peer   Peer
	expiry *time.Timer
}

func newRaftConn(raw *wireConn, conn net.Conn, s *Server, p Peer, until time.Time) *raftConn {
	return &raftConn{
		Conn: conn, raw: raw, server: s, peer: p,
		// The peer dials again with the certificate that it has by then.
		expiry: time.AfterFunc(time.Until(until), func() { _ = raw.Close() }),
	}
}

func (c *raftConn) Close() error {
	c.expiry.Stop()
	if c.server != nil {
		c.server.mu.Lock()
		delete(c.server.pipes, c)
		c.server.mu.Unlock()
	}
	return c.raw.Close()
}

// takeRaft hands a connection to Raft, if it is there.
func (s *Server) takeRaft(ctx context.Context, c *raftConn) error {
	s.mu.Lock()
	layer := s.raft
	s.pipes[c] = struct{}{}
	s.mu.Unlock()
	if layer != nil {
		select {
		case layer.accepted <- c:
			return nil
		case <-layer.done:
		case <-ctx.Done():
		}
	}
	return errors.Join(errors.New("this manager takes no part in Raft now"), c.Close())
}
