package networktest

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	apinetwork "github.com/moby/moby/api/types/network"

	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/network"
)

var (
	web       = apinetwork.MustParsePort("80/tcp")
	dns       = apinetwork.MustParsePort("53/udp")
	anywhere  = netip.IPv4Unspecified()
	localhost = netip.MustParseAddr("127.0.0.1")
)

// published: the host's ports of containers, each of which only one has.
func published(t *testing.T, n Network) {
	take := func(id string, want ...engine.PortRequest) (engine.Sandbox, error) {
		return n.Attach(t.Context(), id, engine.Attachment{Name: "box-" + id, Ports: want})
	}
	at := func(port uint16) engine.PortRequest { return engine.PortRequest{Port: web, First: port, Last: port} }
	is := func(what string, s engine.Sandbox, err error, want ...engine.PublishedPort) {
		t.Helper()
		if err != nil || !reflect.DeepEqual(s.Ports, want) {
			t.Errorf("%s: %+v, %v; want %+v", what, s.Ports, err, want)
		}
	}
	refused := func(what, words string, err error) {
		t.Helper()
		if !errdefs.IsConflict(err) || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: %v; want %q", what, err, words)
		}
	}
	detach := func(id string) {
		t.Helper()
		if err := n.Detach(t.Context(), id); err != nil {
			t.Error(err)
		}
	}

	a, err := take("a", at(28080), engine.PortRequest{Port: dns, First: 28080, Last: 28080})
	both := []engine.PublishedPort{{Port: web, HostIP: anywhere, HostPort: 28080}, {Port: dns, HostIP: anywhere, HostPort: 28080}}
	is("two protocols", a, err, both...)
	again, err := take("a", at(28080), engine.PortRequest{Port: dns, First: 28080, Last: 28080})
	is("attached again", again, err, both...)

	_, err = take("b", at(28081), at(28080))
	refused("a taken port", "Bind for 0.0.0.0:28080 failed: port is already allocated: container box-a has it", err)
	detach("b")
	_, err = take("b", engine.PortRequest{Port: web, HostIP: localhost, First: 28080, Last: 28080})
	refused("a taken port at one address", "Bind for 127.0.0.1:28080 failed: port is already allocated", err)
	detach("b")
	b, err := take("b", engine.PortRequest{Port: web, HostIP: localhost, First: 28081, Last: 28081})
	is("a port that a refused one gave back", b, err, engine.PublishedPort{Port: web, HostIP: localhost, HostPort: 28081})
	_, err = take("c", at(28081))
	refused("all addresses of a port that is taken at one", "Bind for 0.0.0.0:28081 failed: port is already allocated", err)
	detach("c")

	c, err := take("c", engine.PortRequest{Port: web, First: 28080, Last: 28083})
	is("a range", c, err, engine.PublishedPort{Port: web, HostIP: anywhere, HostPort: 28082})
	any1, err := take("d", engine.PortRequest{Port: web}, engine.PortRequest{Port: dns})
	if err != nil || len(any1.Ports) != 2 || any1.Ports[0].HostPort < 32768 || any1.Ports[1].HostPort > 60999 {
		t.Errorf("any ports: %+v, %v", any1.Ports, err)
	}
	any2, err := take("e", engine.PortRequest{Port: web})
	if err != nil || len(any2.Ports) != 1 || any2.Ports[0].HostPort == any1.Ports[0].HostPort {
		t.Errorf("any ports of another: %+v, %v", any2.Ports, err)
	}

	detach("a")
	moved, err := take("b", at(28080))
	is("other ports for the same container", moved, err, engine.PublishedPort{Port: web, HostIP: anywhere, HostPort: 28080})
	f, err := take("f", at(28081))
	is("a port that was let go", f, err, engine.PublishedPort{Port: web, HostIP: anywhere, HostPort: 28081})

	self := network.Node{ID: "n1", Index: 1, Underlay: netip.MustParseAddr("198.18.77.1"), Addr: netip.MustParseAddr("10.77.0.1")}
	ing := &network.Ingress{Subnet: netip.MustParsePrefix("10.77.0.0/24"), VNI: 4177, Port: 4789, Nodes: []network.Node{self}, Ports: []network.Port{{Protocol: "tcp", Published: 28090}}}
	if err := n.Apply(t.Context(), network.Desired{Self: "n1", Ingress: ing}); err != nil {
		t.Fatal(err)
	}
	_, err = take("g", at(28090))
	refused("a port of the swarm", "port is already allocated: a service of the swarm publishes it", err)
}
