package overlay

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	apinetwork "github.com/moby/moby/api/types/network"

	"shoal.dev/shoal/internal/engine"
)

func request(port string, ip string, host uint16) engine.PortRequest {
	r := engine.PortRequest{Port: apinetwork.MustParsePort(port), First: host, Last: host}
	if ip != "" {
		r.HostIP = netip.MustParseAddr(ip)
	}
	return r
}

// TestPublish is a plain container's ports, from everywhere, in and out of a swarm, over a restart and a repair.
func TestPublish(t *testing.T) {
	l := newLab(t, 1)
	h := l.hosts[0]
	other := l.run(h, "other", "")
	ports := []engine.PortRequest{request("80/tcp", "", 8080), request("80/udp", "", 8080), request("80/tcp", "127.0.0.1", 8081), request("80/tcp", h.addr, 8082)}
	c := l.run(h, "c", "", ports...)
	client, own, gw := netip.MustParseAddr(clientAddr), netip.MustParseAddr(h.addr), gateway(h.k.subnet)
	check := func(when string) {
		t.Helper()
		for _, test := range []struct {
			name      string
			from      *space
			proto, to string
			seen      netip.Addr // invalid: it must not get through
		}{
			{"outside", l.client, "tcp", h.addr + ":8080", client},
			{"outside, UDP", l.client, "udp", h.addr + ":8080", client},
			{"outside, one address", l.client, "tcp", h.addr + ":8082", client},
			{"outside, loopback's", l.client, "tcp", h.addr + ":8081", netip.Addr{}},
			{"host, own address", h.space, "tcp", h.addr + ":8080", own},
			{"host, loopback", h.space, "tcp", "127.0.0.1:8080", gw},
			{"host, loopback, UDP", h.space, "udp", "127.0.0.1:8080", gw},
			{"host, loopback's", h.space, "tcp", "127.0.0.1:8081", gw},
			{"host, not at loopback", h.space, "tcp", "127.0.0.1:8082", netip.Addr{}},
			{"another container", other.space, "tcp", h.addr + ":8080", gw},
			{"another container, by the gateway", other.space, "tcp", gw.String() + ":8080", gw},
			{"another container, UDP", other.space, "udp", h.addr + ":8080", gw},
			{"itself", c.space, "tcp", h.addr + ":8080", gw},
		} {
			id, seen, err := ask(test.from, test.proto, "", test.to)
			if !test.seen.IsValid() {
				if err == nil {
					t.Errorf("%s: %s: reached %s", when, test.name, id)
				}
			} else if err != nil || id != "c" || seen != test.seen {
				t.Errorf("%s: %s: %q saw %s, %v; want %s", when, test.name, id, seen, err, test.seen)
			}
		}
	}
	check("outside a swarm")

	l.sh(h.space, "nft", "flush map ip shoal published")
	l.must(h.k.Repair(t.Context()))
	check("after a repair")

	l.must(h.k.Close())
	l.open(h)
	again, err := h.k.Attach(t.Context(), "c", engine.Attachment{Ports: ports})
	if err != nil || len(again.Ports) != len(ports) {
		t.Errorf("attached again: %+v, %v", again, err)
	}
	check("after a restart")

	task := l.run(h, "task", "10.77.0.11")
	l.apply(pub{"tcp", 8090, []*labBox{task}})
	check("in a swarm")
	if id, _, err := ask(l.client, "tcp", "", h.addr+":8090"); err != nil || id != "task" {
		t.Errorf("the swarm's port: %q, %v", id, err)
	}
	l.must(h.k.Close())
	l.open(h) // before the first Apply, the mesh is from before
	late := l.run(h, "late", "", request("80/tcp", "", 8083))
	check("in a swarm, after a restart")
	for port, want := range map[string]string{":8083": "late", ":8090": "task"} {
		if id, _, err := ask(l.client, "tcp", "", h.addr+port); err != nil || id != want {
			t.Errorf("%s: %q, %v", port, id, err)
		}
	}
	l.apply(pub{"tcp", 8090, []*labBox{task}})
	l.must(h.k.Detach(t.Context(), late.id))
	check("after another one went")
	l.must(h.k.Detach(t.Context(), "c"))
	for _, proto := range []string{"tcp", "udp"} {
		if id, _, err := ask(l.client, proto, "", h.addr+":8080"); err == nil {
			t.Errorf("%s: %s answers at a port that was given back", proto, id)
		}
	}
}

// TestPublishBesideProcesses: what a process of the host listens on is refused, in words that name it.
func TestPublishBesideProcesses(t *testing.T) {
	l := newLab(t, 1)
	h := l.hosts[0]
	var tcp net.Listener
	var udp net.PacketConn
	l.must(h.in(func() (err error) {
		if tcp, err = net.Listen("tcp4", "127.0.0.1:9000"); err != nil {
			return err
		}
		udp, err = net.ListenPacket("udp4", ":9001")
		return err
	}))
	for _, test := range []struct {
		r     engine.PortRequest
		words string
	}{
		{request("80/tcp", "", 9000), "failed to bind host port for 0.0.0.0:9000:80/tcp: address already in use: process overlay.test"},
		{request("53/udp", "", 9001), "failed to bind host port for 0.0.0.0:9001:53/udp: address already in use: process overlay.test"},
		{request("80/tcp", "192.0.2.1", 9002), "failed to bind host port for 192.0.2.1:9002:80/tcp: cannot assign requested address"},
	} {
		_, err := h.k.Attach(t.Context(), "c", engine.Attachment{Ports: []engine.PortRequest{test.r}})
		if !errdefs.IsConflict(err) || !strings.Contains(err.Error(), test.words) {
			t.Errorf("%v; want %q", err, test.words)
		}
		l.must(h.k.Detach(t.Context(), "c"))
	}
	l.must(tcp.Close())
	l.must(udp.Close())
	l.run(h, "c", "", request("80/tcp", "", 9000), request("80/udp", "", 9001))
	if id, _, err := ask(l.client, "tcp", "", h.addr+":9000"); err != nil || id != "c" {
		t.Errorf("%q, %v", id, err)
	}
}
