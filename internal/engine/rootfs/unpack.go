package rootfs

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"shoal.dev/shoal/internal/engine/ledger"
)

// Owner is a user and a group of a container, by number.
type Owner struct{ UID, GID int }

// UnpackOptions say how an archive is written.
type UnpackOptions struct {
	Owner *Owner // of everything written; nil: what the archive says
	// KeepKinds refuses to replace a folder by something else, or something else by a folder.
	KeepKinds bool
}

// Folder is a folder of a container that an archive can be written to. Nothing in the archive leads out of it.
type Folder struct {
	fd    int
	Path  string // in the container, with all links followed
	asked string
}

// Folder opens the folder at a path, following links. InvalidArgument with Docker's words if it is none.
func (r *Root) Folder(p string) (*Folder, error) {
	fd, err := openat2(r.fd(), Clean(p), unix.O_PATH, scoped)
	if err != nil {
		return nil, err
	}
	f := &Folder{fd: fd, asked: Clean(p)}
	var st unix.Stat_t
	err = unix.Fstat(fd, &st)
	switch {
	case err != nil:
	case ofKernel(fd):
		err = &fs.PathError{Op: "open", Path: p, Err: unix.ENOENT}
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		err = ledger.Errorf(errdefs.ErrInvalidArgument, "extraction point is not a directory")
	default:
		f.Path, err = r.where(fd)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// Close closes the folder.
func (f *Folder) Close() { unix.Close(f.fd) }

// ReadOnly says whether the folder is on a mount that cannot be written to.
func (f *Folder) ReadOnly() bool {
	var st unix.Statfs_t
	return unix.Fstatfs(f.fd, &st) == nil && st.Flags&unix.ST_RDONLY != 0
}

// Unpack writes a tar archive, which may be compressed, into the folder.
func (f *Folder) Unpack(ctx context.Context, archive io.Reader, o UnpackOptions) error {
	r, done, err := decompress(archive)
	if err != nil {
		return ledger.Errorf(errdefs.ErrInvalidArgument, "%s", err)
	}
	defer done()
	u := unpacker{Folder: f, options: o}
	for t := tar.NewReader(r); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return u.setTimes()
		}
		if err == nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return errors.Join(err, u.setTimes())
		}
		if err := u.entry(h, t); err != nil {
			return err
		}
	}
}

type unpacker struct {
	*Folder
	options UnpackOptions
	folders []dated // whose times are set when nothing more is written into them
}

type dated struct {
	name string
	at   time.Time
}

// maxDated bounds how many folders wait for their time; further ones get it early, and may lose it again.
const maxDated = 1 << 16

func (u *unpacker) entry(h *tar.Header, content io.Reader) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name := path.Clean(strings.TrimLeft(h.Name, "/"))
	if name == "." {
		return nil
	}
	if !filepath.IsLocal(name) {
		return ledger.Errorf(errdefs.ErrInvalidArgument, "invalid entry name %q", h.Name)
	}
	dir, err := makeFolders(u.fd, path.Dir(name))
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	if ofKernel(dir) {
		return &fs.PathError{Op: "create", Path: name, Err: unix.EPERM}
	}
	base := path.Base(name)
	there, err := u.clear(dir, base, name, h.Typeflag == tar.TypeDir)
	if err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeReg:
		return u.file(dir, base, h, content)
	case tar.TypeDir:
		if !there {
			err = unix.Mkdirat(dir, base, 0o700)
		}
		u.date(name, h.ModTime)
	case tar.TypeSymlink:
		err = unix.Symlinkat(h.Linkname, dir, base)
	case tar.TypeLink:
		return u.link(dir, base, h.Linkname)
	case tar.TypeChar:
		err = unix.Mknodat(dir, base, unix.S_IFCHR|0o600, device(h))
	case tar.TypeBlock:
		err = unix.Mknodat(dir, base, unix.S_IFBLK|0o600, device(h))
	case tar.TypeFifo:
		err = unix.Mknodat(dir, base, unix.S_IFIFO|0o600, 0)
	default:
		return ledger.Errorf(errdefs.ErrInvalidArgument, "unhandled tar header type %d", h.Typeflag)
	}
	if err != nil {
		return &fs.PathError{Op: "create", Path: name, Err: err}
	}
	fd, err := openat2(dir, base, unix.O_PATH|unix.O_NOFOLLOW, plain)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return u.describe(fd, h)
}

// device is the kernel's number of a device.
func device(h *tar.Header) int { return int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))) }

