package agent

import (
	"context"
	"slices"
	"sync"
)

// slots bounds what is done at the same time. Who is urgent goes before who is not, so that of many tasks the first
// run early: a start is urgent, a creation is not.
type slots struct {
	mu    sync.Mutex
	free  int
	queue [2][]chan struct{} // by urgency; a channel is closed when its waiter has a slot
}

func newSlots(n int) *slots { return &slots{free: n} }

// acquire waits for a slot. With a nil error the caller releases it.
func (s *slots) acquire(ctx context.Context, urgent bool) error {
	q := 0
	if urgent {
		q = 1
	}
	s.mu.Lock()
	if s.free > 0 {
		s.free--
		s.mu.Unlock()
		return nil
	}
	ch := make(chan struct{})
	s.queue[q] = append(s.queue[q], ch)
	s.mu.Unlock()
	select {
	case <-ch:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	i := slices.Index(s.queue[q], ch)
	if i >= 0 {
		s.queue[q] = slices.Delete(s.queue[q], i, i+1)
	}
	s.mu.Unlock()
	if i < 0 {
		s.release() // it came at the same moment
	}
	return context.Cause(ctx)
}

func (s *slots) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, q := range []int{1, 0} {
		if len(s.queue[q]) > 0 {
			close(s.queue[q][0])
			s.queue[q] = s.queue[q][1:]
			return
		}
	}
	s.free++
}
