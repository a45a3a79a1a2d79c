package apitest

import (
	"context"

	"github.com/moby/moby/api/types/container"
)

// WaitHealth implements engine.Healths: no container has a health check.
func (e *Engine) WaitHealth(ctx context.Context, name string, known container.HealthStatus) (container.HealthStatus, error) {
	if _, err := e.Inspect(ctx, name); err != nil {
		return "", err
	}
	if known != container.NoHealthcheck {
		return container.NoHealthcheck, nil
	}
	<-ctx.Done()
	return "", context.Cause(ctx)
}
