package control_test

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/control"
	"shoal.dev/shoal/internal/store"
)

func inMode(name string, m swarm.ServiceMode) swarm.ServiceSpec {
	s := spec(name, 0)
	s.Mode = m
	return s
}

func number(n uint64) *uint64 { return &n }

func TestModesAreFilledIn(t *testing.T) {
	c, _ := newControl(t, fakeRegistry{})
	for name, tc := range map[string]struct{ in, want swarm.ServiceMode }{
		"none":       {swarm.ServiceMode{}, swarm.ServiceMode{Replicated: &swarm.ReplicatedService{Replicas: number(1)}}},
		"replicated": {swarm.ServiceMode{Replicated: &swarm.ReplicatedService{}}, swarm.ServiceMode{Replicated: &swarm.ReplicatedService{Replicas: number(1)}}},
		"global":     {swarm.ServiceMode{Global: &swarm.GlobalService{}}, swarm.ServiceMode{Global: &swarm.GlobalService{}}},
		"job": {swarm.ServiceMode{ReplicatedJob: &swarm.ReplicatedJob{}},
			swarm.ServiceMode{ReplicatedJob: &swarm.ReplicatedJob{MaxConcurrent: number(1), TotalCompletions: number(1)}}},
		"concurrent": {swarm.ServiceMode{ReplicatedJob: &swarm.ReplicatedJob{MaxConcurrent: number(3)}},
			swarm.ServiceMode{ReplicatedJob: &swarm.ReplicatedJob{MaxConcurrent: number(3), TotalCompletions: number(3)}}},
		"total": {swarm.ServiceMode{ReplicatedJob: &swarm.ReplicatedJob{TotalCompletions: number(3)}},
			swarm.ServiceMode{ReplicatedJob: &swarm.ReplicatedJob{MaxConcurrent: number(1), TotalCompletions: number(3)}}},
	} {
		mustCreate(t, c, inMode(name, tc.in))
		svc, err := c.Service(t.Context(), name, false)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(tc.want, svc.Spec.Mode); d != "" {
			t.Errorf("%s: %s", name, d)
		}
		if job := tc.want.ReplicatedJob != nil; (svc.JobStatus != nil) != job || job && svc.JobStatus.LastExecution.IsZero() {
			t.Errorf("%s: job status %+v", name, svc.JobStatus)
		}
	}
}

func TestAModeNeverChanges(t *testing.T) {
	c, _ := newControl(t, fakeRegistry{})
	mustCreate(t, c, inMode("web", swarm.ServiceMode{Global: &swarm.GlobalService{}}))
	svc, err := c.Service(t.Context(), "web", false)
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.UpdateService(t.Context(), "web", svc.Version.Index, spec("web", 3), control.UpdateOptions{})
	if !errdefs.IsNotImplemented(err) || err.Error() != "service mode change is not allowed" {
		t.Error(err)
	}
}

// Every update of a job is a new run, also one that changes nothing and a rollback; and what is read can be written.
func TestAnUpdateRunsAJobAgain(t *testing.T) {
	c, _ := newControl(t, fakeRegistry{})
	mustCreate(t, c, inMode("web", swarm.ServiceMode{ReplicatedJob: &swarm.ReplicatedJob{TotalCompletions: number(3)}}))
	last := swarm.JobStatus{}
	for i, o := range []control.UpdateOptions{{}, {}, {Rollback: "previous"}} {
		svc, err := c.Service(t.Context(), "web", true)
		if err != nil {
			t.Fatal(err)
		}
		if svc.JobStatus.JobIteration.Index != uint64(i) || svc.JobStatus.LastExecution.Before(last.LastExecution) || svc.UpdateStatus != nil {
			t.Errorf("run %d: %+v, %+v", i, svc.JobStatus, svc.UpdateStatus)
		}
		last = *svc.JobStatus
		if _, err := c.UpdateService(t.Context(), "web", svc.Version.Index, svc.Spec, o); err != nil {
			t.Fatal(err)
		}
	}
	svc, err := c.Service(t.Context(), "web", false)
	if err != nil || svc.JobStatus.JobIteration.Index != 3 || svc.UpdateStatus != nil {
		t.Errorf("%+v %v", svc, err)
	}
	sp := svc.Spec
	sp.UpdateConfig = &swarm.UpdateConfig{Parallelism: 1}
	if _, err := c.UpdateService(t.Context(), "web", svc.Version.Index, sp, control.UpdateOptions{}); !errdefs.IsInvalidArgument(err) || err.Error() != "Jobs may not have an update config" {
		t.Error(err)
	}
}

func TestServiceStatus(t *testing.T) {
	c, s := newControl(t, fakeRegistry{})
	task := func(service string, slot int, node string, state, desired swarm.TaskState, run int) {
		k := &cluster.Task{ServiceName: service, Global: node != ""}
		k.ID, k.ServiceID, k.Slot, k.NodeID = cluster.NewID(), service, slot, "node1id"
		if node != "" {
			k.NodeID = node
		}
		k.Status.State, k.DesiredState = state, desired
		if run >= 0 {
			k.JobIteration = &swarm.Version{Index: uint64(run)}
		}
		if _, err := s.Update(t.Context(), func(tx *store.Tx) error { tx.Write(store.Create(k)); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	g := mustCreate(t, c, inMode("global", swarm.ServiceMode{Global: &swarm.GlobalService{}}))
	task(g, 0, "node1id", "running", "running", -1)
	task(g, 0, "node2id", "pending", "running", -1)
	task(g, 0, "node3id", "shutdown", "shutdown", -1)
	task(g, 0, "node1id", "failed", "shutdown", -1)
	j := mustCreate(t, c, inMode("job", swarm.ServiceMode{ReplicatedJob: &swarm.ReplicatedJob{TotalCompletions: number(5), MaxConcurrent: number(2)}}))
	task(j, 0, "", "complete", "complete", 0)
	task(j, 0, "", "complete", "shutdown", 0) // on a node that was thought to be lost
	task(j, 1, "", "complete", "complete", 0)
	task(j, 2, "", "running", "complete", 0)
	task(j, 3, "", "running", "shutdown", 7) // of another run
	task(j, 0, "", "complete", "shutdown", 7)
	gj := mustCreate(t, c, inMode("globaljob", swarm.ServiceMode{GlobalJob: &swarm.GlobalJob{}}))
	task(gj, 0, "node1id", "complete", "complete", 0)
	task(gj, 0, "node2id", "preparing", "complete", 0)
	list, err := c.Services(t.Context(), nil, true)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]swarm.ServiceStatus{}
	for _, v := range list {
		got[v.Spec.Name] = *v.ServiceStatus
	}
	want := map[string]swarm.ServiceStatus{
		"global":    {RunningTasks: 1, DesiredTasks: 2},
		"job":       {RunningTasks: 1, DesiredTasks: 2, CompletedTasks: 2},
		"globaljob": {DesiredTasks: 1, CompletedTasks: 1},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	tasks, err := c.Tasks(t.Context(), map[string][]string{"service": {"global"}, "name": {g + ".node2id."}})
	if err != nil || len(tasks) != 1 || !strings.HasPrefix(tasks[0].NodeID, "node2id") {
		t.Errorf("%+v %v", tasks, err)
	}
	if tasks, err = c.Tasks(t.Context(), map[string][]string{"service": {"job"}, "desired-state": {"running"}}); err != nil || len(tasks) != 0 {
		t.Errorf("tasks of a job count as running: %+v %v", tasks, err)
	}
}
