package store

import "time"

// Fork returns a store with the same records whose writes go nowhere else: for trying changes. It costs nothing until
// it is written to, and nothing that is applied to s later is in it.
func (s *Store) Fork() *Store {
	f := &Store{changed: make(chan struct{}), watchers: map[*Watcher]struct{}{}, known: s.known}
	s.mu.Lock()
	f.tables, f.index, f.at, f.atSince = s.tables.publish(), s.index, s.at, time.Now()
	if !s.at.IsZero() {
		f.at = s.nowLocked()
	}
	s.mu.Unlock()
	NewLocal(f)
	return f
}
