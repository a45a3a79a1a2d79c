package enginetest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"shoal.dev/shoal/internal/engine"
)

func pause(s *suite) {
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	ch := s.Engine.Events(ctx)
	id := s.create(engine.Spec{Name: "frozen"}, "print ready", "sleep")
	s.refused(s.Engine.Pause(s.ctx, "frozen"), errdefs.IsConflict, "container "+id+" is not running")
	s.start(id)
	s.ready(id, 1)
	s.refused(s.Engine.Unpause(s.ctx, id), errdefs.IsConflict, "Container "+id+" is not paused")
	if err := s.Engine.Pause(s.ctx, id); err != nil {
		s.Fatal(err)
	}
	i := s.inspect(id)
	s.same("state", []any{string(i.State.Status), i.State.Running, i.State.Paused, i.State.Pid != 0}, []any{"paused", true, true, true})
	s.same("listed", s.list(false, map[string][]string{"status": {"paused"}, "id": {id}}), []string{"frozen"})
	s.refused(s.Engine.Pause(s.ctx, id), errdefs.IsConflict, "Container "+id+" is already paused")
	s.refused(s.Engine.Start(s.ctx, id), errdefs.IsConflict, "cannot start a paused container, try unpause instead")
	s.refused(s.Engine.Remove(s.ctx, id, false), errdefs.IsConflict, "container is paused and must be unpaused first")
	if err := s.Engine.Unpause(s.ctx, id); err != nil {
		s.Fatal(err)
	}
	s.same("state", string(s.inspect(id).State.Status), "running")
	// A paused container can be stopped: the signal lets it go on.
	for _, end := range []func() error{
		func() error { return s.Engine.Stop(s.ctx, id, engine.StopOptions{}) },
		func() error { return s.Engine.Remove(s.ctx, id, true) },
	} {
		s.start(id)
		if err := s.Engine.Pause(s.ctx, id); err != nil {
			s.Fatal(err)
		}
		if err := end(); err != nil {
			s.Fatal(err)
		}
	}
	var got []string
	for e := range ch {
		if e.ID == id {
			if got = append(got, e.Action); e.Action == "destroy" {
				break
			}
		}
	}
	s.same("events", got[:4], []string{"create", "start", "pause", "unpause"})
	for _, err := range []error{s.Engine.Pause(s.ctx, "nobody"), s.Engine.Unpause(s.ctx, "nobody")} {
		s.refused(err, errdefs.IsNotFound, "No such container: nobody")
	}
}

func rename(s *suite) {
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	ch := s.Engine.Events(ctx)
	id := s.create(engine.Spec{Name: "r-old"}, "sleep")
	other := s.create(engine.Spec{Name: "r-other"}, "sleep")
	for to, want := range map[string]struct {
		class func(error) bool
		words string
	}{
		"":      {errdefs.IsInvalidArgument, "Neither old nor new names may be empty"},
		"r-old": {errdefs.IsInvalidArgument, "Renaming a container with the same name as its current name"},
		"a/b":   {errdefs.IsInvalidArgument, "Invalid container name (a/b), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"},
		"r-other": {errdefs.IsConflict, fmt.Sprintf("Error when allocating new name: Conflict. The container name %q is already in use by container %q. "+
			"You have to remove (or rename) that container to be able to reuse that name.", "/r-other", other)},
	} {
		s.refused(s.Engine.Rename(s.ctx, "r-old", to), want.class, want.words)
	}
	if err := s.Engine.Rename(s.ctx, "r-old", "/r-new"); err != nil {
		s.Fatal(err)
	}
	s.same("name", s.inspect("r-new").Name, "/r-new")
	_, err := s.Engine.Inspect(s.ctx, "r-old")
	s.refused(err, errdefs.IsNotFound, "No such container: r-old")
	s.create(engine.Spec{Name: "r-old"}, "sleep") // the name is free
	for e := range ch {
		if e.ID == id && e.Action == "rename" {
			s.same("attributes", []string{e.Attributes["oldName"], e.Attributes["name"]}, []string{"/r-old", "r-new"})
			break
		}
	}
	s.refused(s.Engine.Rename(s.ctx, "nobody", "somebody"), errdefs.IsNotFound, "No such container: nobody")
}

