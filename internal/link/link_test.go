package link

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/pki"
)

func TestRequestsPassBothWaysAndNameThePeer(t *testing.T) {
	s := newSwarm(t, "sw1")
	srv := serve(t, ServerConfig{Identity: s.manager("m1"), Handler: who})
	l := dial(t, srv.Addr().String(), DialConfig{Identity: s.worker("w1"), Handler: who})
	if got := get(t, l, "/"); got != "sw1/w1/worker" {
		t.Errorf("the manager sees %q", got)
	}
	if p := l.Peer(); p != (Peer{SwarmID: "sw1", NodeID: "m1", Role: swarm.NodeRoleManager}) {
		t.Errorf("the worker sees %+v", p)
	}
	eventually(t, "the link is known", func() bool { _, ok := srv.Link("w1"); return ok })
	back, _ := srv.Link("w1")
	if got := get(t, back, "/"); got != "sw1/m1/manager" {
		t.Errorf("the worker sees %q", got)
	}
	// The newest counts, and the older one takes over when it is gone.
	second := dial(t, srv.Addr().String(), DialConfig{Identity: s.worker("w1"), Handler: who})
	eventually(t, "both are known", func() bool { return len(srv.Links()) == 2 })
	if newest, _ := srv.Link("w1"); newest == back {
		t.Error("the older link counts")
	}
	second.Close()
	eventually(t, "the older one counts again", func() bool { x, _ := srv.Link("w1"); return x == back })
	srv.Disconnect("w1")
	<-l.Done()
	if err := l.Err(); err == nil || !strings.Contains(err.Error(), "the link to node m1 ended") {
		t.Errorf("Err: %v", err)
	}
	if _, err := l.Client().Get("http://peer/"); err == nil {
		t.Error("a request over an ended link went through")
	}
}

func TestWhoIsRefused(t *testing.T) {
	s, other := newSwarm(t, "sw1"), newSwarm(t, "sw2")
	m := s.manager("m1")
	gone := errors.New("node gone was removed from the swarm")
	srv := serve(t, ServerConfig{Identity: m, Handler: who, Admit: func(p Peer) error {
		if p.NodeID == "gone" {
			return gone
		}
		return nil
	}})
	worker := serve(t, ServerConfig{Identity: s.worker("w9"), Handler: who})
	sameRoot := &testSwarm{t, "sw3", s.ca}
	now := time.Now()
	mixed := func(h *pki.Holder) *pki.Holder { // trusts s and has a certificate of another swarm
		id := *h.Get()
		id.RootPEM, id.Roots, id.SwarmID = m.Get().RootPEM, m.Get().Roots, "sw1"
		return pki.NewHolder(&id)
	}
	tests := []struct {
		name string
		addr string
		id   *pki.Holder
		want []string
	}{
		{"no certificate", srv.Addr().String(), &pki.Holder{}, []string{"has no certificate"}},
		{"the client trusts another swarm", srv.Addr().String(), other.worker("w1"), []string{srv.Addr().String(), "m1", "not of this swarm"}},
		{"the server trusts another swarm", srv.Addr().String(), mixed(other.worker("w1")), []string{"refused this node", "not of this swarm"}},
		{"same root, other swarm", srv.Addr().String(), mixed(sameRoot.worker("w1")), []string{"refused this node", "of swarm sw3, not of sw1"}},
		{"expired", srv.Addr().String(), s.nodeAt("w1", swarm.NodeRoleWorker, time.Hour, now.Add(-2*time.Hour)),
			[]string{"refused this node", "expired at", "it is"}},
		{"not yet valid", srv.Addr().String(), s.nodeAt("w1", swarm.NodeRoleWorker, 24*time.Hour, now.Add(3*time.Hour)),
			[]string{"refused this node", "valid only from", "it is", "clock"}},
		{"not admitted", srv.Addr().String(), s.worker("gone"), []string{"refused this node", gone.Error()}},
		{"a worker answers", worker.Addr().String(), s.worker("w1"), []string{"node w9 is not a manager"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l, err := Dial(t.Context(), tt.addr, DialConfig{Identity: tt.id, Log: quiet})
			if err == nil {
				l.Close()
				t.Fatal("it was let in")
			}
			for _, w := range tt.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%q does not say %q", err, w)
				}
			}
		})
	}
	if n := len(srv.Links()); n != 0 {
		t.Errorf("%d links", n)
	}
}

