package containerd

import (
	"errors"
	"io/fs"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/opencontainers/runtime-spec/specs-go"

	"shoal.dev/shoal/internal/engine/ledger"
)

var (
	deviceRule   = regexp.MustCompile(`^([acb]) ([0-9]+|\*):([0-9]+|\*) ([rwm]{1,3})$`)
	deviceAccess = regexp.MustCompile(`^[rwm]{1,3}$`)
)

// checkDevices refuses malformed --device and --device-cgroup-rule. Whether a device is there shows at the start.
func checkDevices(h *container.HostConfig) error {
	for _, d := range h.Devices {
		if d.CgroupPermissions != "" && !deviceAccess.MatchString(d.CgroupPermissions) {
			return ledger.Errorf(errdefs.ErrInvalidArgument, "invalid device mode: %s", d.CgroupPermissions)
		}
	}
	_, err := deviceRules(h.DeviceCgroupRules)
	return err
}

// deviceRules reads --device-cgroup-rule, as in "c 1:3 rwm".
func deviceRules(rules []string) ([]specs.LinuxDeviceCgroup, error) {
	var out []specs.LinuxDeviceCgroup
	for _, r := range rules {
		m := deviceRule.FindStringSubmatch(r)
		if m == nil {
			return nil, ledger.Errorf(errdefs.ErrInvalidArgument, "invalid device cgroup rule format: '%s'", r)
		}
		var numbers [2]int64
		for i, what := range []string{"major", "minor"} {
			numbers[i] = -1 // any
			if m[2+i] == "*" {
				continue
			}
			var err error
			if numbers[i], err = strconv.ParseInt(m[2+i], 10, 64); err != nil {
				return nil, ledger.Errorf(errdefs.ErrInvalidArgument, "invalid %s value in device cgroup rule format: '%s'", what, r)
			}
		}
		out = append(out, specs.LinuxDeviceCgroup{Allow: true, Type: m[1], Major: &numbers[0], Minor: &numbers[1], Access: m[4]})
	}
	return out, nil
}

// addDevices gives s the devices that the container asks for, and access to them. A privileged container has access to
// all devices and has those of the host under their own names already.
func addDevices(h *container.HostConfig, s *specs.Spec) error {
	for _, d := range h.Devices {
		inside, access := d.PathInContainer, d.CgroupPermissions
		if inside == "" {
			inside = d.PathOnHost
		}
		if access == "" {
			access = "rwm"
		}
		if h.Privileged && inside == d.PathOnHost {
			continue
		}
		found, err := devicesAt(d.PathOnHost, inside)
		if err != nil {
			return ledger.Errorf(errdefs.ErrInvalidArgument, "error gathering device information while adding custom device %q: %s", d.PathOnHost, err)
		}
		for _, f := range found {
			s.Linux.Devices = append(s.Linux.Devices, f)
			if !h.Privileged {
				s.Linux.Resources.Devices = append(s.Linux.Resources.Devices,
					specs.LinuxDeviceCgroup{Allow: true, Type: f.Type, Major: &f.Major, Minor: &f.Minor, Access: access})
			}
		}
	}
	if h.Privileged {
		return nil
	}
	rules, err := deviceRules(h.DeviceCgroupRules)
	s.Linux.Resources.Devices = append(s.Linux.Resources.Devices, rules...)
	return err
}

// devicesAt is the device of that path, or all below it if it is a folder. Links are followed at the top only.
func devicesAt(onHost, inside string) ([]specs.LinuxDevice, error) {
	real, err := filepath.EvalSymlinks(onHost)
	if err != nil {
		real = onHost // whose absence is told below
	}
	one, err := oci.DeviceFromPath(real)
	if err == nil {
		one.Path = inside
		return []specs.LinuxDevice{*one}, nil
	}
	if !errors.Is(err, oci.ErrNotADevice) {
		return nil, err
	}
	var list []specs.LinuxDevice
	_ = filepath.WalkDir(real, func(p string, _ fs.DirEntry, werr error) error {
		if werr != nil {
			return nil // gone meanwhile
		}
		if d, derr := oci.DeviceFromPath(p); derr == nil {
			d.Path = path.Join(inside, strings.TrimPrefix(p, real))
			list = append(list, *d)
		}
		return nil
	})
	if len(list) == 0 {
		return nil, err
	}
	return list, nil
}
