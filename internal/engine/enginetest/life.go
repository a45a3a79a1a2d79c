package enginetest

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"shoal.dev/shoal/internal/engine"
)

func lifecycle(s *suite) {
	before := time.Now().Add(-time.Second)
	id := s.create(engine.Spec{Name: "life", Config: &container.Config{Labels: map[string]string{"a": "b"}, Env: []string{"X=1"}}}, "print ready", "sleep")
	i := s.inspect("life")
	s.same("state after create", []any{i.ID, i.Name, string(i.State.Status), i.State.Running, i.State.Pid}, []any{id, "/life", "created", false, 0})
	s.same("label", i.Config.Labels["a"], "b")
	if !slices.Contains(i.Config.Env, "X=1") {
		s.Errorf("environment %q lacks X=1", i.Config.Env)
	}
	s.start(id)
	s.start(id) // does nothing
	i = s.inspect(id[:10])
	if string(i.State.Status) != "running" || !i.State.Running || i.State.Pid == 0 {
		s.Errorf("state after start: %+v", i.State)
	}
	if at, err := time.Parse(time.RFC3339Nano, i.State.StartedAt); err != nil || at.Before(before) {
		s.Errorf("started at %q: %v", i.State.StartedAt, err)
	}
	s.ready(id, 1)
	if err := s.Engine.Stop(s.ctx, id, engine.StopOptions{}); err != nil {
		s.Fatal(err)
	}
	i = s.inspect(id)
	s.same("state after stop", []any{string(i.State.Status), i.State.Running, i.State.ExitCode, i.State.Pid}, []any{"exited", false, 143, 0})
	if at, err := time.Parse(time.RFC3339Nano, i.State.FinishedAt); err != nil || at.Before(before) {
		s.Errorf("finished at %q: %v", i.State.FinishedAt, err)
	}
	if err := s.Engine.Remove(s.ctx, id, false); err != nil {
		s.Fatal(err)
	}
	_, err := s.Engine.Inspect(s.ctx, id)
	s.refused(err, errdefs.IsNotFound, "No such container: "+id)
}

func exitCodes(s *suite) {
	for _, code := range []int{0, 1, 3, 255} {
		id := s.run(fmt.Sprintf("exit %d", code))
		s.same("exit code", s.wait(id), code)
		s.same("inspected exit code", s.inspect(id).State.ExitCode, code)
	}
}

func waitConditions(s *suite) {
	id := s.create(engine.Spec{}, "exit 4")
	s.same("not-running, of a container that never ran", s.wait(id), 0)
	next, err := s.Engine.Wait(s.ctx, id, container.WaitConditionNextExit)
	if err != nil {
		s.Fatal(err)
	}
	removed, err := s.Engine.Wait(s.ctx, id, container.WaitConditionRemoved)
	if err != nil {
		s.Fatal(err)
	}
	select {
	case r := <-next:
		s.Fatalf("next-exit before the start: %+v", r)
	default:
	}
	s.start(id)
	s.same("next-exit", s.result(next), 4)
	s.same("not-running, of a container that ended", s.wait(id), 4)
	select {
	case r := <-removed:
		s.Fatalf("removed before the removal: %+v", r)
	default:
	}
	if err := s.Engine.Remove(s.ctx, id, false); err != nil {
		s.Fatal(err)
	}
	s.same("removed", s.result(removed), 4)
	_, err = s.Engine.Wait(s.ctx, id, "never")
	s.refused(err, errdefs.IsInvalidArgument, "invalid condition")
}

func waitContext(s *suite) {
	id := s.run("sleep")
	ctx, cancel := context.WithCancel(s.ctx)
	ch, err := s.Engine.Wait(ctx, id, container.WaitConditionNotRunning)
	if err != nil {
		s.Fatal(err)
	}
	cancel()
	if r := <-ch; r.Err == nil {
		s.Errorf("wait gave %+v when its context ended", r)
	}
}

func names(s *suite) {
	id := s.create(engine.Spec{Name: "one"}, "sleep")
	made := s.create(engine.Spec{}, "sleep")
	for _, name := range []string{"one", "/one", id, id[:12], id[:6]} {
		if i := s.inspect(name); i.ID != id {
			s.Errorf("inspect %q gave %s", name, i.ID)
		}
	}
	if n := s.inspect(made).Name; len(n) < 3 {
		s.Errorf("made-up name %q", n)
	}
	_, err := s.Engine.Inspect(s.ctx, "nobody")
	s.refused(err, errdefs.IsNotFound, "No such container: nobody")
	for _, err := range []error{
		s.Engine.Start(s.ctx, "nobody"), s.Engine.Stop(s.ctx, "nobody", engine.StopOptions{}),
		s.Engine.Kill(s.ctx, "nobody", ""), s.Engine.Remove(s.ctx, "nobody", true),
		s.Engine.Logs(s.ctx, "nobody", engine.LogOptions{Stdout: true, Tail: -1}, nil),
	} {
		s.refused(err, errdefs.IsNotFound, "No such container: nobody")
	}
	_, err = s.Engine.Wait(s.ctx, "nobody", "")
	s.refused(err, errdefs.IsNotFound, "No such container: nobody")
}

