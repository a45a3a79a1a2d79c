package balance

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"shoal.dev/shoal/internal/network"
)

// Registers of nftables expressions (uapi/linux/netfilter/nf_tables.h): NFT_REG_1 is 16 bytes, of which NFT_REG32_01
// is the second four.
const (
	regFirst      = 1
	regFirstTail  = 9
	concatKeySize = 4 // each part of a concatenation fills whole registers
)

// transact writes what differs between old and want in one transaction. The two have the same rules.
func (t *Table) transact(old, want State) error {
	a, b := elementsOf(old), elementsOf(want)
	w := &writer{
		conn: t.conn,
		ip:   &nftables.Table{Family: nftables.TableFamilyIPv4, Name: tableName},
		dev:  &nftables.Table{Family: nftables.TableFamilyNetdev, Name: tableName},
	}
	changeSet(w, w.set(w.ip, "published", true), a.published, b.published, portBytes, targetBytes)
	changeSet(w, w.set(w.ip, "bound", true), a.bound, b.bound, func(k boundKey) []byte { return append(k.ip.AsSlice(), portBytes(k.portKey)...) }, targetBytes)
	none := func(struct{}) []byte { return nil }
	changeSet(w, w.set(w.ip, "vnis", false), a.vnis, b.vnis, func(k vni) []byte { return vniBytes(uint32(k)) }, none)
	changeSet(w, w.set(w.ip, "senders", false), a.senders, b.senders, func(k Tunnel) []byte {
		return append(append(k.From.AsSlice(), vniBytes(k.VNI)...), 0) // filled up to a whole register
	}, none)
	if old.Mesh == nil { // then there are no other sets
		return t.flush(w)
	}
	zones := w.set(w.ip, "zones", true)
	marks := w.set(w.ip, "marks", true)
	peers := w.set(w.dev, "peers", true)
	changeSet(w, zones, a.zones, b.zones, func(k hwAddr) []byte { return k[:] }, native16)
	changeSet(w, marks, a.marks, b.marks, native16, native32)
	changeSet(w, peers, a.peers, b.peers, native32, func(v hwAddr) []byte { return v[:] })
	changeSet(w, w.set(w.ip, "nodes", false), a.nodes, b.nodes, func(k netip.Addr) []byte { return k.AsSlice() }, none)
	changeSet(w, w.set(w.ip, "closed", false), a.closed, b.closed, portBytes, none)
	w.ports(a.open, b.open)
	return t.flush(w)
}

// flush executes what is queued, or drops it if some of it could not be.
func (t *Table) flush(w *writer) error {
	if w.err != nil {
		t.discard()
		return w.err
	}
	if err := t.conn.Flush(); err != nil {
		t.discard()
		return fmt.Errorf("change nftables: %w", err)
	}
	return nil
}

// discard replaces the connection: the library has no other way to drop what is queued, or an error that it kept.
func (t *Table) discard() {
	if c, err := nftables.New(nftables.WithNetNSFd(t.cfg.NetNS), nftables.AsLasting()); err == nil {
		_ = t.conn.CloseLasting() // its queue goes with it
		t.conn = c
	}
}

// writer queues the messages of a transaction and keeps the first error.
type writer struct {
	conn    *nftables.Conn
	ip, dev *nftables.Table
	nextID  uint32
	err     error
}

// set is a reference to a set or map that the ruleset has.
func (w *writer) set(t *nftables.Table, name string, isMap bool) *nftables.Set {
	return &nftables.Set{Table: t, Name: name, IsMap: isMap}
}

func (w *writer) note(err error) {
	if w.err == nil {
		w.err = err
	}
}

// changeSet queues removals, then additions.
func changeSet[K, V comparable](w *writer, s *nftables.Set, old, want map[K]V, key func(K) []byte, val func(V) []byte) {
	var del, add []nftables.SetElement
	for k, v := range old {
		if n, ok := want[k]; !ok || n != v {
			del = append(del, nftables.SetElement{Key: key(k), Val: val(v)})
		}
	}
	for k, v := range want {
		if o, ok := old[k]; !ok || o != v {
			add = append(add, nftables.SetElement{Key: key(k), Val: val(v)})
		}
	}
	if len(del) > 0 {
		w.note(w.conn.SetDeleteElements(s, del))
	}
	if len(add) > 0 {
		w.note(w.conn.SetAddElements(s, add))
	}
}

