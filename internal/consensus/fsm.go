package consensus

import (
	"errors"
	"fmt"
	"io"

	"github.com/hashicorp/raft"

	"shoal.dev/shoal/internal/store"
)

// fsm hands the log to the store. Raft calls it from one goroutine.
type fsm struct{ store *store.Store }

// Apply applies a command; it returns a *store.Result.
func (f *fsm) Apply(l *raft.Log) any { return f.store.Apply(l.Index, l.Data) }

// ApplyBatch is Apply for all that raft has ready; entries of raft's own in between are the members.
func (f *fsm) ApplyBatch(logs []*raft.Log) []any {
	out := make([]any, len(logs))
	var entries []store.Entry
	for _, l := range logs {
		if l.Type == raft.LogCommand {
			entries = append(entries, store.Entry{Index: l.Index, Data: l.Data})
		}
	}
	var results []*store.Result
	if len(entries) > 0 {
		results = f.store.ApplyAll(entries)
	}
	for i, l := range logs {
		if l.Type == raft.LogCommand {
			out[i], results = results[0], results[1:]
		} else {
			f.store.Advance(l.Index)
		}
	}
	return out
}

// StoreConfiguration is called for an entry that changes the members. The store's index follows the log.
func (f *fsm) StoreConfiguration(index uint64, _ raft.Configuration) { f.store.Advance(index) }

// Snapshot is free: the store's records are immutable.
func (f *fsm) Snapshot() (raft.FSMSnapshot, error) { return fsmSnapshot{f.store.Snapshot()}, nil }

// Restore replaces what is in the store.
func (f *fsm) Restore(r io.ReadCloser) error {
	return errors.Join(f.store.Restore(r), r.Close())
}

type fsmSnapshot struct{ s *store.Snapshot }

// Persist writes the records to the sink.
func (s fsmSnapshot) Persist(sink raft.SnapshotSink) error {
	if err := s.s.Persist(sink); err != nil {
		return errors.Join(fmt.Errorf("writing snapshot %s: %w", sink.ID(), err), sink.Cancel())
	}
	return sink.Close()
}

// Release has nothing to let go of.
func (s fsmSnapshot) Release() {}
