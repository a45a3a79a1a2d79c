package apitest

import (
	"context"
	"time"

	"github.com/containerd/errdefs"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/httpapi"
)

// Schedules of the services that have the label; each has run once.
func (f *Swarm) Schedules(ctx context.Context, ref string) ([]httpapi.JobSchedule, error) {
	all, err := f.Services(ctx, nil, false)
	if err != nil {
		return nil, err
	}
	var out []httpapi.JobSchedule
	for _, s := range all {
		if !cluster.Scheduled(&s.Spec) || ref != "" && ref != s.ID && ref != s.Spec.Name {
			continue
		}
		at := time.Unix(1700000000, 0).UTC()
		out = append(out, httpapi.JobSchedule{
			ServiceID: s.ID, ServiceName: s.Spec.Name, Schedule: s.Spec.Labels[cluster.LabelSchedule], Concurrency: "forbid", Deadline: "1h0m0s",
			Next: at.Add(time.Hour), Runs: []cluster.JobRun{{Run: 1, Scheduled: at, StartedAt: at, EndedAt: at.Add(time.Minute), Result: cluster.RunComplete}},
		})
	}
	if ref != "" && len(out) == 0 {
		if _, err := f.Service(ctx, ref, false); err != nil {
			return nil, err
		}
		return nil, errdefs.ErrInvalidArgument.WithMessage("service " + ref + " has no schedule (label shoal.schedule)")
	}
	return out, nil
}

// RunService runs what has a schedule.
func (f *Swarm) RunService(ctx context.Context, ref string) (uint64, error) {
	if _, err := f.Schedules(ctx, ref); err != nil {
		return 0, err
	}
	return 2, nil
}
