package store

import (
	"iter"

	"shoal.dev/shoal/internal/cluster"
)

// Load is what the tasks of a node take of it together: those for which [cluster.Task.TakesRoom]. The store keeps it beside
// the tasks, so that whoever looks for room need not read them. It is derived: snapshots on the disk do not have it.
type Load struct {
	NodeID                string
	Tasks                 int
	NanoCPUs, MemoryBytes int64 // reserved
}

// Loads returns the loads of the nodes that have any, in the order of their IDs.
func (s *Snapshot) Loads() iter.Seq[*Load] {
	return func(yield func(*Load) bool) {
		s.t.loads.Scan(func(_ string, l *Load) bool { return yield(l) })
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

// write adds the changes to the tables.
func (l loads) write(t *tables) {
	for id, d := range l {
		if had, ok := t.loads.Get(id); ok {
			d.Tasks += had.Tasks
			d.NanoCPUs += had.NanoCPUs
			d.MemoryBytes += had.MemoryBytes
		}
		if d.Tasks == 0 {
			t.loads.Delete(id)
		} else {
			t.loads.Set(id, d)
		}
	}
}
