package overlay

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/network"
)

// lab is a few hosts and an outside client on one wire, each in a network namespace. Nothing of it is in the
// namespace of the tests.
type lab struct {
	t      testing.TB
	wire   *space
	client *space
	hosts  []*labHost
	boxes  []*labBox
}

// labHost is a host with a Kernel of its own.
type labHost struct {
	*space
	id   string
	addr string // on the wire
	name string // of its namespace
	cfg  Config
	k    *Kernel
}

// labBox is a container: a namespace in which this process listens on port 80, TCP and UDP.
type labBox struct {
	*space
	id       string
	host     *labHost
	ingress  netip.Addr
	addr     netip.Addr
	accepted atomic.Int64
	datagram atomic.Int64
}

const (
	clientAddr = "198.18.77.250"
	labSubnet  = "10.77.0.0/24"
	labVNI     = 4177
)

var labCount atomic.Int64

// newLab makes a lab, or skips the test where it cannot be made.
func newLab(t testing.TB, hosts int) *lab {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes network namespaces")
	}
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("needs the program nft")
	}
	l := &lab{t: t}
	prefix := fmt.Sprintf("shoalt-net-%d-%d-", os.Getpid(), labCount.Add(1))
	l.wire = l.space(prefix + "wire")
	wire := l.handle(l.wire)
	l.must(wire.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0", TxQLen: -1}}))
	br, err := wire.LinkByName("br0")
	l.must(err)
	l.must(wire.LinkSetUp(br))
	plugIn := func(s *space, port, addr string) {
		v := netlink.NewVeth(netlink.LinkAttrs{Name: port, TxQLen: -1})
		v.PeerName, v.PeerNamespace = "eth0", netlink.NsFd(s.ns)
		l.must(wire.LinkAdd(v))
		l.must(wire.LinkSetMaster(v, br))
		l.must(wire.LinkSetUp(v))
		h := l.handle(s)
		eth, err := h.LinkByName("eth0")
		l.must(err)
		l.must(h.AddrAdd(eth, &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix(addr + "/24"))}))
		l.must(h.LinkSetUp(eth))
	}
	l.client = l.space(prefix + "client")
	plugIn(l.client, "client", clientAddr)
	for i := 1; i <= hosts; i++ {
		h := &labHost{id: fmt.Sprintf("n%d", i), addr: fmt.Sprintf("198.18.77.%d", i), name: fmt.Sprintf("%sh%d", prefix, i)}
		h.space = l.space(h.name)
		plugIn(h.space, h.id, h.addr)
		dir := t.TempDir()
		h.cfg = Config{
			StateDir: filepath.Join(dir, "state"), NetnsDir: filepath.Join(dir, "netns"), NetNS: "/run/netns/" + h.name,
			Log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})).With("node", h.id),
		}
		l.open(h)
		t.Cleanup(func() { l.must(errors.Join(h.k.Down(context.Background()), h.k.Close())) })
		l.hosts = append(l.hosts, h)
	}
	return l
}

func (l *lab) open(h *labHost) {
	l.t.Helper()
	k, err := Open(l.t.Context(), h.cfg)
	l.must(err)
	h.k = k
}

func (l *lab) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

// space makes a named network namespace that goes with the test.
func (l *lab) space(name string) *space {
	l.t.Helper()
	path := "/run/netns/" + name
	l.must(os.MkdirAll("/run/netns", 0o755))
	l.t.Cleanup(func() { l.must(dropSpace(path)) })
	l.must(makeSpace(path, setUpInside))
	s, err := openSpace(path)
	l.must(err)
	l.t.Cleanup(func() { _ = s.close() })
	return s
}

func (l *lab) handle(s *space) *netlink.Handle {
	l.t.Helper()
	h, err := netlink.NewHandleAt(s.ns, netlinkFamilies...)
	l.must(err)
	l.t.Cleanup(h.Close)
	return h
}

