package address

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"net/netip"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/store"
)

// probes is how many addresses are looked up one by one before all claims of the pool are read at once.
const probes = 64

// pool is the addresses of a network during one plan.
type pool struct {
	snap    *store.Snapshot
	network string
	prefix  netip.Prefix
	first   uint32 // of the addresses that may be given out
	size    uint32
	gateway netip.Addr
	given   map[uint32]bool // by this plan, by offset
	taken   []uint64        // bit per offset; nil until all claims were read
	full    bool
}

// newPool is the pool of the network, or nil if the network has no IPv4 subnet yet.
func newPool(snap *store.Snapshot, n *cluster.Network) *pool {
	o := n.IPAMOptions
	if o == nil || len(o.Configs) == 0 {
		o = n.Spec.IPAMOptions
	}
	if o == nil {
		return nil
	}
	for _, c := range o.Configs {
		if !c.Subnet.IsValid() || !c.Subnet.Addr().Is4() || c.Subnet.Bits() < 8 || c.Subnet.Bits() > 30 {
			continue
		}
		from := c.Subnet.Masked()
		if c.Range.IsValid() && c.Range.Addr().Is4() && from.Contains(c.Range.Addr()) && c.Range.Bits() > from.Bits() && c.Range.Bits() <= 30 {
			from = c.Range.Masked()
		}
		p := &pool{snap: snap, network: n.ID, prefix: c.Subnet, gateway: c.Gateway, given: map[uint32]bool{}}
		if !p.gateway.IsValid() {
			p.gateway = c.Subnet.Masked().Addr().Next()
		}
		// The first address of a subnet names it and the last is its broadcast address.
		p.first = number(from.Addr()) + 1
		p.size = 1<<(32-from.Bits()) - 2
		return p
	}
	return nil
}

func number(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}

func (p *pool) addr(offset uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], p.first+offset)
	return netip.AddrFrom4(b)
}

// free says whether the address at offset is nobody's.
func (p *pool) free(offset uint32) bool {
	if p.taken != nil {
		return p.taken[offset/64]&(1<<(offset%64)) == 0
	}
	a := p.addr(offset)
	if p.given[offset] || a == p.gateway {
		return false
	}
	_, ok := store.Get[*cluster.Claim](p.snap, cluster.ClaimAddr(p.network, a))
	return !ok
}

// load reads all claims, so that a look-up costs nothing from then on.
func (p *pool) load() {
	p.taken = make([]uint64, p.size/64+1)
	mark := func(a netip.Addr) {
		if !a.Is4() {
			return
		}
		if off := number(a) - p.first; off < p.size { // wraps around below first
			p.taken[off/64] |= 1 << (off % 64)
		}
	}
	mark(p.gateway)
	for o := range p.given {
		if o < p.size {
			p.taken[o/64] |= 1 << (o % 64)
		}
	}
	prefix := cluster.ClaimAddr(p.network, netip.Addr{})
	prefix = prefix[:len(prefix)-len(netip.Addr{}.String())]
	for c := range store.Prefix[*cluster.Claim](p.snap, prefix) {
		if a, err := netip.ParseAddr(c.ID[len(prefix):]); err == nil {
			mark(a)
		}
	}
}

// from gives out the first free address at or after offset, going round; ok is false if there is none.
func (p *pool) from(offset uint32) (a netip.Addr, ok bool) {
	if p.full || p.size == 0 {
		return netip.Addr{}, false
	}
	offset %= p.size
	for i := uint32(0); i < p.size; i++ {
		if i == probes && p.taken == nil {
			p.load()
		}
		o := (offset + i) % p.size
		if p.taken != nil && o%64 == 0 && o+64 <= p.size && p.taken[o/64] == ^uint64(0) {
			i += 63 // none of these 64
			continue
		}
		if p.free(o) {
			p.give(o)
			return p.addr(o), true
		}
	}
	p.full = true
	return netip.Addr{}, false
}

func (p *pool) give(offset uint32) {
	p.given[offset] = true
	if p.taken != nil && offset < p.size {
		p.taken[offset/64] |= 1 << (offset % 64)
	}
}

// take gives out an address that somebody asks for, or says in Docker's words why it cannot. soon says that its last owner
// has let go of it and some node has not yet.
func (p *pool) take(a netip.Addr) (problem string, soon bool) {
	if !p.prefix.Contains(a) || a == p.prefix.Masked().Addr() || !p.prefix.Contains(a.Next()) {
		return fmt.Sprintf("no configured subnet contains IP address %s", a), false
	}
	offset := number(a) - p.first // wraps around outside of the range, where only those are that were asked for
	c, claimed := store.Get[*cluster.Claim](p.snap, cluster.ClaimAddr(p.network, a))
	if claimed || a == p.gateway || p.given[offset] {
		return "Address already in use", claimed && (c.ReleasedAt != 0 || !inUse(p.snap, c))
	}
	p.give(offset)
	return "", false
}

// next gives out an address for a task. Where it starts to look depends on the task, so that an address that was just
// freed is not the next to be taken and a look-up rarely meets a neighbour.
func (p *pool) next(taskID string) (a netip.Addr, ok bool) {
	h := fnv.New32a()
	h.Write([]byte(taskID)) // a hash.Hash never fails
	return p.from(h.Sum32())
}
