package containerd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	apievents "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"
	"github.com/moby/moby/api/types/container"
	"golang.org/x/sync/errgroup"

	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/engine/containerd/shimdata"
	"shoal.dev/shoal/internal/engine/ledger"
)

// startTimeout bounds one start; undoing one gets cleanTimeout more, whatever became of the caller.
const (
	startTimeout = 2 * time.Minute
	cleanTimeout = 30 * time.Second
)

// Start implements engine.Containers.
func (e *Engine) Start(ctx context.Context, name string) error {
	c, unlock, err := e.ledger.Lock(ctx, name)
	if err != nil {
		return err
	}
	if c.State.Status == container.StatePaused {
		unlock()
		return ledger.Errorf(errdefs.ErrConflict, "cannot start a paused container, try unpause instead")
	}
	if c.Active() {
		unlock()
		return nil
	}
	err = e.startLocked(ctx, c, false)
	unlock()
	if err != nil && c.HostConfig.AutoRemove {
		cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanTimeout)
		defer cancel()
		e.autoRemove(cctx, c.ID)
	}
	return err
}

// startLocked starts c, whose lock the caller holds. byPolicy is for a restart that no user asked for.
func (e *Engine) startLocked(ctx context.Context, c *ledger.Container, byPolicy bool) error {
	ctx, cancel := context.WithTimeout(e.scope(ctx), startTimeout)
	defer cancel()
	n := *c
	n.State = c.Started(time.Now().UTC(), byPolicy)
	if err := e.start(ctx, &n); err != nil {
		f := *c
		if f.State.Status == container.StateRestarting { // a restart that fails is the last, as in Docker
			f.State.Status = container.StateExited
		}
		f.State.Error, f.State.ExitCode = err.Error(), startExitCode(err)
		cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanTimeout)
		defer cancel()
		if e.usesSandbox(c) {
			if derr := e.cfg.Sandboxes.Detach(cctx, c.ID); derr != nil {
				e.cfg.Log.Warn("cannot detach a container from the network", "container", c.ID, "error", derr)
			}
			e.ledger.ReportEndpoints(c.ID, n.State.Sandbox, engine.Sandbox{})
		}
		if serr := e.save(cctx, &f, nil); serr != nil {
			e.cfg.Log.Warn("cannot record why a container did not start", "container", c.ID, "error", serr)
		}
		e.ledger.Put(&f)
		e.dismissWaiting(c.ID)
		if !errdefs.IsUnavailable(err) { // it is not tried again
			e.dropFiles(c)
		}
		return err
	}
	e.ledger.Put(&n, ledger.Action{Name: "start"})
	e.watchHealth(&n)
	e.connectWaiting(ctx, c.ID) // who came while it started
	return nil
}

func (e *Engine) usesSandbox(c *ledger.Container) bool {
	return c.HostConfig.NetworkMode.IsPrivate() && !c.HostConfig.NetworkMode.IsNone()
}

// attach gives the container its network.
func (e *Engine) attach(ctx context.Context, c *ledger.Container) (engine.Sandbox, error) {
	a, err := c.Attachment()
	if err != nil {
		return engine.Sandbox{}, err
	}
	s, err := e.cfg.Sandboxes.Attach(ctx, c.ID, a)
	if errdefs.IsConflict(err) {
		return s, fmt.Errorf("failed to set up container networking: driver failed programming external connectivity on endpoint %s (%s): %w", c.Name, c.ID, err)
	}
	if err != nil {
		return s, fmt.Errorf("failed to set up container networking: %w", err)
	}
	return s, nil
}

// start runs n, whose state says that it runs, and completes that. What it leaves behind when it fails is undone, but
// for the network.
func (e *Engine) start(ctx context.Context, n *ledger.Container) (err error) {
	if err := e.ledger.CanJoin(n); err != nil {
		return err
	}
	if err := e.checkFiles(n); err != nil {
		return err
	}
	rootfs, err := e.rootfs(ctx, n)
	if err != nil {
		return err
	}
	if e.usesSandbox(n) {
		sandbox, err := e.attach(ctx, n)
		if err != nil {
			return err
		}
		*n = *n.Placed(sandbox)
		e.ledger.ReportEndpoints(n.ID, engine.Sandbox{}, n.State.Sandbox)
	}
	if n.HostConfig.NetworkMode.IsContainer() {
		err = e.adopt(n)
	} else {
		err = e.writeFiles(n)
	}
	if err != nil {
		return err
	}
	if err := e.mountShm(n); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			e.dropShm(n)
		}
	}()
	volumesReady, err := e.mountVolumes(ctx, n)
	if err != nil {
		return err
	}
	defer func() { volumesReady(err == nil) }()
	spec, err := e.spec(ctx, n, rootfs)
	if err != nil {
		return err
	}
	if err := os.Remove(e.exitPath(n.ID)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// "Running" goes down before anything runs: should the daemon die in between, catchUp finds out how far it came.
	if err := e.save(ctx, n, spec); err != nil {
		return err
	}
	target, err := logTarget(n)
	if err != nil {
		return err
	}
	target.Exit, target.Log, target.Attach, target.Stdin = e.exitPath(n.ID), n.LogPath(), e.cfg.attachPath(n.ID), n.Config.OpenStdin
	req := &tasks.CreateTaskRequest{ContainerID: n.ID, Terminal: n.Config.Tty, Stdout: target.URL()}
	for _, m := range rootfs {
		req.Rootfs = append(req.Rootfs, &types.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options})
	}
	_, err = e.tasks.Create(ctx, req)
	if err = errgrpc.ToNative(err); errdefs.IsAlreadyExists(err) {
		// The last end could not be cleaned up; now it must.
		if _, derr := e.tasks.Delete(ctx, &tasks.DeleteTaskRequest{ContainerID: n.ID}); derr != nil {
			return startError(errgrpc.ToNative(derr))
		}
		_, err = e.tasks.Create(ctx, req)
		err = errgrpc.ToNative(err)
	}
	if err != nil {
		return startError(err)
	}
	e.connectWaiting(ctx, n.ID)
	r, err := e.tasks.Start(ctx, &tasks.StartRequest{ContainerID: n.ID})
	if err != nil {
		cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanTimeout)
		defer cancel()
		if _, derr := e.tasks.Delete(cctx, &tasks.DeleteTaskRequest{ContainerID: n.ID}); derr != nil {
			e.cfg.Log.Warn("cannot clean up after a container that did not start", "container", n.ID, "error", derr)
		}
		return startError(errgrpc.ToNative(err))
	}
	n.State.Pid = int(r.Pid)
	return nil
}

