package containerd

import (
	"context"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/cap"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/sys/user"
	"github.com/opencontainers/runtime-spec/specs-go"

	"shoal.dev/shoal/internal/engine/ledger"
)

const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// The limits of open files that Docker 29 gives containers, which are systemd's defaults. The daemon's own are higher.
const (
	softFiles = 1024
	hardFiles = 524288
)

// defaultCaps are Docker's, without the prefix CAP_.
func defaultCaps() []string {
	return []string{"AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE",
		"NET_RAW", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"}
}

func maskedPaths() []string {
	return []string{"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap",
		"/sys/firmware"}
}

func readonlyPaths() []string {
	return []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
}

// spec makes the OCI specification of c, whose network and files are ready. rootfs is where its root file system will
// come from.
func (e *Engine) spec(ctx context.Context, c *ledger.Container, rootfs []mount.Mount) (*specs.Spec, error) {
	h := c.HostConfig
	s := &specs.Spec{
		Version:     specs.Version,
		Hostname:    c.Config.Hostname,
		Domainname:  c.Config.Domainname,
		Root:        &specs.Root{Path: "rootfs", Readonly: h.ReadonlyRootfs},
		Annotations: maps.Clone(h.Annotations),
		Linux: &specs.Linux{
			CgroupsPath:   e.cgroupPath(c),
			MaskedPaths:   h.MaskedPaths,
			ReadonlyPaths: h.ReadonlyPaths,
			Namespaces:    e.namespaces(c),
			Sysctl:        maps.Clone(h.Sysctls),
			Resources:     e.resources(h),
		},
	}
	if h.UTSMode.IsHost() {
		s.Hostname, s.Domainname = "", ""
	}
	var err error
	if s.Process, err = e.process(c, rootfs); err != nil {
		return nil, err
	}
	if s.Mounts, err = e.mounts(c); err != nil {
		return nil, err
	}
	if err := e.addInit(c, s); err != nil {
		return nil, err
	}
	if !h.NetworkMode.IsHost() {
		// Docker's: a service may bind port 80 and ping whatever its user.
		if s.Linux.Sysctl == nil {
			s.Linux.Sysctl = map[string]string{}
		}
		for k, v := range map[string]string{"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"} {
			if _, set := s.Linux.Sysctl[k]; !set {
				s.Linux.Sysctl[k] = v
			}
		}
	}
	if err := e.privileges(ctx, c, s); err != nil {
		return nil, err
	}
	return s, nil
}

func (e *Engine) cgroupPath(c *ledger.Container) string {
	parent := e.cfg.CgroupParent
	if c.HostConfig.CgroupParent != "" {
		parent = c.HostConfig.CgroupParent
	}
	if e.cfg.SystemdCgroup {
		return parent + ":shoal:" + c.ID
	}
	return path.Join("/", parent, c.ID)
}

func (e *Engine) namespaces(c *ledger.Container) []specs.LinuxNamespace {
	h := c.HostConfig
	list := []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	if !h.UTSMode.IsHost() {
		list = append(list, specs.LinuxNamespace{Type: specs.UTSNamespace})
	}
	if !h.IpcMode.IsHost() {
		list = append(list, specs.LinuxNamespace{Type: specs.IPCNamespace})
	}
	if !h.PidMode.IsHost() {
		list = append(list, specs.LinuxNamespace{Type: specs.PIDNamespace})
	}
	if !h.NetworkMode.IsHost() {
		list = append(list, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: c.State.Sandbox.NetNS})
	}
	if h.CgroupnsMode.IsPrivate() {
		list = append(list, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	return list
}

func (e *Engine) process(c *ledger.Container, rootfs []mount.Mount) (*specs.Process, error) {
	h := c.HostConfig
	p := &specs.Process{
		Terminal:    c.Config.Tty,
		Args:        c.Argv(),
		Cwd:         c.Config.WorkingDir,
		Env:         environment(c),
		OOMScoreAdj: &h.OomScoreAdj,
		Rlimits:     []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: min(softFiles, e.host.files), Hard: e.host.files}},
	}
	if p.Cwd == "" {
		p.Cwd = "/"
	}
	if c.Config.Tty && h.ConsoleSize[0] > 0 {
		p.ConsoleSize = &specs.Box{Height: h.ConsoleSize[0], Width: h.ConsoleSize[1]}
	}
	for _, u := range h.Ulimits {
		kind := "RLIMIT_" + strings.ToUpper(u.Name)
		p.Rlimits = slices.DeleteFunc(p.Rlimits, func(r specs.POSIXRlimit) bool { return r.Type == kind })
		p.Rlimits = append(p.Rlimits, specs.POSIXRlimit{Type: kind, Soft: uint64(u.Soft), Hard: uint64(u.Hard)})
	}
	passwd, err := readRootfs(rootfs, "etc/passwd")
	if err != nil {
		return nil, err
	}
	group, err := readRootfs(rootfs, "etc/group")
	if err != nil {
		return nil, err
	}
	u, err := user.GetExecUser(c.Config.User, &user.ExecUser{}, strings.NewReader(passwd), strings.NewReader(group))
	if err != nil {
		return nil, ledger.Errorf(errdefs.ErrInvalidArgument, "unable to find user %s: %s", c.Config.User, err)
	}
	more, err := user.GetAdditionalGroups(h.GroupAdd, strings.NewReader(group))
	if err != nil {
		return nil, ledger.Errorf(errdefs.ErrInvalidArgument, "unable to find group %s: %s", strings.Join(h.GroupAdd, ", "), err)
	}
	p.User = specs.User{UID: uint32(u.Uid), GID: uint32(u.Gid), Umask: h.Umask}
	for _, g := range append(u.Sgids, more...) {
		if !slices.Contains(p.User.AdditionalGids, uint32(g)) {
			p.User.AdditionalGids = append(p.User.AdditionalGids, uint32(g))
		}
	}
	return p, nil
}

