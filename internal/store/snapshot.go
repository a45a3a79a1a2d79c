package store

import (
	"fmt"
	"io"
	"iter"
	"math"
	"strings"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
)

// Snapshot is a consistent view of all records. It is safe for concurrent use.
type Snapshot struct {
	t     *tables
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
	o := s.t.get(zero.Kind(), id)
	if o == nil {
		return zero, false
	}
	return o.(T), true
}

// List returns all records of a kind in the order of their IDs.
func List[T cluster.Object](s *Snapshot) iter.Seq[T] { return Prefix[T](s, "") }

// Prefix returns the records of a kind whose IDs begin with prefix, in their order.
func Prefix[T cluster.Object](s *Snapshot, prefix string) iter.Seq[T] {
	var zero T
	return typed[T](s.t.list(zero.Kind(), "", prefix))
}

// Swarm returns the swarm's settings, or nil before there are any.
func (s *Snapshot) Swarm() *cluster.Swarm {
	o, _ := Get[*cluster.Swarm](s, cluster.SingletonID)
	return o
}

// TasksByService returns the tasks of a service.
func (s *Snapshot) TasksByService(id string) iter.Seq[*cluster.Task] {
	return by[*cluster.Task](s, byService, id)
}

// TasksByNode returns the tasks that are or were assigned to a node.
func (s *Snapshot) TasksByNode(id string) iter.Seq[*cluster.Task] {
	return by[*cluster.Task](s, byNode, id)
}

// WaitingTasks returns the tasks that no node knows of and that are in the state, which is new or pending: the work of the
// planners that make tasks ready for a node. Any other state returns none.
func (s *Snapshot) WaitingTasks(state swarm.TaskState) iter.Seq[*cluster.Task] {
	return by[*cluster.Task](s, byWaiting, string(state))
}

// AttachedTasks returns the tasks that have addresses on networks and have not ended.
func (s *Snapshot) AttachedTasks() iter.Seq[*cluster.Task] {
	return by[*cluster.Task](s, byAttached, byAttached)
}

// HeldTasks returns the tasks that are to be stopped as soon as no node sends them connections.
func (s *Snapshot) HeldTasks() iter.Seq[*cluster.Task] { return by[*cluster.Task](s, byHeld, byHeld) }

// ServiceByName returns the service with the name.
func (s *Snapshot) ServiceByName(name string) (*cluster.Service, bool) {
	return named[*cluster.Service](s, name)
}

// NetworkByName returns the network with the name.
func (s *Snapshot) NetworkByName(name string) (*cluster.Network, bool) {
	return named[*cluster.Network](s, name)
}

// SecretByName returns the secret with the name.
func (s *Snapshot) SecretByName(name string) (*cluster.Secret, bool) {
	return named[*cluster.Secret](s, name)
}

// ConfigByName returns the config with the name.
func (s *Snapshot) ConfigByName(name string) (*cluster.Config, bool) {
	return named[*cluster.Config](s, name)
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

// by is the records of which the index says the value.
func by[T cluster.Object](s *Snapshot, index, value string) iter.Seq[T] {
	var zero T
	return typed[T](s.t.by(zero.Kind(), index, value))
}

func typed[T cluster.Object](all iter.Seq[cluster.Object]) iter.Seq[T] {
	return func(yield func(T) bool) {
		for o := range all {
			if !yield(o.(T)) {
				return
			}
		}
	}
}

func named[T cluster.Object](s *Snapshot, name string) (T, bool) {
	if name != "" {
		for o := range by[T](s, byName, name) {
			return o, true
		}
	}
	var zero T
	return zero, false
}

// Tx is a snapshot that one can write to; what was written is seen by its reads. It is not safe for concurrent use.
type Tx struct {
	*Snapshot
	changes []Change
}

func (s *Store) begin() *Tx {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &Tx{Snapshot: &Snapshot{t: s.tables.publish().fork(), index: s.index, at: s.at}}
}

// Write adds a change to the transaction. The change's record must not be changed afterwards.
func (tx *Tx) Write(c Change) {
	tx.changes = append(tx.changes, c)
	old := tx.t.get(c.Kind, c.ID)
	l := loads{}
	l.change(old, c.Value)
	l.write(tx.t)
	switch {
	case !c.Delete:
		tx.t.put(old, c.Value.Clone())
	case old != nil:
		tx.t.remove(old)
	}
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
	m := memo{}
	for _, k := range cluster.Kinds() {
		for o := range s.t.list(k, "", "") {
			v, err := m.encodable(o)
			if err != nil {
				return err
			}
			data, err := Marshal(v)
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
	t, l, known := newTables(), loads{}, newInterned(math.MaxInt)
	for {
		var rec snapshotRecord
		if err := dec.Decode(&rec); err != nil {
			return fmt.Errorf("the snapshot is cut off or damaged: %w", err)
		}
		if rec.Kind == "" {
			break
		}
		if cluster.New(rec.Kind) == nil {
			return fmt.Errorf("the snapshot has a record of unknown kind %q", strings.ToValidUTF8(string(rec.Kind), "?"))
		}
		o, err := known.decode(rec.Kind, rec.Data)
		if err != nil {
			return fmt.Errorf("reading a %s of the snapshot: %w", rec.Kind, err)
		}
		if o.Key() == "" {
			return fmt.Errorf("the snapshot has a %s without an ID", rec.Kind)
		}
		old := t.get(rec.Kind, o.Key())
		l.change(old, o)
		t.put(old, o)
	}
	l.write(t)
	s.tables = t
	s.at = time.Time{}
	s.advance(h.Index, h.At)
	s.notify(h.Index, []Event{{Reset: true}})
	return nil
}