func top(s *suite) {
	id := s.create(engine.Spec{}, "print ready", "sleep")
	_, err := s.Engine.Top(s.ctx, id, nil)
	s.refused(err, errdefs.IsConflict, "container "+id+" is not running")
	s.start(id)
	s.ready(id, 1)
	r, err := s.Engine.Top(s.ctx, id, nil)
	if err != nil {
		s.Fatal(err)
	}
	s.same("titles", r.Titles, []string{"UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"})
	pid := fmt.Sprint(s.inspect(id).State.Pid)
	if !slices.ContainsFunc(r.Processes, func(p []string) bool { return len(p) == 8 && p[1] == pid }) {
		s.Errorf("the first process, %s, is not among %q", pid, r.Processes)
	}
	if len(r.Processes) > 3 {
		s.Errorf("processes of others are among %q", r.Processes)
	}
	_, err = s.Engine.Top(s.ctx, "nobody", nil)
	s.refused(err, errdefs.IsNotFound, "No such container: nobody")
}

func stats(s *suite) {
	id := s.create(engine.Spec{Name: "measured", HostConfig: &container.HostConfig{Resources: container.Resources{Memory: 64 << 20}}}, "print ready", "sleep")
	sample := func() *container.StatsResponse {
		s.Helper()
		r, err := s.Engine.Stats(s.ctx, id)
		if err != nil {
			s.Fatal(err)
		}
		return r
	}
	r := sample()
	s.same("before the start", []any{r.ID, r.Name, r.Read.IsZero(), r.MemoryStats.Usage}, []any{id, "/measured", true, uint64(0)})
	s.start(id)
	s.ready(id, 1)
	one := sample()
	s.same("limit", one.MemoryStats.Limit, uint64(64<<20))
	if one.Read.IsZero() || one.MemoryStats.Usage == 0 || one.PidsStats.Current == 0 || one.CPUStats.CPUUsage.TotalUsage == 0 || one.CPUStats.SystemUsage == 0 || one.CPUStats.OnlineCPUs == 0 {
		s.Errorf("sample %+v", one)
	}
	two := sample()
	if two.CPUStats.CPUUsage.TotalUsage < one.CPUStats.CPUUsage.TotalUsage || two.CPUStats.SystemUsage < one.CPUStats.SystemUsage || two.Read.Before(one.Read) {
		s.Errorf("a later sample is smaller: %+v, %+v", one, two)
	}
	_, err := s.Engine.Stats(s.ctx, "nobody")
	s.refused(err, errdefs.IsNotFound, "No such container: nobody")
}