// environment is what the container's settings say, with Docker's defaults before it. An entry without "=" unsets.
func environment(c *ledger.Container) []string {
	env := []string{defaultPath, "HOSTNAME=" + c.Config.Hostname}
	if c.Config.Tty {
		env = append(env, "TERM=xterm")
	}
	for _, kv := range c.Config.Env {
		key, _, has := strings.Cut(kv, "=")
		same := func(s string) bool { k, _, _ := strings.Cut(s, "="); return k == key }
		if i := slices.IndexFunc(env, same); !has {
			env = slices.DeleteFunc(env, same)
		} else if i >= 0 {
			env[i] = kv
		} else {
			env = append(env, kv)
		}
	}
	return env
}

// resources are the limits for the kernel. Figures are the API's: bytes, billionths of a CPU.
func (e *Engine) resources(h *container.HostConfig) *specs.LinuxResources {
	r := &specs.LinuxResources{
		Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}, // runc adds the usual devices itself
		Memory:  &specs.LinuxMemory{},
		CPU:     &specs.LinuxCPU{Cpus: h.CpusetCpus, Mems: h.CpusetMems},
	}
	if h.Memory > 0 {
		r.Memory.Limit = &h.Memory
		if e.host.swapLimit {
			swap := h.MemorySwap
			if swap == 0 {
				swap = 2 * h.Memory // Docker's default: as much swap again
			}
			r.Memory.Swap = &swap
		}
	}
	if h.MemoryReservation > 0 {
		r.Memory.Reservation = &h.MemoryReservation
	}
	if v := h.MemorySwappiness; v != nil && *v >= 0 && !e.host.cgroup2 {
		n := uint64(*v)
		r.Memory.Swappiness = &n
	}
	if !e.host.cgroup2 {
		r.Memory.DisableOOMKiller = h.OomKillDisable
	}
	switch {
	case h.NanoCPUs > 0:
		period, quota := uint64(100000), h.NanoCPUs/10000
		r.CPU.Period, r.CPU.Quota = &period, &quota
	default:
		if h.CPUPeriod > 0 {
			period := uint64(h.CPUPeriod)
			r.CPU.Period = &period
		}
		if h.CPUQuota != 0 {
			r.CPU.Quota = &h.CPUQuota
		}
	}
	if h.CPUShares > 0 {
		shares := uint64(h.CPUShares)
		r.CPU.Shares = &shares
	}
	if h.PidsLimit != nil {
		limit := *h.PidsLimit
		if limit <= 0 {
			limit = -1
		}
		r.Pids = &specs.LinuxPids{Limit: &limit}
	}
	if h.BlkioWeight > 0 {
		r.BlockIO = &specs.LinuxBlockIO{Weight: &h.BlkioWeight}
	}
	return r
}

