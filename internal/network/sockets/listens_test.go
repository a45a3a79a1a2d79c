package sockets

import (
	"net"
	"os"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestListens(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a network namespace needs root")
	}
	for _, tc := range []struct {
		name, network, addr string
		want                bool
	}{
		{"TCP on every address", "tcp", ":8080", true},
		{"TCP on IPv4", "tcp4", "0.0.0.0:80", true},
		{"TCP on the loopback", "tcp4", "127.0.0.11:53", false},
		{"TCP on IPv6's loopback", "tcp6", "[::1]:53", false},
		{"UDP on every address", "udp", ":53", true},
		{"UDP on the loopback", "udp4", "127.0.0.11:53", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if err := inNewNamespace(func() {
				if got, err := Listens(unix.Gettid()); got || err != nil {
					t.Errorf("with nobody: %v, %v", got, err)
				}
				var s interface{ Close() error }
				var err error
				if tc.network[:3] == "udp" {
					s, err = net.ListenPacket(tc.network, tc.addr)
				} else {
					s, err = net.Listen(tc.network, tc.addr)
				}
				if err != nil {
					t.Error(err)
					return
				}
				defer s.Close()
				if got, err := Listens(unix.Gettid()); got != tc.want || err != nil {
					t.Errorf("%v, %v", got, err)
				}
			}); err != nil {
				t.Fatal(err)
			}
		})
	}
	if _, err := Listens(1 << 30); err == nil {
		t.Error("a process that is not there has a network")
	}
}

// inNewNamespace calls fn on a thread with a network of its own, which ends with it. The loopback is up.
func inNewNamespace(fn func()) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			err = netlink.LinkSetUp(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Name: "lo"}})
		}
		if err == nil {
			fn()
		}
		done <- err
	}()
	return <-done
}
