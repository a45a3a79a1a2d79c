package containerd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/sys/user"

	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/engine/ledger"
	"shoal.dev/shoal/internal/engine/rootfs"
)

// fileError puts what is wrong with a file into Docker's words. name is the container's, as the user wrote it.
func fileError(err error, file, name string) error {
	if errors.Is(err, fs.ErrNotExist) {
		return ledger.Errorf(errdefs.ErrNotFound, "Could not find the file %s in container %s", file, name)
	}
	return err
}

// StatFile implements engine.Archives.
func (e *Engine) StatFile(ctx context.Context, name, file string) (container.PathStat, error) {
	v, err := e.openFiles(ctx, name)
	if err != nil {
		return container.PathStat{}, err
	}
	defer v.end()
	st, err := v.root.Stat(file)
	return st, fileError(err, file, name)
}

// ReadFiles implements engine.Archives.
func (e *Engine) ReadFiles(ctx context.Context, name, file string, open func(container.PathStat) (io.Writer, error)) error {
	v, err := e.openFiles(ctx, name)
	if err != nil {
		return err
	}
	defer v.end()
	st, err := v.root.Stat(file)
	if err != nil {
		return fileError(err, file, name)
	}
	w, err := open(st)
	if err != nil {
		return err
	}
	if err := v.root.Pack(ctx, w, file); err != nil {
		return fileError(err, file, name)
	}
	e.ledger.Report(v.container, "archive-path", nil)
	return nil
}

// WriteFiles implements engine.Archives.
func (e *Engine) WriteFiles(ctx context.Context, name, file string, archive io.Reader, o engine.WriteOptions) error {
	v, err := e.openFiles(ctx, name)
	if err != nil {
		return err
	}
	defer v.end()
	to, err := v.root.Folder(file)
	if err != nil {
		return fileError(err, file, name)
	}
	defer to.Close()
	if to.ReadOnly() {
		return readOnlyError(v.container, to.Path)
	}
	opts := rootfs.UnpackOptions{KeepKinds: o.KeepKinds}
	if o.OwnerUser && v.container.Config.User != "" {
		if opts.Owner, err = userIn(v.root, v.container.Config.User); err != nil {
			return err
		}
	}
	if err := to.Unpack(ctx, archive, opts); err != nil {
		return fileError(err, file, name)
	}
	e.ledger.Report(v.container, "extract-to-dir", nil)
	return nil
}

// readOnlyError says what it is that cannot be written to: a mount of the user's, or the rest.
func readOnlyError(c *ledger.Container, at string) error {
	for _, m := range c.Mounts {
		if at == m.Destination || strings.HasPrefix(at, strings.TrimSuffix(m.Destination, "/")+"/") {
			return ledger.Errorf(errdefs.ErrInvalidArgument, "mounted volume is marked read-only")
		}
	}
	return ledger.Errorf(errdefs.ErrInvalidArgument, "container rootfs is marked read-only")
}

// userIn finds a user in the container's own data base.
func userIn(root *rootfs.Root, name string) (*rootfs.Owner, error) {
	const limit = 4 << 20 // no sane user data base is larger
	read := func(p string) (string, error) {
		b, err := root.ReadFile(p, limit)
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return string(b), err
	}
	passwd, err := read("/etc/passwd")
	if err != nil {
		return nil, err
	}
	group, err := read("/etc/group")
	if err != nil {
		return nil, err
	}
	u, err := user.GetExecUser(name, &user.ExecUser{}, strings.NewReader(passwd), strings.NewReader(group))
	if err != nil {
		return nil, ledger.Errorf(errdefs.ErrInvalidArgument, "unable to find user %s: %s", name, err)
	}
	return &rootfs.Owner{UID: u.Uid, GID: u.Gid}, nil
}

// Export implements engine.Archives.
func (e *Engine) Export(ctx context.Context, name string, w io.Writer) error {
	v, err := e.openRootfs(ctx, name)
	if err == nil {
		defer v.end()
		err = v.root.Export(ctx, w)
	}
	switch {
	case err == nil:
		e.ledger.Report(v.container, "export", nil)
		return nil
	case errdefs.IsNotFound(err) || errdefs.IsConflict(err):
		return err
	}
	return ledger.Errorf(errdefs.ErrInternal, "Error exporting container %s: %s", name, err)
}

// Changes implements engine.Archives.
func (e *Engine) Changes(ctx context.Context, name string) ([]container.FilesystemChange, error) {
	c, err := e.ledger.Find(name)
	if err != nil {
		return nil, err
	}
	l, err := e.layersOf(e.scope(ctx), c)
	if err != nil {
		return nil, err
	}
	return l.Changes(ctx)
}

// layersOf says where a container's changes are, what they are changes of, and what only looks like one.
func (e *Engine) layersOf(ctx context.Context, c *ledger.Container) (rootfs.Layers, error) {
	m, err := e.rootfs(ctx, c)
	if err != nil {
		return rootfs.Layers{}, err
	}
	dirs := layers(m)
	if len(dirs) == 0 {
		return rootfs.Layers{}, fmt.Errorf("container %s has no root file system", c.ID)
	}
	return rootfs.Layers{Upper: dirs[0], Lower: dirs[1:], Hidden: mountpoints()}, nil
}

// mountpoints are the places where every container has something mounted. Those of the user's own mounts count as
// changes, as in Docker.
func mountpoints() []string {
	return []string{"/proc", "/dev", "/sys", "/etc/hostname", "/etc/hosts", "/etc/resolv.conf"}
}
