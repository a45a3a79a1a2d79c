package main

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"
)

func TestAnswers(t *testing.T) {
	srv := httptest.NewServer(handler())
	defer srv.Close()
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, path string
		status     int
		want       []string
	}{
		{"who", "/", 200, []string{"hostname: " + host, "version: dev", "client: 127.0.0.1", "x-a: b"}},
		{"health", "/healthz", 200, []string{"ok"}},
		{"slow", "/slow?ms=1", 200, []string{"client: 127.0.0.1"}},
		{"slow, not a number", "/slow?ms=x", 400, []string{`not "x"`}},
		{"slow, negative", "/slow?ms=-1", 400, []string{`not "-1"`}},
		{"slow, too long", "/slow?ms=60001", 400, []string{"60000"}},
		{"zeros", "/zeros?bytes=3", 200, []string{"\x00\x00\x00"}},
		{"zeros, too many", "/zeros?bytes=17179869185", 400, []string{"17179869184"}},
		{"unknown", "/nothing", 404, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			req, err := http.NewRequest(http.MethodGet, srv.URL+tt.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("X-A", "b")
			resp, err := srv.Client().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != tt.status {
				t.Errorf("status %d, want %d", resp.StatusCode, tt.status)
			}
			for _, w := range tt.want {
				if !strings.Contains(string(body), w) {
					t.Errorf("%q is not in the answer:\n%s", w, body)
				}
			}
		})
	}
}

// TestDrain sees that a request that is being answered is answered to its end after the signal to end.
func TestDrain(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- serve(ctx, addr) }()
	var conn net.Conn
	for deadline := time.Now().Add(10 * time.Second); ; {
		if conn, err = net.Dial("tcp", addr); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET /slow?ms=300 HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	// An answer on a second connection means that the first request has been read as well, or will be.
	if err := probe(addr); err != nil {
		t.Fatal(err)
	}
	stop()
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("a request in flight was cut off: %v", err)
	}
	resp.Body.Close()
	if err := <-done; err != nil {
		t.Errorf("serve: %v", err)
	}
	if probe(addr) == nil {
		t.Error("it still listens")
	}
}

// TestDatagram sees that UDP names the client's address.
func TestDatagram(t *testing.T) {
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	go echo(c)
	client, err := net.Dial("udp", c.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := client.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1024)
	n, err := client.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(client.LocalAddr().String())
	if !strings.Contains(string(buf[:n]), "client-port: "+port) {
		t.Errorf("answer without our port %s:\n%s", port, buf[:n])
	}
}
