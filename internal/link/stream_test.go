package link

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"testing"
	"time"
)

// echoUpgrade hijacks and sends back what comes, until the client ends its direction; then it says how much it was.
var echoUpgrade = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	c, rw, err := w.(http.Hijacker).Hijack()
	if err != nil {
		panic(err)
	}
	defer c.Close()
	fmt.Fprint(rw, "HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
	rw.Flush()
	n, _ := io.Copy(c, rw)
	fmt.Fprintf(c, "end %d", n)
})

func upgradeRequest(u string) *http.Request {
	r, _ := http.NewRequest(http.MethodPost, u, nil)
	r.Header.Set("Connection", "Upgrade")
	r.Header.Set("Upgrade", "tcp")
	return r
}

func TestUpgradesPassWithHalfClose(t *testing.T) {
	s := newSwarm(t, "sw1")
	srv := serve(t, ServerConfig{Identity: s.manager("m1"), Handler: echoUpgrade})
	l := dial(t, srv.Addr().String(), DialConfig{Identity: s.worker("w1"), Handler: echoUpgrade})
	eventually(t, "the link is known", func() bool { _, ok := srv.Link("w1"); return ok })
	back, _ := srv.Link("w1")
	data := bytes.Repeat([]byte("0123456789abcdef"), 300_000) // 4.8 MB: more than a window
	for name, rt := range map[string]http.RoundTripper{"to the manager": l, "to the worker": back} {
		t.Run(name, func(t *testing.T) {
			resp, err := rt.RoundTrip(upgradeRequest("http://peer/exec"))
			if err != nil {
				t.Fatal(err)
			}
			c := resp.Body.(io.ReadWriteCloser)
			defer c.Close()
			go func() {
				c.Write(data)
				c.(interface{ CloseWrite() error }).CloseWrite()
			}()
			got, err := io.ReadAll(c)
			if err != nil {
				t.Fatal(err)
			}
			if want := append(bytes.Clone(data), fmt.Sprintf("end %d", len(data))...); !bytes.Equal(got, want) {
				t.Errorf("%d bytes came back of %d", len(got), len(want))
			}
		})
	}
	t.Run("through a reverse proxy", func(t *testing.T) {
		front := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: "peer"})
		front.Transport = l
		hs := &http.Server{Handler: front}
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		go hs.Serve(ln)
		defer hs.Close()
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		upgradeRequest("http://x/exec").Write(c)
		br := bufio.NewReader(c)
		resp, err := http.ReadResponse(br, nil)
		if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
			t.Fatalf("%v %v", resp, err)
		}
		go func() {
			c.Write(data)
			c.(*net.TCPConn).CloseWrite()
		}()
		got, err := io.ReadAll(br)
		if err != nil || len(got) != len(data)+len("end 4800000") {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	})
}

func TestClosingAStreamStopsTheOtherEndsWrites(t *testing.T) {
	s := newSwarm(t, "sw1")
	stopped := make(chan error, 1)
	srv := serve(t, ServerConfig{Identity: s.manager("m1"), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, rw, _ := w.(http.Hijacker).Hijack()
		defer c.Close()
		fmt.Fprint(rw, "HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
		rw.Flush()
		for { // like logs -f of a busy container, whose reader went away
			if _, err := c.Write(make([]byte, 32<<10)); err != nil {
				stopped <- err
				return
			}
		}
	})})
	l := dial(t, srv.Addr().String(), DialConfig{Identity: s.worker("w1")})
	resp, err := l.RoundTrip(upgradeRequest("http://peer/"))
	if err != nil {
		t.Fatal(err)
	}
	io.ReadFull(resp.Body, make([]byte, 100))
	resp.Body.Close()
	select {
	case <-stopped:
	case <-time.After(10 * time.Second):
		t.Fatal("the writer hangs")
	}
	eventually(t, "yamux forgets the stream", func() bool { return l.mux.NumStreams() == 1 })
	back, _ := srv.Link("w1")
	eventually(t, "yamux forgets the stream there", func() bool { return back.mux.NumStreams() == 1 })
}

func TestWhatWasWrittenBeforeACloseArrives(t *testing.T) {
	s := newSwarm(t, "sw1")
	const size = 512 << 10 // fits in a window, so that the writer does not wait for the reader
	srv := serve(t, ServerConfig{Identity: s.manager("m1"), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, rw, _ := w.(http.Hijacker).Hijack()
		fmt.Fprint(rw, "HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
		rw.Flush()
		c.Write(make([]byte, size))
		c.Close() // without having read the client's direction to its end
	})})
	l := dial(t, srv.Addr().String(), DialConfig{Identity: s.worker("w1")})
	for range 20 {
		resp, err := l.RoundTrip(upgradeRequest("http://peer/"))
		if err != nil {
			t.Fatal(err)
		}
		n, err := io.Copy(io.Discard, resp.Body)
		if n != size || err != nil {
			t.Fatalf("%d bytes of %d, %v", n, size, err)
		}
		resp.Body.Close()
	}
}

func TestACancelledRequestEndsAtTheOtherEnd(t *testing.T) {
	s := newSwarm(t, "sw1")
	began, ended := make(chan struct{}), make(chan struct{})
	srv := serve(t, ServerConfig{Identity: s.manager("m1"), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(began)
		<-r.Context().Done()
		close(ended)
	})})
	l := dial(t, srv.Addr().String(), DialConfig{Identity: s.worker("w1")})
	ctx, cancel := context.WithCancel(t.Context())
	r, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://peer/", nil)
	go func() { <-began; cancel() }()
	if _, err := l.RoundTrip(r); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Fatal("the handler goes on")
	}
}

func TestABrokenLinkIsNotTheOrderlyEndOfAStream(t *testing.T) {
	s := newSwarm(t, "sw1")
	srv := serve(t, ServerConfig{Identity: s.manager("m1"), Handler: echoUpgrade})
	l := dial(t, srv.Addr().String(), DialConfig{Identity: s.worker("w1")})
	resp, err := l.RoundTrip(upgradeRequest("http://peer/"))
	if err != nil {
		t.Fatal(err)
	}
	srv.Disconnect("w1")
	if _, err := io.ReadAll(resp.Body); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %v", err)
	}
}
