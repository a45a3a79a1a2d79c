package fake

import (
	"context"

	volumetypes "github.com/moby/moby/api/types/volume"
)

// CreateVolume implements engine.Volumes.
func (e *Engine) CreateVolume(ctx context.Context, r volumetypes.CreateRequest) (*volumetypes.Volume, error) {
	return e.volumes.Create(ctx, r)
}

// Volumes implements engine.Volumes.
func (e *Engine) Volumes(ctx context.Context, filters map[string][]string) ([]volumetypes.Volume, error) {
	return e.volumes.List(ctx, filters)
}

// InspectVolume implements engine.Volumes.
func (e *Engine) InspectVolume(ctx context.Context, name string) (*volumetypes.Volume, error) {
	return e.volumes.Inspect(ctx, name)
}

// RemoveVolume implements engine.Volumes.
func (e *Engine) RemoveVolume(ctx context.Context, name string, force bool) error {
	return e.volumes.Remove(ctx, name, force)
}

// PruneVolumes implements engine.Volumes.
func (e *Engine) PruneVolumes(ctx context.Context, filters map[string][]string) (*volumetypes.PruneReport, error) {
	return e.volumes.Prune(ctx, filters)
}
