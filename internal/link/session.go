package link

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/hashicorp/yamux"
)

// Link is a connection between two nodes that carries requests both ways: ours by [Link.RoundTrip], the peer's to the
// handler that it was opened or accepted with. It never comes back: open another. All methods are safe for concurrent use.
type Link struct {
	peer      Peer
	conn      *wireConn
	mux       *yamux.Session
	control   *control
	transport *http.Transport
	ctx       context.Context // ends with the link; its cause is why
	cancel    context.CancelCauseFunc

	mu      sync.Mutex
	streams map[uint32]*stream
	// highest is the highest number of an accepted stream, which are odd where we accepted the link and even where we
	// opened it; early has those that the other end stopped reading before they were accepted here.
	highest, parity uint32
	early           map[uint32]struct{}
}

// linkConfig is what both ends need.
type linkConfig struct {
	peer Peer
	// until is when the peer's certificate expires: so does the link.
	until     time.Time
	client    bool
	handler   http.Handler
	deadAfter time.Duration
	log       *slog.Logger
}

// newLink makes a link of a connection whose peer was verified; run must follow. On an error the connection is closed.
func newLink(raw *wireConn, conn *tls.Conn, c linkConfig) (*Link, error) {
	yc := yamux.DefaultConfig()
	yc.EnableKeepAlive = false // ours counts any byte
	yc.MaxStreamWindowSize = streamWindow
	yc.StreamOpenTimeout = 0  // a busy peer makes streams wait; a dead one is noticed otherwise
	yc.StreamCloseTimeout = 0 // half-closed streams may live long
	yc.ConnectionWriteTimeout = time.Minute
	yc.LogOutput = nil
	yc.Logger = slog.NewLogLogger(c.log.Handler(), slog.LevelDebug)

	l := &Link{peer: c.peer, conn: raw, streams: map[uint32]*stream{}, early: map[uint32]struct{}{}}
	var err error
	var first *yamux.Stream
	mc := &muxConn{Conn: conn, raw: raw}
	if c.client {
		if l.mux, err = yamux.Client(mc, yc); err == nil {
			first, err = l.mux.OpenStream()
		}
	} else if l.mux, err = yamux.Server(mc, yc); err == nil {
		l.parity = 1
		ctx, cancel := context.WithTimeout(context.Background(), handshakeTimeout)
		first, err = l.mux.AcceptStreamWithContext(ctx)
		cancel()
	}
	if err != nil {
		_ = raw.Close()
		if l.mux != nil {
			_ = l.mux.Close()
		}
		return nil, err
	}
	l.control = newControl(first)
	l.ctx, l.cancel = context.WithCancelCause(context.Background())
	l.transport = &http.Transport{
		DialContext:         func(ctx context.Context, _, _ string) (net.Conn, error) { return l.DialContext(ctx) },
		DisableCompression:  true,
		MaxIdleConnsPerHost: 8,
		IdleConnTimeout:     idleTimeout / 2, // before the other end does, so that no request meets a closing stream
	}
	return l, nil
}

// run starts the link's goroutines, which all end with it.
func (l *Link) run(c linkConfig) {
	go l.control.write(l.ctx.Done(), c.deadAfter)
	go func() {
		if err := l.control.read(l.stopStream); !l.mux.IsClosed() {
			l.end(fmt.Errorf("the other end broke the protocol: %w", err))
		}
	}()
	go l.watch(c.deadAfter, c.until)
	go l.serve(c)
}

// serve answers the peer's requests.
func (l *Link) serve(c linkConfig) {
	h := c.handler
	if h == nil {
		h = http.NotFoundHandler()
	}
	srv := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(c.log.Handler(), slog.LevelDebug),
		BaseContext: func(net.Listener) context.Context {
			return context.WithValue(WithPeer(l.ctx, l.peer), linkKey{}, l)
		},
	}
	err := srv.Serve(&streamListener{l, make(chan struct{}, maxStreams)})
	l.end(err)
	_ = srv.Close()
	l.transport.CloseIdleConnections()
}

// watch ends the link when the connection breaks, the peer is silent for too long or its certificate expires.
func (l *Link) watch(deadAfter time.Duration, until time.Time) {
	expires := time.NewTimer(time.Until(until))
	defer expires.Stop()
	silence := time.NewTimer(deadAfter)
	defer silence.Stop()
	for {
		select {
		case <-silence.C:
			quiet := time.Since(l.conn.lastReceived())
			if quiet >= deadAfter {
				l.end(fmt.Errorf("node %s at %s was not heard for %s", l.peer.NodeID, l.conn.RemoteAddr(), quiet.Round(10*time.Millisecond)))
				return
			}
			silence.Reset(deadAfter - quiet)
		case <-expires.C:
			l.end(fmt.Errorf("the certificate that node %s connected with expired at %s", l.peer.NodeID, until.UTC().Format(time.RFC3339)))
			return
		case <-l.mux.CloseChan():
			l.end(l.conn.why())
			return
		case <-l.ctx.Done():
			return
		}
	}
}

