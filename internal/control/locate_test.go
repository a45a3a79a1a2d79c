package control_test

import (
	"context"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/control"
	"shoal.dev/shoal/internal/store"
)

func TestLocateTask(t *testing.T) {
	s := store.New()
	store.NewLocal(s)
	const running = swarm.TaskStateRunning
	_, err := s.Update(t.Context(), func(tx *store.Tx) error {
		tx.Write(store.Create(&cluster.Swarm{}))
		svc := &cluster.Service{}
		svc.ID, svc.Spec.Name = "s1", "a.web"
		tx.Write(store.Create(svc))
		for _, x := range []struct {
			id, container  string
			slot           int
			state, desired swarm.TaskState
		}{
			{"taskold0000000000", "aaaaaaaaaaaaaaaa1", 1, swarm.TaskStateShutdown, swarm.TaskStateShutdown},
			{"taskrunning000000", "bbbbbbbbbbbbbbbb1", 1, running, running},
			{"tasknew0000000000", "", 1, swarm.TaskStatePending, running},
			{"taskended00000000", "bbbbbbbbbbbbbbbb2", 2, swarm.TaskStateFailed, swarm.TaskStateShutdown},
			{"taskwaits00000000", "", 2, swarm.TaskStatePending, running},
			{"taskalone00000000", "", 3, swarm.TaskStatePending, running},
		} {
			k := &cluster.Task{}
			k.ID, k.ServiceID, k.ServiceName, k.Slot, k.NodeID, k.DesiredState = x.id, "s1", "a.web", x.slot, "n1", x.desired
			k.Status = swarm.TaskStatus{State: x.state, Err: "no suitable node"}
			if x.container != "" {
				k.Status.ContainerStatus = &swarm.ContainerStatus{ContainerID: x.container}
			}
			tx.Write(store.Create(k))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	c := control.New(nil)
	c.Activate(&control.Manager{NodeID: "n1", Store: s, ReadBarrier: func(context.Context) error { return nil }})
	for _, tt := range []struct {
		ref, want string // the task's ID, or a part of the refusal
		byTask    bool
	}{
		{ref: "a.web.1", want: "taskrunning000000"},
		{ref: "a.web.2", want: "taskended00000000"},
		{ref: "a.web.3", want: "task a.web.3.taskalone00000000 has no container: it is pending: no suitable node"},
		{ref: "a.web.4", want: "No such container: a.web.4"},
		{ref: "a.web", want: "No such container: a.web"},
		{ref: "a.web.1.taskold0000000000", want: "taskold0000000000"},
		{ref: "b.web.1.taskold0000000000", want: "No such container"},
		{ref: "aaaaaaaaaaaa", want: "taskold0000000000"},
		{ref: "aaaaaaaaaaa", want: "No such container: aaaaaaaaaaa"},
		{ref: "bbbbbbbbbbbbbb", want: "Multiple IDs found with provided prefix: bbbbbbbbbbbbbb"},
		{ref: "bbbbbbbbbbbbbbbb2", want: "taskended00000000"},
		{ref: "taskrunning0", want: "taskrunning000000", byTask: true},
		{ref: "taskrunning000000", want: "taskrunning000000", byTask: true},
		{ref: "taskrunning000000", want: "No such container"},
	} {
		at, err := c.LocateTask(t.Context(), tt.ref, tt.byTask)
		if err == nil && at.TaskID != tt.want || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s is %+v, %v; want %s", tt.ref, at, err, tt.want)
		}
	}
}
