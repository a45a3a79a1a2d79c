// Package networktest is the suite that every implementation of a host's network passes. It decides nothing about how
// a network works; it holds what its consumers, the agent and the engine, rely on.
package networktest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"sync"
	"testing"

	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/network"
)

// Network is what consumers see of a host's network.
type Network interface {
	Apply(ctx context.Context, d network.Desired) error
	engine.Sandboxes
}

// Run runs the suite; open gives a fresh network, whose end it arranges itself.
func Run(t *testing.T, open func(t *testing.T) Network) {
	none := netip.Addr{}
	t.Run("attach is repeatable", func(t *testing.T) {
		n := open(t)
		first := attach(t, n, "c", none)
		if again := attach(t, n, "c", none); !reflect.DeepEqual(again, first) {
			t.Errorf("%+v, then %+v", first, again)
		}
		if again := attach(t, n, "c", netip.MustParseAddr("10.77.0.11")); !reflect.DeepEqual(again, first) {
			t.Errorf("with an ingress address %+v, without %+v", again, first)
		}
		e := first.Endpoints[0]
		p := netip.PrefixFrom(e.Gateway, e.Bits).Masked()
		if first.NetNS == "" || e.Network != "bridge" || e.Interface != "eth0" || !p.Contains(e.Addr) || e.Addr == e.Gateway || e.MAC != network.MAC(e.Addr).String() {
			t.Errorf("%+v", first)
		}
	})
	t.Run("no two containers share anything", func(t *testing.T) {
		n := open(t)
		var mu sync.Mutex
		var all sync.WaitGroup
		seen := map[any]bool{}
		for i := range 8 {
			all.Go(func() {
				s, err := n.Attach(t.Context(), fmt.Sprint("c", i), engine.Attachment{})
				mu.Lock()
				defer mu.Unlock()
				if err != nil || seen[s.Endpoints[0].Addr] || seen[s.NetNS] {
					t.Errorf("%+v %v", s, err)
					return
				}
				seen[s.Endpoints[0].Addr], seen[s.NetNS] = true, true
			})
		}
		all.Wait()
	})
	t.Run("detach frees, and an address rests", func(t *testing.T) {
		n := open(t)
		if err := n.Detach(t.Context(), "never attached"); err != nil {
			t.Error(err)
		}
		first := attach(t, n, "c", none)
		for range 2 {
			if err := n.Detach(t.Context(), "c"); err != nil {
				t.Error(err)
			}
		}
		if s := attach(t, n, "c", none); s.Endpoints[0].Addr == first.Endpoints[0].Addr {
			t.Errorf("%s is used again at once", s.Endpoints[0].Addr)
		}
	})
	t.Run("networks", func(t *testing.T) { networks(t, open(t)) })
	t.Run("published ports", func(t *testing.T) { published(t, open(t)) })
	t.Run("any state follows any", func(t *testing.T) {
		n := open(t)
		self := network.Node{ID: "n1", Index: 1, Underlay: netip.MustParseAddr("198.18.77.1"), Addr: netip.MustParseAddr("10.77.0.1")}
		empty := &network.Ingress{Subnet: netip.MustParsePrefix("10.77.0.0/24"), VNI: 4177, Port: 4789, Nodes: []network.Node{self}}
		other := &network.Ingress{Subnet: netip.MustParsePrefix("10.78.0.0/24"), VNI: 4178, Port: 4790, Nodes: []network.Node{self}}
		full := *empty
		full.Endpoints = []network.Endpoint{{Addr: netip.MustParseAddr("10.77.0.11"), NodeID: "n1"}, {Addr: netip.MustParseAddr("10.77.0.12"), NodeID: "unknown"}}
		full.Ports = []network.Port{{Protocol: "tcp", Published: 80, Backends: []network.Backend{{Addr: netip.MustParseAddr("10.77.0.11"), Port: 80}}}, {Protocol: "udp", Published: 53}}
		unnumbered := full
		unnumbered.Nodes = nil
		for i, ing := range []*network.Ingress{nil, empty, &full, &full, other, &unnumbered, &full, nil, &full} {
			if err := n.Apply(t.Context(), network.Desired{Version: uint64(i), Self: "n1", Ingress: ing}); err != nil {
				t.Errorf("state %d: %v", i, err)
			}
		}
	})
	t.Run("a context that ended", func(t *testing.T) {
		n := open(t)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := n.Attach(ctx, "c", engine.Attachment{}); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if _, err := n.Attach(t.Context(), "", engine.Attachment{}); err == nil {
			t.Error("a container without an ID is attached")
		}
	})
}

func attach(t *testing.T, n Network, id string, ingress netip.Addr) engine.Sandbox {
	t.Helper()
	s, err := n.Attach(t.Context(), id, engine.Attachment{Ingress: ingress})
	if err != nil {
		t.Fatal(err)
	}
	return s
}
