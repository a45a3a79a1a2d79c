package containerd

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	mounttypes "github.com/moby/moby/api/types/mount"
	"github.com/opencontainers/runtime-spec/specs-go"

	"shoal.dev/shoal/internal/engine/ledger"
)

// defaultShmSize is the size of /dev/shm in bytes; Docker's.
const defaultShmSize = 64 << 20

// mounts are the mounts of a container: the kernel's file systems, Docker's three files, and what the user asked for,
// outer before inner. A user's mount replaces a default one at the same place.
func (e *Engine) mounts(c *ledger.Container) ([]specs.Mount, error) {
	h := c.HostConfig
	list := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
	}
	shm, err := e.shmSource(c)
	switch {
	case err != nil:
		return nil, err
	case shm != "":
		list = append(list, specs.Mount{Destination: "/dev/shm", Type: "bind", Source: shm, Options: []string{"rbind", "rprivate", "rw"}})
	case !h.IpcMode.IsNone():
		list = append(list, specs.Mount{Destination: "/dev/shm", Type: "tmpfs", Source: "shm",
			Options: []string{"nosuid", "noexec", "nodev", "mode=1777", fmt.Sprintf("size=%d", h.ShmSize)}})
	}
	put := func(m specs.Mount) {
		list = slices.DeleteFunc(list, func(o specs.Mount) bool { return o.Destination == m.Destination })
		list = append(list, m)
	}
	files := e.etcDir(c)
	for _, name := range []string{"hostname", "hosts", "resolv.conf"} {
		put(specs.Mount{Destination: "/etc/" + name, Type: "bind", Source: filepath.Join(files, name), Options: []string{"rbind", "rprivate", writable(!h.ReadonlyRootfs)}})
	}
	for dest, opts := range h.Tmpfs {
		put(specs.Mount{Destination: path.Clean(dest), Type: "tmpfs", Source: "tmpfs", Options: tmpfsOptions(opts)})
	}
	created := map[string]bool{}
	for _, m := range h.Mounts {
		if m.Type == mounttypes.TypeTmpfs {
			put(specs.Mount{Destination: path.Clean(m.Target), Type: "tmpfs", Source: "tmpfs", Options: tmpfsMount(m)})
		}
		if m.BindOptions == nil || !m.BindOptions.CreateMountpoint {
			created[path.Clean(m.Target)] = true // its source must exist
		}
	}
	for i, m := range c.Mounts {
		if m.Type == mounttypes.TypeVolume {
			put(specs.Mount{Destination: m.Destination, Type: "bind", Source: e.volumeSource(c, i), Options: []string{"rbind", "rprivate", writable(m.RW)}})
			continue
		}
		if m.Type != mounttypes.TypeBind {
			continue
		}
		if _, err := os.Stat(m.Source); errors.Is(err, fs.ErrNotExist) {
			if created[m.Destination] {
				return nil, ledger.Errorf(errdefs.ErrInvalidArgument, "invalid mount config for type \"bind\": bind source path does not exist: %s", m.Source)
			}
			// --volume makes a missing source, --mount does not.
			if err := os.MkdirAll(m.Source, 0o755); err != nil {
				return nil, err
			}
		}
		options, err := e.bindOptions(c, m)
		if err != nil {
			return nil, err
		}
		put(specs.Mount{Destination: m.Destination, Type: "bind", Source: m.Source, Options: options})
	}
	for i, target := range c.Files {
		put(specs.Mount{Destination: target, Type: "bind", Source: e.filePath(c.ID, i), Options: []string{"bind", "rprivate", "ro", "nosuid", "nodev"}})
	}
	slices.SortStableFunc(list, func(a, b specs.Mount) int {
		return strings.Count(a.Destination, "/") - strings.Count(b.Destination, "/")
	})
	return list, nil
}

func writable(yes bool) string {
	if yes {
		return "rw"
	}
	return "ro"
}

// tmpfsOptions reads the options of --tmpfs; Docker's defaults come first.
func tmpfsOptions(opts string) []string {
	list := []string{"noexec", "nosuid", "nodev"}
	for o := range strings.SplitSeq(opts, ",") {
		if o == "" {
			continue
		}
		// "exec" undoes "noexec".
		list = append(slices.DeleteFunc(list, func(s string) bool { return s == o || s == "no"+o }), o)
	}
	return list
}

func tmpfsMount(m mounttypes.Mount) []string {
	list := []string{"noexec", "nosuid", "nodev", "rprivate", writable(!m.ReadOnly)}
	if o := m.TmpfsOptions; o != nil {
		if o.SizeBytes > 0 {
			list = append(list, fmt.Sprintf("size=%d", o.SizeBytes))
		}
		if o.Mode != 0 {
			list = append(list, fmt.Sprintf("mode=%o", o.Mode))
		}
		for _, kv := range o.Options {
			list = append(list, strings.Join(kv, "="))
		}
	}
	return list
}

// readRootfs reads a file of a root file system that is not mounted, from the layers that it will be made of: no
// mount, and no name in it leads out of its layer. "" if there is no such file.
func readRootfs(rootfs []mount.Mount, name string) (string, error) {
	for _, dir := range layers(rootfs) {
		text, found, err := readLayer(dir, name)
		if err != nil || found {
			return text, err
		}
	}
	return "", nil
}

// layers are the folders of a root file system, the topmost first.
func layers(rootfs []mount.Mount) []string {
	var dirs []string
	for _, m := range rootfs {
		if m.Type == "bind" {
			dirs = append(dirs, m.Source)
		}
		for _, o := range m.Options {
			if d, ok := strings.CutPrefix(o, "upperdir="); ok {
				dirs = append([]string{d}, dirs...)
			} else if d, ok := strings.CutPrefix(o, "lowerdir="); ok {
				dirs = append(dirs, strings.Split(d, ":")...)
			}
		}
	}
	return dirs
}

// readLayer reads a file of one layer. found is also true if the layer hides the file of those below.
func readLayer(dir, name string) (text string, found bool, err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return "", false, err
	}
	defer root.Close()
	st, err := root.Stat(name)
	if err != nil {
		return "", false, nil // absent, or a link out of the layer, which no layer of ours should follow
	}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok && st.Mode()&fs.ModeCharDevice != 0 && sys.Rdev == 0 {
		return "", true, nil // a whiteout
	}
	if !st.Mode().IsRegular() {
		return "", true, nil
	}
	f, err := root.Open(name)
	if err != nil {
		return "", false, err
	}
	defer f.Close()
	const limit = 4 << 20 // no sane user data base is larger
	b, err := io.ReadAll(io.LimitReader(f, limit))
	return string(b), true, err
}
