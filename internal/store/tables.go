package store

import (
	"iter"
	"strings"
	"sync"

	"github.com/moby/moby/api/types/swarm"
	"github.com/tidwall/btree"

	"shoal.dev/shoal/internal/cluster"
)

// tables are all records with their indexes: copy-on-write trees, so that a version of them costs nothing to keep. Tables
// that were published are never written to again: a writer works on a fork. The store's own are published when somebody
// asks for them, so that entries between two snapshots are written in place.
type tables struct {
	trees []*tree // as in schema
	loads *btree.Map[string, *Load]
	// own says which of the trees this writer has copied already; nil: nobody may write.
	own []bool
	// copying serialises copies, which mark what they copy; it is one lock for all versions of a store's tables.
	copying *sync.Mutex
}

// tree has records by their ID or, of an index, by what the index says of them and their ID.
type tree = btree.Map[string, cluster.Object]

// degree makes nodes of at most 31 records: a change of one record copies as many in each tree it is in, a level deep or
// four. (Measured with 100,000 tasks; 8 and 32 are slower.)
const degree = 16

// table is the records of a kind.
type table struct {
	kind    cluster.Kind
	id      int // number of the tree by ID
	indexes []index
}

// index finds records by what of says, which leaves those out of which it says nothing.
type index struct {
	name string
	tree int
	of   func(o cluster.Object) string
}

// schema is all tables there are.
var schema = newSchema()

type tableSet struct {
	tables []table
	trees  int
}

func newSchema() (s tableSet) {
	indexes := map[cluster.Kind][]index{
		cluster.KindTask: {
			{name: byService, of: func(o cluster.Object) string { return o.(*cluster.Task).ServiceID }},
			{name: byNode, of: func(o cluster.Object) string { return o.(*cluster.Task).NodeID }},
			{name: byWaiting, of: waitingIn},
			{name: byAttached, of: func(o cluster.Object) string {
				if t := o.(*cluster.Task); len(t.NetworksAttachments) > 0 && !t.Ended() {
					return byAttached
				}
				return ""
			}},
			{name: byHeld, of: func(o cluster.Object) string {
				if o.(*cluster.Task).Held() {
					return byHeld
				}
				return ""
			}},
		},
		cluster.KindService: {{name: byName, of: func(o cluster.Object) string { return o.(*cluster.Service).Spec.Name }}},
		cluster.KindNetwork: {{name: byName, of: func(o cluster.Object) string { return o.(*cluster.Network).Spec.Name }}},
		cluster.KindSecret:  {{name: byName, of: func(o cluster.Object) string { return o.(*cluster.Secret).Spec.Name }}},
		cluster.KindConfig:  {{name: byName, of: func(o cluster.Object) string { return o.(*cluster.Config).Spec.Name }}},
	}
	for _, k := range cluster.Kinds() {
		t := table{kind: k, id: s.trees}
		s.trees++
		for _, i := range indexes[k] {
			i.tree = s.trees
			s.trees++
			t.indexes = append(t.indexes, i)
		}
		s.tables = append(s.tables, t)
	}
	return s
}

// The names of the indexes.
const (
	byName     = "name"
	byService  = "service"
	byNode     = "node"
	byWaiting  = "waiting"
	byAttached = "attached"
	byHeld     = "held"
)

func waitingIn(o cluster.Object) string {
	t := o.(*cluster.Task)
	if (t.NodeID == "" || t.Global || t.Attaches()) && (t.Status.State == swarm.TaskStateNew || t.Status.State == swarm.TaskStatePending) {
		return string(t.Status.State)
	}
	return ""
}

// of is the kind's table.
func (s *tableSet) of(k cluster.Kind) *table {
	for i := range s.tables {
		if s.tables[i].kind == k {
			return &s.tables[i]
		}
	}
	panic("store: no table for records of kind " + string(k))
}

// tree is the number of the tree of an index; "" is the one by ID.
func (t *table) tree(index string) int {
	if index == "" {
		return t.id
	}
	for _, i := range t.indexes {
		if i.name == index {
			return i.tree
		}
	}
	panic("store: records of kind " + string(t.kind) + " have no index " + index)
}

// newTables are empty tables that may be written to.
func newTables() *tables {
	t := &tables{trees: make([]*tree, schema.trees), own: make([]bool, schema.trees), loads: &btree.Map[string, *Load]{}, copying: &sync.Mutex{}}
	for i := range t.trees {
		t.trees[i], t.own[i] = btree.NewMap[string, cluster.Object](degree), true
	}
	return t
}

// fork are tables with the same records that may be written to.
func (t *tables) fork() *tables {
	t.copying.Lock()
	defer t.copying.Unlock()
	return &tables{trees: append([]*tree(nil), t.trees...), own: make([]bool, len(t.trees)), loads: t.loads.Copy(), copying: t.copying}
}

// publish ends the writing. Who publishes the store's tables holds its lock.
func (t *tables) publish() *tables {
	if t.own != nil { // those who have them already read it
		t.own = nil
	}
	return t
}

// writing are the same tables where nobody has them, otherwise a fork.
func (t *tables) writing() *tables {
	if t.own != nil {
		return t
	}
	return t.fork()
}

// writable is a tree that only this writer has.
func (t *tables) writable(i int) *tree {
	if !t.own[i] {
		t.copying.Lock()
		t.trees[i] = t.trees[i].Copy()
		t.copying.Unlock()
		t.own[i] = true
	}
	return t.trees[i]
}

// get is the record with the ID, or nil.
func (t *tables) get(k cluster.Kind, id string) cluster.Object {
	o, _ := t.trees[schema.of(k).id].Get(id)
	return o
}

// put writes a record in place of old, which may be nil.
func (t *tables) put(old, o cluster.Object) {
	tb := schema.of(o.Kind())
	id := o.Key()
	t.writable(tb.id).Set(id, o)
	for _, i := range tb.indexes {
		was, is := "", i.of(o)
		if old != nil {
			was = i.of(old)
		}
		if was != "" && was != is {
			t.writable(i.tree).Delete(was + "\x00" + id)
		}
		if is != "" {
			t.writable(i.tree).Set(is+"\x00"+id, o)
		}
	}
}

// remove removes a record.
func (t *tables) remove(old cluster.Object) {
	tb := schema.of(old.Kind())
	id := old.Key()
	t.writable(tb.id).Delete(id)
	for _, i := range tb.indexes {
		if was := i.of(old); was != "" {
			t.writable(i.tree).Delete(was + "\x00" + id)
		}
	}
}

// list is the records whose key in the tree of the index begins with prefix, as they are when the listing begins.
func (t *tables) list(k cluster.Kind, index, prefix string) iter.Seq[cluster.Object] {
	n := schema.of(k).tree(index)
	return func(yield func(cluster.Object) bool) {
		tr := t.trees[n]
		if t.own != nil { // it may be written to in between
			t.copying.Lock()
			tr = tr.Copy()
			t.copying.Unlock()
		}
		tr.Ascend(prefix, func(key string, o cluster.Object) bool { return strings.HasPrefix(key, prefix) && yield(o) })
	}
}

// by is the records of which the index says the value.
func (t *tables) by(k cluster.Kind, index, value string) iter.Seq[cluster.Object] {
	return t.list(k, index, value+"\x00")
}
