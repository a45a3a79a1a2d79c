package virtual_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"shoal.dev/shoal/internal/network"
	"shoal.dev/shoal/internal/network/virtual"
)

// world is a container's namespace with addresses of its own on the loopback interface, which stand for tasks: each
// answers with its address.
type world struct {
	t  *testing.T
	ns netns.NsHandle
}

var (
	vip   = netip.MustParseAddr("10.1.0.2")
	other = netip.MustParseAddr("10.1.0.3")
	tasks = []netip.Addr{netip.MustParseAddr("10.1.0.11"), netip.MustParseAddr("10.1.0.12"), netip.MustParseAddr("10.1.0.13")}
)

// in runs fn on a thread in the namespace; the thread ends with it.
func (w *world) in(fn func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if err := netns.Set(w.ns); err != nil {
			done <- err
			return
		}
		done <- fn()
	}()
	return <-done
}

func newWorld(t *testing.T) *world {
	t.Helper()
	if os.Getuid() != 0 {
		if os.Getenv("SHOAL_REQUIRE_LAB") != "" {
			t.Fatal("network namespaces need root")
		}
		t.Skip("network namespaces need root")
	}
	made := make(chan netns.NsHandle)
	fail := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		ns, err := netns.New()
		if err != nil {
			fail <- err
			return
		}
		made <- ns
	}()
	w := &world{t: t}
	select {
	case w.ns = <-made:
	case err := <-fail:
		t.Fatal(err)
	}
	t.Cleanup(func() { w.ns.Close() })
	h, err := netlink.NewHandleAt(w.ns, unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	lo, err := h.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := h.LinkSetUp(lo); err != nil {
		t.Fatal(err)
	}
	// The subnet leads to the interface, as in a container; only tasks' addresses are there.
	subnet := &net.IPNet{IP: net.IPv4(10, 1, 0, 0).To4(), Mask: net.CIDRMask(24, 32)}
	if err := h.RouteAdd(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: subnet, Scope: netlink.SCOPE_LINK}); err != nil {
		t.Fatal(err)
	}
	for _, a := range tasks {
		ip := &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(32, 32)}}
		if err := h.AddrAdd(lo, ip); err != nil {
			t.Fatal(err)
		}
		w.serve(a)
	}
	return w
}

// serve answers on port 80 of TCP and UDP with the address.
func (w *world) serve(a netip.Addr) {
	at := netip.AddrPortFrom(a, 80)
	err := w.in(func() error {
		l, err := net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(at))
		if err != nil {
			return err
		}
		u, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(at))
		if err != nil {
			return err
		}
		w.t.Cleanup(func() { l.Close(); u.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() { // a line for a line
					defer c.Close()
					b := make([]byte, 1)
					for {
						if _, err := c.Read(b); err != nil {
							return
						}
						fmt.Fprintln(c, a)
					}
				}()
			}
		}()
		go func() {
			b := make([]byte, 100)
			for {
				_, from, err := u.ReadFrom(b)
				if err != nil {
					return
				}
				u.WriteTo([]byte(a.String()), from)
			}
		}()
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) apply(vips ...network.VIP) {
	w.t.Helper()
	if err := virtual.Apply(w.ns, vips); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) dial(network string, to netip.Addr) (c net.Conn, err error) {
	err = w.in(func() (err error) {
		c, err = net.DialTimeout(network, netip.AddrPortFrom(to, 80).String(), 2*time.Second)
		return err
	})
	return c, err
}

// ask sends one byte and returns the answer.
func ask(c net.Conn) (string, error) {
	c.SetDeadline(time.Now().Add(2 * time.Second))
	if _, err := c.Write([]byte("?")); err != nil {
		return "", err
	}
	b := make([]byte, 100)
	n, err := c.Read(b)
	return strings.TrimSpace(string(b[:n])), err
}

// who asks so many new connections who answers.
func (w *world) who(proto string, to netip.Addr, n int) map[string]int {
	w.t.Helper()
	got := map[string]int{}
	for range n {
		c, err := w.dial(proto, to)
		if err != nil {
			w.t.Fatal(err)
		}
		answer, err := ask(c)
		c.Close()
		if err != nil {
			w.t.Fatal(err)
		}
		got[answer]++
	}
	return got
}

func TestNewConnectionsAreSpread(t *testing.T) {
	w := newWorld(t)
	w.apply(network.VIP{Addr: vip, Backends: tasks}, network.VIP{Addr: other, Backends: tasks[:1]})
	for _, proto := range []string{"tcp4", "udp4"} {
		got := w.who(proto, vip, 300)
		for _, a := range tasks {
			if n := got[a.String()]; n < 60 || n > 140 { // 100 each; six standard deviations are 49
				t.Errorf("%s: %d of 300 connections went to %s: %v", proto, n, a, got)
			}
		}
		if got := w.who(proto, other, 20); got[tasks[0].String()] != 20 {
			t.Errorf("%s: the other service: %v", proto, got)
		}
	}
	w.apply(network.VIP{Addr: vip, Backends: tasks[1:2]})
	if got := w.who("tcp4", vip, 20); got[tasks[1].String()] != 20 {
		t.Errorf("after a change: %v", got)
	}
}

