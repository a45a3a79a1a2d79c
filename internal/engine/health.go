package engine

import (
	"context"

	"github.com/moby/moby/api/types/container"
)

// Healths is how containers with a health check are doing. The engine probes them itself, as Docker does; Inspect and
// List show it, and Events tells of every change as "health_status: STATUS".
type Healths interface {
	// WaitHealth returns the health of a container as soon as it is another one than known; "" is none of them, so that
	// it returns at once. That of a container without a health check is "none". A container that ends keeps its last
	// one. NotFound if there is no such container, or no longer.
	WaitHealth(ctx context.Context, name string, known container.HealthStatus) (container.HealthStatus, error)
}
