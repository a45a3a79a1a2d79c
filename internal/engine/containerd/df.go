package containerd

import (
	"context"

	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/system"

	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/engine/ledger"
)

// DiskUsage implements engine.Disk.
func (e *Engine) DiskUsage(ctx context.Context, o engine.DiskUsageOptions) (*system.DiskUsage, error) {
	u := &system.DiskUsage{}
	if o.Containers {
		list, err := e.List(ctx, engine.ListOptions{All: true, Size: true})
		if err != nil {
			return nil, err
		}
		u.ContainerUsage = ledger.ContainerUsage(list)
	}
	if o.Images {
		list, err := e.Images(ctx, engine.ImageListOptions{SharedSize: true})
		if err != nil {
			return nil, err
		}
		total, err := e.imageBytes(ctx, list)
		if err != nil {
			return nil, err
		}
		u.ImageUsage = ledger.ImageUsage(list, total)
	}
	if o.Volumes {
		u.VolumeUsage = e.volumes.Usage(ctx)
	}
	return u, ctx.Err()
}

// imageBytes is what images take together, what several have in common counted once.
func (e *Engine) imageBytes(ctx context.Context, list []image.Summary) (sum int64, err error) {
	ctx = e.scope(ctx)
	all := holdings{}
	for _, i := range list {
		variants, err := e.variants(ctx, *i.Descriptor)
		if err != nil {
			continue // removed meanwhile
		}
		all.add(*i.Descriptor, variants)
	}
	for _, n := range all {
		sum += n
	}
	return sum, ctx.Err()
}
