package swarm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

const (
	// unacked is how long what was sent may stay unacknowledged before its connection breaks, as TCP_USER_TIMEOUT does
	// for a daemon's connections.
	unacked = 5 * time.Second
	// upkeep is how often connections are looked at for it.
	upkeep = 250 * time.Millisecond
	// backlog is how many connections wait for their listener.
	backlog = 64
)

// fabric is the network between hosts: TCP connections in memory whose segments take time, wait behind a cut until it
// heals, and are lost with their host.
type fabric struct {
	seed uint64

	mu        sync.Mutex
	changed   chan struct{} // closed when paths or listeners change
	cut       map[path]int  // how many faults cut it
	slow      map[path]time.Duration
	lossy     map[path]int // percent of segments that are sent again, after 200 ms
	listeners map[string]*listener
	up        map[string]bool // by IP: the host has power
	conns     map[*conn]struct{}
	opened    uint64
}

// path is one direction between two hosts, by IP.
type path struct{ from, to string }

func newFabric(seed uint64) *fabric {
	return &fabric{
		seed: seed, changed: make(chan struct{}), cut: map[path]int{}, slow: map[path]time.Duration{}, lossy: map[path]int{},
		listeners: map[string]*listener{}, up: map[string]bool{}, conns: map[*conn]struct{}{},
	}
}

// alter changes the network and lets everybody who waits look again.
func (f *fabric) alter(change func()) {
	f.mu.Lock()
	change()
	close(f.changed)
	f.changed = make(chan struct{})
	conns := make([]*conn, 0, len(f.conns))
	for c := range f.conns {
		conns = append(conns, c)
	}
	f.mu.Unlock()
	for _, c := range conns {
		c.in.poke()
	}
}

// open says whether segments of the path arrive now.
func (f *fabric) open(p path) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.openLocked(p)
}

func (f *fabric) openLocked(p path) bool {
	return p.from == p.to || f.cut[p] == 0 && f.up[p.to]
}

// lag is how long the n-th segment of a connection takes: a function of the seed.
func (f *fabric) lag(p path, id, n uint64) time.Duration {
	if p.from == p.to {
		return 20 * time.Microsecond
	}
	h := mix(f.seed, id, n)
	d := 150*time.Microsecond + time.Duration(h%2000)*time.Microsecond
	f.mu.Lock()
	defer f.mu.Unlock()
	d += f.slow[p]/2 + time.Duration(float64(f.slow[p])*float64(h>>11%1000)/1000)
	if int(h>>32%100) < f.lossy[p] {
		d += 200 * time.Millisecond // Linux's shortest time until something is sent again (TCP_RTO_MIN)
	}
	return d
}

// mix is a hash (the finalizer of splitmix64).
func mix(values ...uint64) uint64 {
	x := uint64(0x9e3779b97f4a7c15)
	for _, v := range values {
		x ^= v
		x += 0x9e3779b97f4a7c15
		x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
		x = (x ^ x>>27) * 0x94d049bb133111eb
		x ^= x >> 31
	}
	return x
}

// run looks after connections until ctx ends.
func (f *fabric) run(ctx context.Context) {
	tick := time.NewTicker(upkeep)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		f.mu.Lock()
		conns := make([]*conn, 0, len(f.conns))
		for c := range f.conns {
			conns = append(conns, c)
		}
		f.mu.Unlock()
		for _, c := range conns {
			c.upkeep()
		}
	}
}

// listen opens a port of a daemon.
func (f *fabric) listen(l *life, addr string) (net.Listener, error) {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	at := net.JoinHostPort(l.host.ip, port)
	ln := &listener{f: f, l: l, addr: tcpAddr(at), conns: make(chan *conn, backlog), closed: make(chan struct{})}
	var taken bool
	f.alter(func() {
		if _, taken = f.listeners[at]; !taken {
			f.listeners[at] = ln
		}
	})
	if taken {
		return nil, &net.OpError{Op: "listen", Net: "tcp", Err: os.NewSyscallError("bind", syscall.EADDRINUSE)}
	}
	return ln, nil
}

