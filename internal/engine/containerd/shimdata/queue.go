package shimdata

import "sync"

// Ahead is how many bytes a container may have written that an attached client has not taken, on each side of the
// socket, before it waits for the client. Docker's daemon lets it write as far ahead.
const Ahead = 1 << 20

// Queue holds output for a client that is slower than the container. It is safe for concurrent use.
type Queue struct {
	mu       sync.Mutex
	changed  sync.Cond
	items    [][]byte
	size     int
	rushed   bool
	finished bool
	dropped  bool
}

// NewQueue returns an empty one.
func NewQueue() *Queue {
	q := &Queue{}
	q.changed.L = &q.mu
	return q
}

// Push appends b, which it keeps, and waits before that while [Ahead] bytes are held. It says whether b was taken.
func (q *Queue) Push(b []byte) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.size >= Ahead && !q.rushed && !q.finished && !q.dropped {
		q.changed.Wait()
	}
	if q.finished || q.dropped {
		return false
	}
	q.items = append(q.items, b)
	q.size += len(b)
	q.changed.Broadcast()
	return true
}

// Offer appends b, which it keeps, unless more than limit bytes would then be held. It never waits.
func (q *Queue) Offer(b []byte, limit int64) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.finished || q.dropped || q.size > 0 && int64(q.size+len(b)) > limit {
		return false
	}
	q.items = append(q.items, b)
	q.size += len(b)
	q.changed.Broadcast()
	return true
}

// Pop waits for the oldest. more is false when there will be none.
func (q *Queue) Pop() (b []byte, more bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.items) == 0 && !q.finished && !q.dropped {
		q.changed.Wait()
	}
	if q.dropped || len(q.items) == 0 {
		return nil, false
	}
	b = q.items[0]
	q.items = q.items[1:]
	q.size -= len(b)
	q.changed.Broadcast()
	return b, true
}

// Rush lets Push wait no more: the container has ended, so that what is still to come is little.
func (q *Queue) Rush() { q.set(&q.rushed) }

// Finish says that nothing more is pushed. What is held can still be popped.
func (q *Queue) Finish() { q.set(&q.finished) }

// Drop throws away what is held and ends Push and Pop.
func (q *Queue) Drop() { q.set(&q.dropped) }

func (q *Queue) set(what *bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	*what = true
	q.changed.Broadcast()
}
