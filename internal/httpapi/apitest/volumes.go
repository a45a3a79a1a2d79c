package apitest

import (
	"context"

	volumetypes "github.com/moby/moby/api/types/volume"

	"shoal.dev/shoal/internal/engine/volume"
)

// volumes are the real store's rules, in memory.
type volumes struct{ store *volume.Store }

func (v *volumes) CreateVolume(ctx context.Context, r volumetypes.CreateRequest) (*volumetypes.Volume, error) {
	return v.store.Create(ctx, r)
}

func (v *volumes) Volumes(ctx context.Context, filters map[string][]string) ([]volumetypes.Volume, error) {
	return v.store.List(ctx, filters)
}

func (v *volumes) InspectVolume(ctx context.Context, name string) (*volumetypes.Volume, error) {
	return v.store.Inspect(ctx, name)
}

func (v *volumes) RemoveVolume(ctx context.Context, name string, force bool) error {
	return v.store.Remove(ctx, name, force)
}

func (v *volumes) PruneVolumes(ctx context.Context, filters map[string][]string) (*volumetypes.PruneReport, error) {
	return v.store.Prune(ctx, filters)
}
