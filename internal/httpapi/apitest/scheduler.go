package apitest

import (
	"context"
	"slices"
	"time"

	"github.com/containerd/errdefs"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/control"
	"shoal.dev/shoal/internal/httpapi"
)

// Explain is of a service with a task on node1, one that waits, and some that failed; node2 is full.
func (f *Swarm) Explain(ctx context.Context, name string) (*cluster.Explanation, error) {
	s, err := f.Service(ctx, name, false)
	if err != nil {
		return nil, err
	}
	return &cluster.Explanation{
		ServiceID: s.ID, ServiceName: s.Spec.Name, Rebalancing: f.rebalancing(name),
		Nodes: []cluster.NodeVerdict{
			{ID: "node1id", Hostname: "node1", Rank: 1, Score: cluster.NodeScore{Own: 1, Tasks: 3, Failures: 5, Avoided: true,
				Spread: []cluster.SpreadGroup{{Label: "node.labels.zone", Value: "a", Tasks: 1}}}},
			{ID: "node2id", Hostname: "node2", Filter: "resources", Refusal: "memory: 8GiB asked, 2GiB free"},
		},
		Waiting:  []cluster.WaitingTasks{{Reason: "no suitable node (insufficient resources on 1 node)", Tasks: []string{"task1id", "task2id"}}},
		Failures: []cluster.TaskFailures{{NodeID: "node1id", Hostname: "node1", State: "failed", Err: "task: non-zero exit (3)", ExitCode: 3, Count: 5, Last: time.Now().Add(-2 * time.Minute), LastTask: "task0id"}},
	}, nil
}

// Rebalance takes as long as the service is asked for twice.
func (f *Swarm) Rebalance(ctx context.Context, name string) error {
	s, err := f.Service(ctx, name, false)
	if err != nil {
		return err
	}
	if s.Spec.Mode.Replicated == nil {
		return errdefs.ErrInvalidArgument.WithMessage("rebalance can only be used with replicated mode")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.Rebalances = append(f.Rebalances, name, name)
	return nil
}

// rebalancing counts the questions.
func (f *Swarm) rebalancing(name string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	i := slices.Index(f.Rebalances, name)
	if i >= 0 {
		f.Rebalances = slices.Delete(f.Rebalances, i, i+1)
	}
	return i >= 0
}

// Autoscale is of a service that has the label: it went from 1 replica to 3.
func (f *Swarm) Autoscale(ctx context.Context, ref string) (*httpapi.ServiceScale, error) {
	s, err := f.Service(ctx, ref, false)
	if err != nil {
		return nil, err
	}
	rec := &cluster.Service{Service: *s}
	at := time.Unix(1700000000, 0).UTC()
	rec.Scale = &cluster.ScaleStatus{Replicas: 1, Wanted: []cluster.ScalePoint{{At: at, Replicas: 3}}}
	rec.Scale.Decide(3, at, "cpu 150% of 50%: 3 wanted")
	out, err := control.ScaleOf(rec)
	if err != nil {
		return nil, err
	}
	out.Why = "cpu 50% of 50%: 3 wanted"
	return out, nil
}
