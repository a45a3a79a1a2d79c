package consensus

import (
	"sync"
	"time"
)

// drainTime bounds Close's wait for what raft has begun: a leader that hears no majority ends it within its lease.
const drainTime = 2 * time.Second

// inflight counts the futures that somebody waits for. Raft forgets those that wait in its queues when it shuts down, so
// whoever waits for one would do so for ever: Close lets them end first.
type inflight struct {
	mu       sync.Mutex
	n        int
	draining bool
	idle     chan struct{}
}

func newInflight() *inflight { return &inflight{idle: make(chan struct{})} }

// begin is false once the end has begun.
func (f *inflight) begin() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.draining {
		return false
	}
	f.n++
	return true
}

func (f *inflight) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.n--; f.n == 0 && f.draining {
		close(f.idle)
	}
}

// drain lets nothing begin any more and waits for what has begun. It is called once.
func (f *inflight) drain(limit time.Duration) {
	f.mu.Lock()
	f.draining = true
	none := f.n == 0
	f.mu.Unlock()
	if none {
		return
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-f.idle:
	case <-timer.C:
	}
}
