package overlay

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	mdns "github.com/miekg/dns"
	apinetwork "github.com/moby/moby/api/types/network"

	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/network/dns"
)

// resolve asks the name server of a container, and returns the code and the data of its answer.
func resolve(s *space, proto, name string, kind uint16) string {
	var r *mdns.Msg
	err := s.in(func() error {
		c, err := net.Dial(proto+"4", dns.Addr+":53")
		if err != nil {
			return err
		}
		defer c.Close()
		r, _, err = (&mdns.Client{Net: proto, Timeout: patience}).ExchangeWithConn(new(mdns.Msg).SetQuestion(mdns.Fqdn(name), kind), &mdns.Conn{Conn: c})
		return err
	})
	if err != nil {
		return err.Error()
	}
	var out []string
	for _, rr := range r.Answer {
		out = append(out, strings.TrimPrefix(rr.String(), rr.Header().String()))
	}
	slices.Sort(out)
	return strings.TrimSpace(mdns.RcodeToString[r.Rcode] + " " + strings.Join(out, " "))
}

// nameServer runs one in a namespace that says the address of everything.
func (l *lab) nameServer(s *space, at, says string) {
	l.t.Helper()
	var udp net.PacketConn
	var tcp net.Listener
	l.must(s.in(func() (err error) {
		if udp, err = net.ListenPacket("udp4", at+":53"); err != nil {
			return err
		}
		tcp, err = net.Listen("tcp4", at+":53")
		return err
	}))
	h := mdns.HandlerFunc(func(w mdns.ResponseWriter, q *mdns.Msg) {
		r := new(mdns.Msg).SetReply(q)
		r.Answer = []mdns.RR{&mdns.A{Hdr: mdns.RR_Header{Name: q.Question[0].Name, Rrtype: mdns.TypeA, Class: mdns.ClassINET}, A: net.ParseIP(says)}}
		_ = w.WriteMsg(r)
	})
	for _, s := range []*mdns.Server{{PacketConn: udp, Handler: h}, {Listener: tcp, Handler: h}} {
		go func() { _ = s.ActivateAndServe() }()
	}
	l.t.Cleanup(func() { _ = udp.Close(); _ = tcp.Close() })
}

func called(network string, names ...string) engine.Attachment {
	a := at(network)
	a.Networks[0].Names = names
	return a
}

// TestNames is what containers resolve, from inside.
func TestNames(t *testing.T) {
	l := newLab(t, 1)
	h := l.hosts[0]
	l.must(h.k.Close())
	h.cfg.ResolvConf = filepath.Join(t.TempDir(), "resolv.conf")
	l.must(os.WriteFile(h.cfg.ResolvConf, []byte("nameserver 127.0.0.53\n"), 0o600))
	l.open(h)
	l.nameServer(h.space, "127.0.0.53", "203.0.113.53")
	for _, r := range []apinetwork.CreateRequest{{Name: "front"}, {Name: "back"}, {Name: "inner", Internal: true}} {
		l.network(h, r)
	}
	web := l.runOn(h, "web", called("front", "web", "www"))
	linked := called("front", "two", "www")
	linked.Networks[0].Links = map[string]string{"db": "web"}
	two := l.runOn(h, "two", linked)
	db := l.runOn(h, "db", called("back", "db"))
	inner := l.runOn(h, "inner", called("inner", "inner"))
	plain := l.run(h, "plain", "")
	own := called("inner", "own")
	own.Resolvers = append(own.Resolvers, inner.addr)
	l.nameServer(inner.space, inner.addr.String(), "203.0.113.99")
	asks := l.runOn(h, "asks", own)

	check := func(when string) {
		t.Helper()
		for _, test := range []struct {
			from *labBox
			name string
			kind uint16
			want string
		}{
			{two, "web", mdns.TypeA, "NOERROR " + web.addr.String()},
			{two, "WEB.front", mdns.TypeA, "NOERROR " + web.addr.String()},
			{two, "web", mdns.TypeAAAA, "NOERROR"},
			{two, "db", mdns.TypeA, "NOERROR " + web.addr.String()},
			{web, "two", mdns.TypeA, "NOERROR " + two.addr.String()},
			{db, "db", mdns.TypeA, "NOERROR " + db.addr.String()},
			{db, "web", mdns.TypeA, "NOERROR 203.0.113.53"}, // the outside knows everything
			{two, "www.example.com", mdns.TypeA, "NOERROR 203.0.113.53"},
			{inner, "www.example.com", mdns.TypeA, "NXDOMAIN"},
			{inner, "web", mdns.TypeA, "NXDOMAIN"},
			{asks, "www.example.com", mdns.TypeA, "NOERROR 203.0.113.99"},
			{asks, "inner", mdns.TypeA, "NOERROR " + inner.addr.String()},
		} {
			for _, proto := range []string{"udp", "tcp"} {
				if got := resolve(test.from.space, proto, test.name, test.kind); got != test.want {
					t.Errorf("%s: %s asks for %s by %s: %q; want %q", when, test.from.id, test.name, proto, got, test.want)
				}
			}
		}
		b := web.addr.As4()
		reverse := fmt.Sprintf("%d.%d.%d.%d.in-addr.arpa", b[3], b[2], b[1], b[0])
		if got := resolve(two.space, "udp", reverse, mdns.TypePTR); got != "NOERROR web.front." {
			t.Errorf("%s: the name of an address: %q", when, got)
		}
		if got := resolve(two.space, "udp", "www", mdns.TypeA); !strings.Contains(got, web.addr.String()) || !strings.Contains(got, two.addr.String()) {
			t.Errorf("%s: an alias of two: %q", when, got)
		}
	}
	check("at first")
	if got := resolve(plain.space, "udp", "web", mdns.TypeA); !strings.Contains(got, "refused") {
		t.Errorf("the network bridge has names: %q", got)
	}

	// A container's own server on port 53 of every address gets what is sent to it, and not what is sent to ours.
	l.nameServer(web.space, "0.0.0.0", "203.0.113.1")
	check("beside a name server in the container")
	err := two.in(func() error {
		r, _, err := (&mdns.Client{Timeout: patience}).Exchange(new(mdns.Msg).SetQuestion("x.", mdns.TypeA), web.addr.String()+":53")
		if err == nil && !strings.Contains(r.String(), "203.0.113.1") {
			err = errors.New(r.String())
		}
		return err
	})
	if err != nil {
		t.Errorf("a container's own name server: %v", err)
	}

	l.must(h.k.Close())
	if got := resolve(two.space, "udp", "web", mdns.TypeA); strings.HasPrefix(got, "NOERROR") {
		t.Errorf("somebody answers while the daemon is away: %q", got)
	}
	l.open(h)
	check("after a restart")

	if _, err := h.k.Attach(t.Context(), "web", called("front", "renamed")); err != nil {
		t.Fatal(err)
	}
	if got := resolve(two.space, "udp", "renamed", mdns.TypeA); got != "NOERROR "+web.addr.String() {
		t.Errorf("a new name: %q", got)
	}
	if got := resolve(two.space, "udp", "web", mdns.TypeA); got != "NOERROR 203.0.113.53" {
		t.Errorf("the old name: %q", got)
	}
	l.must(h.k.Detach(t.Context(), "web"))
	if got := resolve(two.space, "udp", "www", mdns.TypeA); got != "NOERROR "+two.addr.String() {
		t.Errorf("after its end: %q", got)
	}
	_, err = h.k.Attach(t.Context(), "short", called("front", "short"))
	l.must(err)
	outside := h.k.boxes.byID["short"].Endpoints[0].Outside
	l.must(h.k.Detach(t.Context(), "short"))
	l.eventually("nothing of ours keeps a namespace", func() bool { return !strings.Contains(l.sh(h.space, "ip", "link"), outside) })

	if sb, err := h.k.Attach(t.Context(), "plain", at("bridge", "front")); err != nil || !sb.Names {
		t.Errorf("%+v, %v", sb, err)
	}
	if got := resolve(plain.space, "udp", "two", mdns.TypeA); got != "NOERROR "+two.addr.String() {
		t.Errorf("from the bridge and another network: %q", got)
	}
}

