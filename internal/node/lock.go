package node

import "sync"

// longLock is a mutex for what is held while other nodes are waited for. In a synctest bubble who waits for it lets time
// go on, which a sync.Mutex does not. The zero value is not held.
type longLock struct {
	once sync.Once
	held chan struct{}
}

// Lock waits until it is free.
func (l *longLock) Lock() {
	l.once.Do(func() { l.held = make(chan struct{}, 1) })
	l.held <- struct{}{}
}

// Unlock frees it; it is held.
func (l *longLock) Unlock() { <-l.held }
