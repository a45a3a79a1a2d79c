// Package virtual balances connections to services' virtual addresses over their tasks, inside the network namespace of
// the container that connects, in one nftables table there.
//
// It decides what the rules are. A new connection goes to one of the backends at random, whatever the protocol; one that
// is there stays with its backend, also after that is no backend any more; a datagram's next one moves. Where a service
// has no backend, a connection is refused at once instead of left to time out. It owns the table named shoal_vip of a
// namespace and touches nothing else there; it keeps nothing in memory.
package virtual

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"shoal.dev/shoal/internal/network"
	"shoal.dev/shoal/internal/network/ruleset"
)

// tableName is the table of a container's namespace.
const tableName = "shoal_vip"

// Table is what a namespace has of ours, to look whether it is still there.
func Table() ruleset.Table {
	return ruleset.Table{Family: byte(nftables.TableFamilyIPv4), Name: tableName}
}

// Offsets of the IPv4 header (RFC 791).
const (
	ipDestination = 16
	addrBytes     = 4
)

// regFirst is NFT_REG_1, the first register of nftables expressions (uapi/linux/netfilter/nf_tables.h).
const regFirst = 1

// Apply makes the namespace's virtual addresses those of vips, in one transaction, and has the datagrams of gone backends
// move. Without any there is no table.
func Apply(ns netns.NsHandle, vips []network.VIP) error {
	w, err := newWriter(ns)
	if err != nil {
		return err
	}
	// A table can only be deleted if it is there; the transaction as a whole replaces it.
	w.conn.AddTable(w.table)
	w.conn.DelTable(w.table)
	if len(vips) > 0 {
		w.conn.AddTable(w.table)
		w.rules(vips)
	}
	if err := w.flush(); err != nil {
		return err
	}
	return moveFlows(ns, vips)
}

// Change is [Apply] where the namespace has those of old: only what differs is written, in time that grows with that. What
// others have changed of it meanwhile is not repaired, but where the table is gone it is made.
func Change(ns netns.NsHandle, old, vips []network.VIP) error {
	was := make(map[netip.Addr][]netip.Addr, len(old))
	for _, v := range old {
		was[v.Addr] = v.Backends
	}
	kept := 0
	for _, v := range vips {
		if _, ok := was[v.Addr]; ok {
			kept++
		}
	}
	if kept == 0 || kept < len(old) { // a rule that leads to a service cannot be taken away without being asked for
		return Apply(ns, vips)
	}
	w, err := newWriter(ns)
	if err != nil {
		return err
	}
	var moved []network.VIP // the services of which a flow may go to what is no backend
	for _, v := range vips {
		backends, ok := was[v.Addr]
		switch {
		case ok && slices.Equal(backends, v.Backends):
			continue
		case ok:
			balance, none := w.chainsOf(v)
			w.conn.FlushChain(balance)
			w.conn.FlushChain(none)
			w.fill(v)
		default:
			w.service(v)
		}
		if len(backends) == 0 || !within(backends, v.Backends) {
			moved = append(moved, v)
		}
	}
	if err := w.flush(); err != nil {
		return Apply(ns, vips)
	}
	return moveFlows(ns, moved)
}

// within says whether all of some are among all.
func within(some, all []netip.Addr) bool {
	set := make(map[netip.Addr]struct{}, len(all))
	for _, a := range all {
		set[a] = struct{}{}
	}
	return !slices.ContainsFunc(some, func(a netip.Addr) bool { _, ok := set[a]; return !ok })
}

// writer queues the messages of the transaction and keeps the first error.
type writer struct {
	conn   *nftables.Conn
	table  *nftables.Table
	nextID uint32
	err    error
}

func newWriter(ns netns.NsHandle) (*writer, error) {
	conn, err := nftables.New(nftables.WithNetNSFd(int(ns)), nftables.WithSockOptions(roomy), nftables.AsLasting())
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	return &writer{conn: conn, table: &nftables.Table{Family: nftables.TableFamilyIPv4, Name: tableName}}, nil
}

// flush executes what is queued, and ends the writer. To close its socket takes the kernel a grace period of 15 ms, twenty
// times the change itself, for which nobody waits.
func (w *writer) flush() error {
	defer func() { go w.conn.CloseLasting() }()
	if w.err != nil {
		return w.err
	}
	if err := w.conn.Flush(); err != nil {
		return fmt.Errorf("change nftables: %w", err)
	}
	return nil
}

func (w *writer) note(err error) {
	if w.err == nil {
		w.err = err
	}
}

// rules are for each service one that leads to its chains, without a set: a packet that is on its way while they are replaced
// goes through the old rules to their end, but the kernel may have taken the elements of old sets away by then. The last
// rule of a service's chain is for that, too: what was not balanced is dropped, and so sent again.
func (w *writer) rules(vips []network.VIP) {
	out, refuse := w.chains("out", "refuse")
	out.Type, out.Hooknum, out.Priority = nftables.ChainTypeNAT, nftables.ChainHookOutput, nftables.ChainPriorityNATDest
	refuse.Type, refuse.Hooknum, refuse.Priority = nftables.ChainTypeFilter, nftables.ChainHookOutput, nftables.ChainPriorityFilter
	w.conn.AddChain(out)
	w.conn.AddChain(refuse)
	for _, v := range vips {
		w.service(v)
	}
}

