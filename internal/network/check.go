package network

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// Finding is something that is not as it should be.
type Finding struct {
	// Network is the ID of the swarm's network that it is of; "" is what the host has beside these.
	Network string `json:",omitempty"`
	What    string
}

// String implements [fmt.Stringer].
func (f Finding) String() string { return f.What }

// MeshNetwork stands for the routing mesh in a [Finding].
const MeshNetwork = "ingress"

// Differences are how what a node was told, have, differs from what follows from the records, want. Versions are not
// compared: that of a node may be older where nothing of its own changed.
func Differences(want, have Desired) []Finding {
	var out []Finding
	say := func(id string, all []string) {
		for _, what := range all {
			out = append(out, Finding{id, what})
		}
	}
	a, b := cmp.Or(want.Ingress, &Ingress{}), cmp.Or(have.Ingress, &Ingress{})
	say(MeshNetwork, compare("settings", []Head{*a.head()}, []Head{*b.head()}, func(Head) string { return "of the tunnels" }))
	say(MeshNetwork, compare("node", a.Nodes, b.Nodes, func(n Node) string { return n.ID }))
	say(MeshNetwork, compareEndpoints(a.Endpoints, b.Endpoints))
	say(MeshNetwork, compare("port", a.Ports, b.Ports, func(p Port) string { return fmt.Sprintf("%d/%s", p.Published, p.Protocol) }))

	told := map[string]*Overlay{}
	for _, o := range have.Overlays {
		told[o.ID] = o
	}
	for _, o := range want.Overlays {
		had := told[o.ID]
		delete(told, o.ID)
		switch {
		case had == nil:
			say(o.ID, []string{"the node was not told of it"})
		case !o.Equal(had):
			say(o.ID, compareOverlays(o, had))
		}
	}
	for _, id := range slices.Sorted(maps.Keys(told)) {
		say(id, []string{"the node was told of it and has no task on it"})
	}
	return out
}

func compareOverlays(a, b *Overlay) []string {
	settings := func(o *Overlay) []Overlay {
		s := *o
		s.Peers, s.Endpoints, s.VIPs, s.Names = nil, nil, nil, nil
		return []Overlay{s}
	}
	addr := func(a netip.Addr) string { return a.String() }
	return slices.Concat(
		compare("settings", settings(a), settings(b), func(o Overlay) string { return "of " + o.ID }),
		compare("node", a.Peers, b.Peers, func(p Peer) string { return p.NodeID }),
		compareEndpoints(a.Endpoints, b.Endpoints),
		compare("virtual address", a.VIPs, b.VIPs, func(v VIP) string { return addr(v.Addr) }),
		compare("name", a.Names, b.Names, func(n Name) string { return n.Name }),
	)
}

func compareEndpoints(a, b []Endpoint) []string {
	return compare("address", a, b, func(e Endpoint) string { return e.Addr.String() })
}

// compare says how two lists of things that are known by a key differ.
func compare[T any](what string, want, have []T, key func(T) string) []string {
	texts := func(list []T) map[string]string {
		out := make(map[string]string, len(list))
		for _, x := range list {
			out[key(x)] = strings.TrimSpace(fmt.Sprintf("%+v", x))
		}
		return out
	}
	a, b := texts(want), texts(have)
	all := maps.Clone(b)
	maps.Copy(all, a)
	var out []string
	for _, k := range slices.Sorted(maps.Keys(all)) {
		w, inRecords := a[k]
		h, told := b[k]
		switch {
		case !told:
			out = append(out, fmt.Sprintf("%s %s: the records have %s, the node was told nothing", what, k, w))
		case !inRecords:
			out = append(out, fmt.Sprintf("%s %s: the records have nothing, the node was told %s", what, k, h))
		case w != h:
			out = append(out, fmt.Sprintf("%s %s: the records have %s, the node was told %s", what, k, w, h))
		}
	}
	return out
}