func TestAConnectionStaysWithItsBackendAndADatagramMoves(t *testing.T) {
	w := newWorld(t)
	w.apply(network.VIP{Addr: vip, Backends: tasks[:1]})
	tcp, err := w.dial("tcp4", vip)
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	udp, err := w.dial("udp4", vip)
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	for _, c := range []net.Conn{tcp, udp} {
		if a, err := ask(c); a != tasks[0].String() {
			t.Fatal(a, err)
		}
	}
	w.apply(network.VIP{Addr: vip, Backends: tasks[2:]})
	if a, err := ask(tcp); a != tasks[0].String() {
		t.Errorf("the connection went to %q: %v", a, err)
	}
	if a, err := ask(udp); a != tasks[2].String() {
		t.Errorf("the next datagram went to %q: %v", a, err)
	}
}

func TestWithoutABackendConnectionsAreRefusedAtOnce(t *testing.T) {
	w := newWorld(t)
	w.apply(network.VIP{Addr: vip})
	if c, err := w.dial("tcp4", vip); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("%v, %v", c, err)
	}
	udp, err := w.dial("udp4", vip)
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	if _, err := ask(udp); err == nil || errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, io.EOF) {
		t.Errorf("a datagram: %v", err)
	}
	w.apply(network.VIP{Addr: vip, Backends: tasks})
	w.who("tcp4", vip, 5)
}

// TestNoConnectionIsLostWhileBackendsChange makes connections as fast as it can while the table is replaced.
func TestNoConnectionIsLostWhileBackendsChange(t *testing.T) {
	w := newWorld(t)
	w.apply(network.VIP{Addr: vip, Backends: tasks})
	done := make(chan error, 2)
	stop := make(chan struct{})
	for range cap(done) {
		go func() {
			for {
				select {
				case <-stop:
					done <- nil
					return
				default:
				}
				c, err := w.dial("tcp4", vip)
				if err == nil {
					_, err = ask(c)
					_ = c.(*net.TCPConn).SetLinger(0) // no port stays in TIME_WAIT
					c.Close()
				}
				if err != nil {
					done <- err
					return
				}
			}
		}()
	}
	for i := range 60 {
		w.apply(network.VIP{Addr: other, Backends: tasks[:1]}, network.VIP{Addr: vip, Backends: tasks[i%2:]})
	}
	close(stop)
	for range cap(done) {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestNothingIsLeft(t *testing.T) {
	w := newWorld(t)
	w.apply(network.VIP{Addr: vip, Backends: tasks})
	w.apply()
	w.apply() // and of nothing
	var out []byte
	if err := w.in(func() (err error) { out, err = exec.Command("nft", "list", "ruleset").CombinedOutput(); return err }); err != nil || len(out) > 0 {
		t.Errorf("%v: %s", err, out)
	}
}

// BenchmarkApply is one backend less, or one more, of a namespace's virtual addresses: in one namespace, and in those of a
// node with 50 containers.
func BenchmarkApply(b *testing.B) {
	for _, size := range []struct{ spaces, vips, backends int }{{1, 20, 10}, {1, 1, 1000}, {50, 1, 10}, {50, 1, 1000}} {
		b.Run(fmt.Sprintf("%d containers, %d services of %d", size.spaces, size.vips, size.backends), func(b *testing.B) {
			var spaces []netns.NsHandle
			for range size.spaces {
				ns := newSpace(b)
				defer ns.Close()
				spaces = append(spaces, ns)
			}
			var vips []network.VIP
			for i := range size.vips {
				v := network.VIP{Addr: netip.AddrFrom4([4]byte{10, 2, 0, byte(i + 2)})}
				for k := range size.backends {
					v.Backends = append(v.Backends, netip.AddrFrom4([4]byte{10, byte(3 + i), byte(k >> 8), byte(k)}))
				}
				vips = append(vips, v)
			}
			less := slices.Clone(vips)
			less[0].Backends = less[0].Backends[1:]
			for i := 0; b.Loop(); i++ {
				for _, ns := range spaces {
					if err := virtual.Apply(ns, [][]network.VIP{vips, less}[i%2]); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}

func newSpace(b *testing.B) netns.NsHandle {
	made := make(chan netns.NsHandle)
	go func() {
		runtime.LockOSThread()
		ns, err := netns.New()
		if err != nil {
			b.Error(err)
		}
		made <- ns
	}()
	return <-made
}