// rootfs returns the mounts of the container's root file system and makes its snapshot if a crash prevented that.
func (e *Engine) rootfs(ctx context.Context, c *ledger.Container) ([]mount.Mount, error) {
	m, err := e.snapshots.Mounts(ctx, c.ID)
	if !errdefs.IsNotFound(err) {
		return m, err
	}
	img, info, err := e.imageOf(ctx, c)
	if err != nil {
		return nil, err
	}
	if err := e.prepare(ctx, c.ID, img, info); err != nil {
		return nil, err
	}
	return e.snapshots.Mounts(ctx, c.ID)
}

// startError puts Docker's words before what runc said.
func startError(err error) error {
	text := strings.TrimSuffix(err.Error(), ": unknown")
	class := error(errdefs.ErrInternal)
	if code := exitCodeOf(text); code == 126 || code == 127 {
		class = errdefs.ErrInvalidArgument
	}
	return ledger.Errorf(class, "failed to create task for container: %s", text)
}

func startExitCode(err error) int { return exitCodeOf(err.Error()) }

// exitCodeOf is the exit code that a shell would give, as Docker does: 127 if the command is not there, 126 if it
// cannot be executed, 128 for anything else.
func exitCodeOf(text string) int {
	if strings.Contains(text, "unable to retrieve OCI runtime error") { // it was the runtime that ended, and left no word
		return 128
	}
	for _, s := range []string{"executable file not found", "no such file or directory", "no such file"} {
		if strings.Contains(text, s) {
			return 127
		}
	}
	for _, s := range []string{"permission denied", "is a directory", "not a directory", "exec format error"} {
		if strings.Contains(text, s) {
			return 126
		}
	}
	return 128
}

// follow handles the ends of containers as their shims report them. Everything that ended before it listened is found
// by looking once more.
func (e *Engine) follow(ctx context.Context, g *errgroup.Group) error {
	events, errs := e.client.EventService().Subscribe(ctx,
		fmt.Sprintf(`topic=="/tasks/exit",namespace==%s`, strconv.Quote(e.cfg.Namespace)))
	for _, c := range e.ledger.All() {
		if c.Running() {
			if exit, err := shimdata.ReadExit(e.exitPath(c.ID)); err == nil {
				g.Go(func() error { e.handleExit(ctx, c.ID, exit); return nil })
			}
		}
	}
	for {
		select {
		case ev := <-events:
			v, err := typeurl.UnmarshalAny(ev.Event)
			if err != nil {
				continue
			}
			if x, ok := v.(*apievents.TaskExit); ok && x.ID == x.ContainerID {
				g.Go(func() error {
					e.handleExit(ctx, x.ContainerID, shimdata.Exit{Pid: int(x.Pid), Code: int(x.ExitStatus), At: x.ExitedAt.AsTime()})
					return nil
				})
			}
		case err := <-errs:
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("containerd's events ended: %w", err)
		case <-ctx.Done():
			return nil
		}
	}
}

// handleExit is told that a container's process ended. It may be told more than once, and late.
func (e *Engine) handleExit(ctx context.Context, id string, told shimdata.Exit) {
	c, unlock, err := e.ledger.Lock(ctx, id) // a start that is under way finishes first
	if err != nil {
		return
	}
	if !c.Running() || told.Pid != 0 && c.State.Pid != 0 && told.Pid != c.State.Pid {
		unlock()
		return
	}
	// The shim's record also says whether the memory ran out; without one the shim itself was killed.
	if exit, err := shimdata.ReadExit(e.exitPath(id)); err == nil {
		told = exit
	}
	e.ended(ctx, c, told)
	unlock()
	if c.HostConfig.AutoRemove && !c.State.Keep {
		e.autoRemove(ctx, id)
		return
	}
	e.again(ctx, id)
}

// Wait implements engine.Containers.
func (e *Engine) Wait(ctx context.Context, name string, on container.WaitCondition) (<-chan engine.WaitResult, error) {
	return e.ledger.Wait(ctx, name, on)
}
