// Package rootfs reads and writes the files of containers from outside of them.
//
// It decides what a path means in a container (its links lead nowhere else than for the container itself), which files
// an archive gets, what an archive may write, and which files of an overlay differ from the image below it. It owns no
// mount and no container: who opens a [Root] says what it is the root of.
//
// # Why nothing leads out
//
// The content of a container is foreign, and it may change while it is read. So no path is ever looked at first and
// used afterwards. A path goes to the kernel as it is, with openat2 and RESOLVE_IN_ROOT: absolute links and ".." end at
// the root's own descriptor, also while somebody renames folders, and links of /proc ("magic links") are refused. Every
// other step is one name in an open folder, and follows no link. A file is opened by its descriptor once it is known to
// be a plain file, so that no device or pipe is. What is written is always a new file: whatever was there is unlinked
// before, so that no write goes through a link, a device or a second name of a file.
//
// No thread changes its root or its mount namespace, so that it does not matter which thread Go runs a step on, and
// no program, no library and no file of a container is loaded or run.
package rootfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/moby/moby/api/types/container"
	"golang.org/x/sys/unix"
)

const (
	// scoped resolves links as the root's own processes would see them.
	scoped = unix.RESOLVE_IN_ROOT
	// plain follows no link at all.
	plain = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS
	// maxDepth bounds how many folders deep a walk goes, and so how many descriptors it holds.
	maxDepth = 512
	// maxLinks is the kernel's own bound of symbolic links in a path.
	maxLinks = 40
)

// Root is a folder that is the root of every path asked of it. Its methods may be called at the same time.
type Root struct{ dir *os.File }

// New takes over an open folder.
func New(dir *os.File) *Root { return &Root{dir} }

// Close closes the folder.
func (r *Root) Close() error { return r.dir.Close() }

func (r *Root) fd() int { return int(r.dir.Fd()) }

// openat2 opens a name; magic links are never followed.
func openat2(dir int, name string, flags, resolve uint64) (int, error) {
	how := unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Resolve: resolve | unix.RESOLVE_NO_MAGICLINKS}
	if flags&unix.O_CREAT != 0 {
		how.Mode = 0o600
	}
	// The kernel says EAGAIN when a rename kept it from seeing whether ".." leads out. Whoever renames all the time
	// gets no answer.
	const tries = 128
	var err error
	for range tries {
		var fd int
		if fd, err = unix.Openat2(dir, name, &how); err == nil {
			return fd, nil
		}
		if err != unix.EAGAIN && err != unix.EINTR {
			break
		}
	}
	return -1, &fs.PathError{Op: "open", Path: name, Err: err}
}

// Clean makes a path absolute, and keeps the slash or the "/." at its end, which ask for what a link leads to.
func Clean(p string) string {
	abs := path.Join("/", p)
	switch {
	case abs == "/":
	case p == "." || strings.HasSuffix(p, "/."):
		abs += "/."
	case strings.HasSuffix(p, "/"):
		abs += "/"
	}
	return abs
}

// lookUp opens what is at a clean path, without following a link that is its last part.
func (r *Root) lookUp(p string) (int, error) {
	fd, err := openat2(r.fd(), p, unix.O_PATH|unix.O_NOFOLLOW, scoped)
	if err != nil {
		return -1, err
	}
	if ofKernel(fd) {
		unix.Close(fd)
		return -1, &fs.PathError{Op: "open", Path: p, Err: unix.ENOENT}
	}
	return fd, nil
}

// kernels are the file systems whose files are the kernel's own words: to read or write them does things.
var kernels = []int64{unix.PROC_SUPER_MAGIC, unix.SYSFS_MAGIC, unix.CGROUP_SUPER_MAGIC, unix.CGROUP2_SUPER_MAGIC,
	unix.DEVPTS_SUPER_MAGIC, unix.DEBUGFS_MAGIC, unix.TRACEFS_MAGIC, unix.SECURITYFS_MAGIC, unix.BPF_FS_MAGIC,
	unix.NSFS_MAGIC, unix.SELINUX_MAGIC, 0x19800202 /* mqueue */, 0x62656570 /* configfs */, 0x6165676C /* pstore */}

func ofKernel(fd int) bool {
	var st unix.Statfs_t
	return unix.Fstatfs(fd, &st) == nil && slices.Contains(kernels, int64(st.Type))
}

// where is the path of a descriptor, as seen from the root.
func (r *Root) where(fd int) (string, error) {
	full, err := os.Readlink(proc(fd))
	if err != nil {
		return "", err
	}
	top, err := os.Readlink(proc(r.fd()))
	if err != nil {
		return "", err
	}
	return path.Join("/", strings.TrimPrefix(full, strings.TrimSuffix(top, "/"))), nil
}

// proc names an open file by its descriptor, in our own /proc.
func proc(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }

