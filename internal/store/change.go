package store

import (
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sync/errgroup"

	"shoal.dev/shoal/internal/cluster"
)

// Part says which part of a record a change writes.
type Part uint8

// The parts of a record, see package cluster.
const (
	PartSpec  Part = 1
	PartState Part = 2
)

// Change writes or deletes one record. Make one with [Create], [PutSpec], [PutState], [PutBoth] or [Delete]: they take
// the expected versions from the record, which therefore must be a clone of the one that was read.
type Change struct {
	Kind cluster.Kind
	ID   string
	// Delete removes the record; Expect is its specification's version.
	Delete bool
	// Parts are the parts that are written; a creation writes both.
	Parts Part
	// Expect is the specification's version that must be there, 0 if the record must not exist. It counts where
	// Parts has PartSpec, and for Delete.
	Expect uint64
	// ExpectState is the state's version that must be there; it counts where Parts has PartState and the record is
	// not being created.
	ExpectState uint64
	// Value is the record; nil for Delete.
	Value cluster.Object
}

// Group is a set of changes that apply together or not at all.
type Group struct {
	Changes []Change
	// Why says in words what the group is for: logs and traces. It is not stored.
	Why string
}

// Create makes a record that must not exist.
func Create(o cluster.Object) Change {
	return Change{Kind: o.Kind(), ID: o.Key(), Parts: PartSpec | PartState, Value: o}
}

// PutSpec writes a record's specification part.
func PutSpec(o cluster.Object) Change { return put(o, PartSpec) }

// PutState writes a record's state part.
func PutState(o cluster.Object) Change { return put(o, PartState) }

// PutBoth writes both parts.
func PutBoth(o cluster.Object) Change { return put(o, PartSpec|PartState) }

func put(o cluster.Object, p Part) Change {
	return Change{
		Kind: o.Kind(), ID: o.Key(), Parts: p, Value: o,
		Expect: o.GetMeta().Version.Index, ExpectState: *o.GetStateVersion(),
	}
}

// Delete removes a record if its specification is still at the version of o.
func Delete(o cluster.Object) Change {
	return Change{Kind: o.Kind(), ID: o.Key(), Delete: true, Expect: o.GetMeta().Version.Index}
}

// String is the change in one line: what tests, logs and explanations print.
func (c Change) String() string {
	switch {
	case c.Delete:
		return fmt.Sprintf("delete %s %s", c.Kind, c.ID)
	case c.Expect == 0 && c.Parts&PartSpec != 0:
		return fmt.Sprintf("create %s %s", c.Kind, c.ID)
	}
	parts := [...]string{"", "spec", "state", "spec+state"}[c.Parts&3]
	return fmt.Sprintf("write %s of %s %s", parts, c.Kind, c.ID)
}

// Result is what applying an entry returned.
type Result struct {
	// Index is the entry's.
	Index uint64
	// Groups has nil or a [*ConflictError] for every group.
	Groups []error
	// Err is set where the entry could not be read; then nothing of it was applied.
	Err error
}

type entry struct {
	At     time.Time
	Groups []Group
}

// Apply applies an encoded entry. Whoever owns the log calls it, or [Store.ApplyAll], once for each entry, in order.
func (s *Store) Apply(index uint64, data []byte) *Result {
	return s.ApplyAll([]Entry{{index, data}})[0]
}

// Entry is an encoded entry of the log.
type Entry struct {
	Index uint64
	Data  []byte
}