// ErrClosed is the cause of a link's end where this end closed it.
var ErrClosed = errors.New("the link was closed")

// end ends the link; the first cause counts.
func (l *Link) end(cause error) {
	if l.ctx.Err() != nil {
		return
	}
	if cause == nil {
		cause = ErrClosed
	}
	l.cancel(cause)
	_ = l.conn.Close() // first, so that nothing below waits for a peer that does not answer
	_ = l.mux.Close()
}

// Peer is who is at the other end.
func (l *Link) Peer() Peer { return l.peer }

// RemoteAddr is the other end's address as the connection shows it.
func (l *Link) RemoteAddr() net.Addr { return l.conn.RemoteAddr() }

// LocalAddr is our address on the connection.
func (l *Link) LocalAddr() net.Addr { return l.conn.LocalAddr() }

// Done is closed when the link has ended.
func (l *Link) Done() <-chan struct{} { return l.ctx.Done() }

// Err says why the link ended; nil while it lives.
func (l *Link) Err() error {
	if l.ctx.Err() == nil {
		return nil
	}
	return fmt.Errorf("the link to node %s ended: %w", l.peer.NodeID, context.Cause(l.ctx))
}

// LastReceived is when the last byte came from the peer.
func (l *Link) LastReceived() time.Time { return l.conn.lastReceived() }

// Close ends the link at once; requests under way fail.
func (l *Link) Close() error {
	l.end(ErrClosed)
	return nil
}

// RoundTrip sends a request to the peer, whatever host its URL names. Upgrades pass: the body of a response 101 is an
// io.ReadWriteCloser with CloseWrite.
func (l *Link) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := l.Err(); err != nil {
		if r.Body != nil {
			_ = r.Body.Close()
		}
		return nil, err
	}
	if r.URL.Scheme != "http" || r.URL.Host == "" {
		r = r.Clone(r.Context())
		r.URL.Scheme = "http"
		if r.URL.Host == "" {
			r.URL.Host = l.peer.NodeID
		}
	}
	return l.transport.RoundTrip(r)
}

// Client is an HTTP client for the peer. It follows no redirects: a peer must not send us elsewhere.
func (l *Link) Client() *http.Client {
	return &http.Client{Transport: l, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// DialContext opens a stream to the peer's HTTP server, for those who write requests themselves (hijacking). The
// connection has CloseWrite.
func (l *Link) DialContext(ctx context.Context) (net.Conn, error) {
	type result struct {
		s   *yamux.Stream
		err error
	}
	ch := make(chan result, 1)
	go func() {
		s, err := l.mux.OpenStream() // waits while the peer has too many to accept
		ch <- result{s, err}
	}()
	select {
	case r := <-ch:
		if r.err != nil {
			return nil, errors.Join(fmt.Errorf("opening a stream to node %s: %w", l.peer.NodeID, r.err), l.Err())
		}
		return l.add(r.s, nil), nil
	case <-ctx.Done():
		go func() {
			if r := <-ch; r.err == nil {
				_ = l.add(r.s, nil).Close()
			}
		}()
		return nil, fmt.Errorf("opening a stream to node %s: %w", l.peer.NodeID, context.Cause(ctx))
	}
}

// add registers a stream, so that the other end can stop it.
func (l *Link) add(y *yamux.Stream, release func()) *stream {
	s := &stream{Stream: y, link: l, release: release}
	id := y.StreamID()
	l.mu.Lock()
	l.streams[id] = s
	if release != nil {
		l.highest = max(l.highest, id)
	}
	_, stopped := l.early[id]
	delete(l.early, id)
	l.mu.Unlock()
	if stopped {
		s.stop()
	}
	return s
}

func (l *Link) remove(s *stream) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.streams, s.StreamID())
}

// stopStream is called when the other end reads a stream no more.
func (l *Link) stopStream(id uint32) {
	l.mu.Lock()
	s := l.streams[id]
	if s == nil && id%2 == l.parity && id > l.highest {
		if len(l.early) >= maxStreams { // of streams that yamux turned away
			clear(l.early)
		}
		l.early[id] = struct{}{}
	}
	l.mu.Unlock()
	if s != nil {
		s.stop()
	}
}

// streamListener gives the peer's streams to an HTTP server, at most maxStreams at a time.
type streamListener struct {
	l     *Link
	slots chan struct{}
}

func (a *streamListener) Accept() (net.Conn, error) {
	select {
	case a.slots <- struct{}{}:
	case <-a.l.ctx.Done():
		return nil, context.Cause(a.l.ctx)
	}
	s, err := a.l.mux.AcceptStream()
	if err != nil {
		<-a.l.ctx.Done() // watch knows why
		return nil, context.Cause(a.l.ctx)
	}
	return a.l.add(s, func() { <-a.slots }), nil
}

func (a *streamListener) Close() error   { return nil }
func (a *streamListener) Addr() net.Addr { return a.l.conn.LocalAddr() }
