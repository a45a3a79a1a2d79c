package rootfs

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"golang.org/x/sys/unix"

	"shoal.dev/shoal/internal/engine/ledger"
)

// Layers are the folders of an overlay: what was written, and what it was written on, the topmost first.
type Layers struct {
	Upper string
	Lower []string
	// Hidden are paths that the engine itself makes in Upper, to mount on: an empty file or folder there does not
	// count, nor a folder that has nothing else.
	Hidden []string
}

// Changes lists what differs from the lower layers, a folder before what is in it. It is Docker's list: a folder
// counts as changed if its mode or owner did, or if it holds a change.
func (l Layers) Changes(ctx context.Context) ([]container.FilesystemChange, error) {
	upper, err := openFolder(l.Upper)
	if err != nil {
		return nil, err
	}
	defer unix.Close(upper)
	c := comparer{ctx: ctx, hidden: map[string]bool{}}
	for _, p := range l.Hidden {
		for ; p != "/" && p != "."; p = path.Dir(p) {
			c.hidden[p] = true
		}
	}
	var lower []int
	defer func() { closeAll(lower) }()
	for _, dir := range l.Lower {
		fd, err := openFolder(dir)
		if err != nil {
			return nil, err
		}
		lower = append(lower, fd)
	}
	if err := c.folder(upper, lower, "/", 0); err != nil {
		return nil, err
	}
	slices.SortFunc(c.list, func(a, b container.FilesystemChange) int { return strings.Compare(a.Path, b.Path) })
	return c.list, nil
}

func openFolder(dir string) (int, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &fs.PathError{Op: "open", Path: dir, Err: err}
	}
	return fd, nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

type comparer struct {
	ctx    context.Context
	hidden map[string]bool
	list   []container.FilesystemChange
}

// old is what the lower layers have under a name.
type old struct {
	st      unix.Stat_t
	fd      int   // of O_PATH, of the topmost that has it
	folders []int // if it is a folder, all that make it up, the topmost first, fd among them
}

func (o *old) close() {
	if o == nil {
		return
	}
	if o.folders == nil {
		unix.Close(o.fd)
	}
	closeAll(o.folders)
}

// folder compares a folder of the upper layer with those of the lower ones.
func (c *comparer) folder(upper int, lower []int, at string, depth int) error {
	if depth >= maxDepth {
		return fmt.Errorf("%s is more than %d folders deep", at, maxDepth)
	}
	return names(upper, func(name string) error {
		if c.ctx.Err() != nil {
			return context.Cause(c.ctx)
		}
		fd, err := openat2(upper, name, unix.O_PATH|unix.O_NOFOLLOW, plain)
		if gone(err) {
			return nil
		}
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		was, err := below(lower, name)
		if err != nil {
			return err
		}
		defer was.close()
		return c.compare(fd, was, path.Join(at, name), depth)
	})
}

func (c *comparer) compare(fd int, was *old, at string, depth int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if whiteout(&st) {
		if was != nil {
			c.add(container.ChangeDelete, at)
		}
		return nil
	}
	for _, attr := range []string{"trusted.overlay.redirect", "trusted.overlay.metacopy"} {
		if _, err := unix.Getxattr(proc(fd), attr, nil); err == nil {
			return ledger.Errorf(errdefs.ErrNotImplemented, "%s was moved by an overlay with redirect_dir or metacopy, which are not supported", at)
		}
	}
	begin := len(c.list)
	switch {
	case was == nil:
		c.add(container.ChangeAdd, at)
	case differs(&was.st, &st) || capabilityOf(fd) != capabilityOf(was.fd):
		c.add(container.ChangeModify, at)
	}
	own := len(c.list)
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		opaque := opaque(fd)
		var lower []int
		if was != nil && !opaque {
			lower = was.folders
		}
		if was != nil && opaque {
			if err := c.replaced(fd, was.folders, at); err != nil {
				return err
			}
			lower = was.folders
		}
		if err := c.folder(fd, lower, at, depth+1); err != nil {
			return err
		}
		if own == begin && len(c.list) > own {
			c.list = slices.Insert(c.list, begin, container.FilesystemChange{Kind: container.ChangeModify, Path: at})
		}
	} else if st.Size > 0 {
		return nil
	}
	if was == nil && c.hidden[at] && len(c.list) == own {
		c.list = c.list[:begin]
	}
	return nil
}

