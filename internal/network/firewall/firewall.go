// Package firewall finds what other programs' packet filters do to the packets that Shoal forwards and receives.
//
// The kernel asks every table, and a drop in one of them is final: an accept in Shoal's own table does not help against
// the forward chain of a dockerd, of firewalld or of ufw. This package decides which chain stands in the way, by
// following a few packets through the rules as nft lists them, and which command opens it. It owns the rules that carry
// its comment: with a [Keeper] that manages, it puts them where those programs expect a user's rules, and takes them
// away again. It never touches another rule, and Shoal's own tables are package balance's.
package firewall

import (
	"context"
	"fmt"
	"strings"
)

// ownTable is the name of Shoal's tables, see package balance.
const ownTable = "shoal"

// interfaces is how nft writes what all of Shoal's interfaces on a host are called.
const interfaces = "shoal*"

// Nft runs the program nft with arguments and an input, and returns what it prints.
type Nft func(ctx context.Context, input string, args ...string) ([]byte, error)

// Obstacle is a chain that drops packets of ours.
type Obstacle struct {
	// Family, Table and Chain name the chain that is hooked into the kernel: "ip", "filter", "FORWARD".
	Family, Table, Chain string
	// Owner is the program whose chain it is: "docker", "firewalld", "ufw"; "" if that is not known.
	Owner string
	// Why is what drops: "its policy", or a rule of which chain.
	Why string
	// What are the packets, in words.
	What []string
	// Possible says that a rule was met of which it cannot be told whether it lets the packets through.
	Possible bool
	// Remedy is a command that lets the packets through.
	Remedy string
}

func (o *Obstacle) String() string {
	verb := "drops"
	if o.Possible {
		verb = "may drop"
	}
	by := ""
	if o.Owner != "" {
		by = " (" + o.Owner + ")"
	}
	return fmt.Sprintf("chain %s of table %s %s%s %s %s, by %s", o.Chain, o.Family, o.Table, by, verb, strings.Join(o.What, " and "), o.Why)
}

// Ports are those that a node receives on: the swarm's own, TCP, and that of the tunnels, UDP.
type Ports struct{ Swarm, Tunnels uint16 }

// Question is what [Ruleset.Obstacles] looks for.
type Question struct {
	// Uplink is the interface of the host's default route; "" if it is not known.
	Uplink string
	// Bridged says that frames between containers of one bridge pass the host's rules, too (bridge-nf-call-iptables).
	Bridged bool
	// Ports are those that other nodes must reach; nil asks for none.
	Ports *Ports
}

// packets are what is followed, by the hook that it passes.
func (q *Question) packets() []packet {
	const box, tunnel = "shoal-gw", "shoal-vx"
	all := []packet{
		{what: "what containers send", hook: "forward", in: box, out: q.Uplink, proto: "tcp"},
		{what: "what is sent to published ports", hook: "forward", in: q.Uplink, out: box, proto: "tcp", dnat: true},
		{what: "what goes to tasks of other nodes", hook: "forward", in: q.Uplink, out: tunnel, proto: "tcp", dnat: true},
		{what: "what comes from other nodes for tasks", hook: "forward", in: tunnel, out: box, proto: "tcp"},
	}
	if q.Bridged {
		all = append(all, packet{what: "what containers send each other", hook: "forward", in: box, out: box, proto: "tcp"})
	}
	if q.Ports != nil {
		all = append(all,
			packet{what: fmt.Sprintf("the swarm's port %d/tcp", q.Ports.Swarm), hook: "input", in: q.Uplink, proto: "tcp", port: q.Ports.Swarm},
			packet{what: fmt.Sprintf("tunnels, port %d/udp", q.Ports.Tunnels), hook: "input", in: q.Uplink, proto: "udp", port: q.Ports.Tunnels},
		)
	}
	return all
}

// Obstacles are the chains of others that drop packets of ours, in the order in which nft lists them.
func (r *Ruleset) Obstacles(q Question) []Obstacle {
	var all []Obstacle
	for _, base := range r.bases {
		var found *Obstacle
		for _, p := range q.packets() {
			if p.hook != base.hook {
				continue
			}
			typical := walk{rules: r, packet: p}
			if typical.base(base) != drops {
				continue
			}
			if found == nil {
				found = &Obstacle{Family: base.family, Table: base.table, Chain: base.name, Owner: r.owner(base), Why: typical.culprit, Possible: true}
			}
			found.What = append(found.What, p.what)
			sure := walk{rules: r, packet: p, careful: true}
			found.Possible = found.Possible && sure.base(base) != drops
		}
		if found != nil {
			found.Remedy = remedy(found, base.hook, q.Ports)
			all = append(all, *found)
		}
	}
	return all
}

// Chains that programs leave to the host's user.
const (
	dockerUser       = "DOCKER-USER"
	ufwForward       = "ufw-user-forward"
	firewalldTable   = "firewalld"
	firewalldForward = "filter_FORWARD"
)

// owner says whose a base chain is.
func (r *Ruleset) owner(c *chain) string {
	has := func(name string) bool { return r.chains[chainKey{c.family, c.table, name}] != nil }
	switch {
	case c.table == firewalldTable:
		return "firewalld"
	case c.family == "ip" && c.hook == "forward" && has(dockerUser):
		return "docker"
	case c.family == "ip" && has(ufwForward):
		return "ufw"
	}
	return ""
}

// remedy is the command that lets pass what an obstacle drops.
func remedy(o *Obstacle, hook string, ports *Ports) string {
	each := func(format string, args ...any) string { return fmt.Sprintf(format, args...) }
	if hook == "input" {
		p := *ports
		switch {
		case o.Owner == "firewalld":
			return each("firewall-cmd --permanent --add-port=%d/tcp --add-port=%d/udp && firewall-cmd --reload", p.Swarm, p.Tunnels)
		case o.Owner == "ufw":
			return each("ufw allow %d/tcp && ufw allow %d/udp", p.Swarm, p.Tunnels)
		case o.Family == "ip" && o.Table == "filter" && o.Chain == "INPUT":
			return each("iptables -I INPUT -p tcp --dport %d -j ACCEPT && iptables -I INPUT -p udp --dport %d -j ACCEPT", p.Swarm, p.Tunnels)
		}
		at := strings.Join([]string{"nft insert rule", o.Family, o.Table, o.Chain}, " ")
		return each("%s tcp dport %d accept && %s udp dport %d accept", at, p.Swarm, at, p.Tunnels)
	}
	switch {
	case o.Owner == "docker":
		return iptables(dockerUser)
	case o.Owner == "firewalld":
		return "firewall-cmd --permanent --zone=trusted --add-interface=shoal+ && firewall-cmd --reload"
	case o.Owner == "ufw":
		return "ufw route allow in on shoal+ && ufw route allow out on shoal+"
	case o.Family == "ip" && o.Table == "filter" && o.Chain == "FORWARD":
		return iptables(o.Chain)
	}
	at := strings.Join([]string{"nft insert rule", o.Family, o.Table, o.Chain}, " ")
	return each(`%s iifname '"%s"' accept && %s oifname '"%s"' accept`, at, interfaces, at, interfaces)
}

func iptables(chain string) string {
	return fmt.Sprintf("iptables -I %s -i shoal+ -j ACCEPT && iptables -I %s -o shoal+ -j ACCEPT", chain, chain)
}