// run starts a container with a server in it. The server answers each line or datagram with its ID and the address
// that it sees; a line "put N" is answered after N more bytes.
func (l *lab) run(h *labHost, id, ingress string, ports ...engine.PortRequest) *labBox {
	l.t.Helper()
	a := engine.Attachment{Ports: ports}
	if ingress != "" {
		a.Ingress = netip.MustParseAddr(ingress)
	}
	return l.runOn(h, id, a)
}

// runOn is run with everything that can be asked of the network.
func (l *lab) runOn(h *labHost, id string, a engine.Attachment) *labBox {
	l.t.Helper()
	b := &labBox{id: id, host: h, ingress: a.Ingress}
	sb, err := h.k.Attach(l.t.Context(), id, a)
	l.must(err)
	if len(sb.Endpoints) > 0 {
		b.addr = sb.Endpoints[0].Addr
	}
	b.space, err = openSpace(sb.NetNS)
	l.must(err)
	var tcp net.Listener
	var udp net.PacketConn
	l.must(b.in(func() (err error) {
		if tcp, err = net.Listen("tcp4", ":80"); err != nil {
			return err
		}
		udp, err = net.ListenPacket("udp4", ":80")
		return err
	}))
	l.t.Cleanup(func() { _ = tcp.Close(); _ = udp.Close(); _ = b.close() })
	go func() {
		for {
			c, err := tcp.Accept()
			if err != nil {
				return
			}
			b.accepted.Add(1)
			go b.serve(c)
		}
	}()
	go func() {
		buf := make([]byte, 2048)
		for {
			_, from, err := udp.ReadFrom(buf)
			if err != nil {
				return
			}
			b.datagram.Add(1)
			_, _ = fmt.Fprintf(writerTo{udp, from}, "%s %s\n", id, from)
		}
	}()
	l.boxes = append(l.boxes, b)
	return b
}

type writerTo struct {
	net.PacketConn
	to net.Addr
}

func (w writerTo) Write(p []byte) (int, error) { return w.WriteTo(p, w.to) }

func (b *labBox) serve(c net.Conn) {
	defer c.Close()
	r := bufio.NewReader(c)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		var n int64
		if _, err := fmt.Sscanf(line, "put %d", &n); err == nil {
			if _, err := io.CopyN(io.Discard, r, n); err != nil {
				return
			}
		}
		if _, err := fmt.Fprintf(c, "%s %s\n", b.id, c.RemoteAddr()); err != nil {
			return
		}
	}
}

// pub is a published port in a test: its backends, by container.
type pub struct {
	protocol string
	port     uint16
	boxes    []*labBox
}

// desired is the state with all hosts, all containers and the ports.
func (l *lab) desired(h *labHost, pubs ...pub) network.Desired {
	ing := &network.Ingress{Subnet: netip.MustParsePrefix(labSubnet), VNI: labVNI, Port: 4789}
	for i, h := range l.hosts {
		ing.Nodes = append(ing.Nodes, network.Node{
			ID: h.id, Index: uint16(i + 1), Underlay: netip.MustParseAddr(h.addr), Addr: netip.AddrFrom4([4]byte{10, 77, 0, byte(i + 1)}),
		})
	}
	for _, b := range l.boxes {
		if b.ingress.IsValid() {
			ing.Endpoints = append(ing.Endpoints, network.Endpoint{Addr: b.ingress, NodeID: b.host.id})
		}
	}
	slices.SortFunc(ing.Endpoints, func(a, b network.Endpoint) int { return a.Addr.Compare(b.Addr) })
	for _, p := range pubs {
		q := network.Port{Protocol: p.protocol, Published: p.port}
		for _, b := range p.boxes {
			q.Backends = append(q.Backends, network.Backend{Addr: b.ingress, Port: 80})
		}
		ing.Ports = append(ing.Ports, q)
	}
	return network.Desired{Version: 1, Self: h.id, Ingress: ing}
}