func TestTLSWithoutACertificateReachesNothing(t *testing.T) {
	s := newSwarm(t, "sw1")
	srv := serve(t, ServerConfig{Identity: s.manager("m1"), Handler: who})
	for _, proto := range []string{protoLink, protoRaft, "h2", ""} {
		c := &tls.Config{InsecureSkipVerify: true}
		if proto != "" {
			c.NextProtos = []string{proto}
		}
		conn, err := tls.Dial("tcp", srv.Addr().String(), c)
		if err != nil {
			continue
		}
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		if n, err := conn.Read(make([]byte, 1)); err == nil {
			t.Errorf("%q: %d bytes", proto, n)
		}
		conn.Close()
	}
}

func TestAnAddressThatDoesNotAnswerIsNamedWithTheTime(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // accepts in the kernel and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s := newSwarm(t, "sw1")
	tok, _ := pki.ParseToken(pki.NewToken(s.ca.Cert))
	free, _ := net.Listen("tcp", "127.0.0.1:0")
	closed := free.Addr().String()
	free.Close()
	for _, addr := range []string{l.Addr().String(), closed} {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		_, err1 := Dial(ctx, addr, DialConfig{Identity: s.worker("w1"), Log: quiet})
		cancel()
		ctx, cancel = context.WithTimeout(t.Context(), 200*time.Millisecond)
		_, err2 := JoinDial(ctx, nil, addr, tok)
		cancel()
		for _, err := range []error{err1, err2} {
			if err == nil || !strings.Contains(err.Error(), addr) || !strings.Contains(err.Error(), "did not answer (tried for ") {
				t.Errorf("%s: %v", addr, err)
			}
		}
	}
}

func TestJoining(t *testing.T) {
	s := newSwarm(t, "sw1")
	srv := serve(t, ServerConfig{Identity: s.manager("m1"), Handler: who, Join: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, ok := PeerFrom(r.Context()); ok {
			t.Error("a stranger has a peer")
		}
		b, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
			return
		}
		fmt.Fprintf(w, "%s %d", r.URL.Path, len(b))
	})})
	tok, err := pki.ParseToken(pki.NewToken(s.ca.Cert))
	if err != nil {
		t.Fatal(err)
	}
	j, err := JoinDial(t.Context(), nil, srv.Addr().String(), tok)
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	if !bytes.Equal(j.RootPEM, s.ca.Cert) || j.Manager.NodeID != "m1" || j.LocalAddr == nil {
		t.Errorf("got %+v", j)
	}
	for range 2 { // the first connection and a new one
		resp, err := j.Client.Post("http://manager/join", "text/plain", strings.NewReader("abc"))
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if string(b) != "/join 3" {
			t.Errorf("got %q", b)
		}
		j.Close()
	}
	resp, err := j.Client.Post("http://manager/join", "text/plain", bytes.NewReader(make([]byte, joinBody+1)))
	if err == nil {
		resp.Body.Close()
		if resp.StatusCode != http.StatusRequestEntityTooLarge {
			t.Errorf("a large body: %s", resp.Status)
		}
	}
	var refused bool
	for range joinHostMax + 20 {
		resp, err := j.Client.Get("http://manager/x")
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		refused = refused || resp.StatusCode == http.StatusTooManyRequests
	}
	if !refused {
		t.Error("nothing was refused")
	}

	wrong := pki.Token{Digest: sha256.Sum256([]byte("x")), Secret: tok.Secret}
	_, err = JoinDial(t.Context(), nil, srv.Addr().String(), wrong)
	if want := fmt.Sprintf("remote CA does not match fingerprint. Expected: %x", wrong.Digest); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("wrong digest: %v", err)
	}
	// A man in the middle shows the right root and a certificate that it did not sign.
	other := newSwarm(t, "sw1").manager("m1").Get()
	fake := *other
	fake.RootPEM = s.ca.Cert
	mitm := serve(t, ServerConfig{Identity: pki.NewHolder(&fake), Handler: who})
	if _, err = JoinDial(t.Context(), nil, mitm.Addr().String(), tok); err == nil || !strings.Contains(err.Error(), "not of this swarm") {
		t.Errorf("man in the middle: %v", err)
	}
}

