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
	"strconv"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"shoal.dev/shoal/internal/network"
)

// tableName is the table of a container's namespace.
const tableName = "shoal_vip"

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
	conn, err := nftables.New(nftables.WithNetNSFd(int(ns)), nftables.WithSockOptions(roomy))
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	w := &writer{conn: conn, table: &nftables.Table{Family: nftables.TableFamilyIPv4, Name: tableName}}
	// A table can only be deleted if it is there; the transaction as a whole replaces it.
	conn.AddTable(w.table)
	conn.DelTable(w.table)
	if len(vips) > 0 {
		conn.AddTable(w.table)
		w.rules(vips)
	}
	if w.err != nil {
		return w.err
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("change nftables: %w", err)
	}
	return moveFlows(ns, vips)
}

// writer queues the messages of the transaction and keeps the first error.
type writer struct {
	conn   *nftables.Conn
	table  *nftables.Table
	nextID uint32
	err    error
}

func (w *writer) note(err error) {
	if w.err == nil {
		w.err = err
	}
}

// rules are one for each service, without a set: a packet that is on its way while the table is replaced goes through the
// old rules to their end, but the kernel may have taken the elements of old sets away by then. The last rule of a
// service's chain is for that, too: what was not balanced is dropped, and so sent again.
func (w *writer) rules(vips []network.VIP) {
	out := w.conn.AddChain(&nftables.Chain{
		Table: w.table, Name: "out", Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityNATDest,
	})
	refuse := w.conn.AddChain(&nftables.Chain{
		Table: w.table, Name: "refuse", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityFilter,
	})
	for i, v := range vips {
		if len(v.Backends) == 0 {
			w.rule(refuse, append(to(v.Addr),
				&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: regFirst},
				&expr.Cmp{Op: expr.CmpOpEq, Register: regFirst, Data: []byte{unix.IPPROTO_TCP}},
				&expr.Reject{Type: unix.NFT_REJECT_TCP_RST})...)
			w.rule(refuse, append(to(v.Addr), &expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: icmpPortUnreachable})...)
			continue
		}
		chain := w.conn.AddChain(&nftables.Chain{Table: w.table, Name: "vip-" + strconv.Itoa(i)})
		w.pick(chain, v.Backends)
		w.rule(chain, &expr.Verdict{Kind: expr.VerdictDrop})
		w.rule(out, append(to(v.Addr), &expr.Verdict{Kind: expr.VerdictGoto, Chain: chain.Name})...)
	}
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
	defer h.Close()
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
