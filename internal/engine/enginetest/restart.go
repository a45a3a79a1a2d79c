package enginetest

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"shoal.dev/shoal/internal/engine"
)

func policy(name container.RestartPolicyMode, most int) engine.Spec {
	return engine.Spec{HostConfig: &container.HostConfig{RestartPolicy: container.RestartPolicy{Name: name, MaximumRetryCount: most}}}
}

// restarts waits until a container has been restarted n times by its policy.
func (s *suite) restarts(id string, n int) {
	s.Helper()
	s.until("the container was restarted", func() bool { return s.inspect(id).RestartCount >= n })
}

func restartPolicies(s *suite) {
	for _, test := range []struct {
		name     string
		spec     engine.Spec
		steps    []string
		restarts int // at least; exact if it ends
		ends     bool
	}{
		{"no", policy("no", 0), []string{"print x", "exit 1"}, 0, true},
		{"none given", engine.Spec{}, []string{"print x", "exit 1"}, 0, true},
		{"on-failure, a failure twice", policy("on-failure", 2), []string{"print x", "exit 3"}, 2, true},
		{"on-failure, success", policy("on-failure", 0), []string{"print x", "exit 0"}, 0, true},
		{"on-failure without a bound", policy("on-failure", 0), []string{"print x", "exit 1"}, 3, false},
		{"always, success", policy("always", 0), []string{"print x", "exit 0"}, 3, false},
		{"unless-stopped", policy("unless-stopped", 0), []string{"print x", "exit 1"}, 3, false},
	} {
		id := s.create(test.spec, test.steps...)
		began := time.Now()
		s.start(id)
		s.restarts(id, test.restarts)
		if !test.ends {
			if took := time.Since(began); took < 300*time.Millisecond {
				s.Errorf("%s: the third restart was due within %s; the delays before it are 100 and 200 ms", test.name, took)
			}
			if err := s.Engine.Stop(s.ctx, id, engine.StopOptions{}); err != nil {
				s.Fatalf("%s: %v", test.name, err)
			}
			continue
		}
		s.until(test.name+" exited", func() bool { return s.inspect(id).State.Status == container.StateExited })
		s.same(test.name+": restarts", s.inspect(id).RestartCount, test.restarts)
		s.same(test.name+": runs", len(s.lines(id, both)), test.restarts+1)
	}
}

func restartEvents(s *suite) {
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	ch := s.Engine.Events(ctx)
	id := s.create(policy("on-failure", 1), "exit 5")
	s.start(id)
	var got []string
	for e := range ch {
		if e.ID != id {
			continue
		}
		if got = append(got, strings.TrimSpace(e.Action+" "+e.Attributes["exitCode"])); len(got) == 5 {
			break
		}
	}
	s.same("events", got, []string{"create", "start", "die 5", "start", "die 5"})
	s.until("exited", func() bool { return s.inspect(id).State.Status == container.StateExited })
	s.start(id) // a user's start begins to count anew
	s.until("restarted again", func() bool {
		i := s.inspect(id)
		return i.RestartCount == 1 && i.State.Status == container.StateExited
	})
}

func stopWhileRestarting(s *suite) {
	id := s.create(policy("always", 0), "exit 1")
	s.start(id)
	s.restarts(id, 2) // the delay is 200 ms and more from here on
	var i *container.InspectResponse
	s.until("it waits for its restart", func() bool {
		i = s.inspect(id)
		return i.State.Status == container.StateRestarting
	})
	s.same("state", []any{i.State.Running, i.State.Restarting, i.State.Pid, i.State.ExitCode}, []any{true, true, 0, 1})
	if list := s.list(false, map[string][]string{"id": {id}}); len(list) != 1 {
		s.Errorf("a container that restarts is not among the running: %v", list)
	}
	ch, err := s.Engine.Wait(s.ctx, id, container.WaitConditionNotRunning)
	if err != nil {
		s.Fatal(err)
	}
	if err := s.Engine.Remove(s.ctx, id, false); err == nil || !errdefs.IsConflict(err) || !strings.Contains(err.Error(), "stop the container before removing") {
		s.Errorf("removal of an active container: %v", err)
	}
	if err := s.Engine.Stop(s.ctx, id, engine.StopOptions{}); err != nil {
		s.Fatal(err)
	}
	s.result(ch)
	i = s.inspect(id)
	s.same("state after the stop", []any{string(i.State.Status), i.State.Running, i.State.Restarting}, []any{"exited", false, false})
	// It stays so for longer than the delay that was running.
	runs := i.RestartCount
	select {
	case <-time.After(time.Second):
	case <-s.ctx.Done():
	}
	i = s.inspect(id)
	s.same("a second later", []any{string(i.State.Status), i.RestartCount}, []any{"exited", runs})
	s.start(id)
	s.restarts(id, 1)
	if err := s.Engine.Remove(s.ctx, id, true); err != nil {
		s.Errorf("forced removal: %v", err)
	}
}

func stopEndsPolicy(s *suite) {
	for name, end := range map[string]func(id string) error{
		"stop": func(id string) error { return s.Engine.Stop(s.ctx, id, engine.StopOptions{}) },
		"kill": func(id string) error { return s.Engine.Kill(s.ctx, id, "") },
	} {
		spec := policy("always", 0)
		id := s.sleeper(spec)
		if err := end(id); err != nil {
			s.Fatalf("%s: %v", name, err)
		}
		s.same("state after "+name, string(s.inspect(id).State.Status), "exited")
		s.same("restarts after "+name, s.inspect(id).RestartCount, 0)
	}
	// A signal that is not meant to end it leaves the policy as it is.
	id := s.sleeper(policy("always", 0))
	if err := s.Engine.Kill(s.ctx, id, "SIGINT"); err != nil {
		s.Fatal(err)
	}
	s.restarts(id, 1)
}

func userRestart(s *suite) {
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	ch := s.Engine.Events(ctx)
	id := s.create(engine.Spec{HostConfig: &container.HostConfig{AutoRemove: true}}, "print ready", "sleep")
	s.start(id)
	s.ready(id, 1)
	if err := s.Engine.Restart(s.ctx, id, engine.StopOptions{}); err != nil {
		s.Fatal(err)
	}
	s.ready(id, 2)
	i := s.inspect(id)
	s.same("state", []any{string(i.State.Status), i.RestartCount}, []any{"running", 0})
	if err := s.Engine.Stop(s.ctx, id, engine.StopOptions{}); err != nil {
		s.Fatal(err)
	}
	var got []string
	for e := range ch {
		if e.ID == id {
			got = append(got, e.Action)
			if e.Action == "destroy" {
				break
			}
		}
	}
	if want := []string{"create", "start", "kill", "die", "stop", "start", "restart", "kill", "die"}; len(got) < len(want) || !slices.Equal(got[:len(want)], want) {
		s.Errorf("events %v; want %v and then stop and destroy in either order", got, want)
	}
	s.refused(s.Engine.Restart(s.ctx, "nobody", engine.StopOptions{}), errdefs.IsNotFound, "No such container: nobody")
	again := s.run("exit 0")
	s.wait(again)
	if err := s.Engine.Restart(s.ctx, again, engine.StopOptions{}); err != nil {
		s.Errorf("restart of a container that does not run: %v", err)
	}
}
