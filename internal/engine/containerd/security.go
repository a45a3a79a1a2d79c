package containerd

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"slices"
	"strconv"
	"strings"

	ctrapparmor "github.com/containerd/containerd/v2/pkg/apparmor"
	"github.com/containerd/containerd/v2/pkg/cap"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/profiles/apparmor"
	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"shoal.dev/shoal/internal/engine/ledger"
)

// unconfined is the value of the security options that turns them off.
const unconfined = "unconfined"

// defaultAppArmor is the profile of containers that name none, where the kernel has AppArmor. It is Docker's, and has
// Docker's name, since both load the same.
const defaultAppArmor = "docker-default"

// largestProfile bounds a seccomp profile, in bytes; Docker's default has 16 KiB.
const largestProfile = 1 << 20

// defaultCaps are Docker's, without the prefix CAP_.
func defaultCaps() []string {
	return []string{"AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE",
		"NET_RAW", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"}
}

// security is what --security-opt says.
type security struct {
	noNewPrivileges bool
	seccomp         string // "", unconfined, "builtin" or a profile in JSON
	apparmor        string // "", unconfined or the name of a loaded profile
	writableCgroups *bool
}

// securityOptions reads --security-opt. What this host cannot give is refused rather than left out.
func (e *Engine) securityOptions(h *container.HostConfig) (security, error) {
	var o security
	bad := func(format string, args ...any) (security, error) {
		return o, ledger.Errorf(errdefs.ErrInvalidArgument, format, args...)
	}
	for _, opt := range h.SecurityOpt {
		switch opt {
		case "no-new-privileges":
			o.noNewPrivileges = true
			continue
		case "writable-cgroups":
			yes := true
			o.writableCgroups = &yes
			continue
		case "disable":
			continue // SELinux, of which we set nothing
		}
		sep := "="
		if !strings.Contains(opt, sep) {
			sep = ":" // Docker's old form
		}
		key, value, ok := strings.Cut(opt, sep)
		if !ok {
			return bad("invalid --security-opt 1: %q", opt)
		}
		switch key {
		case "no-new-privileges", "writable-cgroups":
			yes, err := strconv.ParseBool(value)
			if err != nil {
				return bad("invalid --security-opt 2: %q", opt)
			}
			if key == "writable-cgroups" {
				o.writableCgroups = &yes
			} else {
				o.noNewPrivileges = yes
			}
		case "seccomp":
			o.seccomp = value
		case "apparmor":
			o.apparmor = value
		case "label":
			if value != "disable" {
				return o, notYet("SELinux labels: " + strconv.Quote(opt))
			}
		default:
			return bad("invalid --security-opt 2: %q", opt)
		}
	}
	if o.apparmor != "" && o.apparmor != unconfined && !e.host.apparmor {
		return bad("AppArmor is not enabled in your kernel, cannot use the AppArmor profile %q", o.apparmor)
	}
	if o.custom() {
		if !e.host.seccomp {
			return bad("seccomp is not enabled in your kernel, cannot run a custom seccomp profile")
		}
		if _, err := loadSeccomp(o.seccomp, &specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{}}}); err != nil {
			return o, err
		}
	}
	return o, nil
}

// custom says whether the seccomp profile is the user's own.
func (o *security) custom() bool {
	return o.seccomp != "" && o.seccomp != unconfined && o.seccomp != "builtin"
}

// loadSeccomp makes the filter for s of a profile in Docker's format, whose rules depend on the architecture, the
// kernel and s's capabilities.
func loadSeccomp(profile string, s *specs.Spec) (*specs.LinuxSeccomp, error) {
	if len(profile) > largestProfile {
		return nil, ledger.Errorf(errdefs.ErrInvalidArgument, "Decoding seccomp profile failed: it is larger than %d bytes", largestProfile)
	}
	// The library trusts that no rule is null.
	var rules struct {
		Syscalls []json.RawMessage `json:"syscalls"`
	}
	if json.Unmarshal([]byte(profile), &rules) == nil {
		for i, r := range rules.Syscalls {
			if bytes.Equal(r, []byte("null")) {
				return nil, ledger.Errorf(errdefs.ErrInvalidArgument, "Decoding seccomp profile failed: rule %d of syscalls is null", i)
			}
		}
	}
	f, err := seccomp.LoadProfile(profile, s)
	if err != nil {
		return nil, ledger.Errorf(errdefs.ErrInvalidArgument, "%s", err)
	}
	return f, nil
}

