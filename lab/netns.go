package lab

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"time"

	"github.com/vishvananda/netns"
)

// Dial connects from a namespace of the lab to an IP address and port. The connection is then used from anywhere.
func Dial(ctx context.Context, namespace, network, addr string) (net.Conn, error) {
	var conn net.Conn
	err := inNamespace(namespace, func() error {
		// An address that needs no look-up is dialled on this very thread, so the socket is made in the namespace.
		d := net.Dialer{FallbackDelay: -1}
		var err error
		conn, err = d.DialContext(ctx, network, addr)
		return err
	})
	return conn, err
}

// HTTPClient returns a client that asks from a namespace of the lab, over a new connection for every request.
func HTTPClient(namespace string, timeout time.Duration) *http.Client {
	return &http.Client{Timeout: timeout, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return Dial(ctx, namespace, network, addr)
		},
	}}
}

// inNamespace is Within for a namespace of the lab.
func inNamespace(namespace string, fn func() error) error { return Within(nsPath(namespace), fn) }

// Within calls fn on a thread that is in the network namespace of a file, such as /proc/PID/ns/net. If the thread cannot
// be brought back it ends with its goroutine, so that no other work is done in the wrong place.
func Within(file string, fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := netns.Get()
		if err != nil {
			done <- err
			return
		}
		defer home.Close()
		there, err := netns.GetFromPath(file)
		if err != nil {
			done <- fmt.Errorf("network namespace %s: %w", file, err)
			return
		}
		defer there.Close()
		if err := netns.Set(there); err != nil {
			done <- fmt.Errorf("network namespace %s: %w", file, err)
			return
		}
		err = fn()
		if netns.Set(home) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}
