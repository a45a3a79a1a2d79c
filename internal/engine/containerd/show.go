package containerd

import (
	"context"
	"path/filepath"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/storage"

	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/engine/ledger"
)

// Inspect implements engine.Containers.
func (e *Engine) Inspect(_ context.Context, name string) (*container.InspectResponse, error) {
	c, err := e.ledger.Find(name)
	if err != nil {
		return nil, err
	}
	r := ledger.Inspect(c)
	r.Driver = snapshotter
	r.ExecIDs = e.execs.Of(c.ID)
	r.Storage = &storage.Storage{RootFS: &storage.RootFSStorage{Snapshot: &storage.RootFSStorageSnapshot{Name: snapshotter}}}
	files := e.etcDir(c)
	r.HostnamePath = filepath.Join(files, "hostname")
	r.HostsPath = filepath.Join(files, "hosts")
	r.ResolvConfPath = filepath.Join(files, "resolv.conf")
	return r, nil
}

// List implements engine.Containers.
func (e *Engine) List(ctx context.Context, o engine.ListOptions) ([]container.Summary, error) {
	ctx = e.scope(ctx)
	list, err := e.ledger.List(o, func(ref string) []string {
		img, _, err := e.findImage(ctx, ref)
		if err != nil {
			return nil
		}
		return []string{img.Target.Digest.String()}
	})
	if err != nil || !o.Size {
		return list, err
	}
	for i := range list {
		u, err := e.snapshots.Usage(ctx, list[i].ID)
		if err != nil {
			continue // removed meanwhile
		}
		list[i].SizeRw = u.Size
		list[i].SizeRootFs = u.Size
		if _, info, err := e.findImage(ctx, list[i].ImageID); err == nil {
			list[i].SizeRootFs += info.unpacked
		}
	}
	return list, nil
}