func (l *lab) apply(pubs ...pub) {
	l.t.Helper()
	for _, h := range l.hosts {
		l.must(h.k.Apply(l.t.Context(), l.desired(h, pubs...)))
	}
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

// conn is a client's connection that speaks the servers' protocol.
type conn struct {
	net.Conn
	r *bufio.Reader
}

const patience = 2 * time.Second

// dial connects from the namespace; from is "" or the local address and port.
func dial(s *space, proto, from, to string) (*conn, error) {
	d := net.Dialer{Timeout: patience, Control: func(_, _ string, c syscall.RawConn) (err error) {
		_ = c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) })
		return err
	}}
	if from != "" {
		if proto == "udp" {
			d.LocalAddr = net.UDPAddrFromAddrPort(netip.MustParseAddrPort(from))
		} else {
			d.LocalAddr = net.TCPAddrFromAddrPort(netip.MustParseAddrPort(from))
		}
	}
	var c net.Conn
	err := s.in(func() (err error) {
		c, err = d.Dial(proto+"4", to)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &conn{c, bufio.NewReader(c)}, nil
}

// ask sends a line and returns who answered, and what address they saw.
func (c *conn) ask() (id string, seen netip.Addr, err error) {
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write([]byte("?\n")); err != nil {
		return "", netip.Addr{}, err
	}
	return c.answer()
}

func (c *conn) answer() (string, netip.Addr, error) {
	line, err := c.r.ReadString('\n')
	if err != nil {
		return "", netip.Addr{}, err
	}
	id, from, _ := strings.Cut(strings.TrimSpace(line), " ")
	ap, err := netip.ParseAddrPort(from)
	return id, ap.Addr(), err
}

// ask connects, asks once and disconnects without leaving the port in TIME_WAIT.
func ask(s *space, proto, from, to string) (string, netip.Addr, error) {
	c, err := dial(s, proto, from, to)
	if err != nil {
		return "", netip.Addr{}, err
	}
	defer c.Close()
	if t, ok := c.Conn.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	return c.ask()
}

// eventually waits until the condition holds.
func (l *lab) eventually(what string, cond func() bool) {
	l.t.Helper()
	deadline := time.NewTimer(15 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-deadline.C:
			l.t.Fatalf("not in 15 s: %s", what)
		case <-tick.C:
		}
	}
}

// sh runs a command in the namespace and returns its output.
func (l *lab) sh(s *space, argv ...string) string {
	l.t.Helper()
	var out []byte
	l.must(s.in(func() (err error) {
		var said bytes.Buffer // ip complains there of namespaces that end while it looks
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Stderr = &said
		if out, err = cmd.Output(); err != nil {
			err = fmt.Errorf("%v: %w: %s%s", argv, err, out, &said)
		}
		return err
	}))
	return string(out)
}

// dumpHost is all that a Kernel could change on a host, with the kernel's own numbers of it, so that something that was
// removed and made again differs.
func (l *lab) dumpHost(h *labHost) string {
	l.t.Helper()
	var b strings.Builder
	for _, argv := range [][]string{
		{"nft", "-a", "list", "ruleset"}, {"ip", "-d", "link"}, {"ip", "addr"}, {"ip", "route", "show", "table", "all"}, {"ip", "rule"},
		{"ip", "neigh", "show", "nud", "permanent"}, {"bridge", "fdb", "show", "dev", "shoal-vx"},
	} {
		if argv[0] == "bridge" && !strings.Contains(b.String(), "shoal-vx:") {
			continue
		}
		fmt.Fprintf(&b, "# %v\n%s", argv, l.sh(h.space, argv...))
	}
	return itself.ReplaceAllString(b.String(), "")
}

// itself is what of a dump changes by itself: timers, and the connections that are counted.
var itself = regexp.MustCompile(`\w+_timer +[\d.]+|\s+elements = \{[^}]* counter packets [^}]*\}`)
