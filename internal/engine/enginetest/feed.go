package enginetest

import (
	"context"
	"strconv"
	"time"

	"shoal.dev/shoal/internal/engine"
)

// eventsRecalled sees that the past joins the present without a gap, and that a bounded part of it is kept.
func eventsRecalled(s *suite) {
	id := s.create(engine.Spec{Name: "past"}, "sleep")
	s.start(id)
	ctx, cancel := context.WithCancel(s.ctx)
	past, live := s.Engine.Recall(ctx, time.Time{})
	if err := s.Engine.Remove(s.ctx, id, true); err != nil {
		s.Fatal(err)
	}
	var got []string
	take := func(e engine.Event) {
		if e.ID == id {
			got = append(got, e.Action)
		}
	}
	for _, e := range past {
		take(e)
	}
	for e := range live {
		take(e)
		if e.ID == id && e.Action == "destroy" {
			break
		}
	}
	s.same("events of the past and the present", got, []string{"create", "start", "kill", "die", "destroy"})
	cancel()
	for range live {
	}

	all, _ := s.Engine.Recall(ctx, time.Time{})
	since, _ := s.Engine.Recall(ctx, all[len(all)-1].Time)
	if len(since) == 0 || since[len(since)-1].Action != all[len(all)-1].Action || since[0].Time.Before(all[len(all)-1].Time) {
		s.Errorf("since the last event: %+v", since)
	}
	for i := range engine.KeptEvents {
		s.Engine.Announce(engine.Event{Type: "daemon", Action: "reload", ID: strconv.Itoa(i)})
	}
	all, _ = s.Engine.Recall(ctx, time.Time{})
	s.same("events that are kept", len(all), engine.KeptEvents)
	s.same("the oldest of them", all[0].ID, "0")
	none, _ := s.Engine.Recall(ctx, time.Now().Add(time.Hour))
	s.same("events of the future", len(none), 0)
}

// eventsAnnounced sees that what others announce comes in its turn, with a time.
func eventsAnnounced(s *suite) {
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	live := s.Engine.Events(ctx)
	s.Engine.Announce(engine.Event{Type: "service", Action: "update", ID: "s1", Scope: "swarm", Attributes: map[string]string{"name": "web"}})
	s.Engine.Announce(engine.Event{Type: "service", Action: "remove", ID: "s1", Scope: "swarm"})
	first, second := <-live, <-live
	if first.Action != "update" || first.Scope != "swarm" || first.Attributes["name"] != "web" || first.Time.IsZero() {
		s.Errorf("%+v", first)
	}
	if second.Action != "remove" || second.Time.Before(first.Time) {
		s.Errorf("%+v after %+v", second, first)
	}
}

// eventsTooSlow sees that a reader that takes nothing is cut off, and that one that reads misses nothing meanwhile.
func eventsTooSlow(s *suite) {
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	slow, good := s.Engine.Events(ctx), s.Engine.Events(ctx)
	// What a reader's own goroutine holds already does not count, so this is twice the bound and more.
	const n = 2*engine.MaxBehind + 10
	for i := range n {
		s.Engine.Announce(engine.Event{Type: "daemon", Action: "reload", ID: strconv.Itoa(i)})
		if e := <-good; e.ID != strconv.Itoa(i) {
			s.Fatalf("event %s came, want %d", e.ID, i)
		}
	}
	next := 0
	for e := range slow {
		if e.ID != strconv.Itoa(next) {
			s.Fatalf("event %s came, want %d: what a slow reader gets has no gap", e.ID, next)
		}
		next++
	}
	if ctx.Err() != nil || next == n {
		s.Errorf("the slow reader got %d of %d events and was not cut off (%v)", next, n, ctx.Err())
	}
}
