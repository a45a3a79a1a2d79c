package volume

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"

	"shoal.dev/shoal/internal/engine/ledger"
)

// Mount is a mount that a container asks for.
type Mount struct {
	container.MountPoint
	// Options are what --mount says of a volume; nil for none. Options.Subpath is the part of the volume that is mounted.
	Options *mount.VolumeOptions
	nocopy  bool
}

// Host is what [Plan] needs to know of the host.
type Host struct {
	// Exists says whether there is such a file; nil believes it.
	Exists func(path string) bool
	// Container finds one for --volumes-from.
	Container func(name string) (*ledger.Container, error)
}

// Plan says which mounts a container with these settings gets, in Docker's order of precedence, and refuses what is
// wrong with them. cfg has the image's volumes. A volume without a name is yet to be made.
func Plan(cfg *container.Config, h *container.HostConfig, host Host) ([]Mount, error) {
	if h.VolumeDriver != "" && h.VolumeDriver != driver {
		return nil, ledger.Errorf(errdefs.ErrNotFound, "error looking up volume plugin %s: plugin %q not found", h.VolumeDriver, h.VolumeDriver)
	}
	inherited, err := fromOthers(h.VolumesFrom, host)
	if err != nil {
		return nil, err
	}
	var own []Mount
	for _, b := range h.Binds {
		m, err := parseBind(b)
		if err != nil {
			return nil, err
		}
		own = append(own, m)
	}
	for i := range h.Mounts {
		m, err := parseMount(&h.Mounts[i], host)
		if err != nil {
			return nil, err
		}
		own = append(own, m)
	}
	at := func(list []Mount, dest string) bool {
		return slices.ContainsFunc(list, func(m Mount) bool { return m.Destination == dest })
	}
	for i, m := range own {
		if at(own[:i], m.Destination) {
			return nil, ledger.Errorf(errdefs.ErrInvalidArgument, "Duplicate mount point: %s", m.Destination)
		}
	}
	for dest := range h.Tmpfs {
		if path.Clean(dest) == "/" {
			return nil, ledger.Errorf(errdefs.ErrInvalidArgument, "invalid specification: destination can't be '/'")
		}
		if !path.IsAbs(dest) {
			return nil, ledger.Errorf(errdefs.ErrInvalidArgument, "invalid mount path: '%s' mount path must be absolute", dest)
		}
		if at(own, path.Clean(dest)) {
			return nil, ledger.Errorf(errdefs.ErrInvalidArgument, "Duplicate mount point: %s", dest)
		}
	}
	list := slices.DeleteFunc(inherited, func(m Mount) bool { return at(own, m.Destination) })
	list = append(list, own...)
	for _, dest := range slices.Sorted(maps.Keys(cfg.Volumes)) {
		clean := path.Clean(dest)
		if !path.IsAbs(dest) || clean == "/" {
			return nil, ledger.Errorf(errdefs.ErrInvalidArgument, "invalid volume specification: '%s': invalid mount path: '%s' mount path must be absolute", dest, dest)
		}
		if _, tmpfs := h.Tmpfs[dest]; tmpfs || at(list, clean) {
			continue
		}
		list = append(list, Mount{MountPoint: container.MountPoint{Type: mount.TypeVolume, Driver: driver, Destination: clean, RW: true}})
	}
	return list, nil
}

// fromOthers are the mounts of other containers, of which the last wins.
func fromOthers(names []string, host Host) ([]Mount, error) {
	var list []Mount
	for _, spec := range names {
		name, mode, has := strings.Cut(spec, ":")
		if name == "" || has && !slices.Contains([]string{"ro", "rw", "z", "Z"}, mode) {
			return nil, ledger.Errorf(errdefs.ErrInvalidArgument, "invalid volumes-from specification: '%s'", spec)
		}
		c, err := host.Container(name)
		if err != nil {
			return nil, err
		}
		for _, m := range c.Mounts {
			if m.Type != mount.TypeVolume && m.Type != mount.TypeBind {
				continue
			}
			m.RW = m.RW && mode != "ro"
			list = slices.DeleteFunc(list, func(o Mount) bool { return o.Destination == m.Destination })
			n := Mount{MountPoint: m, nocopy: true}
			if sub := c.Subpaths[m.Destination]; sub != "" {
				n.Options = &mount.VolumeOptions{Subpath: sub}
			}
			list = append(list, n)
		}
	}
	return list, nil
}