// dial connects a daemon to an address.
func (f *fabric) dial(ctx context.Context, l *life, addr string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	if host == "127.0.0.1" {
		host = l.host.ip
	}
	fail := func(err error) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: tcpAddr(addr), Err: err}
	}
	there, back := path{l.host.ip, host}, path{host, l.host.ip}
	for {
		if l.isDead() {
			return fail(net.ErrClosed)
		}
		f.mu.Lock()
		f.opened++
		id := f.opened
		changed, open := f.changed, f.openLocked(there) && f.openLocked(back)
		ln := f.listeners[net.JoinHostPort(host, port)]
		f.mu.Unlock()
		if open {
			select {
			case <-time.After(f.lag(there, id, 0) + f.lag(back, id, 1)):
			case <-ctx.Done():
				return fail(ctx.Err())
			}
			if ln == nil {
				return fail(os.NewSyscallError("connect", syscall.ECONNREFUSED))
			}
			a, b := f.pair(l, ln, id)
			select {
			case ln.conns <- b:
				return a, nil
			case <-ln.closed:
				return fail(os.NewSyscallError("connect", syscall.ECONNREFUSED))
			default: // the backlog is full: the segment is dropped
			}
		}
		select {
		case <-changed:
		case <-time.After(time.Second):
		case <-ctx.Done():
			return fail(ctx.Err())
		}
	}
}

// pair makes the two ends of a connection.
func (f *fabric) pair(l *life, ln *listener, id uint64) (*conn, *conn) {
	here := fmt.Sprintf("%s:%d", l.host.ip, 32768+id%28000)
	there, back := newStream(f, path{l.host.ip, ln.l.host.ip}, 2*id), newStream(f, path{ln.l.host.ip, l.host.ip}, 2*id+1)
	a := &conn{f: f, life: l, in: back, out: there, local: tcpAddr(here), remote: ln.addr}
	b := &conn{f: f, life: ln.l, in: there, out: back, local: ln.addr, remote: tcpAddr(here)}
	a.other, b.other = b, a
	f.mu.Lock()
	defer f.mu.Unlock()
	f.conns[a], f.conns[b] = struct{}{}, struct{}{}
	return a, b
}

// reset breaks the connections between two hosts, as a firewall that forgets them does.
func (f *fabric) reset(a, b string) {
	f.each(func(c *conn) {
		if p := c.out.path; p == (path{a, b}) || p == (path{b, a}) {
			c.fail(syscall.ECONNRESET)
		}
	})
}

// kill ends what a daemon that died has. Its kernel closes its connections, if it has power.
func (f *fabric) kill(l *life) {
	f.alter(func() {
		for at, ln := range f.listeners {
			if ln.l == l {
				delete(f.listeners, at)
				ln.once.Do(func() { close(ln.closed) })
			}
		}
	})
	f.each(func(c *conn) {
		if c.life == l {
			c.fail(net.ErrClosed)
		}
	})
}

func (f *fabric) each(do func(*conn)) {
	f.mu.Lock()
	conns := make([]*conn, 0, len(f.conns))
	for c := range f.conns {
		conns = append(conns, c)
	}
	f.mu.Unlock()
	for _, c := range conns {
		do(c)
	}
}

type listener struct {
	f      *fabric
	l      *life
	addr   tcpAddr
	conns  chan *conn
	closed chan struct{}
	once   sync.Once
}

func (n *listener) Accept() (net.Conn, error) {
	select {
	case <-n.closed:
		return nil, net.ErrClosed
	default:
	}
	select {
	case c := <-n.conns:
		return c, nil
	case <-n.closed:
		return nil, net.ErrClosed
	}
}

func (n *listener) Close() error {
	n.f.alter(func() {
		if n.f.listeners[string(n.addr)] == n {
			delete(n.f.listeners, string(n.addr))
		}
	})
	n.once.Do(func() { close(n.closed) })
	for {
		select {
		case c := <-n.conns:
			_ = c.Close()
		default:
			return nil
		}
	}
}

func (n *listener) Addr() net.Addr { return n.addr }

type tcpAddr string

func (tcpAddr) Network() string  { return "tcp" }
func (a tcpAddr) String() string { return string(a) }

// stream is one direction of a connection.
type stream struct {
	f    *fabric
	path path
	id   uint64
	wake chan struct{} // capacity 1; for the reader

	mu    sync.Mutex
	ready []byte // what has arrived
	queue []segment
	sent  uint64
	wrote time.Time // when the last segment was sent
	last  time.Time // when it arrives, at the earliest
	fin   bool      // nothing more comes after the queue
}

// arrive takes in what has arrived by now: all that was sent at one time together. yamux holds a lock from a frame's first
// byte to its last, so time could not go on if a frame came in parts.
func (s *stream) arrive(now time.Time) {
	n := 0
	for n < len(s.queue) && !s.queue[n].at.After(now) {
		s.ready = append(s.ready, s.queue[n].data...)
		n++
	}
	s.queue = s.queue[n:]
}