func TestADeadPeerIsNoticedAtBothEnds(t *testing.T) {
	s := newSwarm(t, "sw1")
	const dead = 400 * time.Millisecond
	srv := serve(t, ServerConfig{Identity: s.manager("m1"), DeadAfter: dead, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		<-r.Context().Done()
	})})
	p := newProxy(t, srv.Addr().String())
	l := dial(t, p.Addr().String(), DialConfig{Identity: s.worker("w1"), DeadAfter: dead})
	eventually(t, "the link is known", func() bool { _, ok := srv.Link("w1"); return ok })
	back, _ := srv.Link("w1")
	// Idle, it lives: only beats pass.
	idle := time.After(3 * dead)
	select {
	case <-l.Done():
		t.Fatalf("an idle link died: %v", l.Err())
	case <-back.Done():
		t.Fatalf("an idle link died: %v", back.Err())
	case <-idle:
	}
	if age := time.Since(back.LastReceived()); age > dead {
		t.Errorf("last received %s ago", age)
	}
	failed := make(chan error, 1)
	go func() {
		_, err := l.Client().Get("http://peer/")
		failed <- err
	}()
	p.blackhole()
	began := time.Now()
	for _, x := range []*Link{l, back} {
		select {
		case <-x.Done():
		case <-time.After(10 * time.Second):
			t.Fatal("the dead peer is not noticed")
		}
		if err := x.Err(); !strings.Contains(err.Error(), "was not heard for") {
			t.Errorf("Err: %v", err)
		}
	}
	if d := time.Since(began); d < dead/2 || d > 5*dead {
		t.Errorf("noticed after %s", d)
	}
	if err := <-failed; err == nil {
		t.Error("the request under way did not fail")
	}
	eventually(t, "the server forgets it", func() bool { _, ok := srv.Link("w1"); return !ok })
}

func TestALongTransferIsNoSilenceAndStarvesNoOne(t *testing.T) {
	s := newSwarm(t, "sw1")
	const size = 64 << 20
	srv := serve(t, ServerConfig{Identity: s.manager("m1"), DeadAfter: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/big" {
			io.CopyN(w, zeros{}, size)
		}
	})})
	l := dial(t, srv.Addr().String(), DialConfig{Identity: s.worker("w1"), DeadAfter: time.Second})
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			resp, err := l.Client().Get("http://peer/big")
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			if n, err := io.Copy(io.Discard, resp.Body); n != size || err != nil {
				t.Errorf("%d bytes, %v", n, err)
			}
		})
	}
	for range 10 {
		began := time.Now()
		get(t, l, "/small")
		if d := time.Since(began); d > 2*time.Second {
			t.Errorf("a small request took %s beside large ones", d)
		}
	}
	wg.Wait()
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestARenewedCertificateCountsForNewConnections(t *testing.T) {
	s := newSwarm(t, "sw1")
	mid := s.manager("m1")
	wid := s.nodeAt("w1", swarm.NodeRoleWorker, 1200*time.Millisecond, time.Now())
	srv := serve(t, ServerConfig{Identity: mid, Handler: who})
	l := dial(t, srv.Addr().String(), DialConfig{Identity: wid})
	mid.Set(s.manager("m1").Get())
	wid.Set(s.worker("w1").Get())
	second := dial(t, srv.Addr().String(), DialConfig{Identity: wid})
	if got := get(t, second, "/"); got != "sw1/w1/worker" {
		t.Errorf("got %q", got)
	}
	// The first goes when the certificate that it was opened with does.
	select {
	case <-l.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("a link outlives its certificate")
	}
	if second.Err() != nil {
		t.Errorf("the second link: %v", second.Err())
	}
	eventually(t, "the server keeps the second", func() bool { return len(srv.Links()) == 1 })
}

