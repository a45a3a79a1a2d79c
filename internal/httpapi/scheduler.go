package httpapi

import (
	"context"
	"net/http"

	"shoal.dev/shoal/internal/cluster"
)

// Scheduler says what the planners think of services.
type Scheduler interface {
	// Explain says where the service's next task would go and why, and why its tasks wait or failed. Errors are those of
	// [Control].
	Explain(ctx context.Context, service string) (*cluster.Explanation, error)
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
	}
}

func (a *api) explainService(c *call) error {
	e, err := a.Scheduler.Explain(c.Context(), c.value)
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, e)
}
