package overlay

import (
	"fmt"
	"net/netip"
	"testing"

	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/network"
)

// bigDesired is ports ports with 10 backends each, of which every task has its own, spread over nodes nodes.
func bigDesired(h *labHost, nodes, ports int) network.Desired {
	ing := &network.Ingress{Subnet: netip.MustParsePrefix("10.96.0.0/12"), VNI: labVNI, Port: 4789}
	mesh := netip.MustParseAddr("10.96.0.0")
	for i := range nodes {
		mesh = mesh.Next()
		u := netip.AddrFrom4([4]byte{198, 18, byte(77 + i/250), byte(1 + i%250)})
		ing.Nodes = append(ing.Nodes, network.Node{ID: fmt.Sprintf("n%d", i+1), Index: uint16(i + 1), Underlay: u, Addr: mesh})
	}
	for p := range ports {
		q := network.Port{Protocol: "tcp", Published: uint16(10000 + p)}
		for b := range 10 {
			mesh = mesh.Next()
			ing.Endpoints = append(ing.Endpoints, network.Endpoint{Addr: mesh, NodeID: fmt.Sprintf("n%d", 1+(p+b)%nodes)})
			q.Backends = append(q.Backends, network.Backend{Addr: mesh, Port: 80})
		}
		ing.Ports = append(ing.Ports, q)
	}
	return network.Desired{Self: h.id, Ingress: ing}
}

// without is d less the last backend of its first port.
func without(d network.Desired) network.Desired {
	ing := *d.Ingress
	ing.Ports = append([]network.Port(nil), ing.Ports...)
	ing.Ports[0].Backends = ing.Ports[0].Backends[:9]
	return network.Desired{Self: d.Self, Ingress: &ing}
}

// BenchmarkApply is what a node pays for changes of the swarm, at two sizes.
func BenchmarkApply(b *testing.B) {
	for _, size := range []struct{ nodes, ports int }{{3, 100}, {100, 1000}} {
		l := newLab(b, 1)
		h := l.hosts[0]
		d := bigDesired(h, size.nodes, size.ports)
		states := []network.Desired{without(d), d}
		apply := func(d network.Desired) { l.must(h.k.Apply(b.Context(), d)) }
		name := fmt.Sprintf("%dx10/", size.ports)
		b.Run(name+"everything", func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				apply(network.Desired{Self: h.id})
				b.StartTimer()
				apply(d)
			}
		})
		b.Run(name+"one-backend", func(b *testing.B) {
			for i := 0; b.Loop(); i++ {
				apply(states[i%2])
			}
		})
		b.Run(name+"nothing", func(b *testing.B) {
			for b.Loop() {
				apply(d)
			}
		})
		b.Run(name+"check", func(b *testing.B) {
			for b.Loop() {
				l.must(h.k.Repair(b.Context()))
			}
		})
		b.Run(name+"rules-anew", func(b *testing.B) {
			for b.Loop() {
				h.k.table.Forget()
				l.must(h.k.Repair(b.Context()))
			}
		})
	}
}

// BenchmarkAttach is what a container's start pays, and its end.
func BenchmarkAttach(b *testing.B) {
	l := newLab(b, 1)
	k := l.hosts[0].k
	attach := func(i int) {
		_, err := k.Attach(b.Context(), fmt.Sprint("c", i), engine.Attachment{})
		l.must(err)
	}
	b.Run("attach", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			attach(i)
			b.StopTimer()
			l.must(k.Detach(b.Context(), fmt.Sprint("c", i)))
			b.StartTimer()
		}
	})
	b.Run("again", func(b *testing.B) {
		for b.Loop() {
			attach(0)
		}
	})
	b.Run("detach", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			b.StopTimer()
			attach(i)
			b.StartTimer()
			l.must(k.Detach(b.Context(), fmt.Sprint("c", i)))
		}
	})
}
