package ledger

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"shoal.dev/shoal/internal/engine"
)

// subscriber holds the events that one consumer has not taken yet; a slow one holds nobody up.
type subscriber struct {
	mu    sync.Mutex
	queue []engine.Event
	over  bool          // it was too slow, and gets no more
	more  chan struct{} // of size 1
}

// Events implements engine.Feed.
func (l *Ledger) Events(ctx context.Context) <-chan engine.Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.subscribe(ctx)
}

// Recall implements engine.Feed.
func (l *Ledger) Recall(ctx context.Context, since time.Time) ([]engine.Event, <-chan engine.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	// Times never go back, so what is wanted is the end of what is kept.
	first, _ := slices.BinarySearchFunc(l.past, since, func(e engine.Event, t time.Time) int { return e.Time.Compare(t) })
	return slices.Clone(l.past[first:]), l.subscribe(ctx)
}

// Announce implements engine.Feed.
func (l *Ledger) Announce(e engine.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.emit(e)
}

// subscribe needs the lock held.
func (l *Ledger) subscribe(ctx context.Context) <-chan engine.Event {
	s := &subscriber{more: make(chan struct{}, 1)}
	l.subs[s] = struct{}{}
	out := make(chan engine.Event)
	go func() {
		defer close(out)
		defer func() {
			l.mu.Lock()
			delete(l.subs, s)
			l.mu.Unlock()
		}()
		for {
			select {
			case <-s.more:
			case <-ctx.Done():
				return
			}
			s.mu.Lock()
			batch, over := s.queue, s.over
			s.queue = nil
			s.mu.Unlock()
			for _, e := range batch {
				select {
				case out <- e:
				case <-ctx.Done():
					return
				}
			}
			if over {
				return
			}
		}
	}()
	return out
}

// Report reports something that changed no container, such as a signal sent to one.
func (l *Ledger) Report(c *Container, action string, attrs map[string]string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.emitContainer(c, action, attrs)
}

// ReportVolume reports something that happened to a volume.
func (l *Ledger) ReportVolume(name, action string, attrs map[string]string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.emit(engine.Event{Type: "volume", Action: action, ID: name, Attributes: attrs})
}

func (l *Ledger) emitContainer(c *Container, action string, attrs map[string]string) {
	a := maps.Clone(c.Config.Labels)
	if a == nil {
		a = map[string]string{}
	}
	maps.Copy(a, attrs)
	a["name"], a["image"] = c.Name, c.Config.Image
	l.emit(engine.Event{Type: "container", Action: action, ID: c.ID, Attributes: a})
}

func (l *Ledger) emit(e engine.Event) {
	// The wall clock may be set back; the order of events may not.
	e.Time = time.Now().Round(0)
	if e.Time.Before(l.lastRun) {
		e.Time = l.lastRun
	}
	l.lastRun = e.Time
	if len(l.past) == engine.KeptEvents {
		l.past = slices.Delete(l.past, 0, 1)
	}
	l.past = append(l.past, e)
	for s := range l.subs {
		s.mu.Lock()
		if s.over = s.over || len(s.queue) == engine.MaxBehind; !s.over {
			s.queue = append(s.queue, e)
		}
		s.mu.Unlock()
		select {
		case s.more <- struct{}{}:
		default:
		}
	}
}

func (l *Ledger) emitPrune(reclaimed string) {
	l.emit(engine.Event{Type: "container", Action: "prune", Attributes: map[string]string{"reclaimed": reclaimed}})
}
