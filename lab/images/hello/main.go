// Command hello is the web server of the image hello: it says who answers and who asked.
//
//	GET /              hostname, version, the client's address and the request's headers, as lines "name: value"
//	GET /healthz       200 "ok"
//	GET /slow?ms=N     the same as / after N milliseconds, 1000 by default and 60000 at most
//	GET /zeros?bytes=N so many zero bytes, 1 MiB by default and 16 GiB at most
//	UDP                any datagram is answered with the same first lines
//
// SIGTERM ends it once the requests that it is answering are answered. With -check it asks a running hello for its
// health and ends with 0 or 1: the health probe of the image, which has no other program.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// version is set by the linker.
var version = "dev"

const (
	slowDefault = time.Second
	slowMax     = time.Minute

	zerosDefault = 1 << 20
	zerosMax     = 16 << 30
	// lastAccepts is how long connections are accepted after the signal to end.
	lastAccepts = 100 * time.Millisecond
	// drainWithin bounds the wait for the last answers: the slowest that may be asked for, and some.
	drainWithin = slowMax + 10*time.Second
)

func main() {
	log.SetFlags(0)
	addr := flag.String("addr", ":80", "`address` to listen on, TCP and UDP")
	check := flag.Bool("check", false, "ask the server on this address for its health and exit")
	flag.Parse()
	if *check {
		if err := probe(*addr); err != nil {
			log.Fatal(err)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := serve(ctx, *addr); err != nil {
		log.Fatal(err)
	}
}

// serve answers until ctx ends, and then until what was asked is answered.
func serve(ctx context.Context, addr string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	udp, err := net.ListenPacket("udp", addr)
	if err != nil {
		return err
	}
	defer udp.Close()
	go echo(udp)
	srv := &http.Server{Handler: handler(), ReadHeaderTimeout: 10 * time.Second}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	host, _ := os.Hostname()
	log.Printf("hello %s on %s listens on %s", version, host, addr)
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	log.Print("hello drains")
	// A connection that was made before the signal may not have been accepted yet; http.Server would not wait for it.
	select {
	case err := <-served:
		return err
	case <-time.After(lastAccepts):
	}
	drain, cancel := context.WithTimeout(context.Background(), drainWithin)
	defer cancel()
	if err := srv.Shutdown(drain); err != nil {
		return fmt.Errorf("drain: %w", err)
	}
	log.Print("hello ends")
	return nil
}

func handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /slow", func(w http.ResponseWriter, r *http.Request) {
		ms, ok := number(w, r, "ms", int(slowDefault.Milliseconds()), int(slowMax.Milliseconds()))
		if !ok {
			return
		}
		select {
		case <-time.After(time.Duration(ms) * time.Millisecond):
			answer(w, r)
		case <-r.Context().Done():
		}
	})
	mux.HandleFunc("GET /zeros", func(w http.ResponseWriter, r *http.Request) {
		n, ok := number(w, r, "bytes", zerosDefault, zerosMax)
		if !ok {
			return
		}
		w.Header().Set("Content-Length", strconv.Itoa(n))
		for block := make([]byte, 256<<10); n > 0; {
			k, err := w.Write(block[:min(n, len(block))])
			if err != nil {
				return
			}
			n -= k
		}
	})
	mux.HandleFunc("GET /{$}", answer)
	return mux
}

// number is a parameter of the request, or absent if it has none; ok is false if it was refused.
func number(w http.ResponseWriter, r *http.Request, name string, absent, most int) (n int, ok bool) {
	v := r.FormValue(name)
	if v == "" {
		return absent, true
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 0 || n > most {
		http.Error(w, fmt.Sprintf("%s must be a number from 0 to %d, not %q", name, most, v), http.StatusBadRequest)
		return 0, false
	}
	return n, true
}

// answer says who we are, who asked, and with what headers.
func answer(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	log.Printf("%s %s from %s", r.Method, r.URL.Path, r.RemoteAddr)
	io.WriteString(w, who(r.RemoteAddr))
	names := make([]string, 0, len(r.Header))
	for n := range r.Header {
		names = append(names, n)
	}
	slices.Sort(names)
	fmt.Fprintf(w, "host: %s\n", r.Host)
	for _, n := range names {
		fmt.Fprintf(w, "%s: %s\n", strings.ToLower(n), strings.Join(r.Header[n], ", "))
	}
}

// who is the first lines of every answer.
func who(remote string) string {
	host, _ := os.Hostname()
	addr, port, err := net.SplitHostPort(remote)
	if err != nil {
		addr = remote
	}
	return fmt.Sprintf("hostname: %s\nversion: %s\nclient: %s\nclient-port: %s\n", host, version, addr, port)
}

// echo answers datagrams until the connection is closed.
func echo(c net.PacketConn) {
	buf := make([]byte, 1<<16)
	for {
		_, from, err := c.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // what the kernel reports of an earlier answer, such as a port that is closed
		}
		_, _ = c.WriteTo([]byte(who(from.String())), from)
	}
}

// probe asks the server at addr for its health.
func probe(addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return err
	}
	if host == "" {
		host = "127.0.0.1"
	}
	c := http.Client{Timeout: 3 * time.Second}
	resp, err := c.Get("http://" + net.JoinHostPort(host, port) + "/healthz")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("/healthz: %s", resp.Status)
	}
	return nil
}
