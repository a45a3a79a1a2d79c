package reap_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/reconcile/plantest"
	"shoal.dev/shoal/internal/reconcile/reap"
	"shoal.dev/shoal/internal/store"
)

func TestPlan(t *testing.T) {
	type T = cluster.Task
	task := func(s *plantest.Swarm, slot int, state, desired swarm.TaskState, node string, change ...func(*T)) *T {
		k := &T{}
		k.ID, k.ServiceID, k.Slot, k.NodeID = fmt.Sprintf("%d-%s", slot, s.NewID()), "web", slot, node
		k.Status.State, k.DesiredState = state, desired
		for _, f := range change {
			f(k)
		}
		s.Put(k)
		return k
	}
	claim := func(s *plantest.Swarm, slot int, owner string) {
		s.Put(&cluster.Claim{ID: cluster.ClaimSlot("web", slot), Owner: owner})
	}
	global := func(k *T) { k.Global = true }
	claimNode := func(s *plantest.Swarm, node, owner string) {
		s.Put(&cluster.Claim{ID: cluster.ClaimSlotNode("web", node), Owner: owner})
	}
	limit := func(s *plantest.Swarm, n int64) {
		w := &cluster.Swarm{}
		w.Spec.Orchestration.TaskHistoryRetentionLimit = &n
		s.Put(w)
	}
	history := func(s *plantest.Swarm, n int) {
		for range n {
			task(s, 1, "failed", "shutdown", "n1")
		}
		claim(s, 1, task(s, 1, "running", "running", "n1").ID)
	}
	tests := []struct {
		name   string
		do     func(s *plantest.Swarm)
		want   []string // slot state/desired
		claims int
	}{
		{"nothing", func(s *plantest.Swarm) { claim(s, 1, task(s, 1, "running", "running", "n1").ID) }, []string{"1 running/running"}, 1},
		{"removed and still running", func(s *plantest.Swarm) { claim(s, 1, task(s, 1, "running", "remove", "n1").ID) }, []string{"1 running/remove"}, 1},
		{"removed and ended", func(s *plantest.Swarm) { claim(s, 1, task(s, 1, "shutdown", "remove", "n1").ID) }, nil, 0},
		{"removed and its node gone", func(s *plantest.Swarm) { claim(s, 1, task(s, 1, "running", "remove", "gone").ID) }, nil, 0},
		{"removed before it had a node", func(s *plantest.Swarm) { claim(s, 1, task(s, 1, "pending", "remove", "").ID) }, nil, 0},
		{"removed, a sibling runs on", func(s *plantest.Swarm) {
			task(s, 1, "shutdown", "remove", "n1")
			claim(s, 1, task(s, 1, "running", "running", "n1").ID)
		}, []string{"1 running/running"}, 1},
		{"removed, its node down", func(s *plantest.Swarm) {
			plantest.Change(s, "n1", func(n *cluster.Node) { n.Status.State = swarm.NodeStateDown })
			claim(s, 1, task(s, 1, "running", "remove", "n1").ID)
		}, []string{"1 running/remove"}, 1},
		{"shut down and its node gone", func(s *plantest.Swarm) {
			task(s, 1, "running", "shutdown", "gone")
			claim(s, 1, task(s, 1, "running", "running", "n1").ID)
		}, []string{"1 orphaned/shutdown", "1 running/running"}, 1},
		{"shut down before it had a node", func(s *plantest.Swarm) {
			task(s, 1, "new", "shutdown", "")
			claim(s, 1, task(s, 1, "running", "running", "n1").ID)
		}, []string{"1 running/running", "1 shutdown/shutdown"}, 1},
		{"history by default", func(s *plantest.Swarm) { history(s, 8) },
			[]string{"1 failed/shutdown", "1 failed/shutdown", "1 failed/shutdown", "1 failed/shutdown", "1 failed/shutdown", "1 running/running"}, 1},
		{"history of two", func(s *plantest.Swarm) { limit(s, 2); history(s, 8) }, []string{"1 failed/shutdown", "1 failed/shutdown", "1 running/running"}, 1},
		{"no history", func(s *plantest.Swarm) { limit(s, 0); history(s, 3) }, []string{"1 running/running"}, 1},
		{"all history", func(s *plantest.Swarm) { limit(s, -1); history(s, 7) }, append(slices.Repeat([]string{"1 failed/shutdown"}, 7), "1 running/running"), 1},
		{"no history, but the task that says that the slot has finished", func(s *plantest.Swarm) {
			limit(s, 0)
			claim(s, 1, task(s, 1, "complete", "shutdown", "n1").ID)
		}, []string{"1 complete/shutdown"}, 1},
		{"as many as the restart policy counts", func(s *plantest.Swarm) {
			limit(s, 1)
			n := uint64(3)
			for range 6 {
				task(s, 1, "failed", "shutdown", "n1", func(k *T) { k.Spec.RestartPolicy = &swarm.RestartPolicy{MaxAttempts: &n} })
			}
			claim(s, 1, task(s, 1, "running", "running", "n1").ID)
		}, append(slices.Repeat([]string{"1 failed/shutdown"}, 4), "1 running/running"), 1},
		{"a global task that was shut down before its node had it", func(s *plantest.Swarm) {
			task(s, 0, "pending", "shutdown", "n1", global)
		}, []string{"0 shutdown/shutdown"}, 0},
		{"a global service: history is by node", func(s *plantest.Swarm) {
			limit(s, 1)
			for _, n := range []string{"n1", "n2"} {
				for range 3 {
					task(s, 0, "failed", "shutdown", n, global)
				}
				claimNode(s, n, task(s, 0, "running", "running", n, global).ID)
			}
		}, []string{"0 failed/shutdown", "0 failed/shutdown", "0 running/running", "0 running/running"}, 2},
		{"a node's last task takes its claim along", func(s *plantest.Swarm) {
			claimNode(s, "n1", task(s, 0, "shutdown", "remove", "n1", global).ID)
		}, nil, 0},
		{"what a job has completed", func(s *plantest.Swarm) {
			limit(s, 0)
			claim(s, 1, task(s, 1, "complete", "complete", "n1").ID)
		}, []string{"1 complete/complete"}, 1},
		{"a node's claim without a task", func(s *plantest.Swarm) { claimNode(s, "n7", "nobody") }, nil, 0},
		{"a claim without a task", func(s *plantest.Swarm) { claim(s, 7, "nobody") }, nil, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := plantest.New(t)
			s.Node("n1")
			tt.do(s)
			s.Settle(reap.Planner{})
			var got []string
			for _, k := range s.Tasks("web") {
				got = append(got, fmt.Sprintf("%d %s/%s", k.Slot, k.Status.State, k.DesiredState))
			}
			slices.Sort(got)
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Error(d)
			}
			claims := 0
			for range store.List[*cluster.Claim](s.Store.Snapshot()) {
				claims++
			}
			if claims != tt.claims {
				t.Errorf("%d claims, want %d", claims, tt.claims)
			}
		})
	}
}