// privileges sets capabilities, devices, and the filters of seccomp and AppArmor, in this order: seccomp's depends on
// the capabilities.
func (e *Engine) privileges(ctx context.Context, c *ledger.Container, s *specs.Spec) error {
	h := c.HostConfig
	caps, err := capabilities(h)
	if err != nil {
		return err
	}
	s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: caps}
	if s.Process.User.UID == 0 {
		s.Process.Capabilities.Permitted, s.Process.Capabilities.Effective = caps, caps
	}
	if h.Privileged {
		if err := oci.ApplyOpts(ctx, nil, nil, s, oci.WithHostDevices, oci.WithAllDevicesAllowed, oci.WithWriteableSysfs); err != nil {
			return err
		}
	}
	if err := addDevices(h, s); err != nil {
		return err
	}
	o, err := e.securityOptions(h)
	if err != nil {
		return err
	}
	writable := h.Privileged
	if o.writableCgroups != nil {
		writable = *o.writableCgroups
	}
	if writable {
		if err := oci.ApplyOpts(ctx, nil, nil, s, oci.WithWriteableCgroupfs); err != nil {
			return err
		}
	}
	s.Process.NoNewPrivileges = o.noNewPrivileges
	switch {
	case o.seccomp == unconfined, !e.host.seccomp:
	case o.custom():
		s.Linux.Seccomp, err = loadSeccomp(o.seccomp, s)
	case !h.Privileged:
		s.Linux.Seccomp, err = seccomp.GetDefaultProfile(s)
	}
	if err != nil || !e.host.apparmor {
		return err
	}
	switch {
	case o.apparmor != "":
		s.Process.ApparmorProfile = o.apparmor
	case h.Privileged:
		s.Process.ApparmorProfile = unconfined
	default:
		s.Process.ApparmorProfile = defaultAppArmor
	}
	if s.Process.ApparmorProfile != defaultAppArmor {
		return nil
	}
	// Looked at every time: an upgrade of the host's own profiles may unload it.
	loaded, err := apparmor.IsLoaded(defaultAppArmor)
	if err == nil && !loaded {
		err = apparmor.InstallDefault(defaultAppArmor)
	}
	if err != nil {
		return ledger.Errorf(errdefs.ErrInternal, "AppArmor enabled on system but the %s profile could not be loaded: %s", defaultAppArmor, err)
	}
	return nil
}

// capabilities are those of the container's first process, with the prefix CAP_.
func capabilities(h *container.HostConfig) ([]string, error) {
	all := cap.Known()
	if current, err := cap.Current(); err == nil {
		all = current
	}
	caps := defaultCaps()
	for i := range caps {
		caps[i] = "CAP_" + caps[i]
	}
	add, addAll, err := normalCaps(all, h.CapAdd)
	if err != nil {
		return nil, ledger.Errorf(errdefs.ErrInvalidArgument, "invalid CapAdd: %s", err)
	}
	drop, dropAll, err := normalCaps(all, h.CapDrop)
	if err != nil {
		return nil, ledger.Errorf(errdefs.ErrInvalidArgument, "invalid CapDrop: %s", err)
	}
	dropped := func(k string) bool { return slices.Contains(drop, k) }
	switch {
	case h.Privileged:
		return slices.Clone(all), nil
	case addAll:
		return slices.DeleteFunc(slices.Clone(all), dropped), nil
	case dropAll:
		caps = nil
	}
	caps = append(slices.DeleteFunc(caps, dropped), add...)
	slices.Sort(caps)
	return slices.Compact(caps), nil
}

// normalCaps is a list of capabilities in the kernel's spelling, and whether ALL is among them.
func normalCaps(available, list []string) (out []string, all bool, err error) {
	for _, k := range list {
		k = strings.ToUpper(k)
		if k == "ALL" {
			all = true
			continue
		}
		if !strings.HasPrefix(k, "CAP_") {
			k = "CAP_" + k
		}
		switch {
		case !slices.Contains(cap.Known(), k):
			return nil, false, ledger.Errorf(errdefs.ErrInvalidArgument, "unknown capability: %q", k)
		case !slices.Contains(available, k):
			return nil, false, ledger.Errorf(errdefs.ErrInvalidArgument, "capability not supported by your kernel or not available in the current environment: %q", k)
		}
		out = append(out, k)
	}
	return out, all, nil
}

// probeSecurity asks the kernel for what confines containers.
func (h *host) probeSecurity() {
	h.apparmor = ctrapparmor.HostSupports()
	_, err := os.Stat("/proc/sys/kernel/seccomp/actions_avail")
	h.seccomp = err == nil
}
