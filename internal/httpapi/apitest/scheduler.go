package apitest

import (
	"context"
	"time"

	"shoal.dev/shoal/internal/cluster"
)

// Explain is of a service with a task on node1, one that waits, and some that failed; node2 is full.
func (f *Swarm) Explain(ctx context.Context, name string) (*cluster.Explanation, error) {
	s, err := f.Service(ctx, name, false)
	if err != nil {
		return nil, err
	}
	return &cluster.Explanation{
		ServiceID: s.ID, ServiceName: s.Spec.Name,
		Nodes: []cluster.NodeVerdict{
			{ID: "node1id", Hostname: "node1", Rank: 1, Score: cluster.NodeScore{Own: 1, Tasks: 3, Failures: 5, Avoided: true,
				Spread: []cluster.SpreadGroup{{Label: "node.labels.zone", Value: "a", Tasks: 1}}}},
			{ID: "node2id", Hostname: "node2", Filter: "resources", Refusal: "memory: 8GiB asked, 2GiB free"},
		},
		Waiting:  []cluster.WaitingTasks{{Reason: "no suitable node (insufficient resources on 1 node)", Tasks: []string{"task1id", "task2id"}}},
		Failures: []cluster.TaskFailures{{NodeID: "node1id", Hostname: "node1", State: "failed", Err: "task: non-zero exit (3)", ExitCode: 3, Count: 5, Last: time.Now().Add(-2 * time.Minute), LastTask: "task0id"}},
	}, nil
}
