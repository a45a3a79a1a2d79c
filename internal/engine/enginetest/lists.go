package enginetest

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"shoal.dev/shoal/internal/engine"
)

func filters(s *suite) {
	first := s.create(engine.Spec{Name: "f-first", Config: &container.Config{Labels: map[string]string{"tier": "web", "set": "f"}}}, "sleep")
	s.create(engine.Spec{Name: "f-second", Config: &container.Config{Labels: map[string]string{"tier": "db", "set": "f"}}}, "exit 5")
	third := s.create(engine.Spec{Name: "f-third", Config: &container.Config{Labels: map[string]string{"set": "f"}}}, "sleep")
	s.start("f-first")
	s.start("f-second")
	s.wait("f-second")
	image := s.inspect(first).Image
	for _, test := range []struct {
		all     bool
		filters map[string][]string
		want    []string
	}{
		{false, nil, []string{"f-first"}},
		{true, nil, []string{"f-third", "f-second", "f-first"}},
		{true, map[string][]string{"name": {"f-f"}}, []string{"f-first"}},
		{true, map[string][]string{"name": {"^/f-first$", "third"}}, []string{"f-third", "f-first"}},
		{true, map[string][]string{"id": {first[:8]}}, []string{"f-first"}},
		{true, map[string][]string{"label": {"tier"}}, []string{"f-second", "f-first"}},
		{true, map[string][]string{"label": {"tier=db"}}, []string{"f-second"}},
		{true, map[string][]string{"label": {"tier", "none"}}, []string{}},
		{false, map[string][]string{"status": {"exited"}}, []string{"f-second"}},
		{false, map[string][]string{"status": {"created", "running"}}, []string{"f-third", "f-first"}},
		{true, map[string][]string{"exited": {"5"}}, []string{"f-second"}},
		{true, map[string][]string{"exited": {"0"}}, []string{}},
		{true, map[string][]string{"ancestor": {s.Image}, "status": {"running"}}, []string{"f-first"}},
		{true, map[string][]string{"ancestor": {image}, "exited": {"5"}}, []string{"f-second"}},
		{true, map[string][]string{"ancestor": {"missing"}}, []string{}},
		{false, map[string][]string{"before": {third}}, []string{"f-second", "f-first"}},
		{false, map[string][]string{"since": {"f-first"}}, []string{"f-third", "f-second"}},
		{true, map[string][]string{"network": {"none"}}, []string{"f-third", "f-second", "f-first"}},
		{true, map[string][]string{"network": {"bridge"}}, []string{}},
		{true, map[string][]string{"health": {"none"}, "name": {"first"}}, []string{"f-first"}},
		{true, map[string][]string{"health": {"healthy"}}, []string{}},
		{true, map[string][]string{"volume": {"x"}}, []string{}},
	} {
		if test.filters == nil {
			test.filters = map[string][]string{}
		}
		test.filters["label"] = append(test.filters["label"], "set=f")
		s.same(fmt.Sprintf("all %v, %v", test.all, test.filters), s.list(test.all, test.filters), test.want)
	}
	_, err := s.Engine.List(s.ctx, engine.ListOptions{Filters: map[string][]string{"colour": {"red"}}})
	s.refused(err, errdefs.IsInvalidArgument, "invalid filter 'colour'")
	_, err = s.Engine.List(s.ctx, engine.ListOptions{Filters: map[string][]string{"status": {"well"}}})
	s.refused(err, errdefs.IsInvalidArgument, "invalid filter 'status=well'")
	_, err = s.Engine.List(s.ctx, engine.ListOptions{Filters: map[string][]string{"before": {"nobody"}}})
	s.refused(err, errdefs.IsNotFound, "No such container: nobody")
}

func limit(s *suite) {
	s.create(engine.Spec{Name: "l-old"}, "sleep")
	s.create(engine.Spec{Name: "l-mid"}, "sleep")
	s.create(engine.Spec{Name: "l-new"}, "sleep")
	list, err := s.Engine.List(s.ctx, engine.ListOptions{Limit: 2, Filters: map[string][]string{"name": {"^l-"}}})
	if err != nil || len(list) != 2 {
		s.Fatalf("%d containers, %v; want 2", len(list), err)
	}
	s.same("newest two", []string{list[0].Names[0], list[1].Names[0]}, []string{"/l-new", "/l-mid"})
	s.same("status", list[0].Status, "Created")
}

func logs(s *suite) {
	id := s.run("print one", "sleep 20ms", "warn two", "sleep 20ms", "print three")
	s.wait(id)
	all := []string{"out: one", "err: two", "out: three"}
	with := func(change func(*engine.LogOptions)) engine.LogOptions {
		o := both
		change(&o)
		return o
	}
	var times []time.Time
	if err := s.Engine.Logs(s.ctx, id, both, func(l engine.LogLine) error { times = append(times, l.Time); return nil }); err != nil || len(times) != 3 {
		s.Fatalf("%d lines, %v; want 3", len(times), err)
	}
	for name, test := range map[string]struct {
		o    engine.LogOptions
		want []string
	}{
		"all":               {both, all},
		"stdout":            {engine.LogOptions{Stdout: true, Tail: -1}, []string{"out: one", "out: three"}},
		"stderr":            {engine.LogOptions{Stderr: true, Tail: -1}, []string{"err: two"}},
		"tail 2":            {with(func(o *engine.LogOptions) { o.Tail = 2 }), all[1:]},
		"tail 0":            {with(func(o *engine.LogOptions) { o.Tail = 0 }), nil},
		"tail more":         {with(func(o *engine.LogOptions) { o.Tail = 9 }), all},
		"since the second":  {with(func(o *engine.LogOptions) { o.Since = times[1] }), all[1:]},
		"since the end":     {with(func(o *engine.LogOptions) { o.Since = times[2].Add(1) }), nil},
		"until the second":  {with(func(o *engine.LogOptions) { o.Until = times[1] }), all[:2]},
		"follow when ended": {with(func(o *engine.LogOptions) { o.Follow = true }), all},
	} {
		s.same(name, s.lines(id, test.o), test.want)
	}
	err := s.Engine.Logs(s.ctx, id, engine.LogOptions{}, nil)
	s.refused(err, errdefs.IsInvalidArgument, "you must choose at least one stream")
	boom := fmt.Errorf("boom")
	if err := s.Engine.Logs(s.ctx, id, both, func(engine.LogLine) error { return boom }); err != boom {
		s.Errorf("an error of the callback came back as %v", err)
	}
}

func logsFollow(s *suite) {
	id := s.run("print one", "sleep 300ms", "print two", "sleep 300ms", "warn three", "exit 1")
	o := both
	o.Follow = true
	s.same("followed to the end", s.lines(id, o), []string{"out: one", "out: two", "err: three"})
	s.same("exit code", s.wait(id), 1)

	id = s.run("print first", "sleep")
	ctx, cancel := context.WithCancel(s.ctx)
	err := s.Engine.Logs(ctx, id, o, func(engine.LogLine) error { cancel(); return nil })
	if err == nil {
		s.Error("following ended without an error when its context did")
	}
}

func logsUntil(s *suite) {
	id := s.create(engine.Spec{}, "print x")
	s.same("log of a container that never ran", s.lines(id, both), []string(nil))
}
