package link

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"time"

	"github.com/moby/moby/api/types/swarm"
	"golang.org/x/sys/unix"

	"shoal.dev/shoal/internal/pki"
)

// wireConn is a TCP connection that knows when it last received a byte.
type wireConn struct {
	net.Conn
	began time.Time
	last  atomic.Int64 // nanoseconds since began
	err   atomic.Pointer[error]
}

// newWireConn sets the connection's timers: what was sent and not acknowledged for deadAfter ends it.
func newWireConn(c net.Conn, deadAfter time.Duration) *wireConn {
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: deadAfter, Interval: deadAfter, Count: 2})
		if rc, err := t.SyscallConn(); err == nil {
			_ = rc.Control(func(fd uintptr) {
				_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(deadAfter.Milliseconds()))
			})
		}
	}
	return &wireConn{Conn: c, began: time.Now()}
}

func (c *wireConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.last.Store(int64(time.Since(c.began)))
	}
	if err != nil {
		c.err.CompareAndSwap(nil, &err)
	}
	return n, err
}

// why says why nothing can be read any more.
func (c *wireConn) why() error {
	switch err := c.err.Load(); {
	case err == nil:
		return errors.New("the other end broke the protocol, or what was sent to it was lost")
	case errors.Is(*err, io.EOF):
		return errors.New("the other end closed it")
	default:
		return fmt.Errorf("the connection broke: %w", *err)
	}
}

func (c *wireConn) lastReceived() time.Time { return c.began.Add(time.Duration(c.last.Load())) }

// muxConn is what yamux writes to. yamux sends each frame's header by itself; for small frames this one joins them,
// which saves a TLS record and a system call. Close does not say goodbye, because that waits for a peer that does not read.
type muxConn struct {
	*tls.Conn
	raw *wireConn
	// buf begins with a header that waits for its body, if waiting.
	buf     []byte
	waiting bool
}

const (
	muxHeader = 12      // bytes of yamux's frame header: version, type, flags (2), stream (4), length (4)
	muxJoin   = 4 << 10 // the largest body that is copied
)

// Write is called by one goroutine.
func (m *muxConn) Write(p []byte) (int, error) {
	if !m.waiting {
		if len(p) == muxHeader && p[1] == 0 && binary.BigEndian.Uint32(p[8:]) > 0 { // data: a body follows
			m.buf, m.waiting = append(m.buf[:0], p...), true
			return len(p), nil
		}
		return m.Conn.Write(p)
	}
	m.waiting = false
	if len(p) <= muxJoin {
		m.buf = append(m.buf, p...)
		p = nil
	}
	n := len(m.buf) - muxHeader
	if _, err := m.Conn.Write(m.buf); err != nil || p == nil {
		return n, err
	}
	return m.Conn.Write(p)
}

func (m *muxConn) Close() error { return m.raw.Close() }

// The server's first bytes on a link or a Raft connection say whether it takes the peer: a code, the length of a
// text (2 bytes), the text. So a peer learns why it was refused, which TLS could not tell it.
const (
	codeWelcome = 0
	codeRefused = 1
	// codeSuperseded refuses a manager whose history of the swarm was cut; the reason follows as with codeRefused.
	codeSuperseded = 2
	maxReason      = 1024
)

func writeWelcome(c net.Conn, refusal error) error {
	b := []byte{codeWelcome, 0, 0}
	if refusal != nil {
		text := refusal.Error()
		text = text[:min(len(text), maxReason)]
		b[0] = codeRefused
		var cut *superseded
		if errors.As(refusal, &cut) {
			b[0] = codeSuperseded
		}
		binary.BigEndian.PutUint16(b[1:], uint16(len(text)))
		b = append(b, text...)
	}
	_, err := c.Write(b)
	return err
}

// readWelcome reads what writeWelcome wrote.
func readWelcome(c net.Conn) error {
	var head [3]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint16(head[1:])
	if n > maxReason || head[0] > codeSuperseded {
		return errors.New("what answers there is no manager of a swarm")
	}
	text := make([]byte, n)
	if _, err := io.ReadFull(c, text); err != nil {
		return err
	}
	if head[0] != codeWelcome {
		return &RefusedError{Reason: string(text), Superseded: head[0] == codeSuperseded}
	}
	return nil
}

// RefusedError says that a manager does not take this node.
type RefusedError struct {
	Addr   string
	Reason string
	// Superseded says that the swarm goes on there without the history that this manager is of.
	Superseded bool
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("the manager at %s refused this node: %s", e.Addr, e.Reason)
}