// TestAtOnce makes and removes networks and containers on them, which find each other, all at the same time.
func TestAtOnce(t *testing.T) {
	l := newLab(t, 1)
	k := l.hosts[0].k
	var all sync.WaitGroup
	for i := range 6 {
		all.Go(func() {
			name := fmt.Sprint("net", i)
			for range 3 {
				if _, err := k.CreateNetwork(t.Context(), apinetwork.CreateRequest{Name: name}); err != nil {
					t.Error(err)
					return
				}
				a, err := k.Attach(t.Context(), name+"a", called(name, "a"))
				b, berr := k.Attach(t.Context(), name+"b", called(name, "b"))
				if err = errors.Join(err, berr); err != nil {
					t.Error(err)
					return
				}
				s, err := openSpace(b.NetNS)
				if err != nil {
					t.Error(err)
					return
				}
				if got := resolve(s, "udp", "a", mdns.TypeA); got != "NOERROR "+a.Endpoints[0].Addr.String() {
					t.Errorf("%s: %q", name, got)
				}
				if _, err := k.RemoveNetwork(t.Context(), name); !errdefs.IsPermissionDenied(err) {
					t.Errorf("%s is removed while used: %v", name, err)
				}
				if err := errors.Join(s.close(), k.Repair(t.Context()), k.Detach(t.Context(), name+"a"), k.Detach(t.Context(), name+"b")); err != nil {
					t.Error(err)
				}
				if _, err := k.RemoveNetwork(t.Context(), name); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if got := k.LocalNetworks(); len(got) != 3 {
		t.Errorf("left: %+v", got)
	}
}

// BenchmarkAttachNamed is what a network with names adds to a container's start.
func BenchmarkAttachNamed(b *testing.B) {
	l := newLab(b, 1)
	h := l.hosts[0]
	l.network(h, apinetwork.CreateRequest{Name: "named"})
	for _, network := range []string{"bridge", "named"} {
		b.Run(network, func(b *testing.B) {
			var attached time.Duration
			for i := range b.N {
				id := fmt.Sprint(network, i)
				begin := time.Now()
				if _, err := h.k.Attach(b.Context(), id, called(network, id)); err != nil {
					b.Fatal(err)
				}
				attached += time.Since(begin)
				l.must(h.k.Detach(b.Context(), id))
			}
			b.ReportMetric(float64(attached.Microseconds())/float64(b.N), "µs/attach")
		})
	}
}
