// Package memhttp is HTTP between two parties in memory, for tests: real clients and servers of net/http over
// net.Pipe, which works inside a testing/synctest bubble where sockets do not.
//
// It decides nothing. It plays the part of package link: requests carry their peer.
package memhttp

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"testing"

	"shoal.dev/shoal/internal/link"
)

// Link is one peer's way to a handler. It is an [http.RoundTripper].
type Link struct {
	server    *http.Server
	transport *http.Transport
	conns     chan net.Conn
	done      chan struct{}
	once      sync.Once

	mu      sync.Mutex
	stalled chan struct{} // nil, or closed by Resume
}

// Dial connects peer p with handler h. The link is closed when the test ends.
func Dial(t testing.TB, h http.Handler, p link.Peer) *Link {
	l := &Link{conns: make(chan net.Conn), done: make(chan struct{})}
	l.server = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(w, r.WithContext(link.WithPeer(r.Context(), p)))
	})}
	l.transport = &http.Transport{DialContext: l.dial, MaxIdleConnsPerHost: 4}
	go l.server.Serve(listener{l})
	t.Cleanup(l.Close)
	return l
}

func (l *Link) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	here, there := net.Pipe()
	select {
	case l.conns <- there:
		return &conn{Conn: here, l: l, closed: make(chan struct{})}, nil
	case <-l.done:
		return nil, errClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

var errClosed = errors.New("the link is closed")

// RoundTrip sends a request over the link.
func (l *Link) RoundTrip(r *http.Request) (*http.Response, error) { return l.transport.RoundTrip(r) }

// Done is closed when the link is.
func (l *Link) Done() <-chan struct{} { return l.done }

// Close breaks the link: both ends notice.
func (l *Link) Close() {
	l.once.Do(func() {
		close(l.done)
		l.Resume()
		l.server.Close()
		l.transport.CloseIdleConnections()
	})
}

// Stall lets nothing pass any more, without either end being told.
func (l *Link) Stall() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stalled == nil {
		l.stalled = make(chan struct{})
	}
}

// Resume ends a stall.
func (l *Link) Resume() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stalled != nil {
		close(l.stalled)
		l.stalled = nil
	}
}

// conn stalls with its link, until it is closed.
type conn struct {
	net.Conn
	l      *Link
	closed chan struct{}
	once   sync.Once
}

func (c *conn) wait() error {
	c.l.mu.Lock()
	ch := c.l.stalled
	c.l.mu.Unlock()
	if ch == nil {
		return nil
	}
	select {
	case <-ch:
		return nil
	case <-c.closed:
		return net.ErrClosed
	}
}

func (c *conn) Write(b []byte) (int, error) {
	if err := c.wait(); err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}

func (c *conn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if stalled := c.wait(); stalled != nil {
		return n, stalled
	}
	return n, err
}

func (c *conn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

type listener struct{ l *Link }

func (n listener) Accept() (net.Conn, error) {
	select {
	case c := <-n.l.conns:
		return c, nil
	case <-n.l.done:
		return nil, net.ErrClosed
	}
}

func (n listener) Close() error   { return nil }
func (n listener) Addr() net.Addr { return addr{} }

type addr struct{}

func (addr) Network() string { return "mem" }
func (addr) String() string  { return "mem" }
