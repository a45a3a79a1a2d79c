package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"pgregory.net/rapid"
)

var addr = netip.MustParseAddr

// table is two networks, of which "front" has two containers of one alias.
func table() *Names {
	return NewNames([]Record{
		{Network: "n1", NetworkName: "front", Names: []string{"web1", "Web", "a1b2c3d4e5f6", "my.host"}, Addrs: []netip.Addr{addr("10.1.0.2")}},
		{Network: "n1", NetworkName: "front", Names: []string{"web2", "web"}, Addrs: []netip.Addr{addr("10.1.0.3")}},
		{Network: "n2", NetworkName: "back", Names: []string{"db", "db"}, Addrs: []netip.Addr{addr("10.2.0.2"), addr("fd00::2")}},
		{Network: "n2", NetworkName: "back", Names: []string{"web"}, Addrs: []netip.Addr{addr("10.2.0.9")}},
		{Network: "n2", NetworkName: "back", Names: []string{"nobody"}},
	})
}

func asker(networks ...string) *Asker {
	a := &Asker{Networks: networks, Links: map[string]string{"Base": "DB"}}
	for _, n := range networks {
		a.Subnets = append(a.Subnets, map[string]netip.Prefix{"n1": netip.MustParsePrefix("10.1.0.0/24"), "n2": netip.MustParsePrefix("10.2.0.0/24")}[n])
	}
	return a
}

func session(a *Asker) *Session {
	s := New(Config{Log: slog.New(slog.DiscardHandler)})
	s.Set(table())
	x := &Session{server: s, waiting: make(chan struct{}, maxPerAsker)}
	x.asker.Store(a)
	return x
}

func question(name string, kind uint16) *dns.Msg {
	return new(dns.Msg).SetQuestion(dns.Fqdn(name), kind)
}

// shown is an answer's code and data, sorted.
func shown(r *dns.Msg) string {
	out := []string{}
	for _, rr := range r.Answer {
		switch v := rr.(type) {
		case *dns.A:
			out = append(out, v.A.String())
		case *dns.AAAA:
			out = append(out, v.AAAA.String())
		case *dns.PTR:
			out = append(out, v.Ptr)
		}
	}
	slices.Sort(out)
	return strings.TrimSpace(dns.RcodeToString[r.Rcode] + " " + strings.Join(out, " "))
}

