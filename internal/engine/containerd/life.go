package containerd

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"
	"github.com/moby/moby/api/types/container"
	"google.golang.org/protobuf/types/known/anypb"

	"shoal.dev/shoal/internal/engine/ledger"
)

// Pause implements engine.Life.
func (e *Engine) Pause(ctx context.Context, name string) error {
	return e.freeze(ctx, name, "pause", ledger.Paused, func(ctx context.Context, id string) error {
		_, err := e.tasks.Pause(ctx, &tasks.PauseTaskRequest{ContainerID: id})
		return err
	})
}

// Unpause implements engine.Life.
func (e *Engine) Unpause(ctx context.Context, name string) error {
	return e.freeze(ctx, name, "unpause", ledger.Unpaused, func(ctx context.Context, id string) error {
		_, err := e.tasks.Resume(ctx, &tasks.ResumeTaskRequest{ContainerID: id})
		return err
	})
}

func (e *Engine) freeze(ctx context.Context, name, verb string, to func(*ledger.Container) (*ledger.Container, error), do func(context.Context, string) error) error {
	c, unlock, err := e.ledger.Lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	n, err := to(c)
	if err != nil {
		return err
	}
	ctx = e.scope(ctx)
	if err := errgrpc.ToNative(do(ctx, c.ID)); err != nil {
		return fmt.Errorf("cannot %s container %s: %w", verb, c.ID, err)
	}
	if err := e.save(ctx, n, nil); err != nil {
		e.cfg.Log.Warn("cannot record that a container was paused or unpaused", "container", c.ID, "error", err)
	}
	e.ledger.Put(n, ledger.Action{Name: verb})
	e.watchHealth(n)
	return nil
}

// Rename implements engine.Life.
func (e *Engine) Rename(ctx context.Context, name, to string) error {
	c, unlock, err := e.ledger.Lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	err = e.ledger.Rename(c, to, func(n *ledger.Container) error { return e.save(e.scope(ctx), n, nil) })
	if err != nil || !c.Running() || !e.usesSandbox(c) {
		return err
	}
	n, err := e.ledger.Find(c.ID)
	if err != nil {
		return err
	}
	_, err = e.attach(ctx, n) // others find it by its new name
	return err
}

// Update implements engine.Life.
func (e *Engine) Update(ctx context.Context, name string, u container.UpdateConfig) ([]string, error) {
	c, unlock, err := e.ledger.Lock(ctx, name)
	if err != nil {
		return nil, err
	}
	defer unlock()
	n, err := ledger.Updated(c, u)
	if err != nil {
		return nil, err
	}
	warnings, err := e.host.limits.fit(&n.HostConfig.Resources, true)
	if err != nil {
		return nil, err
	}
	ctx = e.scope(ctx)
	if c.Running() {
		want, err := e.resources(n.HostConfig)
		if err != nil {
			return nil, err
		}
		want.Devices = nil // they are not changed
		res, err := typeurl.MarshalAny(want)
		if err != nil {
			return nil, err
		}
		_, err = e.tasks.Update(ctx, &tasks.UpdateTaskRequest{ContainerID: c.ID,
			Resources: &anypb.Any{TypeUrl: res.GetTypeUrl(), Value: res.GetValue()}})
		if err = errgrpc.ToNative(err); err != nil {
			return nil, ledger.Errorf(errdefs.ErrInternal, "Cannot update container %s: %s", c.ID, err)
		}
	}
	if err := e.save(ctx, n, nil); err != nil {
		return nil, err
	}
	e.ledger.Put(n, ledger.Action{Name: "update"})
	return append(warnings, e.warnings(n.HostConfig)...), nil
}

// Prune implements engine.Life.
func (e *Engine) Prune(ctx context.Context, filters map[string][]string) (container.PruneReport, error) {
	r := container.PruneReport{ContainersDeleted: []string{}}
	list, err := e.ledger.Prunable(filters, time.Now())
	if err != nil {
		return r, err
	}
	for _, c := range list {
		rw, _, err := e.Size(ctx, c.ID)
		if err == nil {
			err = e.Remove(ctx, c.ID, false)
		}
		switch {
		case err == nil:
			r.ContainersDeleted = append(r.ContainersDeleted, c.ID)
			r.SpaceReclaimed += uint64(rw)
		case ctx.Err() != nil:
			return r, context.Cause(ctx)
		case !errdefs.IsNotFound(err) && !errdefs.IsConflict(err): // else it went, or was started, meanwhile
			e.cfg.Log.Warn("cannot remove a container that is not used", "container", c.ID, "error", err)
		}
	}
	e.ledger.ReportPrune(strconv.FormatUint(r.SpaceReclaimed, 10))
	return r, nil
}

// Size implements engine.Life.
func (e *Engine) Size(ctx context.Context, name string) (rw, rootFS int64, err error) {
	c, err := e.ledger.Find(name)
	if err != nil {
		return 0, 0, err
	}
	ctx = e.scope(ctx)
	u, err := e.snapshots.Usage(ctx, c.ID)
	if err != nil && !errdefs.IsNotFound(err) {
		return 0, 0, fmt.Errorf("size of container %s: %w", c.ID, err)
	}
	rw, rootFS = u.Size, u.Size
	if _, info, err := e.imageOf(ctx, c); err == nil {
		rootFS += info.unpacked
	}
	return rw, rootFS, nil
}
