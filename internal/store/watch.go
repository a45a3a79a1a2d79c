package store

import (
	"context"
	"sync"

	"shoal.dev/shoal/internal/cluster"
)

// Event is one record's change. Old is nil for a creation, New for a deletion.
type Event struct {
	Kind     cluster.Kind
	ID       string
	Old, New cluster.Object
	// Reset says that everything may have changed: a snapshot was restored. The other fields are empty.
	Reset bool
}

// Watcher receives every change, in order, from the moment it was made. It never holds up the store: what was not
// read yet is queued.
type Watcher struct {
	s     *Store
	mu    sync.Mutex
	queue []Event
	index uint64
	ready chan struct{} // capacity 1
}

// Watch returns a watcher and a snapshot that has all that the watcher will not report. Close the watcher after use.
func (s *Store) Watch() (*Watcher, *Snapshot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := &Watcher{s: s, ready: make(chan struct{}, 1), index: s.index}
	s.watchers[w] = struct{}{}
	return w, s.snapshot()
}

// Next waits for changes and returns all that are there, with the index of the last entry that they belong to.
func (w *Watcher) Next(ctx context.Context) ([]Event, uint64, error) {
	select {
	case <-w.ready:
	case <-ctx.Done():
		return nil, 0, context.Cause(ctx)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	q := w.queue
	w.queue = nil
	return q, w.index, nil
}

// Ready has a value when something is queued; for use in a select, followed by [Watcher.Take].
func (w *Watcher) Ready() <-chan struct{} { return w.ready }

// Take returns what is queued without waiting; for after a receive from Ready.
func (w *Watcher) Take() ([]Event, uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	q := w.queue
	w.queue = nil
	return q, w.index
}

// Close stops the watcher.
func (w *Watcher) Close() {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	delete(w.s.watchers, w)
}

func (s *Store) notify(index uint64, events []Event) {
	if len(events) == 0 {
		return
	}
	for w := range s.watchers {
		w.mu.Lock()
		w.queue = append(w.queue, events...)
		w.index = index
		w.mu.Unlock()
		select {
		case w.ready <- struct{}{}:
		default:
		}
	}
}
