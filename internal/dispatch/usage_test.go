package dispatch_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/dispatch/protocol"
)

// What a node measures reaches the leader over any manager, with its age, and nobody speaks for another's tasks.
func TestUsageReachesTheLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "m1", "m2", "n1", "n2")
		w.create(task("a", "n1", 1), task("b", "n2", 2))
		leader := w.leader()
		follower := w.server(w.dial(leader, "m2"))
		say := func(node string, req protocol.UsageRequest) error {
			return protocol.Post(t.Context(), w.dial(follower, node), protocol.PathUsage, req)
		}
		if err := say("n1", protocol.UsageRequest{NodeID: "n1", Tasks: []protocol.TaskUsage{
			{TaskID: "a", NanoCPUs: 5, MemoryBytes: 7, Connections: 2.5}, {TaskID: "b", NanoCPUs: 9}, {TaskID: "gone", NanoCPUs: 9}, {TaskID: "a", NanoCPUs: -1}, {TaskID: "a", Connections: -1},
		}}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Second)
		u, ok := leader.Usage("a")
		if !ok || u.NanoCPUs != 5 || u.MemoryBytes != 7 || u.Connections != 2.5 || w.store.Now().Sub(u.At) != 20*time.Second {
			t.Errorf("%+v %v", u, ok)
		}
		for _, id := range []string{"b", "gone"} {
			if u, ok := leader.Usage(id); ok {
				t.Errorf("%s: %+v", id, u)
			}
		}
		if _, ok := follower.Usage("a"); ok {
			t.Error("a follower keeps it")
		}
		for name, bad := range map[string]struct {
			node string
			req  protocol.UsageRequest
		}{
			"for another":           {"n1", protocol.UsageRequest{NodeID: "n2"}},
			"passed on by a worker": {"n1", protocol.UsageRequest{NodeID: "n1", Forwarded: true}},
			"no member":             {"n9", protocol.UsageRequest{NodeID: "n9"}},
			"too many":              {"n1", protocol.UsageRequest{NodeID: "n1", Tasks: make([]protocol.TaskUsage, protocol.MaxStatuses+1)}},
		} {
			if err := say(bad.node, bad.req); err == nil || !protocol.Refused(err) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if err := say("m1", protocol.UsageRequest{NodeID: "n1", Forwarded: true}); err == nil || protocol.Refused(err) {
			t.Errorf("it is passed on twice: %v", err)
		}
	})
}

// A node is told to measure the tasks of services that are scaled by their usage, and no others.
func TestNodesAreToldWhatToMeasure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "m1", "n1", "n2")
		leader := w.leader()
		svc := &cluster.Service{}
		svc.ID, svc.Spec.Name = "svc", "web"
		w.create(task("a", "n1", 1), svc)
		told := func(node string) []string {
			t.Helper()
			time.Sleep(2 * time.Second)
			r, err := protocol.Beat(t.Context(), w.dial(leader, node), protocol.HeartbeatRequest{})
			if err != nil {
				t.Fatal(err)
			}
			return r.Measure
		}
		if got := told("n1"); got != nil {
			t.Errorf("of a service that is scaled by hand: %v", got)
		}
		other := &cluster.Service{}
		other.ID, other.Spec.Labels = "other", map[string]string{cluster.LabelScaleMax: "3"}
		scaled := task("b", "n1", 2)
		scaled.ServiceID = "other"
		scaled.DesiredState = swarm.TaskStateRunning
		w.create(other, scaled)
		if d := cmp.Diff([]string{"other"}, told("n1")); d != "" {
			t.Error(d)
		}
		if got := told("n2"); got != nil {
			t.Errorf("a node without such tasks: %v", got)
		}
	})
}
