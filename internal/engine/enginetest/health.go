package enginetest

import (
	"context"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"shoal.dev/shoal/internal/engine"
)

// quick is a health check that probes every 50 ms.
func quick(test ...string) *container.HealthConfig {
	return &container.HealthConfig{Test: test, Interval: 50 * time.Millisecond, Timeout: 10 * time.Second, Retries: 2}
}

// probed starts a container with a health check of steps.
func (s *suite) probed(steps ...string) string {
	s.Helper()
	h := quick(append([]string{"CMD"}, s.Command(steps...)...)...)
	return s.sleeper(engine.Spec{Config: &container.Config{Healthcheck: h}})
}

// health waits until the health is another one than known.
func (s *suite) health(id string, known container.HealthStatus) container.HealthStatus {
	s.Helper()
	h, err := s.Engine.WaitHealth(s.ctx, id, known)
	if err != nil {
		s.Fatalf("wait for another health than %q: %v", known, err)
	}
	return h
}

func (s *suite) summary(id string) container.Summary {
	s.Helper()
	list, err := s.Engine.List(s.ctx, engine.ListOptions{All: true, Filters: map[string][]string{"id": {id}}})
	if err != nil || len(list) != 1 {
		s.Fatalf("list %s: %+v, %v", id, list, err)
	}
	return list[0]
}

func healthy(s *suite) {
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	events := s.Engine.Events(ctx)
	id := s.create(engine.Spec{Config: &container.Config{Healthcheck: quick(append([]string{"CMD"}, s.Command("print fine", "exit 0")...)...)}}, "sleep")
	if h := s.inspect(id).State.Health; h != nil {
		s.Errorf("before the start: %+v", h)
	}
	s.same("before the start", s.health(id, ""), container.NoHealthcheck)
	s.start(id)
	s.same("after the start", s.health(id, container.NoHealthcheck), container.Starting)
	s.same("then", s.health(id, container.Starting), container.Healthy)
	h := s.inspect(id).State.Health
	if h == nil || h.Status != container.Healthy || h.FailingStreak != 0 || len(h.Log) == 0 {
		s.Fatalf("inspect: %+v", h)
	}
	r := h.Log[len(h.Log)-1]
	s.same("result", []any{r.ExitCode, r.Output, r.End.Before(r.Start)}, []any{0, "fine\n", false})
	sum := s.summary(id)
	if !strings.HasSuffix(sum.Status, " (healthy)") || sum.Health == nil || sum.Health.Status != container.Healthy {
		s.Errorf("ps: %q %+v", sum.Status, sum.Health)
	}
	s.same("filter healthy", len(s.list(false, map[string][]string{"id": {id}, "health": {"healthy"}})), 1)
	s.same("filter none", len(s.list(false, map[string][]string{"id": {id}, "health": {"none", "unhealthy", "starting"}})), 0)
	var got []string
	exec := ""
	for e := range events {
		if e.ID != id {
			continue
		}
		action, _, probe := strings.Cut(e.Action, ":")
		if probe && strings.HasPrefix(action, "exec_") {
			exec = e.Attributes["execID"]
			got = append(got, action)
		} else {
			got = append(got, e.Action)
		}
		if action == "exec_die" {
			s.same("attributes", []string{e.Attributes["execID"], e.Attributes["exitCode"]}, []string{exec, "0"})
		}
		if action == "health_status" {
			break
		}
	}
	s.same("events", got, []string{"create", "start", "exec_create", "exec_start", "exec_die", "health_status: healthy"})
	s.until("five results, not more", func() bool { return len(s.inspect(id).State.Health.Log) == 5 })
	last := func() time.Time { log := s.inspect(id).State.Health.Log; return log[len(log)-1].Start }
	for range 2 {
		before := last()
		s.until("one more result", func() bool { return last().After(before) })
	}
	s.same("results", len(s.inspect(id).State.Health.Log), 5)

	// Probes end with the container; a start begins anew.
	if err := s.Engine.Kill(s.ctx, id, ""); err != nil {
		s.Fatal(err)
	}
	s.same("after the end", s.health(id, ""), container.Healthy)
	if st := s.summary(id).Status; strings.Contains(st, "healthy") {
		s.Errorf("ps after the end: %q", st)
	}
	s.start(id)
	s.same("after another start", s.health(id, container.Healthy), container.Starting)
	s.same("then", s.health(id, container.Starting), container.Healthy)
	if err := s.Engine.Remove(s.ctx, id, true); err != nil {
		s.Fatal(err)
	}
	_, err := s.Engine.WaitHealth(s.ctx, id, "")
	s.refused(err, errdefs.IsNotFound, "No such container: "+id)
}

