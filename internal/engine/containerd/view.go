package containerd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/containerd/api/services/tasks/v1"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	mounttypes "github.com/moby/moby/api/types/mount"
	"golang.org/x/sys/unix"

	"shoal.dev/shoal/internal/engine/ledger"
	"shoal.dev/shoal/internal/engine/rootfs"
)

// view is a container's files while somebody looks at them.
type view struct {
	container *ledger.Container
	root      *rootfs.Root
	end       func()
}

// openFiles opens what the container's processes see, or would see. A container that does not run stays locked until
// the view's end: an overlay must not be mounted twice.
func (e *Engine) openFiles(ctx context.Context, name string) (*view, error) {
	return e.open(ctx, name, e.runningFiles, true)
}

// openRootfs opens the container's root file system without what is mounted into it.
func (e *Engine) openRootfs(ctx context.Context, name string) (*view, error) {
	return e.open(ctx, name, e.runningRootfs, false)
}

func (e *Engine) open(ctx context.Context, name string, running func(context.Context, *ledger.Container) (*os.File, error), volumes bool) (*view, error) {
	ctx = e.scope(ctx)
	c, unlock, err := e.ledger.Lock(ctx, name)
	if err != nil {
		return nil, err
	}
	if c.Running() {
		defer unlock()
		f, err := running(ctx, c)
		if err != nil {
			return nil, err
		}
		root := rootfs.New(f)
		return &view{c, root, func() { _ = root.Close() }}, nil
	}
	f, unmounted, err := e.stoppedFiles(ctx, c, volumes)
	if err != nil {
		unlock()
		return nil, err
	}
	root := rootfs.New(f)
	return &view{c, root, func() { _ = root.Close(); unmounted(); unlock() }}, nil
}

// runningFiles opens the root of a running container's first process. A process's number may be another's a moment
// later, so its folder in /proc is opened first: if the container's shim still has the process afterwards, the folder
// is that process's, and answers for no other when it has ended.
func (e *Engine) runningFiles(ctx context.Context, c *ledger.Container) (*os.File, error) {
	ended := ledger.Errorf(errdefs.ErrConflict, "container %s is not running", c.ID)
	proc, err := unix.Open("/proc/"+strconv.Itoa(c.State.Pid), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, ended
	}
	defer unix.Close(proc)
	r, err := e.tasks.Get(ctx, &tasks.GetRequest{ContainerID: c.ID})
	if err != nil {
		return nil, fmt.Errorf("files of container %s: %w", c.ID, errgrpc.ToNative(err))
	}
	p := r.Process
	if c.State.Pid == 0 || int(p.GetPid()) != c.State.Pid || p.GetStatus() != tasktypes.Status_RUNNING && p.GetStatus() != tasktypes.Status_PAUSED {
		return nil, ended
	}
	fd, err := unix.Openat(proc, "root", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, ended
	}
	return os.NewFile(uintptr(fd), "root of "+c.ID), nil
}

// runningRootfs opens a copy of the mount that a running container has as its root. The mount itself stays free to be
// unmounted when the container ends.
func (e *Engine) runningRootfs(_ context.Context, c *ledger.Container) (*os.File, error) {
	dir := filepath.Join(e.cfg.State, "containerd", "io.containerd.runtime.v2.task", e.cfg.Namespace, c.ID, "rootfs")
	fd, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: dir, Err: err}
	}
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, dir, unix.AT_SYMLINK_NOFOLLOW, 0, &st); err != nil || st.Attributes&unix.STATX_ATTR_MOUNT_ROOT == 0 {
		unix.Close(fd)
		return nil, ledger.Errorf(errdefs.ErrConflict, "container %s is not running", c.ID)
	}
	return os.NewFile(uintptr(fd), "root of "+c.ID), nil
}

// stoppedFiles mounts the root file system of a container that does not run and, with volumes, what the user wants
// mounted into it, and opens a copy of these mounts that is nowhere in the file system. They end with the descriptor,
// whatever becomes of the daemon; what is mounted for a moment before is removed when the next daemon starts.
func (e *Engine) stoppedFiles(ctx context.Context, c *ledger.Container, volumes bool) (f *os.File, unmounted func(), err error) {
	layers, err := e.rootfs(ctx, c)
	if err != nil {
		return nil, nil, err
	}
	dir := filepath.Join(e.mountDir(), c.ID+"-files")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, err
	}
	unmounted = func() {}
	defer func() {
		uerr := mount.UnmountAll(dir, unix.MNT_DETACH)
		if uerr == nil {
			uerr = os.Remove(dir)
		}
		if err = errors.Join(err, uerr); err != nil {
			unmounted()
			_ = f.Close() // nil is no file
		}
	}()
	if err := mount.All(layers, dir); err != nil {
		return nil, nil, err
	}
	if err := unix.Mount("", dir, "", unix.MS_PRIVATE, ""); err != nil {
		return nil, nil, err
	}
	if volumes {
		done, err := e.mountVolumes(ctx, c)
		if err != nil {
			return nil, nil, err
		}
		unmounted = func() { e.unmountVolumes(c) }
		err = e.mountInto(dir, c)
		done(true) // the copies have what they need; unmounted lets go of the volumes
		if err != nil {
			return nil, nil, err
		}
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return nil, nil, &fs.PathError{Op: "open", Path: dir, Err: err}
	}
	if c.HostConfig.ReadonlyRootfs {
		if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
			unix.Close(fd)
			return nil, nil, err
		}
	}
	return os.NewFile(uintptr(fd), "root of "+c.ID), unmounted, nil
}

// mountInto mounts a container's volumes and binds, outer before inner, below dir. The container's own links say where,
// as far as they stay below dir.
func (e *Engine) mountInto(dir string, c *ledger.Container) error {
	top, err := os.Open(dir)
	if err != nil {
		return err
	}
	root := rootfs.New(top)
	defer root.Close()
	order := make([]int, len(c.Mounts))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		return strings.Count(c.Mounts[a].Destination, "/") - strings.Count(c.Mounts[b].Destination, "/")
	})
	for _, i := range order {
		m := c.Mounts[i]
		source := m.Source
		switch m.Type {
		case mounttypes.TypeVolume:
			source = e.volumeSource(c, i)
		case mounttypes.TypeBind:
		default:
			continue
		}
		if err := mountAt(root, source, m.Destination, m.RW); err != nil {
			return fmt.Errorf("mount %s at %s: %w", source, m.Destination, err)
		}
	}
	return nil
}

func mountAt(root *rootfs.Root, source, dest string, rw bool) error {
	fd, err := unix.OpenTree(unix.AT_FDCWD, source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err == unix.ENOENT {
		return nil // a bind whose source the container's start will make, or miss
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	attr := unix.MountAttr{Propagation: unix.MS_PRIVATE} // or our unmounting would be the host's
	if !rw {
		attr.Attr_set = unix.MOUNT_ATTR_RDONLY
	}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	at, err := root.Mountpoint(dest, st.Mode&unix.S_IFMT == unix.S_IFDIR)
	if err != nil {
		return err
	}
	defer at.Close()
	return unix.MoveMount(fd, "", int(at.Fd()), "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
}