// Stat says what is at a path. A link is not followed, unless the path ends in a slash; where it leads to, as far as
// that is there, is its LinkTarget.
func (r *Root) Stat(p string) (container.PathStat, error) {
	p = Clean(p)
	fd, err := r.lookUp(p)
	if err != nil {
		return container.PathStat{}, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return container.PathStat{}, err
	}
	s := container.PathStat{Name: path.Base(p), Size: st.Size, Mode: fileMode(st.Mode), Mtime: time.Unix(st.Mtim.Unix())}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		s.LinkTarget = r.follow(p)
	}
	return s, nil
}

// follow is the path that a link leads to, as far as there is anything.
func (r *Root) follow(p string) string {
	for range maxLinks {
		if fd, err := openat2(r.fd(), p, unix.O_PATH, scoped); err == nil {
			defer unix.Close(fd)
			if at, err := r.where(fd); err == nil {
				return at
			}
			return p
		}
		fd, err := openat2(r.fd(), p, unix.O_PATH|unix.O_NOFOLLOW, scoped)
		if err != nil {
			return p
		}
		to, err := readlink(fd)
		unix.Close(fd)
		if err != nil {
			return p
		}
		if !path.IsAbs(to) {
			to = path.Join(path.Dir(p), to)
		}
		p = path.Clean(to)
	}
	return p
}

func readlink(fd int) (string, error) {
	b := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", b)
	if err != nil {
		return "", err
	}
	return string(b[:n]), nil
}

// ReadFile reads a small plain file, following links; fs.ErrNotExist if there is none.
func (r *Root) ReadFile(p string, limit int64) ([]byte, error) {
	fd, err := openat2(r.fd(), path.Join("/", p), unix.O_PATH, scoped)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || ofKernel(fd) {
		return nil, &fs.PathError{Op: "open", Path: p, Err: fs.ErrNotExist}
	}
	if st.Size > limit {
		return nil, fmt.Errorf("%s has %d bytes, more than %d", p, st.Size, limit)
	}
	f, err := reopen(fd)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := make([]byte, st.Size)
	n, err := f.ReadAt(b, 0)
	if n == len(b) || errors.Is(err, io.EOF) {
		err = nil
	}
	return b[:n], err
}

// reopen opens a plain file, which a descriptor of O_PATH names, for reading.
func reopen(fd int) (*os.File, error) {
	n, err := unix.Open(proc(fd), unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(n), "file"), nil
}

// Mountpoint opens the place at which something is to be mounted, and makes it if it is not there: a folder, or a file.
func (r *Root) Mountpoint(p string, folder bool) (*os.File, error) {
	p = path.Join("/", p)
	fd, err := openat2(r.fd(), p, unix.O_PATH, scoped)
	if errors.Is(err, fs.ErrNotExist) {
		if folder {
			fd, err = makeFolders(r.fd(), p)
		} else {
			fd, err = r.makeFile(p)
		}
	}
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), p), nil
}

func (r *Root) makeFile(p string) (int, error) {
	dir, err := makeFolders(r.fd(), path.Dir(p))
	if err != nil {
		return -1, err
	}
	defer unix.Close(dir)
	return openat2(dir, path.Base(p), unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, plain)
}

// makeFolders opens a folder below dir and makes what is missing of it.
func makeFolders(dir int, p string) (int, error) {
	fd, err := openat2(dir, p, unix.O_PATH|unix.O_DIRECTORY, scoped)
	if !errors.Is(err, fs.ErrNotExist) || path.Dir(p) == p {
		return fd, err
	}
	up, err := makeFolders(dir, path.Dir(p))
	if err != nil {
		return -1, err
	}
	defer unix.Close(up)
	const implied = 0o755 // Docker's
	if err := unix.Mkdirat(up, path.Base(p), implied); err != nil && err != unix.EEXIST {
		return -1, &fs.PathError{Op: "mkdir", Path: p, Err: err}
	}
	return openat2(dir, p, unix.O_PATH|unix.O_DIRECTORY, scoped)
}

// fileMode is the API's form of the kernel's mode.
func fileMode(m uint32) fs.FileMode {
	mode := fs.FileMode(m & 0o777)
	switch m & unix.S_IFMT {
	case unix.S_IFDIR:
		mode |= fs.ModeDir
	case unix.S_IFLNK:
		mode |= fs.ModeSymlink
	case unix.S_IFIFO:
		mode |= fs.ModeNamedPipe
	case unix.S_IFSOCK:
		mode |= fs.ModeSocket
	case unix.S_IFBLK:
		mode |= fs.ModeDevice
	case unix.S_IFCHR:
		mode |= fs.ModeDevice | fs.ModeCharDevice
	}
	for bit, flag := range map[uint32]fs.FileMode{unix.S_ISUID: fs.ModeSetuid, unix.S_ISGID: fs.ModeSetgid, unix.S_ISVTX: fs.ModeSticky} {
		if m&bit != 0 {
			mode |= flag
		}
	}
	return mode
}

// gone says that a file went away between its being listed and its being opened.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESTALE)
}
