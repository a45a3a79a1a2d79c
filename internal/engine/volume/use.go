package volume

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	ctrmount "github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/continuity/fs"
	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/volume"
	"golang.org/x/sys/unix"

	"shoal.dev/shoal/internal/engine/ledger"
)

// Claim makes the volumes that mounts need and notes that the container uses them, until Release. It returns what
// `inspect` shows of all mounts. If it fails it has let go of everything again.
func (s *Store) Claim(ctx context.Context, id string, mounts []Mount) ([]container.MountPoint, error) {
	points := make([]container.MountPoint, 0, len(mounts))
	var named []string
	for _, m := range mounts {
		named = append(named, m.Name)
	}
	for _, m := range mounts {
		p := m.MountPoint
		if p.Type == mount.TypeVolume {
			r := volume.CreateRequest{Name: p.Name}
			if o := m.Options; o != nil {
				r.Labels = o.Labels
				if o.DriverConfig != nil {
					r.Driver, r.DriverOpts = o.DriverConfig.Name, o.DriverConfig.Options
				}
			}
			e, err := s.claim(ctx, r, id)
			if err != nil {
				return nil, errors.Join(err, s.Release(ctx, id, points, true, named...))
			}
			p.Name, p.Source, p.Driver = e.Name, s.data(e.Name), driver
		}
		points = append(points, p)
	}
	return points, nil
}

// Hold notes that a container found at start uses these volumes, and whether it runs. A volume that was taken away
// behind our back is missed when the container starts.
func (s *Store) Hold(id string, points []container.MountPoint, running bool) {
	for _, p := range points {
		e, err := s.find(p.Name)
		if p.Type != mount.TypeVolume || err != nil {
			continue
		}
		s.mu.Lock()
		e.users[id] = true
		s.mu.Unlock()
		e.work.Lock()
		if running {
			e.holds[id] = true
		}
		e.work.Unlock()
	}
}

// Settle unmounts what no container holds: what a daemon that died left mounted.
func (s *Store) Settle() error {
	s.mu.Lock()
	all := make([]*entry, 0, len(s.byName))
	for _, e := range s.byName {
		all = append(all, e)
	}
	s.mu.Unlock()
	var errs []error
	for _, e := range all {
		e.work.Lock()
		if len(e.holds) == 0 {
			errs = append(errs, s.unmount(e))
		}
		e.work.Unlock()
	}
	return errors.Join(errs...)
}

