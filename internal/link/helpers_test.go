package link

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/pki"
)

var quiet = slog.New(slog.DiscardHandler)

// testSwarm is a swarm's authority and what it signed.
type testSwarm struct {
	t  testing.TB
	id string
	ca *cluster.Authority
}

func newSwarm(t testing.TB, id string) *testSwarm {
	t.Helper()
	ca, err := pki.NewAuthority(time.Now().Add(-24 * time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	return &testSwarm{t, id, ca}
}

// node makes an identity that was signed at the time and is valid for so long.
func (s *testSwarm) nodeAt(nodeID string, role swarm.NodeRole, validity time.Duration, at time.Time) *pki.Holder {
	s.t.Helper()
	key, csr, err := pki.NewRequest()
	if err != nil {
		s.t.Fatal(err)
	}
	cert, err := pki.Sign(s.ca, csr, s.id, nodeID, role, validity, at)
	if err != nil {
		s.t.Fatal(err)
	}
	id, err := pki.NewIdentity(key, cert, s.ca.Cert)
	if err != nil {
		s.t.Fatal(err)
	}
	return pki.NewHolder(id)
}

func (s *testSwarm) manager(id string) *pki.Holder {
	return s.nodeAt(id, swarm.NodeRoleManager, time.Hour, time.Now())
}

func (s *testSwarm) worker(id string) *pki.Holder {
	return s.nodeAt(id, swarm.NodeRoleWorker, time.Hour, time.Now())
}

// who answers who asked.
var who = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	p, ok := PeerFrom(r.Context())
	if !ok {
		http.Error(w, "no peer", http.StatusInternalServerError)
		return
	}
	io.WriteString(w, p.SwarmID+"/"+p.NodeID+"/"+string(p.Role))
})

// serve runs a server until the test ends.
func serve(t testing.TB, c ServerConfig) *Server {
	t.Helper()
	if c.Listener == nil && c.ListenAddr == "" {
		c.ListenAddr = "127.0.0.1:0"
	}
	c.Log = quiet
	s, err := NewServer(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return s
}

func dial(t testing.TB, addr string, c DialConfig) *Link {
	t.Helper()
	c.Log = quiet
	l, err := Dial(t.Context(), addr, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// get asks over a link.
func get(t testing.TB, l *Link, path string) string {
	t.Helper()
	resp, err := l.Client().Get("http://peer" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("never: %s", what)
		}
	}
}

// proxy passes connections on until it is cut: then it goes on reading and passes nothing on, like a network that
// drops every packet.
type proxy struct {
	net.Listener
	to  string
	mu  sync.Mutex
	cut bool
}

func newProxy(t testing.TB, to string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{Listener: l, to: to}
	var all sync.WaitGroup
	var conns sync.Map
	all.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				in.Close()
				continue
			}
			conns.Store(in, true)
			conns.Store(out, true)
			all.Go(func() { p.pass(in, out) })
			all.Go(func() { p.pass(out, in) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		conns.Range(func(c, _ any) bool { c.(net.Conn).Close(); return true })
		all.Wait()
	})
	return p
}

func (p *proxy) pass(from, to net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		p.mu.Lock()
		cut := p.cut
		p.mu.Unlock()
		if err != nil {
			if !cut {
				to.Close()
			}
			return
		}
		if !cut {
			if _, err := to.Write(buf[:n]); err != nil {
				from.Close()
				return
			}
		}
	}
}

func (p *proxy) blackhole() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = true
}