func unhealthy(s *suite) {
	id := s.probed("print bad", "exit 7")
	s.same("health", s.health(id, container.Starting), container.Unhealthy)
	h := s.inspect(id).State.Health
	if h.FailingStreak < 2 || h.Log[0].ExitCode != 7 || h.Log[0].Output != "bad\n" {
		s.Errorf("inspect: %+v %+v", h, h.Log[0])
	}
	if st := s.summary(id).Status; !strings.HasSuffix(st, " (unhealthy)") {
		s.Errorf("ps: %q", st)
	}
	id = s.sleeper(engine.Spec{Config: &container.Config{Healthcheck: quick("CMD-SHELL", "exit 1")}})
	s.same("health by a shell", s.health(id, container.Starting), container.Unhealthy)
}

// probeHangs is a probe that does not end: it is killed, and counts as a failure.
func probeHangs(s *suite) {
	h := quick(append([]string{"CMD"}, s.Command("print waiting", "sleep")...)...)
	h.Timeout, h.Retries = 300*time.Millisecond, 1
	id := s.sleeper(engine.Spec{Config: &container.Config{Healthcheck: h}})
	s.same("health", s.health(id, container.Starting), container.Unhealthy)
	r := s.inspect(id).State.Health.Log[0]
	s.same("result", []any{r.ExitCode, r.Output}, []any{-1, "Health check exceeded timeout (300ms): waiting\n"})
}

// probePaused is a container that is not probed while it is frozen.
func probePaused(s *suite) {
	id := s.probed("exit 0")
	s.same("health", s.health(id, container.Starting), container.Healthy)
	if err := s.Engine.Pause(s.ctx, id); err != nil {
		s.Fatal(err)
	}
	log := s.inspect(id).State.Health.Log
	ctx, cancel := context.WithTimeout(s.ctx, 300*time.Millisecond)
	defer cancel()
	if h, err := s.Engine.WaitHealth(ctx, id, container.Healthy); err == nil {
		s.Errorf("health of a frozen container: %s", h)
	}
	s.same("results while frozen", s.inspect(id).State.Health.Log, log)
	if err := s.Engine.Unpause(s.ctx, id); err != nil {
		s.Fatal(err)
	}
	s.until("it is probed again", func() bool {
		now := s.inspect(id).State.Health.Log
		return now[len(now)-1].Start.After(log[len(log)-1].Start)
	})
}

func healthBadInput(s *suite) {
	for _, tc := range []struct {
		edit func(*container.HealthConfig)
		want string
	}{
		{func(h *container.HealthConfig) { h.Interval = -time.Second }, "Interval in Healthcheck cannot be less than 1ms"},
		{func(h *container.HealthConfig) { h.Timeout = time.Microsecond }, "Timeout in Healthcheck cannot be less than 1ms"},
		{func(h *container.HealthConfig) { h.StartPeriod = 1 }, "StartPeriod in Healthcheck cannot be less than 1ms"},
		{func(h *container.HealthConfig) { h.StartInterval = 1 }, "StartInterval in Healthcheck cannot be less than 1ms"},
		{func(h *container.HealthConfig) { h.Retries = -1 }, "Retries in Healthcheck cannot be negative"},
		{func(h *container.HealthConfig) { h.Test = []string{"CMD"} }, "Test in Healthcheck has no command after CMD"},
	} {
		h := quick("CMD", "x")
		tc.edit(h)
		_, _, err := s.Engine.Create(s.ctx, engine.Spec{Config: &container.Config{Image: s.Image, Cmd: s.Command("sleep"), Healthcheck: h},
			HostConfig: &container.HostConfig{NetworkMode: "none"}})
		s.refused(err, errdefs.IsInvalidArgument, tc.want)
	}
	id := s.sleeper(engine.Spec{Config: &container.Config{Healthcheck: quick("NONE")}})
	s.same("switched off", s.health(id, ""), container.NoHealthcheck)
	if h := s.inspect(id).State.Health; h != nil {
		s.Errorf("inspect: %+v", h)
	}
}
