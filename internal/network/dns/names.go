// Package dns answers containers' questions for names: those of other containers from a table, all others by asking
// the name servers of the host or of the container.
//
// It decides who may see which name, what an answer says, and when a question goes on to another server. The table is a
// value that its user makes anew from the state of the network, so that it cannot go stale. It owns the sockets that it
// is given. It never touches a namespace or a rule: how packets to 127.0.0.11 reach those sockets is package overlay's.
package dns

import (
	"net/netip"
	"slices"
	"strings"
)

// Record says what some addresses are called on one network.
type Record struct {
	Network     string // its ID
	NetworkName string
	// Names are of equal worth, but an address is called by the first.
	Names []string
	// Addrs are what the names stand for; with none, the names are known all the same.
	Addrs []netip.Addr
}

// Names is a table of names. It does not change.
type Names struct {
	addrs map[key][]netip.Addr
	names map[place]string
	ids   map[string][]string // of networks, by name
}

type key struct{ network, name string }

type place struct {
	network string
	addr    netip.Addr
}

// NewNames makes a table. A name that several records of one network have stands for all their addresses; a name is
// the same in upper and lower case.
func NewNames(records []Record) *Names {
	n := &Names{addrs: map[key][]netip.Addr{}, names: map[place]string{}, ids: map[string][]string{}}
	for _, r := range records {
		if nn := strings.ToLower(r.NetworkName); !slices.Contains(n.ids[nn], r.Network) {
			n.ids[nn] = append(n.ids[nn], r.Network)
		}
		for i, name := range r.Names {
			k := key{r.Network, strings.ToLower(name)}
			if i > 0 && slices.Contains(r.Names[:i], name) {
				continue
			}
			have, known := n.addrs[k]
			if !known {
				have = []netip.Addr{}
			}
			for _, a := range r.Addrs {
				if !slices.Contains(have, a) {
					have = append(have, a)
				}
			}
			n.addrs[k] = have
		}
		for _, a := range r.Addrs {
			if p := (place{r.Network, a}); len(r.Names) > 0 && n.names[p] == "" {
				n.names[p] = r.Names[0] + "." + r.NetworkName
			}
		}
	}
	return n
}

// Asker is what a container may see.
type Asker struct {
	// Networks are the IDs of those that it is on. If several know a name, the first answers.
	Networks []string
	// Subnets are these networks': nobody else knows names of their addresses.
	Subnets []netip.Prefix
	// Links are names that only this container has for others.
	Links map[string]string
	// Servers are asked for names that no container has, in order.
	Servers Servers
}

// Lookup returns the addresses of a name as the asker sees it, and whether there is such a name. A name may be followed
// by a dot and the name of one of the asker's networks.
func (n *Names) Lookup(a *Asker, name string) (addrs []netip.Addr, known bool) {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	for alias, to := range a.Links {
		if strings.ToLower(alias) == name {
			name = strings.ToLower(to)
			break
		}
	}
	for _, id := range a.Networks {
		if addrs, known = n.addrs[key{id, name}]; known {
			return addrs, true
		}
	}
	for i := range name {
		if name[i] != '.' {
			continue
		}
		for _, id := range n.ids[name[i+1:]] {
			if !slices.Contains(a.Networks, id) {
				continue
			}
			if addrs, known = n.addrs[key{id, name[:i]}]; known {
				return addrs, true
			}
		}
	}
	return nil, false
}

// Reverse returns the name of an address as the asker sees it, "" if it has none. own says that the address is of one of
// the asker's networks, so that nobody else is to be asked.
func (n *Names) Reverse(a *Asker, addr netip.Addr) (name string, own bool) {
	for _, id := range a.Networks {
		if name := n.names[place{id, addr}]; name != "" {
			return name, true
		}
	}
	return "", slices.ContainsFunc(a.Subnets, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// reverseAddr reads the name of a question for an address: 4.3.2.1.in-addr.arpa.
func reverseAddr(name string) (netip.Addr, bool) {
	labels, ok := strings.CutSuffix(strings.ToLower(strings.TrimSuffix(name, ".")), ".in-addr.arpa")
	if !ok {
		return netip.Addr{}, false
	}
	parts := strings.Split(labels, ".")
	slices.Reverse(parts)
	a, err := netip.ParseAddr(strings.Join(parts, "."))
	return a, err == nil && a.Is4()
}
