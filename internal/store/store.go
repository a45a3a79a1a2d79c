// Package store keeps a manager's replica of the swarm's records in memory.
//
// It decides one thing: whether a group of changes applies, by comparing the versions it expects with the versions
// that are there. It owns the records, their indexes, the encoding (codec.go, the only file that knows it) and swarm
// time. It never talks to Raft: writes go through a [Proposer], and whoever owns the log calls [Store.Apply],
// [Snapshot.Persist] and [Store.Restore]. Apply is deterministic: it has no clock, no randomness and no policy.
//
// Values read from the store are immutable; change a Clone. All methods are safe for concurrent use.
package store

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"shoal.dev/shoal/internal/cluster"
)

// Proposer commits an encoded entry to the swarm's log.
type Proposer interface {
	// Propose returns what [Store.Apply] of this entry returned on this manager, once it was applied here. An error
	// means that the outcome is not known, or, if it is ErrNotLeader, that nothing was written.
	Propose(ctx context.Context, entry []byte) (*Result, error)
}

// ErrNotLeader is what a [Proposer] returns on a manager that is not the leader; nothing was written.
var ErrNotLeader = errors.New("this manager is not the leader of the swarm")

// ErrTooLarge is what [Store.Propose] returns for an entry over the limit; nothing was written.
var ErrTooLarge = errors.New("the change is too large")

// maxUpdateTries bounds how often Update repeats its function after a conflict. A conflict means that another writer
// won, so five in a row are a hot spot worth an error.
const maxUpdateTries = 5

// maxEntry is the largest entry in bytes. A larger one would hold up Raft's heartbeats on a slow link.
const maxEntry = 4 << 20

// Store is one manager's replica.
type Store struct {
	mu       sync.Mutex // guards what follows and serialises Apply and Restore
	tables   *tables    // of the last entry; published to whoever reads them
	index    uint64     // last applied entry
	at       time.Time  // that entry's time
	atSince  time.Time  // when it was applied here, with a monotonic reading
	changed  chan struct{}
	watchers map[*Watcher]struct{}
	known    *interned // has a lock of its own

	proposerMu sync.RWMutex
	proposer   Proposer
}

// New returns an empty store without a proposer.
func New() *Store {
	return &Store{tables: newTables(), changed: make(chan struct{}), watchers: map[*Watcher]struct{}{}, known: newInterned(maxInterned)}
}

// SetProposer says where writes go from now on.
func (s *Store) SetProposer(p Proposer) {
	s.proposerMu.Lock()
	defer s.proposerMu.Unlock()
	s.proposer = p
}

// Index is the index of the last entry applied here.
func (s *Store) Index() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.index
}

// Now is swarm time: it never goes back on one manager, and a new leader's continues from the last entry of the old
// one even where its own clock is behind.
func (s *Store) Now() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.nowLocked()
}

func (s *Store) nowLocked() time.Time {
	now := time.Now()
	if s.at.IsZero() {
		return now.UTC().Round(0)
	}
	if t := s.at.Add(now.Sub(s.atSince)); t.After(now) {
		return t.UTC().Round(0)
	}
	return now.UTC().Round(0)
}

// WaitIndex waits until the store has applied the entry at index.
func (s *Store) WaitIndex(ctx context.Context, index uint64) error {
	for {
		s.mu.Lock()
		have, ch := s.index, s.changed
		s.mu.Unlock()
		if have >= index {
			return nil
		}
		select {
		case <-ch:
		case <-ctx.Done():
			return fmt.Errorf("waiting for entry %d of the swarm's log (this manager has %d): %w", index, have, context.Cause(ctx))
		}
	}
}

// Snapshot is a consistent view of all records, free to take and to hold.
func (s *Store) Snapshot() *Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.snapshot()
}

func (s *Store) snapshot() *Snapshot {
	return &Snapshot{t: s.tables.publish(), index: s.index, at: s.at}
}

// Update runs fn on a transaction and commits what it wrote as one group. After a conflict it runs fn again on what is
// there then, so fn must have no effects of its own. It returns the index of the entry; with nothing written, of the
// last one applied. An error of fn is returned as it is and nothing is written.
func (s *Store) Update(ctx context.Context, fn func(*Tx) error) (uint64, error) {
	var conflict error
	for range maxUpdateTries {
		tx := s.begin()
		if err := fn(tx); err != nil {
			return 0, err
		}
		if len(tx.changes) == 0 {
			return tx.index, nil
		}
		index, errs, err := s.Propose(ctx, []Group{{Changes: tx.changes}})
		if err != nil {
			return 0, err
		}
		if errs[0] == nil {
			return index, nil
		}
		conflict = errs[0]
	}
	return 0, fmt.Errorf("update out of sequence: %w", conflict)
}

// Propose commits groups of changes in one entry. Each group applies whole or not at all, whatever the others do; its
// error, a [*ConflictError], is at its place in errs.
func (s *Store) Propose(ctx context.Context, groups []Group) (index uint64, errs []error, err error) {
	s.proposerMu.RLock()
	p := s.proposer
	s.proposerMu.RUnlock()
	if p == nil {
		return 0, nil, ErrNotLeader
	}
	data, err := encodeEntry(&entry{At: s.Now(), Groups: groups})
	if err != nil {
		return 0, nil, err
	}
	if len(data) > maxEntry {
		return 0, nil, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, len(data), maxEntry)
	}
	r, err := p.Propose(ctx, data)
	if err != nil {
		return 0, nil, err
	}
	if r.Err != nil {
		return 0, nil, r.Err
	}
	return r.Index, r.Groups, nil
}

// ConflictError says that a record's version is not the one that a change expected.
type ConflictError struct {
	Kind     cluster.Kind
	ID       string
	Expected uint64 // 0: the record was expected not to exist
	Actual   uint64 // 0: it does not exist
}

func (e *ConflictError) Error() string {
	switch {
	case e.Expected == 0:
		return fmt.Sprintf("%s %s exists already", e.Kind, e.ID)
	case e.Actual == 0:
		return fmt.Sprintf("%s %s is gone", e.Kind, e.ID)
	}
	return fmt.Sprintf("%s %s is at version %d, not %d", e.Kind, e.ID, e.Actual, e.Expected)
}
