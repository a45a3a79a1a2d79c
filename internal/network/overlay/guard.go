package overlay

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"shoal.dev/shoal/internal/network/ruleset"
)

// guardTable is our table in the namespace of a network of the swarm.
const guardTable = "shoal"

func guardTables() []ruleset.Table {
	return []ruleset.Table{{Family: byte(nftables.TableFamilyBridge), Name: guardTable}}
}

// sender is what the container behind an interface may send as.
type sender struct {
	mac  [6]byte
	addr netip.Addr
}

// Offsets of the sender's addresses in the headers of Ethernet (IEEE 802.3), IPv4 (RFC 791) and ARP (RFC 826), and of
// the registers of nftables expressions the first, NFT_REG_1.
const (
	etherSource  = 6
	ipSource     = 12
	arpSourceMAC = 8
	arpSourceIP  = 14
	regFirst     = 1
)

// guard has the container send under its own addresses only, over IPv4 and ARP only: what is sent as another's, or over a
// protocol that the network does not have, is dropped before the bridge looks at it.
func (g *segment) guard(p *endpoint) error {
	if len(p.MAC) != 6 {
		return fmt.Errorf("link address %s has %d bytes", p.MAC, len(p.MAC))
	}
	s := sender{[6]byte(p.MAC), p.Addr}
	g.guardMu.Lock()
	defer g.guardMu.Unlock()
	if g.senders[p.Outside] == s {
		return nil
	}
	if g.senders == nil {
		g.senders = map[string]sender{}
	}
	g.senders[p.Outside] = s
	return g.writeGuards()
}

// checkGuards writes the rules anew if somebody else changed them.
func (g *segment) checkGuards(note func(string, ...any)) error {
	g.guardMu.Lock()
	defer g.guardMu.Unlock()
	if len(g.senders) == 0 {
		return nil
	}
	var ok bool
	err := (&space{g.ns}).in(func() (err error) {
		if ok, err = g.seal.Intact(guardTables()); err != nil || !ok {
			return err
		}
		return g.seal.Settle(guardTables())
	})
	if err != nil || ok {
		return err
	}
	note("ruleset")
	return g.writeGuards()
}

// writeGuards replaces the rules in one transaction. Interfaces that are gone are forgotten. g.guardMu is held.
func (g *segment) writeGuards() error {
	links, err := g.nl.LinkList()
	if err != nil {
		return fmt.Errorf("list interfaces: %w", err)
	}
	there := map[string]bool{}
	for _, l := range links {
		there[l.Attrs().Name] = true
	}
	maps.DeleteFunc(g.senders, func(name string, _ sender) bool { return !there[name] })
	conn, err := nftables.New(nftables.WithNetNSFd(int(g.ns)))
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	t := &nftables.Table{Family: nftables.TableFamilyBridge, Name: guardTable}
	conn.AddTable(t) // one can only be deleted if it is there
	conn.DelTable(t)
	conn.AddTable(t)
	in := conn.AddChain(&nftables.Chain{Table: t, Name: "in", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityFilter})
	for i, name := range slices.Sorted(maps.Keys(g.senders)) {
		s := g.senders[name]
		port := conn.AddChain(&nftables.Chain{Table: t, Name: fmt.Sprintf("port-%d", i)})
		rule := func(c *nftables.Chain, verdict expr.Verdict, exprs ...[]expr.Any) {
			conn.AddRule(&nftables.Rule{Table: t, Chain: c, Exprs: append(slices.Concat(exprs...), &verdict)})
		}
		rule(in, expr.Verdict{Kind: expr.VerdictGoto, Chain: port.Name}, isMeta(expr.MetaKeyIIFNAME, append([]byte(name), make([]byte, unix.IFNAMSIZ-len(name))...)))
		own := isAt(expr.PayloadBaseLLHeader, etherSource, s.mac[:])
		rule(port, expr.Verdict{Kind: expr.VerdictAccept}, own, isProtocol(unix.ETH_P_IP), isAt(expr.PayloadBaseNetworkHeader, ipSource, s.addr.AsSlice()))
		rule(port, expr.Verdict{Kind: expr.VerdictAccept}, own, isProtocol(unix.ETH_P_ARP),
			isAt(expr.PayloadBaseNetworkHeader, arpSourceMAC, s.mac[:]), isAt(expr.PayloadBaseNetworkHeader, arpSourceIP, s.addr.AsSlice()))
		rule(port, expr.Verdict{Kind: expr.VerdictDrop})
	}
	g.seal.Break()
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("change nftables: %w", err)
	}
	return (&space{g.ns}).in(g.seal.Put)
}

func isMeta(key expr.MetaKey, value []byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: key, Register: regFirst}, &expr.Cmp{Op: expr.CmpOpEq, Register: regFirst, Data: value}}
}

func isProtocol(etherType uint16) []expr.Any {
	return isMeta(expr.MetaKeyPROTOCOL, binary.BigEndian.AppendUint16(nil, etherType))
}

func isAt(base expr.PayloadBase, offset uint32, value []byte) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: regFirst, Base: base, Offset: offset, Len: uint32(len(value))},
		&expr.Cmp{Op: expr.CmpOpEq, Register: regFirst, Data: bytes.Clone(value)},
	}
}
