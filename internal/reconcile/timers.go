package reconcile

import (
	"container/heap"
	"time"
)

// timers is one time a key, and the keys by time. An entry of the heap whose time is not the key's any more is
// ignored.
type timers struct {
	at   map[Key]time.Time
	heap timerHeap
}

type timer struct {
	at  time.Time
	key Key
}

func (t *timers) set(k Key, at time.Time) {
	if at.IsZero() {
		delete(t.at, k)
		return
	}
	if t.at[k].Equal(at) {
		return
	}
	t.at[k] = at
	heap.Push(&t.heap, timer{at, k})
}

func (t *timers) drop() {
	for len(t.heap) > 0 && !t.at[t.heap[0].key].Equal(t.heap[0].at) {
		heap.Pop(&t.heap)
	}
}

// due removes and returns the keys whose time has come.
func (t *timers) due(now time.Time) []Key {
	var keys []Key
	for t.drop(); len(t.heap) > 0 && !t.heap[0].at.After(now); t.drop() {
		k := heap.Pop(&t.heap).(timer).key
		delete(t.at, k)
		keys = append(keys, k)
	}
	return keys
}

// first is the earliest time, or zero.
func (t *timers) first() time.Time {
	t.drop()
	if len(t.heap) == 0 {
		return time.Time{}
	}
	return t.heap[0].at
}

type timerHeap []timer

func (h timerHeap) Len() int { return len(h) }
func (h timerHeap) Less(i, j int) bool {
	if h[i].at.Equal(h[j].at) {
		return h[i].key < h[j].key
	}
	return h[i].at.Before(h[j].at)
}
func (h timerHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *timerHeap) Push(x any)   { *h = append(*h, x.(timer)) }
func (h *timerHeap) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}