func TestAnswers(t *testing.T) {
	for _, test := range []struct {
		name string
		a    *Asker
		q    *dns.Msg
		want string
	}{
		{"by name", asker("n1"), question("web1", dns.TypeA), "NOERROR 10.1.0.2"},
		{"in capitals", asker("n1"), question("WEB1", dns.TypeA), "NOERROR 10.1.0.2"},
		{"by short ID", asker("n1"), question("a1b2c3d4e5f6", dns.TypeA), "NOERROR 10.1.0.2"},
		{"a name with a dot", asker("n1"), question("my.host", dns.TypeA), "NOERROR 10.1.0.2"},
		{"with its network", asker("n1"), question("web1.front", dns.TypeA), "NOERROR 10.1.0.2"},
		{"with another network", asker("n1"), question("web.back", dns.TypeA), "NXDOMAIN"},
		{"with the second network", asker("n1", "n2"), question("web.back", dns.TypeA), "NOERROR 10.2.0.9"},
		{"a shared alias", asker("n1"), question("web", dns.TypeA), "NOERROR 10.1.0.2 10.1.0.3"},
		{"the first network's", asker("n2", "n1"), question("web", dns.TypeA), "NOERROR 10.2.0.9"},
		{"of another network", asker("n1"), question("db", dns.TypeA), "NXDOMAIN"},
		{"a link", asker("n2"), question("base", dns.TypeA), "NOERROR 10.2.0.2"},
		{"IPv6", asker("n2"), question("db", dns.TypeAAAA), "NOERROR fd00::2"},
		{"any", asker("n2"), question("db", dns.TypeANY), "NOERROR 10.2.0.2 fd00::2"},
		{"no IPv6", asker("n1"), question("web1", dns.TypeAAAA), "NOERROR"},
		{"another type", asker("n1"), question("web1", dns.TypeMX), "NOERROR"},
		{"a name without an address", asker("n2"), question("nobody", dns.TypeA), "NOERROR"},
		{"no such name", asker("n1"), question("nothing", dns.TypeA), "NXDOMAIN"},
		{"no networks", asker(), question("web1", dns.TypeA), "NXDOMAIN"},
		{"reverse", asker("n1"), question("2.0.1.10.in-addr.arpa", dns.TypePTR), "NOERROR web1.front."},
		{"reverse of nobody", asker("n1"), question("77.0.1.10.in-addr.arpa", dns.TypePTR), "NXDOMAIN"},
		{"reverse of another network", asker("n1"), question("2.0.2.10.in-addr.arpa", dns.TypePTR), "NXDOMAIN"},
		{"reverse of nothing", asker("n1"), question("x.in-addr.arpa", dns.TypePTR), "NXDOMAIN"},
		{"no question", asker("n1"), new(dns.Msg), "FORMERR"},
		{"two questions", asker("n1"), &dns.Msg{Question: []dns.Question{question("a", 1).Question[0], question("b", 1).Question[0]}}, "FORMERR"},
		{"an update", asker("n1"), new(dns.Msg).SetUpdate("front."), "NOTIMP"},
		{"EDNS of the future", asker("n1"), func() *dns.Msg {
			q := question("web1", dns.TypeA).SetEdns0(1232, false)
			q.IsEdns0().SetVersion(1)
			return q
		}(), "BADSIG"}, // the number is that of BADVERS, too
	} {
		q := test.q.Copy()
		r := session(test.a).respond(t.Context(), q, false)
		if got := shown(r); got != test.want {
			t.Errorf("%s: %q; want %q", test.name, got, test.want)
		}
		if r.Id != q.Id || !r.Response || !r.RecursionAvailable && test.want != "FORMERR" || (q.IsEdns0() == nil) != (r.IsEdns0() == nil) {
			t.Errorf("%s: %v", test.name, r)
		}
	}
	if r := session(asker()).respond(t.Context(), &dns.Msg{MsgHdr: dns.MsgHdr{Response: true}}, false); r != nil {
		t.Errorf("an answer is answered: %v", r)
	}
}

// TestSpread: of several addresses each comes first at times.
func TestSpread(t *testing.T) {
	x, first := session(asker("n1")), map[string]int{}
	for range 200 {
		first[x.respond(t.Context(), question("web", dns.TypeA), false).Answer[0].(*dns.A).A.String()]++
	}
	if first["10.1.0.2"] < 50 || first["10.1.0.3"] < 50 {
		t.Errorf("%v", first)
	}
}

// TestTruncation: what is too long for the client is cut and marked, and whole over TCP.
func TestTruncation(t *testing.T) {
	var many []netip.Addr
	for i := range 200 {
		many = append(many, netip.AddrFrom4([4]byte{10, 1, 1, byte(i)}))
	}
	x := session(asker("n1"))
	x.server.Set(NewNames([]Record{{Network: "n1", NetworkName: "front", Names: []string{"many"}, Addrs: many}}))
	for _, test := range []struct {
		q    *dns.Msg
		tcp  bool
		most int
		cut  bool
	}{
		{question("many", dns.TypeA), false, 512, true},
		{question("many", dns.TypeA).SetEdns0(1232, false), false, 1232, true},
		{question("many", dns.TypeA).SetEdns0(65535, false), false, 4096, false},
		{question("many", dns.TypeA).SetEdns0(1, false), false, 512, true},
		{question("many", dns.TypeA), true, 65535, false},
	} {
		r := x.respond(t.Context(), test.q, test.tcp)
		b, err := r.Pack()
		if err != nil || len(b) > test.most || r.Truncated != test.cut || !test.cut && len(r.Answer) != 200 {
			t.Errorf("%d bytes, cut %t, %d answers, %v; want at most %d, %t", len(b), r.Truncated, len(r.Answer), err, test.most, test.cut)
		}
	}
}

