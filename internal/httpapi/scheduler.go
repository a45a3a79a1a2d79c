package httpapi

import (
	"context"
	"net/http"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/control"
)

// Scheduler says what the planners think of services.
type Scheduler interface {
	// Explain says where the service's next task would go and why, and why its tasks wait or failed. Errors are those of
	// [Control].
	Explain(ctx context.Context, service string) (*cluster.Explanation, error)
	// Rebalance has the service's tasks moved until that improves their spread no more, and does not wait for it.
	// InvalidArgument for a service that is not replicated; otherwise errors are those of [Control].
	Rebalance(ctx context.Context, service string) error
	// Autoscale says how the service is scaled by its usage, and the leader also what usage asks for now; InvalidArgument
	// if it is scaled by hand.
	Autoscale(ctx context.Context, service string) (*ServiceScale, error)
}

func (a *api) schedulerRoutes() []route {
	own := func(h func(*call) error) func(*call) error {
		return func(c *call) error {
			if err := need(a.Scheduler != nil, "services"); err != nil {
				return err
			}
			return h(c)
		}
	}
	return []route{
		get("/shoal/v1/services/{id}/explain", own(a.explainService)),
		post("/shoal/v1/services/{id}/rebalance", own(a.rebalanceService)),
		get("/shoal/v1/services/{id}/autoscale", own(a.inspectAutoscale)),
	}
}

// ServiceScale is how a service is scaled by its usage.
type ServiceScale = control.ServiceScale

func (a *api) inspectAutoscale(c *call) error {
	s, err := a.Scheduler.Autoscale(c.Context(), c.value)
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, s)
}

func (a *api) explainService(c *call) error {
	e, err := a.Scheduler.Explain(c.Context(), c.value)
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, e)
}

func (a *api) rebalanceService(c *call) error {
	if err := a.Scheduler.Rebalance(c.Context(), c.value); err != nil {
		return err
	}
	c.w.WriteHeader(http.StatusOK)
	return nil
}