// clear removes what stands where an entry goes, and says whether a folder stays there for a folder.
func (u *unpacker) clear(dir int, base, name string, folder bool) (there bool, err error) {
	var st unix.Stat_t
	err = unix.Fstatat(dir, base, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == unix.ENOENT {
		return false, nil
	}
	if err != nil {
		return false, &fs.PathError{Op: "stat", Path: name, Err: err}
	}
	was := st.Mode&unix.S_IFMT == unix.S_IFDIR
	switch {
	case was && folder:
		return true, nil
	case was && u.options.KeepKinds:
		return false, ledger.Errorf(errdefs.ErrInvalidArgument, "cannot overwrite directory %q with non-directory %q", name, u.asked)
	case folder && u.options.KeepKinds:
		return false, ledger.Errorf(errdefs.ErrInvalidArgument, "cannot overwrite non-directory %q with directory %q", name, u.asked)
	case !was:
		if err := unix.Unlinkat(dir, base, 0); err != nil && err != unix.ENOENT {
			return false, &fs.PathError{Op: "remove", Path: name, Err: err}
		}
		return false, nil
	}
	root, err := os.OpenRoot(proc(dir)) // removes without following links, folder by folder
	if err != nil {
		return false, err
	}
	defer root.Close()
	return false, root.RemoveAll(base)
}

func (u *unpacker) file(dir int, base string, h *tar.Header, content io.Reader) error {
	fd, err := openat2(dir, base, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW, plain)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), h.Name)
	_, err = io.Copy(f, content)
	if err == nil {
		err = u.describe(fd, h)
	}
	return errors.Join(err, f.Close())
}

// link gives a file of the folder another name. The last part of neither name is followed.
func (u *unpacker) link(dir int, base, to string) error {
	target := path.Clean(strings.TrimLeft(to, "/"))
	if target == "." || !filepath.IsLocal(target) {
		return ledger.Errorf(errdefs.ErrInvalidArgument, "invalid hardlink target %q", to)
	}
	from, err := openat2(u.fd, path.Dir(target), unix.O_PATH|unix.O_DIRECTORY, scoped)
	if err != nil {
		return err
	}
	defer unix.Close(from)
	if err := unix.Linkat(from, path.Base(target), dir, base, 0); err != nil {
		return &os.LinkError{Op: "link", Old: to, New: base, Err: err}
	}
	return nil
}

// describe gives what a descriptor names its owner, attributes, mode and time, in this order: a change of the owner
// takes the set-user-ID bit and the capability away.
func (u *unpacker) describe(fd int, h *tar.Header) error {
	owner := Owner{h.Uid, h.Gid}
	if u.options.Owner != nil {
		owner = *u.options.Owner
	}
	if err := unix.Fchownat(fd, "", owner.UID, owner.GID, unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &fs.PathError{Op: "chown", Path: h.Name, Err: err}
	}
	if h.Typeflag == tar.TypeSymlink {
		return nil
	}
	for key, value := range h.PAXRecords {
		attr, ok := strings.CutPrefix(key, "SCHILY.xattr.")
		if !ok {
			continue
		}
		if err := unix.Setxattr(proc(fd), attr, []byte(value), 0); err != nil && err != unix.EPERM {
			return &fs.PathError{Op: "setxattr", Path: h.Name, Err: err}
		}
	}
	if err := unix.Chmod(proc(fd), uint32(h.Mode&0o7777)); err != nil {
		return &fs.PathError{Op: "chmod", Path: h.Name, Err: err}
	}
	return setTime(fd, h.ModTime)
}

func setTime(fd int, at time.Time) error {
	// What no file system can hold is the epoch, as in Docker.
	if at.Unix() < 0 || at.Unix() > 1<<33 {
		at = time.Unix(0, 0)
	}
	ts := unix.NsecToTimespec(at.UnixNano())
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, proc(fd), []unix.Timespec{ts, ts}, 0); err != nil {
		return &fs.PathError{Op: "utimes", Path: proc(fd), Err: err}
	}
	return nil
}

func (u *unpacker) date(name string, at time.Time) {
	if len(u.folders) == maxDated {
		_ = u.setTimes() // early; what is wrong with a folder shows when something is written into it
	}
	u.folders = append(u.folders, dated{name, at})
}

// setTimes gives folders the times that writing into them has changed.
func (u *unpacker) setTimes() error {
	for _, d := range u.folders {
		fd, err := openat2(u.fd, d.name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_DIRECTORY, scoped)
		if err != nil {
			continue // it was replaced
		}
		err = setTime(fd, d.at)
		unix.Close(fd)
		if err != nil {
			return err
		}
	}
	u.folders = u.folders[:0]
	return nil
}
