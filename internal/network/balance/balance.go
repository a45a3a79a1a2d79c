// Package balance is the load balancer of published ports in a host's kernel: an nftables ruleset that picks a task for
// each new connection, keeps the client's address, and sends the answer back through the node that it came through.
//
// It decides what the ruleset says, and owns the tables "ip shoal" and "netdev shoal" and the conntrack entries of UDP
// flows to published ports. It never touches other tables, links or routes; those are package overlay's.
//
// The whole ruleset is written as text by the nft program in one transaction; what changes afterwards is written by
// netlink, again in one transaction, so that no connection meets a half of it. Established connections live in
// conntrack and feel neither.
package balance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"

	"shoal.dev/shoal/internal/network"
	"shoal.dev/shoal/internal/network/ruleset"
)

// A connection that came through another node has a mark in its answers: MarkBase and the node's index. MarkMask tells
// these marks from other people's.
const (
	MarkBase = 0x10000
	MarkMask = 0xffff0000
)

// anycast is the link address of answers on their way into the tunnel, before the ruleset replaces it by that of the
// node they go to: locally administered, and "shoal" in ASCII.
var anycast = [6]byte{0x02, 's', 'h', 'o', 'a', 'l'}

// Anycast returns the link address that answers carry before they are given their node's.
func Anycast() []byte { return anycast[:] }

// tcpOverhead is an IPv4 and a TCP header, in bytes: what a segment leaves of an MTU.
const tcpOverhead = 40

// State is what the ruleset shall do.
type State struct {
	Bridge string // the interface that tasks of services hang on
	Tunnel string // the interface of tunnels to other nodes
	// Bridges are all interfaces that containers hang on, Bridge among them, always in the same order.
	Bridges []Bridge
	// MTU is the tunnel's, in bytes.
	MTU int
	// Published are the ports of the host that lead to containers, sorted.
	Published []Published
	// Tunnels are where those of the swarm's networks may come from, and TunnelPort is their UDP port.
	Tunnels    []Tunnel
	TunnelPort uint16
	// Mesh is nil outside a swarm; then the ruleset gives containers a way out and no more.
	Mesh *network.Ingress
}

// Bridge is an interface that the containers of one network hang on.
type Bridge struct {
	Name   string
	Subnet netip.Prefix
	// Together says whether its containers may reach each other through the host.
	Together bool
	// Internal says that nothing goes in or out.
	Internal bool
	// Masquerade says that what leaves the host gets the host's address.
	Masquerade bool
}

// Tunnel is a node that is on a network of this host.
type Tunnel struct {
	VNI  uint32
	From netip.Addr
}

// Published is a port of the host that leads to a container's.
type Published struct {
	Protocol string
	IP       netip.Addr // of the host; 0.0.0.0 is all
	Port     uint16
	To       netip.AddrPort
}

// Config says where a [Table] works.
type Config struct {
	// NetNS is a descriptor of the network namespace; it stays the caller's.
	NetNS int
	// In runs a function on a thread that is in the namespace.
	In func(func() error) error
	// Netlink is bound to the namespace; it stays the caller's.
	Netlink *netlink.Handle
	Log     *slog.Logger
}

// Table is the ruleset of one network namespace. Its methods are safe for concurrent use.
type Table struct {
	cfg  Config
	conn *nftables.Conn

	mu sync.Mutex
	// have is what the kernel holds if nobody else wrote to our tables; nil if that is not known.
	have *State
	// seal is on our tables since have was true.
	seal ruleset.Seal
}

// Open connects to the kernel and changes nothing.
func Open(cfg Config) (*Table, error) {
	conn, err := nftables.New(nftables.WithNetNSFd(cfg.NetNS), nftables.AsLasting())
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	return &Table{cfg: cfg, conn: conn}, nil
}

// Close lets go of the kernel and leaves the ruleset as it is.
func (t *Table) Close() error { return t.conn.CloseLasting() }