// ports queues the changes of the map of published ports and of their chains.
func (w *writer) ports(old, want map[portKey][]network.Backend) {
	ports := w.set(w.ip, "ports", true)
	element := func(p portKey) []nftables.SetElement {
		return []nftables.SetElement{{Key: portBytes(p), VerdictData: &expr.Verdict{Kind: expr.VerdictGoto, Chain: p.chain()}}}
	}
	for p := range old {
		if _, stays := want[p]; !stays {
			chain := &nftables.Chain{Table: w.ip, Name: p.chain()}
			w.note(w.conn.SetDeleteElements(ports, element(p)))
			w.conn.FlushChain(chain)
			w.conn.DelChain(chain)
		}
	}
	for p, backends := range want {
		chain := &nftables.Chain{Table: w.ip, Name: p.chain()}
		was, had := old[p]
		if had && slices.Equal(was, backends) {
			continue
		}
		if had {
			w.conn.FlushChain(chain)
		} else {
			w.conn.AddChain(chain)
		}
		w.pick(chain, p, backends)
		if !had {
			w.note(w.conn.SetAddElements(ports, element(p)))
		}
	}
}

// pick queues the rules that pick one of the backends; see pickText, which says the same.
func (w *writer) pick(chain *nftables.Chain, p portKey, backends []network.Backend) {
	target, err := nftables.ConcatSetType(nftables.TypeIPAddr, nftables.TypeInetService)
	if err != nil {
		w.note(err)
		return
	}
	w.nextID++ // unique in the transaction; the library's own counter is shared by all connections without a lock
	m := &nftables.Set{
		Table: w.ip, ID: w.nextID, Name: "__map%d", Anonymous: true, Constant: true, IsMap: true,
		KeyType: nftables.TypeInteger, DataType: target,
	}
	elements := make([]nftables.SetElement, len(backends))
	for i, b := range backends {
		a := b.Addr.As4()
		elements[i] = nftables.SetElement{Key: native32(uint32(i)), Val: append(a[:], concatPort(b.Port)...)}
	}
	w.note(w.conn.AddSet(m, elements))
	w.conn.AddRule(&nftables.Rule{Table: w.ip, Chain: chain, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: regFirst},
		&expr.Cmp{Op: expr.CmpOpEq, Register: regFirst, Data: []byte{protocols[p.protocol]}},
		&expr.Numgen{Register: regFirst, Modulus: uint32(len(backends)), Type: unix.NFT_NG_RANDOM},
		&expr.Lookup{SourceRegister: regFirst, DestRegister: regFirst, IsDestRegSet: true, SetName: m.Name, SetID: m.ID},
		&expr.NAT{
			Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4,
			RegAddrMin: regFirst, RegAddrMax: regFirst, RegProtoMin: regFirstTail, RegProtoMax: regFirstTail, Specified: true,
		},
	}})
	w.conn.AddRule(&nftables.Rule{Table: w.ip, Chain: chain, Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}})
}

// portBytes is the key of a published port in the sets and maps of ports.
func portBytes(p portKey) []byte {
	return append([]byte{protocols[p.protocol], 0, 0, 0}, concatPort(p.port)...)
}

// targetBytes is where a published port leads, as an element's value.
func targetBytes(a netip.AddrPort) []byte { return append(a.Addr().AsSlice(), concatPort(a.Port())...) }

// concatPort is a port as a part of a concatenation.
func concatPort(port uint16) []byte {
	b := make([]byte, concatKeySize)
	binary.BigEndian.PutUint16(b, port)
	return b
}

// vniBytes is a network identifier as it is in a packet.
func vniBytes(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v)[1:] }

func native16(v uint16) []byte { return binaryutil.NativeEndian.PutUint16(v) }
func native32(v uint32) []byte { return binaryutil.NativeEndian.PutUint32(v) }