type segment struct {
	data []byte
	at   time.Time // when it arrives, if the path is open then
	sent time.Time
}

func newStream(f *fabric, p path, id uint64) *stream {
	return &stream{f: f, path: p, id: id, wake: make(chan struct{}, 1)}
}

func (s *stream) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *stream) push(p []byte, fin bool) {
	s.mu.Lock()
	s.sent++
	lag := s.f.lag(s.path, s.id, s.sent)
	now := time.Now()
	if !now.Equal(s.wrote) {
		s.last, s.wrote = later(s.last, now.Add(lag)), now
	}
	if !s.fin {
		s.queue = append(s.queue, segment{append([]byte(nil), p...), s.last, now})
		s.fin = fin
	}
	s.mu.Unlock()
	s.poke()
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// conn is one end of a connection. Writes never wait: the receive buffer has no bound.
type conn struct {
	f             *fabric
	life          *life
	in, out       *stream
	other         *conn
	local, remote tcpAddr

	mu                          sync.Mutex
	err                         error // why nothing goes any more
	readDeadline, writeDeadline time.Time
}

func (c *conn) fail(err error) {
	c.mu.Lock()
	if c.err == nil {
		c.err = err
	}
	c.mu.Unlock()
	c.in.poke()
}

func (c *conn) state() (read, write time.Time, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.readDeadline, c.writeDeadline, c.err
}

func (c *conn) Read(p []byte) (int, error) {
	for {
		deadline, _, err := c.state()
		now := time.Now()
		switch {
		case err != nil:
			return 0, c.opError("read", err)
		case !deadline.IsZero() && !deadline.After(now):
			return 0, c.opError("read", os.ErrDeadlineExceeded)
		}
		until := deadline
		open := c.f.open(c.in.path)
		s := c.in
		s.mu.Lock()
		if open {
			s.arrive(now)
		}
		if len(s.ready) > 0 {
			n := copy(p, s.ready)
			s.ready = s.ready[n:]
			s.mu.Unlock()
			return n, nil
		}
		if s.fin && len(s.queue) == 0 {
			s.mu.Unlock()
			return 0, io.EOF
		}
		if open && len(s.queue) > 0 && (until.IsZero() || s.queue[0].at.Before(until)) {
			until = s.queue[0].at
		}
		s.mu.Unlock()
		var timer *time.Timer
		var expired <-chan time.Time
		if !until.IsZero() {
			timer = time.NewTimer(until.Sub(now))
			expired = timer.C
		}
		select {
		case <-s.wake:
		case <-expired:
		}
		if timer != nil {
			timer.Stop()
		}
	}
}

func (c *conn) Write(p []byte) (int, error) {
	_, deadline, err := c.state()
	switch {
	case err != nil:
		return 0, c.opError("write", err)
	case !deadline.IsZero() && !deadline.After(time.Now()):
		return 0, c.opError("write", os.ErrDeadlineExceeded)
	}
	c.out.push(p, false)
	return len(p), nil
}

// upkeep breaks the connection if the other end does not acknowledge, or is gone and its kernel says so.
func (c *conn) upkeep() {
	if _, _, err := c.state(); err != nil {
		c.f.mu.Lock()
		delete(c.f.conns, c)
		c.f.mu.Unlock()
		return
	}
	back := path{c.out.path.to, c.out.path.from}
	open := c.f.open(c.out.path) && c.f.open(back)
	_, _, otherErr := c.other.state()
	switch {
	case open && otherErr != nil && !errors.Is(otherErr, errFin):
		c.fail(syscall.ECONNRESET)
	case !open:
		c.out.mu.Lock()
		stuck := len(c.out.queue) > 0 && time.Since(c.out.queue[0].sent) > unacked
		c.out.mu.Unlock()
		if stuck {
			c.fail(syscall.ETIMEDOUT)
		}
	}
}

var errFin = fmt.Errorf("closed by this end: %w", net.ErrClosed)

func (c *conn) Close() error {
	if _, _, err := c.state(); err == nil {
		c.out.push(nil, true)
	}
	c.fail(errFin)
	return nil
}

func (c *conn) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Addr: c.remote, Err: err}
}

func (c *conn) LocalAddr() net.Addr  { return c.local }
func (c *conn) RemoteAddr() net.Addr { return c.remote }

func (c *conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

func (c *conn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	c.readDeadline = t
	c.mu.Unlock()
	c.in.poke()
	return nil
}

func (c *conn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writeDeadline = t
	return nil
}