func (c *comparer) add(kind container.ChangeType, at string) {
	c.list = append(c.list, container.FilesystemChange{Kind: kind, Path: at})
}

// replaced lists what is gone because a folder was removed and made again.
func (c *comparer) replaced(upper int, lower []int, at string) error {
	seen := map[string]bool{}
	for _, dir := range lower {
		err := names(dir, func(name string) error {
			if seen[name] {
				return nil
			}
			seen[name] = true
			var st unix.Stat_t
			if unix.Fstatat(upper, name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil {
				return nil // it is compared like any other
			}
			was, err := below(lower, name)
			if err != nil || was == nil {
				return err
			}
			was.close()
			c.add(container.ChangeDelete, path.Join(at, name))
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// below finds a name in the lower layers' folders; nil if they do not have it.
func below(lower []int, name string) (*old, error) {
	var was *old
	for _, dir := range lower {
		fd, err := openat2(dir, name, unix.O_PATH|unix.O_NOFOLLOW, plain)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		var st unix.Stat_t
		if err == nil {
			err = unix.Fstat(fd, &st)
		}
		if err != nil {
			was.close()
			return nil, err
		}
		folder := st.Mode&unix.S_IFMT == unix.S_IFDIR
		if whiteout(&st) || was != nil && !folder {
			unix.Close(fd)
			return was, nil
		}
		if was == nil {
			was = &old{st: st, fd: fd}
		}
		if !folder {
			return was, nil
		}
		was.folders = append(was.folders, fd)
		if opaque(fd) {
			return was, nil
		}
	}
	return was, nil
}

func whiteout(st *unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0 }

// opaque says whether an overlay's folder hides those of the layers below it.
func opaque(fd int) bool {
	var b [1]byte
	n, err := unix.Getxattr(proc(fd), "trusted.overlay.opaque", b[:])
	return err == nil && n == 1 && b[0] == 'y'
}

// differs compares what Docker compares.
func differs(a, b *unix.Stat_t) bool {
	if a.Mode != b.Mode || a.Uid != b.Uid || a.Gid != b.Gid || a.Rdev != b.Rdev {
		return true
	}
	if a.Mode&unix.S_IFMT == unix.S_IFDIR {
		return false
	}
	// A layer's archive has whole seconds.
	sameTime := a.Mtim.Sec == b.Mtim.Sec && (a.Mtim.Nsec == b.Mtim.Nsec || a.Mtim.Nsec == 0 || b.Mtim.Nsec == 0)
	return a.Size != b.Size || !sameTime
}

// Archive writes changes as an image's layer.
func (l Layers) Archive(ctx context.Context, w io.Writer, changes []container.FilesystemChange) error {
	dir, err := os.Open(l.Upper)
	if err != nil {
		return err
	}
	defer dir.Close()
	k := newPacker(ctx, w)
	for _, c := range changes {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		name := c.Path[1:]
		if c.Kind == container.ChangeDelete {
			h := &tar.Header{Typeflag: tar.TypeReg, Name: path.Join(path.Dir(name), ".wh."+path.Base(name)), Mode: 0o600}
			if err := k.w.WriteHeader(h); err != nil {
				return err
			}
			continue
		}
		if err := k.changed(int(dir.Fd()), name); err != nil && !gone(err) {
			return err
		}
	}
	return k.w.Close()
}

func (k *packer) changed(dir int, name string) error {
	fd, err := openat2(dir, name, unix.O_PATH|unix.O_NOFOLLOW, plain)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if whiteout(&st) { // removed since it was listed; what the layer says of it then is what it was before
		return nil
	}
	return k.one(fd, &st, name)
}
