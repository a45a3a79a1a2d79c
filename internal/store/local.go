package store

import (
	"context"
	"sync"
)

// Local is a [Proposer] without a log: it applies every entry to one store. Tests and the simulator's step
// mode use it.
type Local struct {
	s  *Store
	mu sync.Mutex // held while entries are applied

	waitingMu sync.Mutex
	waiting   []*waiting
}

// waiting is an entry that is to be applied, with the others that came while those before were: as a log does.
type waiting struct {
	data   []byte
	result *Result // nil: not yet
}

// NewLocal returns a proposer for s and makes it the store's.
func NewLocal(s *Store) *Local {
	l := &Local{s: s}
	s.SetProposer(l)
	return l
}

// Propose applies the entry.
func (l *Local) Propose(ctx context.Context, entry []byte) (*Result, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	mine := &waiting{data: entry}
	l.waitingMu.Lock()
	l.waiting = append(l.waiting, mine)
	l.waitingMu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if mine.result == nil {
		l.apply()
	}
	return mine.result, nil
}

func (l *Local) apply() {
	l.waitingMu.Lock()
	all := l.waiting
	l.waiting = nil
	l.waitingMu.Unlock()
	entries := make([]Entry, len(all))
	for i, w := range all {
		entries[i] = Entry{l.s.Index() + 1 + uint64(i), w.data}
	}
	for i, r := range l.s.ApplyAll(entries) {
		all[i].result = r
	}
}