// ApplyAll applies entries that follow each other as if one by one, but shows only what is there after the last.
func (s *Store) ApplyAll(entries []Entry) []*Result {
	decoded, results := s.decode(entries)
	s.mu.Lock()
	defer s.mu.Unlock()
	t, l := s.tables.writing(), loads{}
	var events []Event
	var last *Result
	var at time.Time
	for i, e := range decoded {
		if e == nil {
			continue
		}
		last = results[i]
		last.Groups = make([]error, len(e.Groups))
		for k, g := range e.Groups {
			old, err := check(t, g)
			if last.Groups[k] = err; err != nil {
				continue
			}
			for n, c := range g.Changes {
				if n > 0 { // what is there now: a change before may be of the same record
					old = t.get(c.Kind, c.ID)
				}
				ev := applyOne(t, last.Index, e.At, c, old)
				l.change(ev.Old, ev.New)
				events = append(events, ev)
			}
		}
		if e.At.After(at) {
			at = e.At
		}
	}
	if last == nil {
		return results
	}
	l.write(t)
	s.tables = t
	s.advance(last.Index, at)
	s.notify(last.Index, events)
	return results
}

// decode reads entries, several at a time.
func (s *Store) decode(entries []Entry) ([]*entry, []*Result) {
	decoded := make([]*entry, len(entries))
	results := make([]*Result, len(entries))
	var all errgroup.Group
	all.SetLimit(runtime.GOMAXPROCS(0))
	for i, e := range entries {
		results[i] = &Result{Index: e.Index}
		read := func() (err error) {
			if decoded[i], err = decodeEntry(e.Data, s.known); err != nil {
				results[i].Err = fmt.Errorf("entry %d of the swarm's log cannot be read: %w", e.Index, err)
			}
			return nil // the others are read all the same
		}
		if len(entries) == 1 {
			_ = read()
		} else {
			all.Go(read)
		}
	}
	_ = all.Wait()
	return decoded, results
}

// Advance tells the store that the log has passed index with an entry that is not the store's.
func (s *Store) Advance(index uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if index > s.index {
		s.advance(index, s.at)
	}
}

func (s *Store) advance(index uint64, at time.Time) {
	s.index = index
	if at.After(s.at) {
		s.at, s.atSince = at, time.Now()
	}
	close(s.changed)
	s.changed = make(chan struct{})
}

// check compares the versions that the group expects with those that are there. It returns the record that the first change
// is of.
func check(t *tables, g Group) (first cluster.Object, err error) {
	for i, c := range g.Changes {
		old := t.get(c.Kind, c.ID)
		if i == 0 {
			first = old
		}
		var spec, state uint64
		if old != nil {
			spec, state = old.GetMeta().Version.Index, *old.GetStateVersion()
		}
		if (c.Delete || c.Parts&PartSpec != 0) && spec != c.Expect {
			return nil, &ConflictError{c.Kind, c.ID, c.Expect, spec}
		}
		if c.Delete || c.Parts&PartState == 0 || old == nil && c.Parts&PartSpec != 0 {
			continue
		}
		if old == nil || state != c.ExpectState {
			return nil, &ConflictError{c.Kind, c.ID, c.ExpectState, state}
		}
	}
	return first, nil
}

// applyOne writes a change whose group was checked in place of old, which may be nil.
func applyOne(t *tables, index uint64, at time.Time, c Change, old cluster.Object) Event {
	if c.Delete {
		t.remove(old)
		return Event{Kind: c.Kind, ID: c.ID, Old: old}
	}
	o := c.Value
	m := o.GetMeta()
	switch {
	case old == nil:
		m.CreatedAt, m.UpdatedAt = at, at
		m.Version.Index, *o.GetStateVersion() = index, index
	case c.Parts == PartState:
		n := cluster.Fork(old)
		n.MergeState(o)
		*n.GetStateVersion() = index
		o = n
	case c.Parts == PartSpec:
		o.MergeState(old)
		*o.GetStateVersion() = *old.GetStateVersion()
		m.CreatedAt, m.UpdatedAt, m.Version.Index = old.GetMeta().CreatedAt, at, index
	default:
		*o.GetStateVersion() = index
		m.CreatedAt, m.UpdatedAt, m.Version.Index = old.GetMeta().CreatedAt, at, index
	}
	t.put(old, o)
	return Event{Kind: c.Kind, ID: c.ID, Old: old, New: o}
}
