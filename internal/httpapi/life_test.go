package httpapi_test

import (
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"shoal.dev/shoal/internal/httpapi/apitest"
)

func TestClientLife(t *testing.T) {
	c, ctx := dial(t, handler(apitest.NewEngine(), apitest.NewSwarm()))
	if _, err := c.ContainerCreate(ctx, client.ContainerCreateOptions{Name: "old", Config: &container.Config{Image: "hello:1"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.ContainerRename(ctx, "old", client.ContainerRenameOptions{NewName: "new"}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.ContainerRestart(ctx, "new", client.ContainerRestartOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.ContainerPause(ctx, "new", client.ContainerPauseOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.ContainerPause(ctx, "new", client.ContainerPauseOptions{}); !errdefs.IsConflict(err) || !strings.Contains(err.Error(), "is already paused") {
		t.Errorf("a second pause: %v", err)
	}
	if _, err := c.ContainerUnpause(ctx, "new", client.ContainerUnpauseOptions{}); err != nil {
		t.Fatal(err)
	}
	top, err := c.ContainerTop(ctx, "new", client.ContainerTopOptions{Arguments: []string{"-o", "pid"}})
	if err != nil || len(top.Processes) != 1 || top.Processes[0][1] != "-o+pid" {
		t.Errorf("top %+v, %v", top, err)
	}
	pids := int64(9)
	if _, err := c.ContainerUpdate(ctx, "new", client.ContainerUpdateOptions{Resources: &container.Resources{Memory: 7 << 20, PidsLimit: &pids},
		RestartPolicy: &container.RestartPolicy{Name: "always"}}); err != nil {
		t.Fatal(err)
	}
	i, err := c.ContainerInspect(ctx, "new", client.ContainerInspectOptions{Size: true})
	if err != nil {
		t.Fatal(err)
	}
	if h := i.Container.HostConfig; h.Memory != 7<<20 || *h.PidsLimit != 9 || !h.RestartPolicy.IsAlways() {
		t.Errorf("after the update: %+v", h)
	}
	if i.Container.SizeRw == nil || *i.Container.SizeRw != 3 || *i.Container.SizeRootFs != 1<<33 {
		t.Errorf("size %v", i.Container.SizeRw)
	}
	if i, err := c.ContainerInspect(ctx, "new", client.ContainerInspectOptions{}); err != nil || i.Container.SizeRw != nil {
		t.Errorf("size without asking: %v, %v", i.Container.SizeRw, err)
	}
	if r, err := c.ContainerPrune(ctx, client.ContainerPruneOptions{}); err != nil || len(r.Report.ContainersDeleted) != 0 {
		t.Errorf("prune %+v, %v", r, err)
	}
	if _, err := c.ContainerPrune(ctx, client.ContainerPruneOptions{Filters: client.Filters{}.Add("colour", "red")}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("prune with an unknown filter: %v", err)
	}
	if _, err := c.ContainerStop(ctx, "new", client.ContainerStopOptions{}); err != nil {
		t.Fatal(err)
	}
	if r, err := c.ContainerPrune(ctx, client.ContainerPruneOptions{}); err != nil || len(r.Report.ContainersDeleted) != 1 || r.Report.SpaceReclaimed != 5 {
		t.Errorf("prune %+v, %v", r, err)
	}
}

func TestClientStats(t *testing.T) {
	c, ctx := dial(t, handler(apitest.NewEngine(), apitest.NewSwarm()))
	if _, err := c.ContainerCreate(ctx, client.ContainerCreateOptions{Name: "new", Config: &container.Config{Image: "hello:1"}}); err != nil {
		t.Fatal(err)
	}
	read := func(o client.ContainerStatsOptions, n int) (list []container.StatsResponse) {
		t.Helper()
		r, err := c.ContainerStats(ctx, "new", o)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		d := json.NewDecoder(r.Body)
		for range n {
			var s container.StatsResponse
			if err := d.Decode(&s); err != nil {
				t.Fatal(err)
			}
			list = append(list, s)
		}
		if !o.Stream {
			if _, err := d.Token(); !errors.Is(err, io.EOF) {
				t.Errorf("more than one sample: %v", err)
			}
		}
		return list
	}
	if s := read(client.ContainerStatsOptions{}, 1)[0]; s.Name != "/new" || !s.Read.IsZero() {
		t.Errorf("a container that does not run: %+v", s)
	}
	if _, err := c.ContainerStart(ctx, "new", client.ContainerStartOptions{}); err != nil {
		t.Fatal(err)
	}
	total := func(s container.StatsResponse) uint64 { return s.CPUStats.CPUUsage.TotalUsage }
	pre := func(s container.StatsResponse) uint64 { return s.PreCPUStats.CPUUsage.TotalUsage }
	if s := read(client.ContainerStatsOptions{}, 1)[0]; total(s) != 1 || pre(s) != 0 || !s.PreRead.IsZero() {
		t.Errorf("one shot: %+v", s)
	}
	if s := read(client.ContainerStatsOptions{IncludePreviousSample: true}, 1)[0]; total(s) != 3 || pre(s) != 2 {
		t.Errorf("one with the one before: %+v", s)
	}
	if l := read(client.ContainerStatsOptions{Stream: true}, 2); total(l[0]) != 4 || pre(l[0]) != 0 || total(l[1]) != 5 || pre(l[1]) != 4 {
		t.Errorf("stream: %+v", l)
	}
	if _, err := c.ContainerStats(ctx, "nobody", client.ContainerStatsOptions{Stream: true}); !errdefs.IsNotFound(err) {
		t.Errorf("of nobody: %v", err)
	}
}
