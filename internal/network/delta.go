package network

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
)

// Delta is what changed between two states of the routing mesh, so that an agent is sent that and not everything.
// Removals go before additions.
type Delta struct {
	// Gone says that there is no routing mesh any more; nothing else is set.
	Gone bool `json:",omitempty"`
	// Head is the new subnet, VXLAN identifier and port if any of them changed.
	Head *Head `json:",omitempty"`

	DropNodes     []string     `json:",omitempty"`
	PutNodes      []Node       `json:",omitempty"`
	DropEndpoints []netip.Addr `json:",omitempty"`
	PutEndpoints  []Endpoint   `json:",omitempty"`
	Ports         []PortDelta  `json:",omitempty"`
}

// Head is what is true of the whole mesh.
type Head struct {
	Subnet netip.Prefix
	VNI    uint32
	Port   uint16
}

// PortDelta is what changed about one published port. A port that was not there is added.
type PortDelta struct {
	Protocol  string
	Published uint16
	// Gone says that it is not published any more.
	Gone bool      `json:",omitempty"`
	Drop []Backend `json:",omitempty"`
	Put  []Backend `json:",omitempty"`
}

// Diff returns what makes new out of old, or nil if they are equal. Either may be nil.
func Diff(old, new *Ingress) *Delta {
	if new == nil {
		if old == nil {
			return nil
		}
		return &Delta{Gone: true}
	}
	d := &Delta{}
	if old == nil {
		d.Head = new.head()
		old = &Ingress{}
	} else if *old.head() != *new.head() {
		d.Head = new.head()
	}
	d.DropNodes, d.PutNodes = diff(old.Nodes, new.Nodes, func(n Node) string { return n.ID })
	d.DropEndpoints, d.PutEndpoints = diff(old.Endpoints, new.Endpoints, func(e Endpoint) netip.Addr { return e.Addr })
	d.Ports = diffPorts(old.Ports, new.Ports)
	if d.Head == nil && len(d.DropNodes)+len(d.PutNodes)+len(d.DropEndpoints)+len(d.PutEndpoints)+len(d.Ports) == 0 {
		return nil
	}
	return d
}

// Apply returns old with the changes; it leaves old as it is and shares with it what did not change. A nil delta
// changes nothing. Applied to a state that the delta was not made from, it gives some valid state.
func (d *Delta) Apply(old *Ingress) *Ingress {
	switch {
	case d == nil:
		return old
	case d.Gone:
		return nil
	}
	out := &Ingress{}
	if old != nil {
		*out = *old
	}
	if h := d.Head; h != nil {
		out.Subnet, out.VNI, out.Port = h.Subnet, h.VNI, h.Port
	}
	out.Nodes = patch(out.Nodes, d.DropNodes, d.PutNodes, func(n Node) string { return n.ID }, cmp.Compare)
	out.Endpoints = patch(out.Endpoints, d.DropEndpoints, d.PutEndpoints, func(e Endpoint) netip.Addr { return e.Addr }, netip.Addr.Compare)
	out.Ports = patchPorts(out.Ports, d.Ports)
	return out
}

// String is the change in one line, for logs and tests.
func (d *Delta) String() string {
	switch {
	case d == nil:
		return "no change"
	case d.Gone:
		return "no routing mesh any more"
	}
	s := fmt.Sprintf("nodes +%d -%d, endpoints +%d -%d, ports %d",
		len(d.PutNodes), len(d.DropNodes), len(d.PutEndpoints), len(d.DropEndpoints), len(d.Ports))
	if h := d.Head; h != nil {
		s = fmt.Sprintf("subnet %s, VNI %d, port %d, ", h.Subnet, h.VNI, h.Port) + s
	}
	return s
}

// Equal says whether the two are the same; either may be nil.
func (i *Ingress) Equal(o *Ingress) bool {
	if i == nil || o == nil || i == o {
		return i == o
	}
	return *i.head() == *o.head() && slices.Equal(i.Nodes, o.Nodes) && slices.Equal(i.Endpoints, o.Endpoints) &&
		slices.EqualFunc(i.Ports, o.Ports, func(p, q Port) bool { return p.key() == q.key() && slices.Equal(p.Backends, q.Backends) })
}

func (i *Ingress) head() *Head { return &Head{i.Subnet, i.VNI, i.Port} }

// diff gives the keys that went and the values that are new or changed, in the order of the slices.
func diff[K, V comparable](old, new []V, key func(V) K) (drop []K, put []V) {
	had := make(map[K]V, len(old))
	for _, v := range old {
		had[key(v)] = v
	}
	for _, v := range new {
		if o, ok := had[key(v)]; !ok || o != v {
			put = append(put, v)
		}
		delete(had, key(v))
	}
	for _, v := range old {
		if _, gone := had[key(v)]; gone {
			drop = append(drop, key(v))
		}
	}
	return drop, put
}

// patch undoes diff. The result is sorted by key and nil if empty.
func patch[K, V comparable](old []V, drop []K, put []V, key func(V) K, order func(a, b K) int) []V {
	if len(drop)+len(put) == 0 {
		return old
	}
	all := make(map[K]V, len(old)+len(put))
	for _, v := range old {
		all[key(v)] = v
	}
	for _, k := range drop {
		delete(all, k)
	}
	for _, v := range put {
		all[key(v)] = v
	}
	return slices.SortedFunc(maps.Values(all), func(a, b V) int { return order(key(a), key(b)) })
}

func itself(b Backend) Backend { return b }

func diffPorts(old, new []Port) []PortDelta {
	had := make(map[portKey]Port, len(old))
	for _, p := range old {
		had[p.key()] = p
	}
	var out []PortDelta
	for _, p := range new {
		o, ok := had[p.key()]
		delete(had, p.key())
		d := PortDelta{Protocol: p.Protocol, Published: p.Published}
		d.Drop, d.Put = diff(o.Backends, p.Backends, itself)
		if !ok || len(d.Drop)+len(d.Put) > 0 {
			out = append(out, d)
		}
	}
	for _, p := range old {
		if _, gone := had[p.key()]; gone {
			out = append(out, PortDelta{Protocol: p.Protocol, Published: p.Published, Gone: true})
		}
	}
	slices.SortFunc(out, func(a, b PortDelta) int {
		return comparePorts(portKey{a.Protocol, a.Published}, portKey{b.Protocol, b.Published})
	})
	return out
}

func patchPorts(old []Port, deltas []PortDelta) []Port {
	if len(deltas) == 0 {
		return old
	}
	all := make(map[portKey]Port, len(old))
	for _, p := range old {
		all[p.key()] = p
	}
	for _, d := range deltas {
		k := portKey{d.Protocol, d.Published}
		if d.Gone {
			delete(all, k)
			continue
		}
		all[k] = Port{d.Protocol, d.Published, patch(all[k].Backends, d.Drop, d.Put, itself, compareBackends)}
	}
	return slices.SortedFunc(maps.Values(all), func(a, b Port) int { return comparePorts(a.key(), b.key()) })
}