func update(s *suite) {
	id := s.create(policy("no", 0), "print ready", "sleep")
	s.start(id)
	s.ready(id, 1)
	pids := int64(77)
	change := func(u container.UpdateConfig) error {
		_, err := s.Engine.Update(s.ctx, id, u)
		return err
	}
	if err := change(container.UpdateConfig{Resources: container.Resources{Memory: 96 << 20, NanoCPUs: 5e8, PidsLimit: &pids}}); err != nil {
		s.Fatal(err)
	}
	if err := change(container.UpdateConfig{RestartPolicy: container.RestartPolicy{Name: "always"}}); err != nil {
		s.Fatal(err)
	}
	h := s.inspect(id).HostConfig
	s.same("settings", []any{h.Memory, h.NanoCPUs, *h.PidsLimit, string(h.RestartPolicy.Name)}, []any{int64(96 << 20), int64(5e8), pids, "always"})
	r, err := s.Engine.Stats(s.ctx, id)
	if err != nil {
		s.Fatal(err)
	}
	s.same("the kernel's limit", r.MemoryStats.Limit, uint64(96<<20))
	s.refused(change(container.UpdateConfig{Resources: container.Resources{Memory: 1 << 20}}), errdefs.IsInvalidArgument, "Minimum memory limit allowed is 6MB")
	s.refused(change(container.UpdateConfig{Resources: container.Resources{CPUQuota: 1000}}), errdefs.IsConflict, "CPU Quota cannot be updated as NanoCPUs has already been set")
	s.refused(change(container.UpdateConfig{RestartPolicy: container.RestartPolicy{Name: "often"}}), errdefs.IsInvalidArgument, "unknown policy 'often'")
	s.same("settings after refusals", s.inspect(id).HostConfig.Memory, int64(96<<20))
	if err := s.Engine.Kill(s.ctx, id, "SIGINT"); err != nil { // which does not mean that it is to end
		s.Fatal(err)
	}
	s.restarts(id, 1) // the new policy holds
	once := s.create(engine.Spec{HostConfig: &container.HostConfig{AutoRemove: true}}, "sleep")
	_, err = s.Engine.Update(s.ctx, once, container.UpdateConfig{RestartPolicy: container.RestartPolicy{Name: "always"}})
	s.refused(err, errdefs.IsConflict, "Restart policy cannot be updated because AutoRemove is enabled for the container")
}

func prune(s *suite) {
	labels := func(v string) engine.Spec {
		return engine.Spec{Config: &container.Config{Labels: map[string]string{"prune": v}}}
	}
	keep, gone, running := s.create(labels("keep"), "sleep"), s.create(labels("yes"), "exit 0"), s.create(labels("yes"), "sleep")
	s.start(gone)
	s.wait(gone)
	s.start(running)
	mine := func(more map[string][]string) container.PruneReport {
		s.Helper()
		more["label"] = append(more["label"], "prune")
		r, err := s.Engine.Prune(s.ctx, more)
		if err != nil {
			s.Fatal(err)
		}
		return r
	}
	s.same("until an hour ago", mine(map[string][]string{"until": {"1h"}}).ContainersDeleted, []string{})
	s.same("all but", mine(map[string][]string{"label!": {"prune=keep"}}).ContainersDeleted, []string{gone})
	s.same("the rest", mine(map[string][]string{"until": {fmt.Sprint(time.Now().Add(time.Hour).Unix())}}).ContainersDeleted, []string{keep})
	s.same("what runs", string(s.inspect(running).State.Status), "running")
	_, err := s.Engine.Prune(s.ctx, map[string][]string{"colour": {"red"}})
	s.refused(err, errdefs.IsInvalidArgument, "invalid filter 'colour'")
	_, err = s.Engine.Prune(s.ctx, map[string][]string{"until": {"soon"}})
	s.refused(err, errdefs.IsInvalidArgument, "invalid filter 'until=soon'")
}

func size(s *suite) {
	id := s.run("exit 0")
	s.wait(id)
	rw, rootFS, err := s.Engine.Size(s.ctx, id)
	if err != nil || rw < 0 || rootFS < rw {
		s.Errorf("size %d of %d, %v", rw, rootFS, err)
	}
	_, _, err = s.Engine.Size(s.ctx, "nobody")
	s.refused(err, errdefs.IsNotFound, "No such container: nobody")
	for _, f := range []map[string][]string{{"expose": {"x"}}, {"publish": {"80-x"}}} {
		_, err := s.Engine.List(s.ctx, engine.ListOptions{All: true, Filters: f})
		if err == nil || !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "invalid filter") {
			s.Errorf("filter %v: %v", f, err)
		}
	}
	s.same("not exposed", s.list(true, map[string][]string{"expose": {"7000-7001/udp"}, "id": {id}}), []string{})
	s.same("not published", s.list(true, map[string][]string{"publish": {"80"}, "id": {id}}), []string{})
}
