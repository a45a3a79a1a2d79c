package containerd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/moby/moby/api/types/container"
	mounttypes "github.com/moby/moby/api/types/mount"
	volumetypes "github.com/moby/moby/api/types/volume"
	"golang.org/x/sys/unix"

	"shoal.dev/shoal/internal/engine/ledger"
	"shoal.dev/shoal/internal/engine/volume"
)

// mountDir is where what is only mounted for a moment is mounted: images' files while they are copied, parts of
// volumes until a container has them.
func (e *Engine) mountDir() string { return filepath.Join(e.cfg.State, "m") }

// openVolumes opens the volumes and removes what a daemon that died has left mounted for a moment.
func (e *Engine) openVolumes() (err error) {
	if err := clearMounts(e.mountDir()); err != nil {
		return err
	}
	e.volumes, err = volume.Open(filepath.Join(e.cfg.Root, "volumes"), e.ledger.ReportVolume)
	return err
}

// clearMounts unmounts everything below dir before it removes dir, so that nothing in a mount is removed.
func clearMounts(dir string) error {
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return err
	}
	if err := mount.UnmountRecursive(real, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount what is below %s: %w", dir, err)
	}
	return os.RemoveAll(dir)
}

// planMounts says which mounts a container gets.
func (e *Engine) planMounts(cfg *container.Config, h *container.HostConfig) ([]volume.Mount, error) {
	return volume.Plan(cfg, h, volume.Host{
		Exists:    func(path string) bool { _, err := os.Stat(path); return err == nil },
		Container: e.ledger.Find,
	})
}

// populate copies the image's files into the container's new volumes.
func (e *Engine) populate(ctx context.Context, c *ledger.Container, mounts []volume.Mount) error {
	return e.volumes.Populate(ctx, c.ID, mounts, c.Mounts, func(f func(root string) error) (err error) {
		layers, err := e.snapshots.Mounts(ctx, c.ID)
		if err != nil {
			return err
		}
		dir := filepath.Join(e.mountDir(), c.ID)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		defer func() {
			if uerr := mount.UnmountAll(dir, unix.MNT_DETACH); uerr != nil {
				err = errors.Join(err, uerr)
				return
			}
			err = errors.Join(err, os.Remove(dir))
		}()
		if err := mount.All(readOnly(layers), dir); err != nil {
			return err
		}
		return f(dir)
	})
}

// readOnly adds "ro": an overlay with its own upper folder is mounted as it will be, and only looked at.
func readOnly(mounts []mount.Mount) []mount.Mount {
	var out []mount.Mount
	for _, m := range mounts {
		m.Options = append(slices.DeleteFunc(slices.Clone(m.Options), func(o string) bool { return o == "rw" }), "ro")
		out = append(out, m)
	}
	return out
}

// volumeSource is what a container's mount number i of type volume is a mount of.
func (e *Engine) volumeSource(c *ledger.Container, i int) string {
	if c.Subpaths[c.Mounts[i].Destination] != "" {
		return filepath.Join(e.mountDir(), c.ID, fmt.Sprint(i))
	}
	return c.Mounts[i].Source
}

// mountVolumes readies the container's volumes. The function that it returns is to be called when the container has
// its own mounts of them, or did not start.
func (e *Engine) mountVolumes(ctx context.Context, c *ledger.Container) (done func(started bool), err error) {
	if err := e.volumes.Mount(ctx, c.ID, c.Mounts); err != nil {
		return nil, err
	}
	var opened []func() error
	done = func(started bool) {
		var errs []error
		for _, closed := range opened {
			errs = append(errs, closed())
		}
		if len(opened) > 0 {
			errs = append(errs, os.Remove(filepath.Join(e.mountDir(), c.ID)))
		}
		if err := errors.Join(errs...); err != nil {
			e.cfg.Log.Warn("cannot unmount a part of a volume", "container", c.ID, "error", err)
		}
		if !started {
			e.unmountVolumes(c)
		}
	}
	for i, m := range c.Mounts {
		sub := c.Subpaths[m.Destination]
		if m.Type != mounttypes.TypeVolume || sub == "" {
			continue
		}
		closed, err := volume.Source(m.Source, sub, e.volumeSource(c, i))
		if err != nil {
			done(false)
			return nil, err
		}
		opened = append(opened, closed)
	}
	return done, nil
}

func (e *Engine) unmountVolumes(c *ledger.Container) {
	if err := e.volumes.Unmount(c.ID, c.Mounts); err != nil {
		e.cfg.Log.Warn("cannot unmount a container's volumes", "container", c.ID, "error", err)
	}
}

// releaseVolumes lets go of a removed container's volumes. That one of them cannot be removed does not bring the
// container back: it stays and can be pruned.
func (e *Engine) releaseVolumes(ctx context.Context, c *ledger.Container, anonymous bool) {
	if err := e.volumes.Release(ctx, c.ID, c.Mounts, anonymous, volume.Named(c.HostConfig)...); err != nil {
		e.cfg.Log.Warn("cannot let go of a container's volumes", "container", c.ID, "error", err)
	}
}

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
