package store

import (
	"context"
	"sync"
)

// Local is a [Proposer] without a log: it applies every entry to one store at once. Tests and the simulator's step
// mode use it.
type Local struct {
	mu sync.Mutex
	s  *Store
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
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.s.Apply(l.s.Index()+1, entry), nil
}
