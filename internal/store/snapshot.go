package store

import (
	"fmt"
	"io"
	"iter"
	"strings"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/hashicorp/go-memdb"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
)

// Snapshot is a consistent view of all records. It is safe for concurrent use.
type Snapshot struct {
	txn   *memdb.Txn
	index uint64
	at    time.Time
}

// Index is the index of the last entry that the snapshot has.
func (s *Snapshot) Index() uint64 { return s.index }

// Get returns the record with the ID, or the zero value and false.
func Get[T cluster.Object](s *Snapshot, id string) (T, bool) {
	var zero T
	if id == "" {
		return zero, false
	}
	o := first(s.txn, zero.Kind(), id)
	if o == nil {
		return zero, false
	}
	return o.(T), true
}

// List returns all records of a kind in the order of their IDs.
func List[T cluster.Object](s *Snapshot) iter.Seq[T] { return list[T](s, "id") }

// Prefix returns the records of a kind whose IDs begin with prefix, in their order.
func Prefix[T cluster.Object](s *Snapshot, prefix string) iter.Seq[T] {
	return list[T](s, "id_prefix", prefix)
}

// Swarm returns the swarm's settings, or nil before there are any.
func (s *Snapshot) Swarm() *cluster.Swarm {
	o, _ := Get[*cluster.Swarm](s, cluster.SingletonID)
	return o
}

// TasksByService returns the tasks of a service.
func (s *Snapshot) TasksByService(id string) iter.Seq[*cluster.Task] {
	return list[*cluster.Task](s, "service", id)
}

// TasksByNode returns the tasks that are or were assigned to a node.
func (s *Snapshot) TasksByNode(id string) iter.Seq[*cluster.Task] {
	return list[*cluster.Task](s, "node", id)
}

// WaitingTasks returns the tasks that no node knows of and that are in the state, which is new or pending: the work of the
// planners that make tasks ready for a node. Any other state returns none.
func (s *Snapshot) WaitingTasks(state swarm.TaskState) iter.Seq[*cluster.Task] {
	return list[*cluster.Task](s, "waiting", string(state))
}

// HeldTasks returns the tasks that are to be stopped as soon as no node sends them connections.
func (s *Snapshot) HeldTasks() iter.Seq[*cluster.Task] { return list[*cluster.Task](s, "held", "held") }

// ServiceByName returns the service with the name.
func (s *Snapshot) ServiceByName(name string) (*cluster.Service, bool) {
	return firstBy[*cluster.Service](s, "name", name)
}

// NetworkByName returns the network with the name.
func (s *Snapshot) NetworkByName(name string) (*cluster.Network, bool) {
	return firstBy[*cluster.Network](s, "name", name)
}

// SecretByName returns the secret with the name.
func (s *Snapshot) SecretByName(name string) (*cluster.Secret, bool) {
	return firstBy[*cluster.Secret](s, "name", name)
}

// ConfigByName returns the config with the name.
func (s *Snapshot) ConfigByName(name string) (*cluster.Config, bool) {
	return firstBy[*cluster.Config](s, "name", name)
}

// IngressNetwork returns the routing mesh's network.
func (s *Snapshot) IngressNetwork() (*cluster.Network, bool) {
	for n := range List[*cluster.Network](s) {
		if n.Spec.Ingress {
			return n, true
		}
	}
	return nil, false
}

func list[T cluster.Object](s *Snapshot, index string, args ...any) iter.Seq[T] {
	return func(yield func(T) bool) {
		var zero T
		it, err := s.txn.Get(string(zero.Kind()), index, args...)
		must(err)
		for raw := it.Next(); raw != nil; raw = it.Next() {
			if !yield(raw.(T)) {
				return
			}
		}
	}
}

func firstBy[T cluster.Object](s *Snapshot, index, arg string) (T, bool) {
	var zero T
	if arg == "" {
		return zero, false
	}
	raw, err := s.txn.First(string(zero.Kind()), index, arg)
	must(err)
	if raw == nil {
		return zero, false
	}
	return raw.(T), true
}

func first(txn *memdb.Txn, k cluster.Kind, id string) cluster.Object {
	raw, err := txn.First(string(k), "id", id)
	must(err)
	if raw == nil {
		return nil
	}
	return raw.(cluster.Object)
}

// indexer finds a record by a string that f takes from it; "" leaves the record out of the index.
type indexer func(o cluster.Object) string

func (f indexer) FromObject(raw any) (bool, []byte, error) {
	v := f(raw.(cluster.Object))
	return v != "", []byte(v + "\x00"), nil
}

func (f indexer) FromArgs(args ...any) ([]byte, error) {
	return []byte(args[0].(string) + "\x00"), nil
}

func (f indexer) PrefixFromArgs(args ...any) ([]byte, error) { return []byte(args[0].(string)), nil }

