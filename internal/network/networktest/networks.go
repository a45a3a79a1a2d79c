package networktest

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	apinetwork "github.com/moby/moby/api/types/network"

	"shoal.dev/shoal/internal/engine"
)

// networks: containers on networks that users make.
func networks(t *testing.T, n Network) {
	create := func(name, subnet string, internal bool) string {
		t.Helper()
		i, err := n.CreateNetwork(t.Context(), apinetwork.CreateRequest{
			Name: name, Internal: internal, IPAM: &apinetwork.IPAM{Config: []apinetwork.IPAMConfig{{Subnet: netip.MustParsePrefix(subnet)}}},
		})
		if err != nil {
			t.Fatal(err)
		}
		return i.ID
	}
	on := func(id string, want ...engine.EndpointRequest) (engine.Sandbox, error) {
		return n.Attach(t.Context(), id, engine.Attachment{Name: "name-" + id, Networks: want})
	}
	must := func(s engine.Sandbox, err error) engine.Sandbox {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	refused := func(what, words string, is func(error) bool, err error) {
		t.Helper()
		if !is(err) || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: %v; want %q", what, err, words)
		}
	}
	front, back := create("front", "10.91.0.0/24", false), create("back", "10.92.0.0/24", true)
	addr := netip.MustParseAddr
	one := must(on("a", engine.EndpointRequest{Network: "front", Addr: addr("10.91.0.77"), MAC: "02:00:00:00:00:01"}))
	if e := one.On(front); e == nil || e.Addr != addr("10.91.0.77") || e.MAC != "02:00:00:00:00:01" || e.Gateway != addr("10.91.0.1") || e.Interface != "eth0" {
		t.Errorf("on one network: %+v", one)
	}
	both := must(on("a", engine.EndpointRequest{Network: back}, engine.EndpointRequest{Network: front[:12]}))
	if e := both.On("back"); e == nil || e.Interface != "eth1" || e.Gateway.IsValid() || !e.Internal || both.On("front").ID != one.On("front").ID || both.Gateway().Network != "front" {
		t.Errorf("on two networks: %+v", both)
	}
	none := must(on("b", []engine.EndpointRequest{}...))
	if none.NetNS == "" {
		t.Errorf("nil is the bridge: %+v", none)
	}

	_, err := on("c", engine.EndpointRequest{Network: "front"}, engine.EndpointRequest{Network: "nowhere"})
	refused("a network that is not there", "network nowhere not found", errdefs.IsNotFound, err)
	_, err = on("c", engine.EndpointRequest{Network: "front", Addr: addr("10.91.0.77")})
	refused("a taken address", "Address already in use", errdefs.IsPermissionDenied, err)
	_, err = on("c", engine.EndpointRequest{Network: "front", Addr: addr("10.93.0.1")})
	refused("an address elsewhere", "no configured subnet contains IP address 10.93.0.1", errdefs.IsInvalidArgument, err)
	_, err = on("a", engine.EndpointRequest{Network: "front"}, engine.EndpointRequest{Network: "back"}, engine.EndpointRequest{Network: "front"})
	refused("twice", "already exists in network front", errdefs.IsPermissionDenied, err)
	if i, err := n.FindNetwork("front"); err != nil || len(i.Containers) != 1 || i.Containers["a"].Name != "name-a" || i.Containers["a"].IPv4Address != netip.MustParsePrefix("10.91.0.77/24") {
		t.Errorf("what a refusal leaves: %+v, %v", i, err)
	}

	_, err = n.RemoveNetwork(t.Context(), "front")
	refused("removal while used", `error while removing network: network front has active endpoints (name:"name-a" id:"`, errdefs.IsPermissionDenied, err)
	left := must(on("a", engine.EndpointRequest{Network: "back"}))
	if e := left.On("back"); len(left.Endpoints) != 1 || e.Interface != "eth1" || e.ID != both.On("back").ID || left.Gateway() != nil {
		t.Errorf("after it left a network: %+v", left)
	}
	if i, err := n.RemoveNetwork(t.Context(), front[:5]); err != nil || i.Name != "front" || i.ID != front {
		t.Errorf("removal: %+v, %v", i, err)
	}
	_, err = n.RemoveNetwork(t.Context(), "front")
	refused("removal again", "network front not found", errdefs.IsNotFound, err)
	if err := errors.Join(n.Detach(t.Context(), "a"), n.Detach(t.Context(), "b"), n.Detach(t.Context(), "c")); err != nil {
		t.Error(err)
	}
	if _, err := n.RemoveNetwork(t.Context(), back); err != nil {
		t.Error(err)
	}
	var names []string
	for _, i := range n.LocalNetworks() {
		names = append(names, i.Name)
	}
	if !slices.Equal(names, []string{"bridge", "host", "none"}) {
		t.Errorf("left: %v", names)
	}
}