func parseMount(m *mount.Mount, host Host) (Mount, error) {
	invalid := func(format string, args ...any) (Mount, error) {
		return Mount{}, ledger.Errorf(errdefs.ErrInvalidArgument, "invalid mount config for type %q: %s", string(m.Type), fmt.Sprintf(format, args...))
	}
	if m.Target == "" {
		return invalid("field Target must not be empty")
	}
	if !path.IsAbs(m.Target) || path.Clean(m.Target) == "/" {
		return invalid("invalid mount target, must be an absolute path other than /: %s", m.Target)
	}
	p := Mount{MountPoint: container.MountPoint{Type: m.Type, Source: m.Source, Destination: path.Clean(m.Target), RW: !m.ReadOnly}}
	for _, o := range []struct {
		set  bool
		what string
		kind mount.Type
	}{
		{m.BindOptions != nil, "BindOptions", mount.TypeBind},
		{m.VolumeOptions != nil, "VolumeOptions", mount.TypeVolume},
		{m.TmpfsOptions != nil, "TmpfsOptions", mount.TypeTmpfs},
	} {
		if o.set && m.Type != o.kind {
			return invalid("field %s must not be specified", o.what)
		}
	}
	switch m.Type {
	case mount.TypeBind:
		if m.Source == "" {
			return invalid("field Source must not be empty")
		}
		if !path.IsAbs(m.Source) {
			return invalid("invalid mount path: '%s' mount path must be absolute", m.Source)
		}
		if (m.BindOptions == nil || !m.BindOptions.CreateMountpoint) && host.Exists != nil && !host.Exists(m.Source) {
			return invalid("bind source path does not exist: %s", m.Source)
		}
		p.Propagation = mount.PropagationRPrivate
		if m.BindOptions != nil && m.BindOptions.Propagation != "" {
			if p.Propagation = m.BindOptions.Propagation; !slices.Contains(mount.Propagations, p.Propagation) {
				return invalid("invalid propagation mode: %s", p.Propagation)
			}
		}
		if o := m.BindOptions; o != nil && o.ReadOnlyNonRecursive && o.ReadOnlyForceRecursive {
			return invalid("mount options conflict: ReadOnlyNonRecursive && ReadOnlyForceRecursive")
		}
		return p, nil
	case mount.TypeTmpfs:
		if m.Source != "" {
			return invalid("field Source must not be specified")
		}
		if m.TmpfsOptions != nil {
			for _, o := range m.TmpfsOptions.Options {
				if len(o) < 1 || len(o) > 2 {
					return invalid("invalid option array length")
				}
				if o[0] != "exec" && o[0] != "noexec" {
					return invalid("invalid option: %s", o[0])
				}
			}
		}
		return p, nil
	case mount.TypeVolume:
		p.Source, p.Name, p.Driver, p.Mode, p.Options = "", m.Source, driver, "z", m.VolumeOptions
		if o := m.VolumeOptions; o != nil {
			p.nocopy = o.NoCopy
			if o.Subpath != "" && m.Source == "" {
				return invalid("must not set Subpath when using anonymous volumes")
			}
			if o.Subpath != "" && (path.IsAbs(o.Subpath) || o.Subpath != path.Clean(o.Subpath) || o.Subpath == ".." || strings.HasPrefix(o.Subpath, "../")) {
				return invalid("invalid mount options: %q: subpath must be a relative path within the volume", o.Subpath)
			}
			if d := o.DriverConfig; d != nil && d.Name != "" && d.Name != driver {
				return Mount{}, ledger.Errorf(errdefs.ErrNotFound, "create %s: error looking up volume plugin %s: plugin %q not found", m.Source, d.Name, d.Name)
			}
		}
		if m.Source != "" && !validName.MatchString(m.Source) {
			return invalid("%q includes invalid characters for a local volume name, only %q are allowed. "+
				"If you intended to pass a host directory, use absolute path", m.Source, "[a-zA-Z0-9][a-zA-Z0-9_.-]")
		}
		return p, nil
	case mount.TypeImage, mount.TypeCluster:
		return Mount{}, ledger.Errorf(errdefs.ErrNotImplemented, "not implemented yet: mounts of type %q", string(m.Type))
	}
	return Mount{}, ledger.Errorf(errdefs.ErrInvalidArgument, "mount type unknown: %q", string(m.Type))
}

// parseBind reads the short form of --volume: SOURCE:TARGET[:OPTIONS], where SOURCE is a path or a volume's name.
func parseBind(b string) (Mount, error) {
	f := strings.Split(b, ":")
	if len(f) < 2 || len(f) > 3 || f[0] == "" || f[1] == "" {
		return Mount{}, ledger.Errorf(errdefs.ErrInvalidArgument, "invalid volume specification: '%s'", b)
	}
	m := Mount{MountPoint: container.MountPoint{Type: mount.TypeBind, Source: path.Clean(f[0]), Destination: path.Clean(f[1]), RW: true}}
	if !path.IsAbs(f[0]) {
		if !validName.MatchString(f[0]) {
			return m, ledger.Errorf(errdefs.ErrInvalidArgument, "create %s: %q includes invalid characters for a local volume name, only %q are allowed. "+
				"If you intended to pass a host directory, use absolute path", f[0], f[0], "[a-zA-Z0-9][a-zA-Z0-9_.-]")
		}
		m.Type, m.Source, m.Name, m.Driver, m.Mode = mount.TypeVolume, "", f[0], driver, "z"
	} else {
		m.Propagation = mount.PropagationRPrivate
	}
	if !path.IsAbs(f[1]) || path.Clean(f[1]) == "/" {
		return m, ledger.Errorf(errdefs.ErrInvalidArgument,
			"invalid volume specification: '%s': invalid mount config for type %q: invalid mount path: '%s' mount path must be absolute", b, string(m.Type), f[1])
	}
	if len(f) < 3 {
		return m, nil
	}
	m.Mode = f[2]
	for o := range strings.SplitSeq(f[2], ",") {
		switch {
		case o == "ro":
			m.RW = false
		case o == "nocopy" && m.Type == mount.TypeVolume:
			m.nocopy = true
		case o == "rw", o == "z", o == "Z", o == "nocopy", o == "cached", o == "delegated", o == "consistent":
		case m.Type == mount.TypeBind && slices.Contains(mount.Propagations, mount.Propagation(o)):
			m.Propagation = mount.Propagation(o)
		default:
			return m, ledger.Errorf(errdefs.ErrInvalidArgument, "invalid volume specification: '%s': invalid mode: %s", b, f[2])
		}
	}
	return m, nil
}

// Subpaths are the parts of volumes that are mounted, by destination; nil if all are mounted whole.
func Subpaths(mounts []Mount) map[string]string {
	var out map[string]string
	for _, m := range mounts {
		if m.Options != nil && m.Options.Subpath != "" {
			if out == nil {
				out = map[string]string{}
			}
			out[m.Destination] = m.Options.Subpath
		}
	}
	return out
}