func schema() *memdb.DBSchema {
	db := &memdb.DBSchema{Tables: map[string]*memdb.TableSchema{}}
	for _, k := range cluster.Kinds() {
		db.Tables[string(k)] = &memdb.TableSchema{Name: string(k), Indexes: map[string]*memdb.IndexSchema{
			"id": {Name: "id", Unique: true, Indexer: indexer(cluster.Object.Key)},
		}}
	}
	db.Tables[tableLoad] = loadSchema()
	add := func(k cluster.Kind, name string, f indexer) {
		db.Tables[string(k)].Indexes[name] = &memdb.IndexSchema{Name: name, AllowMissing: true, Indexer: f}
	}
	add(cluster.KindTask, "service", func(o cluster.Object) string { return o.(*cluster.Task).ServiceID })
	add(cluster.KindTask, "node", func(o cluster.Object) string { return o.(*cluster.Task).NodeID })
	add(cluster.KindTask, "waiting", waitingIn)
	add(cluster.KindTask, "held", func(o cluster.Object) string {
		if o.(*cluster.Task).Held() {
			return "held"
		}
		return ""
	})
	add(cluster.KindService, "name", func(o cluster.Object) string { return o.(*cluster.Service).Spec.Name })
	add(cluster.KindNetwork, "name", func(o cluster.Object) string { return o.(*cluster.Network).Spec.Name })
	add(cluster.KindSecret, "name", func(o cluster.Object) string { return o.(*cluster.Secret).Spec.Name })
	add(cluster.KindConfig, "name", func(o cluster.Object) string { return o.(*cluster.Config).Spec.Name })
	return db
}

func waitingIn(o cluster.Object) string {
	t := o.(*cluster.Task)
	if (t.NodeID == "" || t.Global) && (t.Status.State == swarm.TaskStateNew || t.Status.State == swarm.TaskStatePending) {
		return string(t.Status.State)
	}
	return ""
}

// Tx is a snapshot that one can write to; what was written is seen by its reads. It is not safe for concurrent use.
type Tx struct {
	*Snapshot
	changes []Change
}

func (s *Store) begin() *Tx {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &Tx{Snapshot: &Snapshot{txn: s.db.Snapshot().Txn(true), index: s.index, at: s.at}}
}

// Write adds a change to the transaction. The change's record must not be changed afterwards.
func (tx *Tx) Write(c Change) {
	tx.changes = append(tx.changes, c)
	old := first(tx.txn, c.Kind, c.ID)
	l := loads{}
	l.change(old, c.Value)
	l.write(tx.txn)
	if c.Delete {
		if old != nil {
			must(tx.txn.Delete(string(c.Kind), old))
		}
		return
	}
	must(tx.txn.Insert(string(c.Kind), c.Value.Clone()))
}

// snapshotFormat is the version of what Persist writes.
const snapshotFormat = 1

type snapshotHeader struct {
	Format int
	Index  uint64
	At     time.Time
}

type snapshotRecord struct {
	Kind cluster.Kind // "" ends the snapshot
	Data cbor.RawMessage
}

// Persist writes the snapshot to w, for [Store.Restore].
func (s *Snapshot) Persist(w io.Writer) error {
	enc := encMode.NewEncoder(w)
	if err := enc.Encode(snapshotHeader{snapshotFormat, s.index, s.at}); err != nil {
		return err
	}
	for _, k := range cluster.Kinds() {
		it, err := s.txn.Get(string(k), "id")
		must(err)
		for raw := it.Next(); raw != nil; raw = it.Next() {
			data, err := Marshal(raw)
			if err != nil {
				return err
			}
			if err := enc.Encode(snapshotRecord{k, data}); err != nil {
				return err
			}
		}
	}
	return enc.Encode(snapshotRecord{})
}

// Restore replaces everything in the store by what Persist wrote. On an error the store is as it was.
func (s *Store) Restore(r io.Reader) error {
	dec := decMode.NewDecoder(r)
	var h snapshotHeader
	if err := dec.Decode(&h); err != nil {
		return fmt.Errorf("reading the snapshot's header: %w", err)
	}
	if h.Format != snapshotFormat {
		return fmt.Errorf("the snapshot has format %d; this version of Shoal reads format %d", h.Format, snapshotFormat)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	txn := s.db.Txn(true)
	defer txn.Abort()
	for _, k := range cluster.Kinds() {
		_, err := txn.DeleteAll(string(k), "id")
		must(err)
	}
	_, err := txn.DeleteAll(tableLoad, "id")
	must(err)
	l := loads{}
	for {
		var rec snapshotRecord
		if err := dec.Decode(&rec); err != nil {
			return fmt.Errorf("the snapshot is cut off or damaged: %w", err)
		}
		if rec.Kind == "" {
			break
		}
		o := cluster.New(rec.Kind)
		if o == nil {
			return fmt.Errorf("the snapshot has a record of unknown kind %q", strings.ToValidUTF8(string(rec.Kind), "?"))
		}
		if err := Unmarshal(rec.Data, o); err != nil {
			return fmt.Errorf("reading a %s of the snapshot: %w", rec.Kind, err)
		}
		if o.Key() == "" {
			return fmt.Errorf("the snapshot has a %s without an ID", rec.Kind)
		}
		must(txn.Insert(string(rec.Kind), o))
		l.change(nil, o)
	}
	l.write(txn)
	txn.Commit()
	s.at = time.Time{}
	s.advance(h.Index, h.At)
	s.notify(h.Index, []Event{{Reset: true}})
	return nil
}