// verify says who a certificate names, if it is one of the identity's swarm.
func verify(id *pki.Identity, certs []*x509.Certificate, now time.Time) (Peer, error) {
	if len(certs) == 0 {
		return Peer{}, errors.New("no certificate was presented")
	}
	p, err := pki.PeerOf(certs, id.Roots, now)
	switch {
	case err != nil && id.Former(certs[0]):
		return Peer{}, formerRoot(certs[0])
	case err != nil:
		return Peer{}, err
	}
	if p.SwarmID != id.SwarmID {
		return Peer{}, fmt.Errorf("node %s is one of swarm %s, not of %s", p.NodeID, p.SwarmID, id.SwarmID)
	}
	return p, nil
}

// baseTLS has what all our connections have in common.
func baseTLS(proto string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{proto},
		SessionTicketsDisabled: true, // every connection shows its certificate
	}
}

// secured is a connection to a manager that was verified.
type secured struct {
	raw   *wireConn
	conn  *tls.Conn
	peer  Peer
	until time.Time
}

// dialManager opens a connection with our certificate and checks that a manager of our swarm answers. What is said in
// hints is no protocol, see protoEpoch.
func dialManager(ctx context.Context, dial Dialer, addr, proto string, id *pki.Identity, deadAfter time.Duration, hints ...string) (*secured, error) {
	if id == nil {
		return nil, errors.New("this node has no certificate of a swarm")
	}
	s := &secured{}
	c := baseTLS(proto)
	c.NextProtos = append(c.NextProtos, hints...)
	c.Certificates = []tls.Certificate{id.Cert}
	c.InsecureSkipVerify = true // VerifyConnection does it, for names that are not host names
	c.VerifyConnection = func(cs tls.ConnectionState) (err error) {
		s.peer, err = verify(id, cs.PeerCertificates, time.Now())
		if err == nil && s.peer.Role != swarm.NodeRoleManager {
			err = fmt.Errorf("node %s is not a manager", s.peer.NodeID)
		}
		if err == nil {
			s.until = validUntil(cs.PeerCertificates[0])
		}
		return err
	}
	var err error
	if s.raw, s.conn, err = dialTLS(ctx, dial, addr, c, deadAfter); err != nil {
		return nil, err
	}
	err = withDeadline(ctx, s.conn, func() error { return readWelcome(s.conn) })
	if err != nil {
		var refused *RefusedError
		if errors.As(err, &refused) {
			refused.Addr = addr
		} else {
			err = fmt.Errorf("the manager at %s did not take this node: %w", addr, err)
		}
		return nil, errors.Join(err, s.raw.Close())
	}
	return s, nil
}

// Dialer opens a connection to addr (host:port); its errors are those of package net. nil opens TCP connections. The
// simulator has another one.
type Dialer func(ctx context.Context, addr string) (net.Conn, error)

func (d Dialer) dial(ctx context.Context, addr string) (net.Conn, error) {
	if d != nil {
		return d(ctx, addr)
	}
	return new(net.Dialer).DialContext(ctx, "tcp", addr)
}

// dialTLS connects within handshakeTimeout or ctx, whichever ends first. Its errors name the address and the time.
func dialTLS(ctx context.Context, dial Dialer, addr string, c *tls.Config, deadAfter time.Duration) (*wireConn, *tls.Conn, error) {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	raw, err := dial.dial(ctx, addr)
	if err != nil {
		return nil, nil, unreachable(addr, began, err)
	}
	w := newWireConn(raw, deadAfter)
	conn := tls.Client(w, c)
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = w.Close()
		var ne net.Error
		if errors.As(err, &ne) && ne.Timeout() || errors.Is(err, context.DeadlineExceeded) {
			return nil, nil, unreachable(addr, began, err)
		}
		return nil, nil, fmt.Errorf("connecting to the manager at %s: %w", addr, err)
	}
	return w, conn, nil
}

func unreachable(addr string, began time.Time, err error) error {
	return fmt.Errorf("the manager at %s did not answer (tried for %s): %w", addr, time.Since(began).Round(10*time.Millisecond), err)
}

// withDeadline runs fn, which uses the connection, until ctx ends.
func withDeadline(ctx context.Context, c net.Conn, fn func() error) error {
	limit := time.Now().Add(handshakeTimeout)
	if d, ok := ctx.Deadline(); ok && d.Before(limit) {
		limit = d
	}
	if err := c.SetDeadline(limit); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(past) })
	err := fn()
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return err
	}
	return c.SetDeadline(time.Time{})
}