// privileges sets capabilities, devices and the seccomp filter, in this order: the filter depends on the first.
func (e *Engine) privileges(ctx context.Context, c *ledger.Container, s *specs.Spec) error {
	h := c.HostConfig
	caps := defaultCaps()
	if h.Privileged {
		caps = nil
		for _, k := range cap.Known() {
			caps = append(caps, strings.TrimPrefix(k, "CAP_"))
		}
		if current, err := cap.Current(); err == nil {
			caps = nil
			for _, k := range current {
				caps = append(caps, strings.TrimPrefix(k, "CAP_"))
			}
		}
	}
	caps, err := adjustCaps(caps, h.CapAdd, h.CapDrop)
	if err != nil {
		return err
	}
	for i := range caps {
		caps[i] = "CAP_" + caps[i]
	}
	s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: caps}
	if s.Process.User.UID == 0 {
		s.Process.Capabilities.Permitted, s.Process.Capabilities.Effective = caps, caps
	}
	if h.Privileged {
		err := oci.ApplyOpts(ctx, nil, nil, s, oci.WithHostDevices, oci.WithAllDevicesAllowed, oci.WithWriteableSysfs, oci.WithWriteableCgroupfs)
		if err != nil {
			return err
		}
	} else {
		for _, d := range h.Devices {
			if err := oci.ApplyOpts(ctx, nil, nil, s, oci.WithDevices(d.PathOnHost, d.PathInContainer, d.CgroupPermissions)); err != nil {
				return ledger.Errorf(errdefs.ErrInvalidArgument, "error gathering device information while adding custom device %q: %s", d.PathOnHost, err)
			}
		}
	}
	o, err := securityOptions(h)
	if err != nil {
		return err
	}
	s.Process.NoNewPrivileges = o.noNewPrivileges
	if !h.Privileged && !o.seccompUnconfined {
		s.Linux.Seccomp = seccomp.DefaultProfile(s)
	}
	return nil
}

// adjustCaps applies --cap-add and --cap-drop, in which ALL stands for all.
func adjustCaps(caps, add, drop []string) ([]string, error) {
	known := cap.Known()
	norm := func(list []string) ([]string, bool, error) {
		all, out := false, []string{}
		for _, k := range list {
			k = strings.TrimPrefix(strings.ToUpper(k), "CAP_")
			if k == "ALL" {
				all = true
			} else if !slices.Contains(known, "CAP_"+k) {
				return nil, false, ledger.Errorf(errdefs.ErrInvalidArgument, "unknown capability: %q", "CAP_"+k)
			} else {
				out = append(out, k)
			}
		}
		return out, all, nil
	}
	add, addAll, err := norm(add)
	if err != nil {
		return nil, err
	}
	drop, dropAll, err := norm(drop)
	if err != nil {
		return nil, err
	}
	switch {
	case addAll:
		caps = nil
		for _, k := range known {
			caps = append(caps, strings.TrimPrefix(k, "CAP_"))
		}
	case dropAll:
		caps = nil
	}
	caps = slices.DeleteFunc(slices.Clone(caps), func(k string) bool { return slices.Contains(drop, k) })
	for _, k := range add {
		if !slices.Contains(caps, k) {
			caps = append(caps, k)
		}
	}
	slices.Sort(caps)
	return caps, nil
}

type security struct{ noNewPrivileges, seccompUnconfined bool }

// securityOptions reads --security-opt.
func securityOptions(h *container.HostConfig) (security, error) {
	var o security
	for _, opt := range h.SecurityOpt {
		key, value, has := strings.Cut(opt, "=")
		if !has {
			key, value, _ = strings.Cut(opt, ":")
		}
		switch {
		case key == "no-new-privileges" && (value == "" || value == "true"):
			o.noNewPrivileges = true
		case key == "no-new-privileges" && value == "false":
		case key == "seccomp" && value == "unconfined":
			o.seccompUnconfined = true
		case key == "seccomp" && value == "builtin":
		case key == "apparmor" && value == "unconfined", key == "label" && value == "disable":
			// What neither AppArmor nor SELinux does here need not be turned off.
		case key == "seccomp", key == "apparmor", key == "label", key == "systempaths", key == "writable-cgroups":
			return o, notYet(fmt.Sprintf("the security option %q", opt))
		default:
			return o, ledger.Errorf(errdefs.ErrInvalidArgument, "invalid --security-opt 2: %q", opt)
		}
	}
	return o, nil
}
