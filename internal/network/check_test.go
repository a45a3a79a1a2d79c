package network_test

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"shoal.dev/shoal/internal/network"
)

func TestDifferences(t *testing.T) {
	a := netip.MustParseAddr
	want := network.Desired{
		Version: 7, Self: "n1",
		Ingress: &network.Ingress{VNI: 4096, Port: 4789, Nodes: []network.Node{{ID: "n1", Index: 1, Addr: a("10.0.0.2"), Underlay: a("192.0.2.1")}},
			Ports: []network.Port{{Protocol: "tcp", Published: 80, Backends: []network.Backend{{Addr: a("10.0.0.5"), Port: 8080}}}}},
		Overlays: []*network.Overlay{
			{ID: "a", Name: "shop", VNI: 4097, Endpoints: []network.Endpoint{{Addr: a("10.0.1.3"), NodeID: "n1"}, {Addr: a("10.0.1.4"), NodeID: "n2"}}, Names: []network.Name{}},
			{ID: "b", Name: "back", VNI: 4098},
		},
	}
	have := network.Desired{
		Version: 5, Self: "n1",
		Ingress: &network.Ingress{VNI: 4096, Port: 4789, Nodes: want.Ingress.Nodes, Ports: []network.Port{{Protocol: "tcp", Published: 80}}},
		Overlays: []*network.Overlay{
			{ID: "a", Name: "shop", VNI: 4099, Endpoints: []network.Endpoint{{Addr: a("10.0.1.3"), NodeID: "n2"}, {Addr: a("10.0.1.5"), NodeID: "n2"}}},
			{ID: "c", Name: "old"},
		},
	}
	if got := network.Differences(want, want); len(got) > 0 {
		t.Errorf("of a state and itself: %v", got)
	}
	bare := want
	bare.Overlays = []*network.Overlay{{ID: "a", Name: "shop", VNI: 4097, Endpoints: want.Overlays[0].Endpoints}, want.Overlays[1]}
	if got := network.Differences(want, bare); len(got) > 0 {
		t.Errorf("where nothing is told and nothing is there: %v", got)
	}
	var got []string
	for _, f := range network.Differences(want, have) {
		got = append(got, f.Network+" "+f.What)
	}
	if d := cmp.Diff([]string{
		"ingress port 80/tcp: the records have {Protocol:tcp Published:80 Backends:[{Addr:10.0.0.5 Port:8080}]}, the node was told {Protocol:tcp Published:80 Backends:[]}",
		"a settings of a: the records have {ID:a Name:shop Subnet:invalid Prefix Gateway:invalid IP VNI:4097 Port:0 MTU:0 Internal:false Peers:[] Endpoints:[] VIPs:[] Names:[]}," +
			" the node was told {ID:a Name:shop Subnet:invalid Prefix Gateway:invalid IP VNI:4099 Port:0 MTU:0 Internal:false Peers:[] Endpoints:[] VIPs:[] Names:[]}",
		"a address 10.0.1.3: the records have {Addr:10.0.1.3 NodeID:n1}, the node was told {Addr:10.0.1.3 NodeID:n2}",
		"a address 10.0.1.4: the records have {Addr:10.0.1.4 NodeID:n2}, the node was told nothing",
		"a address 10.0.1.5: the records have nothing, the node was told {Addr:10.0.1.5 NodeID:n2}",
		"b the node was not told of it",
		"c the node was told of it and has no task on it",
	}, got); d != "" {
		t.Error(d)
	}
	if got := network.Differences(network.Desired{}, network.Desired{}); len(got) > 0 {
		t.Errorf("outside a swarm: %v", got)
	}
}