func TestRaftLayer(t *testing.T) {
	s := newSwarm(t, "sw1")
	a := serve(t, ServerConfig{Identity: s.manager("m1"), Handler: who})
	b := serve(t, ServerConfig{Identity: s.manager("m2"), Handler: who, AdvertiseAddr: "203.0.113.7:2377"})
	w := serve(t, ServerConfig{Identity: s.worker("w1"), Handler: who})
	la, lb := a.RaftLayer(), b.RaftLayer()
	if lb.Addr().String() != "203.0.113.7:2377" {
		t.Errorf("advertised %s", lb.Addr())
	}
	go func() {
		c, err := la.Accept()
		if err == nil {
			io.Copy(c, c)
			c.Close()
		}
	}()
	c, err := lb.Dial(raft.ServerAddress(a.Addr().String()), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.Write([]byte("hello"))
	got := make([]byte, 5)
	if _, err := io.ReadFull(c, got); err != nil || string(got) != "hello" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := w.RaftLayer().Dial(raft.ServerAddress(a.Addr().String()), 5*time.Second); err == nil || !strings.Contains(err.Error(), "not a manager") {
		t.Errorf("a worker: %v", err)
	}
	a.Disconnect("m2")
	if _, err := c.Read(got); err == nil {
		t.Error("Disconnect left the connection open")
	}
	if err := la.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := la.Accept(); err == nil {
		t.Error("Accept after Close")
	}
	if a.RaftLayer() == la {
		t.Error("a closed layer was given out")
	}
	// The port goes on without it.
	l := dial(t, a.Addr().String(), DialConfig{Identity: s.worker("w2")})
	if got := get(t, l, "/"); got != "sw1/w2/worker" {
		t.Errorf("got %q", got)
	}
}

func TestAPortInUseIsNamed(t *testing.T) {
	s := newSwarm(t, "sw1")
	a := serve(t, ServerConfig{Identity: s.manager("m1")})
	_, err := NewServer(ServerConfig{ListenAddr: a.Addr().String(), Identity: s.manager("m1"), Log: quiet})
	if err == nil || !strings.Contains(err.Error(), a.Addr().String()) || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("got %v", err)
	}
}

func TestHeadersAreBounded(t *testing.T) {
	s := newSwarm(t, "sw1")
	srv := serve(t, ServerConfig{Identity: s.manager("m1"), Handler: who})
	l := dial(t, srv.Addr().String(), DialConfig{Identity: s.worker("w1")})
	r, _ := http.NewRequest(http.MethodGet, "http://peer/", nil)
	r.Header.Set("X", strings.Repeat("x", 2*maxHeaderBytes))
	resp, err := l.RoundTrip(r)
	if err == nil {
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("got %s", resp.Status)
		}
	}
	if got := get(t, l, "/"); got != "sw1/w1/worker" {
		t.Errorf("the link is broken: %q", got)
	}
}

func TestMoreRequestsThanStreamsWait(t *testing.T) {
	s := newSwarm(t, "sw1")
	release := make(chan struct{})
	srv := serve(t, ServerConfig{Identity: s.manager("m1"), Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release })})
	l := dial(t, srv.Addr().String(), DialConfig{Identity: s.worker("w1")})
	var wg sync.WaitGroup
	for range maxStreams + 400 {
		wg.Go(func() {
			resp, err := l.Client().Get("http://peer/")
			if err != nil {
				t.Error(err)
				return
			}
			resp.Body.Close()
		})
	}
	eventually(t, "the link is known", func() bool { _, ok := srv.Link("w1"); return ok })
	back, _ := srv.Link("w1")
	eventually(t, "all slots are taken", func() bool {
		back.mu.Lock()
		defer back.mu.Unlock()
		if len(back.streams) > maxStreams+1 {
			t.Errorf("%d streams", len(back.streams))
		}
		return len(back.streams) >= maxStreams
	})
	close(release)
	wg.Wait()
}