// TestTable: the table says what its records say, whatever they are.
func TestTable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var records []Record
		for range rapid.IntRange(0, 12).Draw(t, "records") {
			n := rapid.IntRange(0, 2).Draw(t, "network")
			r := Record{Network: fmt.Sprint("id", n), NetworkName: fmt.Sprint("net", n)}
			for range rapid.IntRange(0, 3).Draw(t, "names") {
				r.Names = append(r.Names, rapid.SampledFrom([]string{"a", "B", "c.d", "b"}).Draw(t, "name"))
			}
			if rapid.Bool().Draw(t, "addressed") {
				r.Addrs = append(r.Addrs, netip.AddrFrom4([4]byte{10, byte(n), 0, byte(rapid.IntRange(1, 6).Draw(t, "addr"))}))
			}
			records = append(records, r)
		}
		n := NewNames(records)
		for _, id := range []string{"id0", "id1", "id2"} {
			for _, name := range []string{"a", "b", "c.d", "e"} {
				var want []netip.Addr
				exists := false
				for _, r := range records {
					if r.Network == id && slices.ContainsFunc(r.Names, func(s string) bool { return strings.EqualFold(s, name) }) {
						exists = true
						for _, a := range r.Addrs {
							if !slices.Contains(want, a) {
								want = append(want, a)
							}
						}
					}
				}
				for _, asked := range []string{name, strings.ToUpper(name) + ".", name + ".net" + id[2:]} {
					if got, known := n.Lookup(&Asker{Networks: []string{id}}, asked); known != exists || !slices.Equal(got, want) {
						t.Fatalf("%s on %s: %v %t; want %v %t", asked, id, got, known, want, exists)
					}
				}
			}
		}
	})
}

// upstream is a name server of the outside.
func upstream(t *testing.T, h dns.HandlerFunc) netip.AddrPort {
	t.Helper()
	udp, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddrPort(udp.LocalAddr().String())
	tcp, err := net.Listen("tcp4", at.String())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*dns.Server{{PacketConn: udp, Handler: h}, {Listener: tcp, Handler: h}} {
		go func() { _ = s.ActivateAndServe() }()
	}
	t.Cleanup(func() { _ = udp.Close(); _ = tcp.Close() })
	return at
}

func says(code int, a string) dns.HandlerFunc {
	return func(w dns.ResponseWriter, q *dns.Msg) {
		r := new(dns.Msg).SetRcode(q, code)
		if a != "" {
			r.Answer = []dns.RR{&dns.A{Hdr: header(q.Question[0].Name, dns.TypeA), A: net.ParseIP(a)}}
		}
		_ = w.WriteMsg(r)
	}
}

func servers(list ...netip.AddrPort) Servers {
	return Servers{List: func() []netip.AddrPort { return list }, Dial: new(net.Dialer).DialContext}
}

func TestForward(t *testing.T) {
	good, broken, refusing := upstream(t, says(0, "203.0.113.5")), upstream(t, says(dns.RcodeServerFailure, "")), upstream(t, says(dns.RcodeRefused, ""))
	missing := upstream(t, says(dns.RcodeNameError, ""))
	liar := upstream(t, func(w dns.ResponseWriter, q *dns.Msg) {
		_ = w.WriteMsg(new(dns.Msg).SetReply(question("other.example", dns.TypeA)))
		r := new(dns.Msg).SetReply(q)
		r.Question[0].Name = "other.example."
		_ = w.WriteMsg(r)
	})
	closed := netip.MustParseAddrPort("127.0.0.1:1")
	for _, test := range []struct {
		name string
		s    Servers
		want string
	}{
		{"one", servers(good), "NOERROR 203.0.113.5"},
		{"after a broken one", servers(broken, refusing, good), "NOERROR 203.0.113.5"},
		{"after one that is not there", servers(closed, good), "NOERROR 203.0.113.5"},
		{"after one that answers something else", servers(liar, good), "NOERROR 203.0.113.5"},
		{"no such name", servers(missing, good), "NXDOMAIN"},
		{"all broken", servers(broken, refusing), "REFUSED"},
		{"nobody there", servers(closed), "SERVFAIL"},
		{"nobody to ask", Servers{}, "NXDOMAIN"},
	} {
		for _, tcp := range []bool{false, true} {
			a := asker("n1")
			a.Servers = test.s
			q := question("www.example.com", dns.TypeA)
			r := session(a).respond(t.Context(), q, tcp)
			if got := shown(r); got != test.want || r.Id != q.Id || r.Question[0] != q.Question[0] {
				t.Errorf("%s (TCP %t): %q; want %q", test.name, tcp, got, test.want)
			}
			if got := shown(session(a).respond(t.Context(), question("web1", dns.TypeA), tcp)); got != "NOERROR 10.1.0.2" {
				t.Errorf("%s: a container's name: %s", test.name, got)
			}
		}
	}
}

