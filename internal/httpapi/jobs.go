package httpapi

import (
	"context"
	"net/http"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/control"
)

// Jobs runs jobs by hand and shows those that run by a schedule. Errors are as those of [Control].
type Jobs interface {
	// Schedules returns the services that have a schedule, or the one that is named; InvalidArgument if it has none.
	Schedules(ctx context.Context, idOrName string) ([]JobSchedule, error)
	// RunService runs a job now and returns the number of the run; InvalidArgument if it is no job, Conflict if its
	// schedule forbids another run beside the one at work.
	RunService(ctx context.Context, idOrName string) (run uint64, err error)
}

// JobSchedule is a service's schedule and how far it is.
type JobSchedule = control.JobSchedule

// JobRunResponse is the answer to POST /shoal/v1/services/{id}/run.
type JobRunResponse struct{ Run uint64 }

func (a *api) jobRoutes() []route {
	own := func(h func(*call) error) func(*call) error {
		return func(c *call) error {
			if err := need(a.Jobs != nil, "schedules"); err != nil {
				return err
			}
			return h(c)
		}
	}
	return []route{
		get("/shoal/v1/schedules", own(a.listSchedules)),
		get("/shoal/v1/services/{id}/schedule", own(a.inspectSchedule)),
		post("/shoal/v1/services/{id}/run", own(a.runService)),
	}
}

func (a *api) listSchedules(c *call) error {
	all, err := a.Jobs.Schedules(c.Context(), "")
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, list(all))
}

func (a *api) inspectSchedule(c *call) error {
	one, err := a.Jobs.Schedules(c.Context(), c.value)
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, one[0])
}

func (a *api) runService(c *call) error {
	run, err := a.Jobs.RunService(c.Context(), c.value)
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, JobRunResponse{Run: run})
}

// shownService is a service with what Docker's has no field for; clients show what they do not know, too.
type shownService struct {
	*swarm.Service
	Schedule *JobSchedule `json:",omitempty"`
}

// shown adds to a service what its labels say that there is.
func (a *api) shown(ctx context.Context, s *swarm.Service) (any, error) {
	if a.Jobs == nil || !cluster.Scheduled(&s.Spec) {
		return s, nil
	}
	out := shownService{Service: s}
	all, err := a.Jobs.Schedules(ctx, s.ID)
	switch {
	case err != nil:
		return nil, err
	case len(all) == 1:
		out.Schedule = &all[0]
	}
	return out, nil
}