func nameConflict(s *suite) {
	id := s.create(engine.Spec{Name: "taken"}, "sleep")
	spec := func(name string) engine.Spec {
		return engine.Spec{Name: name, Config: &container.Config{Image: s.Image, Cmd: s.Command("sleep")},
			HostConfig: &container.HostConfig{NetworkMode: "none"}}
	}
	_, _, err := s.Engine.Create(s.ctx, spec("taken"))
	s.refused(err, errdefs.IsConflict, fmt.Sprintf("Conflict. The container name %q is already in use by container %q. "+
		"You have to remove (or rename) that container to be able to reuse that name.", "/taken", id))
	_, _, err = s.Engine.Create(s.ctx, spec("no/good"))
	s.refused(err, errdefs.IsInvalidArgument, "Invalid container name (no/good), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")
	if err := s.Engine.Remove(s.ctx, id, false); err != nil {
		s.Fatal(err)
	}
	s.create(engine.Spec{Name: "taken"}, "sleep")
}

func badInput(s *suite) {
	base := func() engine.Spec {
		return engine.Spec{Name: "bad", Config: &container.Config{Image: s.Image, Cmd: s.Command("sleep")},
			HostConfig: &container.HostConfig{NetworkMode: "none"}}
	}
	for _, test := range []struct {
		name  string
		spoil func(*engine.Spec)
		class func(error) bool
		words string
	}{
		{"no configuration", func(c *engine.Spec) { c.Config = nil }, errdefs.IsInvalidArgument, "config cannot be empty"},
		{"unknown image", func(c *engine.Spec) { c.Config.Image = "missing:7" }, errdefs.IsNotFound, "No such image: missing:7"},
		{"image without a tag", func(c *engine.Spec) { c.Config.Image = "missing" }, errdefs.IsNotFound, "No such image: missing:latest"},
		{"no reference", func(c *engine.Spec) { c.Config.Image = "A b" }, errdefs.IsInvalidArgument, "invalid reference format"},
		{"restart policy and removal", func(c *engine.Spec) { c.HostConfig.RestartPolicy.Name, c.HostConfig.AutoRemove = "always", true }, errdefs.IsInvalidArgument, "can't create 'AutoRemove' container with restart policy"},
		{"unknown restart policy", func(c *engine.Spec) { c.HostConfig.RestartPolicy.Name = "often" }, errdefs.IsInvalidArgument, "unknown policy 'often'"},
		{"a port that is none", func(c *engine.Spec) {
			c.HostConfig.PortBindings = network.PortMap{network.MustParsePort("80/tcp"): {{HostPort: "9-7"}}}
		}, errdefs.IsInvalidArgument, `invalid port specification: "9-7"`},
		{"an address on the bridge", func(c *engine.Spec) {
			c.HostConfig.NetworkMode, c.Networks = "bridge", map[string]*network.EndpointSettings{"bridge": {IPAMConfig: &network.EndpointIPAMConfig{IPv4Address: netip.MustParseAddr("172.18.0.9")}}}
		}, errdefs.IsInvalidArgument, "invalid config for network bridge: invalid endpoint settings:\nuser-specified IP address is supported on user-defined networks only"},
		{"an alias on the bridge", func(c *engine.Spec) {
			c.HostConfig.NetworkMode, c.Networks = "bridge", map[string]*network.EndpointSettings{"bridge": {Aliases: []string{"x"}}}
		}, errdefs.IsInvalidArgument, "network-scoped aliases are only supported for user-defined networks"},
		{"host and another network", func(c *engine.Spec) {
			c.HostConfig.NetworkMode, c.Networks = "host", map[string]*network.EndpointSettings{"bridge": {}}
		}, errdefs.IsInvalidArgument, "container sharing network namespace with another container or host cannot be connected to any other network"},
	} {
		s.Run(test.name, func(t *testing.T) {
			spec := base()
			test.spoil(&spec)
			_, _, err := s.Engine.Create(s.ctx, spec)
			(&suite{T: t, Fixture: s.Fixture, ctx: s.ctx}).refused(err, test.class, test.words)
		})
	}
	s.same("containers left by refused creations", s.list(true, map[string][]string{"name": {"^bad$"}}), []string{})
}