func TestTheNewestAreKept(t *testing.T) {
	s := plantest.New(t)
	s.Node("n1")
	for i := range 9 {
		k := &cluster.Task{}
		k.ID, k.ServiceID, k.Slot, k.NodeID = fmt.Sprint("t", i), "web", 1, "n1"
		k.Status.State, k.DesiredState = "failed", "shutdown"
		s.Put(k)
	}
	s.Settle(reap.Planner{})
	var got []string
	for _, k := range s.Tasks("web") {
		got = append(got, k.ID)
	}
	if d := cmp.Diff([]string{"t4", "t5", "t6", "t7", "t8"}, got); d != "" {
		t.Error(d)
	}
}

// TestAttachmentsGoWithTheirNode: nobody else gives them back.
func TestAttachmentsGoWithTheirNode(t *testing.T) {
	s := plantest.New(t)
	s.Node("stays")
	s.Node("goes")
	for _, id := range []string{"stays", "goes"} {
		k := &cluster.Task{}
		k.ID, k.NodeID, k.DesiredState, k.Status.State = "on-"+id, id, swarm.TaskStateRunning, swarm.TaskStateRunning
		k.Spec.NetworkAttachmentSpec = &swarm.NetworkAttachmentSpec{ContainerID: "c"}
		s.Put(k)
	}
	left := func() (ids []string) {
		for k := range store.List[*cluster.Task](s.Store.Snapshot()) {
			ids = append(ids, k.ID)
		}
		return ids
	}
	s.Settle(reap.Planner{})
	if got := left(); len(got) != 2 {
		t.Errorf("left are %v", got)
	}
	if _, err := s.Store.Update(t.Context(), func(tx *store.Tx) error { tx.Write(store.Delete(plantest.Get[*cluster.Node](s, "goes"))); return nil }); err != nil {
		t.Fatal(err)
	}
	s.Settle(reap.Planner{})
	if got := left(); !slices.Equal(got, []string{"on-stays"}) {
		t.Errorf("left are %v", got)
	}
}