// Exists says whether the kernel has a ruleset of ours, for instance from before a restart.
func (t *Table) Exists() (bool, error) {
	tables, err := t.conn.ListTablesOfFamily(nftables.TableFamilyIPv4)
	if err != nil {
		return false, fmt.Errorf("list nftables: %w", err)
	}
	return slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == tableName }), nil
}

// HasMesh says whether the kernel has a ruleset of ours with a routing mesh, for instance from before a restart.
func (t *Table) HasMesh() (bool, error) {
	chains, err := t.conn.ListChainsOfTableFamily(nftables.TableFamilyIPv4)
	if err != nil {
		return false, fmt.Errorf("list nftables: %w", err)
	}
	return slices.ContainsFunc(chains, func(c *nftables.Chain) bool { return c.Table.Name == tableName && c.Name == "mesh-in" }), nil
}

// Publish replaces the bridges and the published ports of a ruleset from before a restart and leaves the rest of it
// alone.
func (t *Table) Publish(ctx context.Context, bridges []Bridge, ports []Published) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.have = nil
	if err := t.nft(ctx, publishText(bridges, ports)); err != nil {
		return err
	}
	return t.moveFlows(nil, State{Published: ports})
}

// Apply makes the kernel hold want, by the smallest change that it knows to be enough. It then moves UDP flows away
// from backends that are gone: delivery to them would go on for as long as their clients send.
func (t *Table) Apply(ctx context.Context, want State) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	old := t.have
	switch {
	case old == nil || !sameRules(*old, want):
		if err := t.replace(ctx, want); err != nil {
			return err
		}
	case sameElements(*old, want):
		return nil
	default:
		if err := t.update(*old, want); err != nil {
			t.cfg.Log.Info("load balancer is written anew", "reason", err)
			if err := t.replace(ctx, want); err != nil {
				return err
			}
		}
	}
	if err := t.moveFlows(old, want); err != nil {
		t.have = nil // the next Apply looks at every port again
		return err
	}
	return nil
}

// Check says whether the ruleset is as it was last applied. If it is not, or cannot be known, the next Apply writes all
// of it. It costs little while nobody changes any nftables ruleset of the host.
func (t *Table) Check() (bool, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.have == nil {
		return false, nil
	}
	var ok bool
	err := t.cfg.In(func() (err error) {
		if ok, err = t.seal.Intact(tables()); err != nil || !ok {
			return err
		}
		return t.seal.Settle(tables())
	})
	if err != nil || !ok {
		t.have = nil
	}
	return ok && err == nil, err
}

// Forget makes the next Apply write all of the ruleset: for whoever made an interface that rules refer to.
func (t *Table) Forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.have = nil
}

// Remove removes the ruleset.
func (t *Table) Remove(ctx context.Context) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.have = nil
	return t.nft(ctx, clearText)
}

// replace writes everything in one transaction.
func (t *Table) replace(ctx context.Context, want State) error {
	t.have = nil
	if err := t.nft(ctx, render(want)); err != nil {
		return err
	}
	if err := t.cfg.In(func() error { return t.seal.PutAndRead(tables()) }); err != nil {
		return err
	}
	t.have = &want
	return nil
}

// errForeign says that others wrote to the host's rulesets and ours may have suffered.
var errForeign = errors.New("somebody else changed the ruleset")

// update writes the difference in one transaction, to a ruleset that is known to be ours.
func (t *Table) update(old, want State) error {
	var ok bool
	err := t.cfg.In(func() (err error) {
		ok, err = t.seal.Intact(tables())
		return err
	})
	if err == nil && ok {
		if err = t.transact(old, want); err != nil {
			return err
		}
		err = t.cfg.In(func() (err error) {
			ok, err = t.seal.Step()
			return err
		})
	}
	switch {
	case err != nil:
		return err
	case !ok:
		return errForeign
	}
	t.have = &want
	return nil
}