func kill(s *suite) {
	for signal, code := range map[string]int{"": 137, "KILL": 137, "SIGKILL": 137, "9": 137, "SIGTERM": 143, "term": 143, "15": 143} {
		id := s.sleeper(engine.Spec{})
		if err := s.Engine.Kill(s.ctx, id, signal); err != nil {
			s.Errorf("kill %q: %v", signal, err)
			continue
		}
		s.same("exit code after "+signal, s.wait(id), code)
	}
	id := s.run("exit 0")
	s.wait(id)
	s.refused(s.Engine.Kill(s.ctx, id, ""), errdefs.IsConflict, "is not running")
	s.refused(s.Engine.Kill(s.ctx, id, "SIGNONSENSE"), errdefs.IsInvalidArgument, "invalid signal: SIGNONSENSE")
}

func stop(s *suite) {
	id := s.create(engine.Spec{}, "print ready", "sleep")
	if err := s.Engine.Stop(s.ctx, id, engine.StopOptions{}); err != nil {
		s.Errorf("stop of a container that never ran: %v", err)
	}
	s.start(id)
	s.ready(id, 1)
	if err := s.Engine.Stop(s.ctx, id, engine.StopOptions{Signal: "SIGINT"}); err != nil {
		s.Fatal(err)
	}
	s.same("exit code", s.wait(id), 130)
	if err := s.Engine.Stop(s.ctx, id, engine.StopOptions{}); err != nil {
		s.Errorf("second stop: %v", err)
	}
	own := s.sleeper(engine.Spec{Config: &container.Config{StopSignal: "SIGUSR1"}})
	if err := s.Engine.Stop(s.ctx, own, engine.StopOptions{}); err != nil {
		s.Fatal(err)
	}
	s.same("exit code of the container's own signal", s.wait(own), 138)
}

func stopStubborn(s *suite) {
	id := s.run("stubborn", "print ready", "sleep")
	s.ready(id, 1)
	grace := 300 * time.Millisecond
	begin := time.Now()
	if err := s.Engine.Stop(s.ctx, id, engine.StopOptions{Timeout: &grace}); err != nil {
		s.Fatal(err)
	}
	if took := time.Since(begin); took < grace {
		s.Errorf("killed after %s, before the grace of %s", took, grace)
	}
	s.same("exit code", s.wait(id), 137)
}

func restart(s *suite) {
	id := s.run("print again", "exit 6")
	s.same("first", s.wait(id), 6)
	next, err := s.Engine.Wait(s.ctx, id, container.WaitConditionNextExit)
	if err != nil {
		s.Fatal(err)
	}
	s.start(id)
	s.same("second", s.result(next), 6)
	s.same("log of both runs", s.lines(id, both), []string{"out: again", "out: again"})
}

func remove(s *suite) {
	id := s.create(engine.Spec{Name: "gone"}, "sleep")
	s.start(id)
	s.refused(s.Engine.Remove(s.ctx, id, false), errdefs.IsConflict,
		`cannot remove container "/gone": container is running: stop the container before removing or force remove`)
	s.same("still running", s.inspect(id).State.Running, true)
	if err := s.Engine.Remove(s.ctx, id, true); err != nil {
		s.Fatal(err)
	}
	s.refused(s.Engine.Remove(s.ctx, id, true), errdefs.IsNotFound, "No such container")
}

func autoRemove(s *suite) {
	id := s.create(engine.Spec{HostConfig: &container.HostConfig{AutoRemove: true}}, "exit 2")
	removed, err := s.Engine.Wait(s.ctx, id, container.WaitConditionRemoved)
	if err != nil {
		s.Fatal(err)
	}
	s.start(id)
	s.same("exit code", s.result(removed), 2)
	_, err = s.Engine.Inspect(s.ctx, id)
	s.refused(err, errdefs.IsNotFound, "No such container")
}

func events(s *suite) {
	ctx, cancel := context.WithCancel(s.ctx)
	ch := s.Engine.Events(ctx)
	id := s.create(engine.Spec{Name: "event", Config: &container.Config{Labels: map[string]string{"k": "v"}}}, "print ready", "sleep")
	s.start(id)
	s.ready(id, 1)
	if err := s.Engine.Stop(s.ctx, id, engine.StopOptions{}); err != nil {
		s.Fatal(err)
	}
	s.start(id)
	if err := s.Engine.Remove(s.ctx, id, true); err != nil {
		s.Fatal(err)
	}
	var got []string
	var last time.Time
	for e := range ch {
		if e.ID != id {
			continue
		}
		what := e.Action
		for _, k := range []string{"signal", "exitCode"} {
			if v, ok := e.Attributes[k]; ok {
				what += " " + v
			}
		}
		got = append(got, what)
		s.same("attributes of "+what, []string{e.Type, e.Attributes["name"], e.Attributes["image"], e.Attributes["k"]},
			[]string{"container", "event", s.Image, "v"})
		if e.Time.Before(last) {
			s.Errorf("%s happened at %s, before the event before it", what, e.Time)
		}
		if last = e.Time; e.Action == "destroy" {
			break
		}
	}
	s.same("events", got, []string{"create", "start", "kill 15", "die 143", "stop", "start", "kill 9", "die 137", "destroy"})
	cancel()
	for range ch {
	}
}
