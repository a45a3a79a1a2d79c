package balance

import (
	"fmt"
	"net/netip"

	"github.com/google/nftables"
)

// countedSet has the addresses of this node's tasks and how many connections were begun to each through the mesh.
const countedSet = "connections"

// Connections is how many connections were begun to each task of this node through published ports, by the task's address on
// the mesh. They count from zero again where the ruleset was written anew or nobody came for ten minutes. It is nil outside a
// swarm.
func (t *Table) Connections() (map[netip.Addr]uint64, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.have == nil || t.have.Mesh == nil {
		return nil, nil
	}
	table := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: tableName}
	all, err := t.conn.GetSetElements(&nftables.Set{Table: table, Name: countedSet, KeyType: nftables.TypeIPAddr})
	if err != nil {
		return nil, fmt.Errorf("read the counters of nftables: %w", err)
	}
	out := make(map[netip.Addr]uint64, len(all))
	for _, e := range all {
		if addr, ok := netip.AddrFromSlice(e.Key); ok && e.Counter != nil {
			out[addr] = e.Counter.Packets
		}
	}
	return out, nil
}
