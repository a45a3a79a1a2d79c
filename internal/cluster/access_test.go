package cluster

import (
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"
)

func TestParseAccess(t *testing.T) {
	device := func(host, inside, access string) container.DeviceMapping {
		return container.DeviceMapping{PathOnHost: host, PathInContainer: inside, CgroupPermissions: access}
	}
	devices := func(d ...container.DeviceMapping) *Access { return &Access{Devices: d} }
	for name, tc := range map[string]struct {
		privileged, devices string
		want                *Access
		err                 string
	}{
		"nothing":            {},
		"privileged":         {privileged: "true", want: &Access{Privileged: true}},
		"not privileged":     {privileged: "false"},
		"no boolean":         {privileged: "yes", err: "invalid label shoal.privileged=yes: it must be true or false"},
		"a device":           {devices: "/dev/fuse", want: devices(device("/dev/fuse", "/dev/fuse", "rwm"))},
		"permissions":        {devices: "/dev/fuse:r", want: devices(device("/dev/fuse", "/dev/fuse", "r"))},
		"another path":       {devices: "/dev/ttyUSB0:/dev/radio", want: devices(device("/dev/ttyUSB0", "/dev/radio", "rwm"))},
		"all":                {devices: "/dev/a:/dev/b:rw, /dev/c", want: devices(device("/dev/a", "/dev/b", "rw"), device("/dev/c", "/dev/c", "rwm"))},
		"both":               {privileged: "1", devices: "/dev/a", want: &Access{Privileged: true, Devices: []container.DeviceMapping{device("/dev/a", "/dev/a", "rwm")}}},
		"wrong permissions":  {devices: "/dev/a:/dev/b:rwx", err: "invalid device mode: rwx"},
		"too many parts":     {devices: "/dev/a:/dev/b:r:w", err: "invalid device specification: /dev/a:/dev/b:r:w"},
		"a relative path":    {devices: "dev/a", err: `invalid device specification: "dev/a" is not an absolute path`},
		"an empty term":      {devices: "/dev/a,", err: `invalid device specification: "" is not an absolute path`},
		"one path for two":   {devices: "/dev/a:/dev/x,/dev/b:/dev/x", err: "invalid label shoal.devices: duplicate device path in the container: /dev/x"},
		"a relative path in": {devices: "/dev/a:b", err: `invalid device specification: "b" is not an absolute path`},
	} {
		labels := map[string]string{"other": "x"}
		if tc.privileged != "" {
			labels[LabelPrivileged] = tc.privileged
		}
		if tc.devices != "" {
			labels[LabelDevices] = tc.devices
		}
		got, err := ParseAccess(labels)
		if tc.err != "" {
			if !errdefs.IsInvalidArgument(err) || err.Error() != tc.err {
				t.Errorf("%s: %v, want %q", name, err, tc.err)
			}
			continue
		}
		if d := cmp.Diff(tc.want, got); err != nil || d != "" {
			t.Errorf("%s: %v %s", name, err, d)
		}
	}
}

func FuzzParseAccess(f *testing.F) {
	f.Add("true", "/dev/a:/dev/b:rw,/dev/c")
	f.Fuzz(func(t *testing.T, privileged, devices string) {
		a, err := ParseAccess(map[string]string{LabelPrivileged: privileged, LabelDevices: devices})
		if err != nil || a == nil {
			return
		}
		for _, d := range a.Devices {
			if d.PathOnHost == "" || d.PathOnHost[0] != '/' || d.PathInContainer == "" || d.PathInContainer[0] != '/' || !deviceAccess.MatchString(d.CgroupPermissions) {
				t.Errorf("%q became %+v", devices, d)
			}
		}
	})
}
