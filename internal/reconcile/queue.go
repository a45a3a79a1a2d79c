package reconcile

import "time"

// queue is what one planner has to do: dirty keys in the order in which they became dirty, and times to look again.
// It is not safe for concurrent use.
type queue struct {
	planner Planner
	order   []Key
	dirty   map[Key]bool
	timers  timers
	// failures counts a key's plans of which nothing committed, one a round; notBefore is until when it rests.
	failures  map[Key]int
	notBefore map[Key]time.Time
}

func newQueue(p Planner) *queue {
	return &queue{
		planner: p, dirty: map[Key]bool{}, timers: timers{at: map[Key]time.Time{}},
		failures: map[Key]int{}, notBefore: map[Key]time.Time{},
	}
}

func (q *queue) mark(keys ...Key) {
	for _, k := range keys {
		if !q.dirty[k] {
			q.dirty[k] = true
			q.order = append(q.order, k)
		}
	}
}

// take returns the keys to plan at now and forgets that they are dirty. Keys that rest stay.
func (q *queue) take(now time.Time) []Key {
	q.mark(q.timers.due(now)...)
	var keys, rest []Key
	for _, k := range q.order {
		if q.notBefore[k].After(now) {
			rest = append(rest, k)
			continue
		}
		keys = append(keys, k)
		delete(q.dirty, k)
		delete(q.notBefore, k)
	}
	q.order = rest
	return keys
}

// again sets or, with the zero time, clears the key's timer.
func (q *queue) again(k Key, at time.Time) { q.timers.set(k, at) }

// done says what became of the key's plan. A key with groups that did not commit is dirty again; one of which nothing
// commits rests longer each time.
func (q *queue) done(k Key, committed, failed int, now time.Time) {
	if failed == 0 || committed > 0 {
		delete(q.failures, k)
	}
	if failed == 0 {
		return
	}
	q.mark(k)
	if committed > 0 {
		return
	}
	n := q.failures[k]
	q.failures[k] = n + 1
	if n > 0 {
		q.notBefore[k] = now.Add(min(backOff<<min(n-1, 16), maxBackOff))
	}
}

// next is when there is something to do: now for dirty keys, otherwise the first timer; zero for never.
func (q *queue) next(now time.Time) time.Time {
	next := q.timers.first()
	for _, k := range q.order {
		if t := q.notBefore[k]; t.After(now) {
			next = earlier(next, t)
		} else {
			return now
		}
	}
	return next
}