// TestForwardIsBounded: questions that wait for servers end with their time, and one container has so many at most.
func TestForwardIsBounded(t *testing.T) {
	release := make(chan struct{})
	var waiting atomic.Int32
	a := asker("n1")
	a.Servers = Servers{List: func() []netip.AddrPort { return []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:53")} },
		Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			waiting.Add(1)
			select {
			case <-release:
			case <-ctx.Done():
			}
			return nil, errors.New("no way there")
		}}
	x := session(a)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan string)
	for range maxPerAsker {
		go func() { done <- shown(x.respond(ctx, question("www.example.com", dns.TypeA), false)) }()
	}
	deadline := time.After(10 * time.Second)
	for waiting.Load() < maxPerAsker {
		select {
		case <-deadline:
			t.Fatalf("%d wait", waiting.Load())
		case <-time.After(time.Millisecond):
		}
	}
	if got := shown(x.respond(ctx, question("www.example.com", dns.TypeA), false)); got != "REFUSED" {
		t.Errorf("one too many: %s", got)
	}
	if got := shown(x.respond(ctx, question("web1", dns.TypeA), false)); got != "NOERROR 10.1.0.2" {
		t.Errorf("a container's name meanwhile: %s", got)
	}
	cancel()
	for range maxPerAsker {
		if got := <-done; got != "SERVFAIL" {
			t.Errorf("at the end: %s", got)
		}
	}
	close(release)
}

// TestServe is the sockets: UDP, TCP, garbage, and the end.
func TestServe(t *testing.T) {
	udp, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	tcp, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := New(Config{Log: slog.New(slog.DiscardHandler)})
	s.Set(table())
	x := s.Serve(asker("n1"), udp, tcp)
	if c, err := net.Dial("udp4", udp.LocalAddr().String()); err == nil {
		_, _ = c.Write([]byte("not a question"))
		_ = c.Close()
	}
	ask := func(net, at string) string {
		r, _, err := (&dns.Client{Net: net, Timeout: 5 * time.Second}).ExchangeContext(t.Context(), question("web1", dns.TypeA), at)
		if err != nil {
			return err.Error()
		}
		return shown(r)
	}
	for proto, at := range map[string]string{"udp": udp.LocalAddr().String(), "tcp": tcp.Addr().String()} {
		if got := ask(proto, at); got != "NOERROR 10.1.0.2" {
			t.Errorf("%s: %s", proto, got)
		}
	}
	x.Set(asker("n2"))
	if got := ask("udp", udp.LocalAddr().String()); got != "NXDOMAIN" {
		t.Errorf("on another network: %s", got)
	}
	if err := x.Close(); err != nil {
		t.Error(err)
	}
	if got := ask("tcp", tcp.Addr().String()); !strings.Contains(got, "refused") {
		t.Errorf("after the end: %s", got)
	}
}

// FuzzRespond: whatever arrives is answered by what fits and belongs to it, or not at all.
func FuzzRespond(f *testing.F) {
	for _, q := range []*dns.Msg{
		question("web", dns.TypeA), question("web1.front", dns.TypeAAAA).SetEdns0(1232, true), question("2.0.1.10.in-addr.arpa", dns.TypePTR),
		question("db", dns.TypeANY), new(dns.Msg).SetUpdate("front."), new(dns.Msg),
	} {
		b, err := q.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, false)
		f.Add(b, true)
	}
	x := session(asker("n1", "n2"))
	f.Fuzz(func(t *testing.T, packet []byte, tcp bool) {
		q := new(dns.Msg)
		if err := q.Unpack(packet); err != nil {
			return
		}
		r := x.respond(t.Context(), q, tcp)
		if q.Response != (r == nil) {
			t.Fatalf("%v is answered by %v", q, r)
		}
		if r == nil {
			return
		}
		b, err := r.Pack()
		if err != nil {
			return // the server answers SERVFAIL
		}
		if r.Id != q.Id || !r.Response || len(b) > limitOf(q, tcp) {
			t.Fatalf("%d bytes: %v answers %v", len(b), r, q)
		}
	})
}

func TestHostServers(t *testing.T) {
	if got := HostServers("testdata/nothing"); got != nil {
		t.Errorf("no file: %v", got)
	}
}