// chains are named, not made.
func (w *writer) chains(a, b string) (*nftables.Chain, *nftables.Chain) {
	return &nftables.Chain{Table: w.table, Name: a}, &nftables.Chain{Table: w.table, Name: b}
}

// chainsOf are a service's: one has the rules if it has backends, the other if it has none.
func (w *writer) chainsOf(v network.VIP) (balance, none *nftables.Chain) {
	return w.chains("vip-"+v.Addr.String(), "none-"+v.Addr.String())
}

// service adds a service.
func (w *writer) service(v network.VIP) {
	out, refuse := w.chains("out", "refuse")
	balance, none := w.chainsOf(v)
	w.conn.AddChain(balance)
	w.conn.AddChain(none)
	w.fill(v)
	w.rule(out, append(to(v.Addr), &expr.Verdict{Kind: expr.VerdictGoto, Chain: balance.Name})...)
	w.rule(refuse, append(to(v.Addr), &expr.Verdict{Kind: expr.VerdictGoto, Chain: none.Name})...)
}

// fill adds the rules of a service's chains.
func (w *writer) fill(v network.VIP) {
	balance, none := w.chainsOf(v)
	if len(v.Backends) == 0 {
		w.rule(none,
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: regFirst},
			&expr.Cmp{Op: expr.CmpOpEq, Register: regFirst, Data: []byte{unix.IPPROTO_TCP}},
			&expr.Reject{Type: unix.NFT_REJECT_TCP_RST})
		w.rule(none, &expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: icmpPortUnreachable})
		return
	}
	w.pick(balance, v.Backends)
	w.rule(balance, &expr.Verdict{Kind: expr.VerdictDrop})
}

func (w *writer) rule(chain *nftables.Chain, exprs ...expr.Any) {
	w.conn.AddRule(&nftables.Rule{Table: w.table, Chain: chain, Exprs: exprs})
}

// to matches what is sent to an address.
func to(a netip.Addr) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: regFirst, Base: expr.PayloadBaseNetworkHeader, Offset: ipDestination, Len: addrBytes},
		&expr.Cmp{Op: expr.CmpOpEq, Register: regFirst, Data: a.AsSlice()},
	}
}

// icmpPortUnreachable is RFC 792's code.
const icmpPortUnreachable = 3

// id is unique in the transaction; the library's own counter is shared by all connections without a lock.
func (w *writer) id() uint32 {
	w.nextID++
	return w.nextID
}

// pick queues the rule that picks one of the backends.
func (w *writer) pick(chain *nftables.Chain, backends []netip.Addr) {
	m := &nftables.Set{
		Table: w.table, ID: w.id(), Name: "__map%d", Anonymous: true, Constant: true, IsMap: true,
		KeyType: nftables.TypeInteger, DataType: nftables.TypeIPAddr,
	}
	elements := make([]nftables.SetElement, len(backends))
	for i, b := range backends {
		elements[i] = nftables.SetElement{Key: binaryutil.NativeEndian.PutUint32(uint32(i)), Val: b.AsSlice()}
	}
	w.note(w.conn.AddSet(m, elements))
	w.rule(chain,
		&expr.Numgen{Register: regFirst, Modulus: uint32(len(backends)), Type: unix.NFT_NG_RANDOM},
		&expr.Lookup{SourceRegister: regFirst, DestRegister: regFirst, IsDestRegSet: true, SetName: m.Name, SetID: m.ID},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: regFirst, RegAddrMax: regFirst})
}

// moveFlows makes conntrack forget UDP flows to virtual addresses that do not go to one of their backends.
func moveFlows(ns netns.NsHandle, vips []network.VIP) error {
	if len(vips) == 0 {
		return nil
	}
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("open conntrack: %w", err)
	}
	defer func() { go h.Close() }() // as in flush
	f := staleFlow{}
	for _, v := range vips {
		f[v.Addr] = v.Backends
	}
	if _, err := h.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, f); err != nil {
		return fmt.Errorf("move UDP flows: %w", err)
	}
	return nil
}

// staleFlow matches UDP flows to a virtual address that go elsewhere than to its backends.
type staleFlow map[netip.Addr][]netip.Addr

// MatchConntrackFlow implements [netlink.CustomConntrackFilter].
func (f staleFlow) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	if flow.Forward.Protocol != unix.IPPROTO_UDP {
		return false
	}
	dst, _ := netip.AddrFromSlice(flow.Forward.DstIP.To4())
	src, _ := netip.AddrFromSlice(flow.Reverse.SrcIP.To4())
	backends, ours := f[dst]
	return ours && !slices.Contains(backends, src)
}