// Release notes that a container is gone. With anonymous, the volumes that were made for it without a name go too,
// unless another container uses them; named says which it named itself. It returns what could not be removed.
func (s *Store) Release(_ context.Context, id string, points []container.MountPoint, anonymousToo bool, named ...string) error {
	var errs []error
	for _, p := range points {
		e, err := s.find(p.Name)
		if p.Type != mount.TypeVolume || err != nil {
			continue
		}
		errs = append(errs, s.let(e, id))
		s.mu.Lock()
		delete(e.users, id)
		s.mu.Unlock()
		if _, unnamed := e.Labels[anonymous]; !anonymousToo || !unnamed || slices.Contains(named, p.Name) {
			continue
		}
		if err := s.remove(e); err != nil && !errdefs.IsConflict(err) && !errdefs.IsNotFound(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Named are the volumes that a container's settings name.
func Named(h *container.HostConfig) []string {
	var names []string
	for _, b := range h.Binds {
		name, _, _ := strings.Cut(b, ":")
		names = append(names, name)
	}
	for _, m := range h.Mounts {
		names = append(names, m.Source)
	}
	return names
}

// Mount makes the container's volumes ready to be mounted into it, until Unmount. If it fails it has undone
// everything.
func (s *Store) Mount(ctx context.Context, id string, points []container.MountPoint) error {
	for i, p := range points {
		if p.Type != mount.TypeVolume {
			continue
		}
		if err := s.mountOne(ctx, id, p); err != nil {
			return errors.Join(err, s.Unmount(id, points[:i]))
		}
	}
	return nil
}

func (s *Store) mountOne(ctx context.Context, id string, p container.MountPoint) error {
	e, err := s.find(p.Name)
	if err != nil {
		return err
	}
	e.work.Lock()
	defer e.work.Unlock()
	if e.gone {
		return ledger.Errorf(errdefs.ErrNotFound, "get %s: no such volume", p.Name)
	}
	if len(e.holds) == 0 {
		if err := s.mount(ctx, e); err != nil {
			return err
		}
	}
	if !e.holds[id] {
		e.holds[id] = true
		s.report(p.Name, "mount", map[string]string{"driver": driver, "container": id, "destination": p.Destination,
			"read/write": fmt.Sprint(p.RW), "propagation": string(p.Propagation)})
	}
	return nil
}

// Unmount says that the container has ended.
func (s *Store) Unmount(id string, points []container.MountPoint) error {
	var errs []error
	for _, p := range points {
		if e, err := s.find(p.Name); p.Type == mount.TypeVolume && err == nil {
			errs = append(errs, s.let(e, id))
		}
	}
	return errors.Join(errs...)
}

func (s *Store) let(e *entry, id string) error {
	e.work.Lock()
	defer e.work.Unlock()
	if !e.holds[id] {
		return nil
	}
	delete(e.holds, id)
	s.report(e.Name, "unmount", map[string]string{"driver": driver, "container": id})
	if len(e.holds) > 0 {
		return nil
	}
	return s.unmount(e)
}

// mount mounts what the volume's options name. e.work is held.
func (s *Store) mount(ctx context.Context, e *entry) error {
	if s.dir == "" {
		return nil
	}
	if _, err := os.Stat(s.data(e.Name)); err != nil {
		return ledger.Errorf(errdefs.ErrNotFound, "the folder of the volume %s is missing: %s", e.Name, err)
	}
	if len(e.Options) == 0 {
		return nil
	}
	if is, err := mounted(s.data(e.Name)); err != nil || is {
		return err
	}
	var options []string
	for o := range strings.SplitSeq(e.Options["o"], ",") {
		if host, ok := strings.CutPrefix(o, "addr="); ok { // the kernel does not resolve names
			ip, err := resolve(ctx, host)
			if err != nil {
				return ledger.Errorf(errdefs.ErrInvalidArgument, "failed to mount local volume: error resolving passed in network volume address: %s", err)
			}
			o = "addr=" + ip
		}
		if o != "" {
			options = append(options, o)
		}
	}
	m := ctrmount.Mount{Type: e.Options["type"], Source: e.Options["device"], Options: options}
	if err := m.Mount(s.data(e.Name)); err != nil {
		return ledger.Errorf(errdefs.ErrInvalidArgument, "failed to mount local volume: mount %s:%s, type: %s, data: %s: %s",
			m.Source, s.data(e.Name), m.Type, strings.Join(options, ","), err)
	}
	return nil
}

func resolve(ctx context.Context, host string) (string, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return a.String(), nil
	}
	list, err := net.DefaultResolver.LookupHost(ctx, host)
	if err != nil {
		return "", err
	}
	return list[0], nil
}

// unmount undoes mount. e.work is held.
func (s *Store) unmount(e *entry) error {
	if s.dir == "" || len(e.Options) == 0 {
		return nil
	}
	if is, err := mounted(s.data(e.Name)); err != nil || !is {
		return err
	}
	if err := unix.Unmount(s.data(e.Name), unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount volume %s: %w", e.Name, err)
	}
	return nil
}

// mounted says whether something is mounted on dir.
func mounted(dir string) (bool, error) {
	if _, err := os.Lstat(dir); errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return false, err
	}
	m, err := ctrmount.Lookup(real)
	if err != nil {
		return false, err
	}
	return m.Mountpoint == real, nil
}

// Populate copies what the image has at the places of new, empty volumes into them, with owners, modes and links.
// rootfs is called at most once and gives the image's files to its function.
func (s *Store) Populate(ctx context.Context, id string, mounts []Mount, points []container.MountPoint, rootfs func(func(root string) error) error) error {
	if s.dir == "" {
		return nil
	}
	var todo []container.MountPoint
	for i, m := range mounts {
		whole := m.Options == nil || m.Options.Subpath == ""
		if m.Type == mount.TypeVolume && !m.nocopy && whole {
			if empty, err := isEmpty(s.data(points[i].Name)); err != nil || empty {
				todo = append(todo, points[i])
			}
		}
	}
	if len(todo) == 0 {
		return nil
	}
	return rootfs(func(root string) error {
		for _, p := range todo {
			src, err := fs.RootPath(root, p.Destination)
			if err != nil {
				return err
			}
			if st, err := os.Stat(src); err != nil || !st.IsDir() {
				continue // the image has nothing there
			}
			if err := s.mountOne(ctx, id, p); err != nil {
				return err
			}
			e, err := s.find(p.Name)
			if err == nil {
				err = s.fill(e, src)
			}
			if err = errors.Join(err, s.Unmount(id, []container.MountPoint{p})); err != nil {
				return fmt.Errorf("copy the image's %s into volume %s: %w", p.Destination, p.Name, err)
			}
		}
		return nil
	})
}

// fill copies src into the empty volume. The copy is made beside it and then put in by one rename, so that a crash
// leaves it empty or whole, and so that a container that has the volume already cannot lead our writes elsewhere by a
// symbolic link. Such a container keeps the volume to itself.
func (s *Store) fill(e *entry, src string) error {
	e.work.Lock()
	defer e.work.Unlock()
	if len(e.holds) > 1 {
		return nil
	}
	data := s.data(e.Name)
	if empty, err := isEmpty(data); err != nil || !empty {
		return err
	}
	if len(e.Options) > 0 { // on another file system, where no rename leads
		return fs.CopyDir(data, src)
	}
	tmp, err := os.MkdirTemp(s.dir, ".copy-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	staged := filepath.Join(tmp, dataName)
	if err := fs.CopyDir(staged, src); err != nil {
		return err
	}
	// Not os.Rename, which refuses folders.
	if err := unix.Rename(staged, data); err != nil && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}

func isEmpty(dir string) (bool, error) {
	d, err := os.Open(dir)
	if err != nil {
		return false, err
	}
	defer d.Close()
	_, err = d.Readdirnames(1)
	if errors.Is(err, io.EOF) {
		return true, nil
	}
	return false, err
}

// Source opens the part of a mounted volume that a container gets and returns a path that stays what it is until
// close, whatever containers do to the volume meanwhile: a mount at the path `at`, which is made.
func Source(dir, subpath, at string) (closed func() error, err error) {
	base, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(base)
	fd, err := unix.Openat2(base, subpath, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS})
	if err != nil {
		return nil, ledger.Errorf(errdefs.ErrInvalidArgument, "cannot access path %s: %s", filepath.Join(dir, subpath), err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		err = os.MkdirAll(at, 0o700)
	} else if err = os.MkdirAll(filepath.Dir(at), 0o700); err == nil {
		err = os.WriteFile(at, nil, 0o600)
	}
	if err != nil {
		return nil, err
	}
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", fd), at, "", unix.MS_BIND, ""); err != nil {
		return nil, errors.Join(fmt.Errorf("mount %s: %w", filepath.Join(dir, subpath), err), os.Remove(at))
	}
	return func() error { return errors.Join(unix.Unmount(at, unix.MNT_DETACH), os.Remove(at)) }, nil
}
