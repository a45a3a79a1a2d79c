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
	"time"

	"golang.org/x/sys/unix"
)

// capability is the one extended attribute that archives hold, as Docker's do.
const capability = "security.capability"

// maxSeen bounds how many files with several names are remembered; further ones are written once for each name.
const maxSeen = 1 << 20

// Pack writes what is at a path as a tar archive, with all that is below it. Names in it begin with the path's last
// part. File systems of the kernel, and the devices in /dev, are left out unless they are asked for themselves.
func (r *Root) Pack(ctx context.Context, w io.Writer, p string) error {
	p = Clean(p)
	fd, err := r.lookUp(p)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	base := path.Base(p)
	if base == "/" {
		base = ""
	}
	k := newPacker(ctx, w)
	k.devices, err = r.where(fd)
	if err != nil {
		return err
	}
	if err := k.add(fd, base, 0); err != nil {
		return err
	}
	return k.w.Close()
}

// Export writes all that is below the root as a tar archive.
func (r *Root) Export(ctx context.Context, w io.Writer) error {
	k := newPacker(ctx, w)
	if err := k.below(r.fd(), "", 0); err != nil {
		return err
	}
	return k.w.Close()
}

type packer struct {
	ctx     context.Context
	w       *tar.Writer
	seen    map[inode]string // the first name of files that have several
	devices string           // where the walk began; "/" has the folder /dev below it
}

type inode struct{ dev, ino uint64 }

func newPacker(ctx context.Context, w io.Writer) *packer {
	return &packer{ctx: ctx, w: tar.NewWriter(w), seen: map[inode]string{}}
}

// add writes what a descriptor of O_PATH names, and all below it.
func (k *packer) add(fd int, name string, depth int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if err := k.one(fd, &st, name); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil
	}
	return k.below(fd, name+"/", depth)
}

// below writes what is in a folder. Names get the prefix.
func (k *packer) below(fd int, prefix string, depth int) error {
	if depth >= maxDepth {
		return fmt.Errorf("%s is more than %d folders deep", prefix, maxDepth)
	}
	var dir unix.Stat_t
	if err := unix.Fstat(fd, &dir); err != nil {
		return err
	}
	return names(fd, func(name string) error {
		if err := k.ctx.Err(); err != nil {
			return context.Cause(k.ctx)
		}
		child, err := openat2(fd, name, unix.O_PATH|unix.O_NOFOLLOW, plain)
		if gone(err) {
			return nil
		}
		if err != nil {
			return err
		}
		defer unix.Close(child)
		var st unix.Stat_t
		if err := unix.Fstat(child, &st); err != nil {
			return err
		}
		if st.Dev != dir.Dev && (ofKernel(child) || depth == 0 && k.devices == "/" && name == "dev") {
			if st.Mode&unix.S_IFMT != unix.S_IFDIR {
				return nil
			}
			return k.one(child, &st, prefix+name)
		}
		return k.add(child, prefix+name, depth+1)
	})
}

// names calls each for the names in a folder, in order as far as they fit into memory at once.
func names(fd int, each func(string) error) error {
	n, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: proc(fd), Err: err}
	}
	d := os.NewFile(uintptr(n), "folder")
	defer d.Close()
	const atOnce = 1 << 16
	for {
		list, err := d.Readdirnames(atOnce)
		slices.Sort(list)
		for _, name := range list {
			if err := each(name); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// one writes one entry. Sockets have none.
func (k *packer) one(fd int, st *unix.Stat_t, name string) error {
	h := &tar.Header{Name: name, Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid),
		ModTime: time.Unix(st.Mtim.Unix()).Truncate(time.Second), Format: tar.FormatPAX}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		h.Typeflag, h.Name = tar.TypeDir, name+"/"
	case unix.S_IFLNK:
		to, err := readlink(fd)
		if err != nil {
			return err
		}
		h.Typeflag, h.Linkname = tar.TypeSymlink, to
	case unix.S_IFREG:
		return k.file(fd, st, h)
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	case unix.S_IFCHR, unix.S_IFBLK:
		h.Typeflag = tar.TypeChar
		if st.Mode&unix.S_IFMT == unix.S_IFBLK {
			h.Typeflag = tar.TypeBlock
		}
		h.Devmajor, h.Devminor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	default:
		return nil
	}
	return k.w.WriteHeader(h)
}

func (k *packer) file(fd int, st *unix.Stat_t, h *tar.Header) error {
	h.Typeflag = tar.TypeReg
	if st.Nlink > 1 {
		id := inode{st.Dev, st.Ino}
		if first, ok := k.seen[id]; ok {
			h.Typeflag, h.Linkname = tar.TypeLink, first
			return k.w.WriteHeader(h)
		}
		if len(k.seen) < maxSeen {
			k.seen[id] = h.Name
		}
	}
	f, err := reopen(fd)
	if err != nil {
		return err
	}
	defer f.Close()
	if v := capabilityOf(fd); v != "" {
		h.PAXRecords = map[string]string{"SCHILY.xattr." + capability: v}
	}
	h.Size = st.Size
	if err := k.w.WriteHeader(h); err != nil {
		return err
	}
	// A file that grows meanwhile is cut, one that shrinks is filled up with zeros, as tar does: what comes after it
	// in the archive must stay readable.
	n, err := io.Copy(k.w, io.LimitReader(f, st.Size))
	if err == nil && n < st.Size {
		_, err = io.CopyN(k.w, zeros{}, st.Size-n)
	}
	return err
}

// zeros reads as nothing but zeros.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func capabilityOf(fd int) string {
	var b [64]byte // the largest, of revision 3, has 24
	n, err := unix.Getxattr(proc(fd), capability, b[:])
	if err != nil {
		return ""
	}
	return string(b[:n])
}
