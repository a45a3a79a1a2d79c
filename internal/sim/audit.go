package sim

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"shoal.dev/shoal/internal/store"
)

// Audit checks the log of a swarm that somebody else drives: after every entry, what must never happen. It does not
// know on which entry a plan was made, so it judges no plan, only what was committed. It is not safe for concurrent use.
type Audit struct {
	w *world
}

// NewAudit returns an auditor of an empty log. note is told what happens, violate what must not.
func NewAudit(note, violate func(string)) *Audit {
	w := &world{start: time.Now(), agents: map[string]*agent{}, onNote: note, onViolation: violate}
	w.truth = newTruth(w)
	return &Audit{w}
}

// Apply takes the log's next entry.
func (a *Audit) Apply(index uint64, entry []byte) { a.w.truth.apply(index, entry) }

// Rebase begins again with what is in another store: the history was cut there.
func (a *Audit) Rebase(s *store.Store) error {
	var b bytes.Buffer
	if err := s.Snapshot().Persist(&b); err != nil {
		return err
	}
	a.w.truth = newTruth(a.w)
	return a.w.truth.store.Restore(&b)
}

// Snapshot is what was committed.
func (a *Audit) Snapshot() *store.Snapshot { return a.w.snapshot() }

// Index is that of the last entry.
func (a *Audit) Index() uint64 { return a.w.truth.store.Index() }

// Compare says how a replica that should have all that the auditor has differs from it.
func (a *Audit) Compare(s *store.Snapshot) error {
	mine := a.w.snapshot()
	if s.Index() < mine.Index() {
		return fmt.Errorf("it has entry %d of %d", s.Index(), mine.Index())
	}
	var x, y records
	if err := errors.Join(mine.Persist(&x), s.Persist(&y)); err != nil {
		return err
	}
	for i := 1; i < max(len(x), len(y)); i++ { // the first is the header
		var committed, has string
		if i < len(x) {
			committed = x[i]
		}
		if i < len(y) {
			has = y[i]
		}
		if committed != has {
			return fmt.Errorf("it has %.300q where %.300q was committed", has, committed)
		}
	}
	return nil
}

// records is what a snapshot writes, one string a record.
type records []string

func (r *records) Write(p []byte) (int, error) {
	*r = append(*r, string(p))
	return len(p), nil
}
