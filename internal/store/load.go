package store

import (
	"iter"

	"github.com/hashicorp/go-memdb"

	"shoal.dev/shoal/internal/cluster"
)

// Load is what the tasks of a node take of it together: those for which [cluster.Task.TakesRoom]. The store keeps it beside
// the tasks, so that whoever looks for room need not read them. It is derived: snapshots on the disk do not have it.
type Load struct {
	NodeID                string
	Tasks                 int
	NanoCPUs, MemoryBytes int64 // reserved
}

// tableLoad is the table of the loads; no kind of record has this name.
const tableLoad = "load"

// Loads returns the loads of the nodes that have any, in the order of their IDs.
func (s *Snapshot) Loads() iter.Seq[*Load] {
	return func(yield func(*Load) bool) {
		it, err := s.txn.Get(tableLoad, "id")
		must(err)
		for raw := it.Next(); raw != nil; raw = it.Next() {
			if !yield(raw.(*Load)) {
				return
			}
		}
	}
}

// loads are changes of loads, by node.
type loads map[string]*Load

// change notes that a record was replaced by another; both may be nil.
func (l loads) change(old, now cluster.Object) {
	l.add(old, -1)
	l.add(now, 1)
}

func (l loads) add(o cluster.Object, sign int) {
	t, ok := o.(*cluster.Task)
	if !ok || !t.TakesRoom() {
		return
	}
	d := l[t.NodeID]
	if d == nil {
		d = &Load{NodeID: t.NodeID}
		l[t.NodeID] = d
	}
	r := cluster.Reservations(&t.Spec)
	d.Tasks += sign
	d.NanoCPUs += int64(sign) * r.NanoCPUs
	d.MemoryBytes += int64(sign) * r.MemoryBytes
}

// write adds the changes to what the transaction has.
func (l loads) write(txn *memdb.Txn) {
	for id, d := range l {
		if *d == (Load{NodeID: id}) {
			continue
		}
		raw, err := txn.First(tableLoad, "id", id)
		must(err)
		if raw != nil {
			had := raw.(*Load)
			d.Tasks += had.Tasks
			d.NanoCPUs += had.NanoCPUs
			d.MemoryBytes += had.MemoryBytes
		}
		switch {
		case d.Tasks != 0:
			must(txn.Insert(tableLoad, d))
		case raw != nil:
			must(txn.Delete(tableLoad, raw))
		}
	}
}

func loadSchema() *memdb.TableSchema {
	return &memdb.TableSchema{Name: tableLoad, Indexes: map[string]*memdb.IndexSchema{
		"id": {Name: "id", Unique: true, Indexer: &memdb.StringFieldIndex{Field: "NodeID"}},
	}}
}
