package containerd

import (
	"context"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
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

// maskedPaths are Docker's. Those of one CPU are there or not as the host has them.
func maskedPaths() []string {
	list := []string{"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap",
		"/sys/firmware"}
	throttle, _ := filepath.Glob("/sys/devices/system/cpu/cpu[0-9]*/thermal_throttle") // the pattern is well-formed
	return append(list, throttle...)
}

func readonlyPaths() []string {
	return []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
}

// spec makes the OCI specification of c, whose network and files are ready. rootfs is where its root file system will
// come from.
func (e *Engine) spec(ctx context.Context, c *ledger.Container, rootfs []mount.Mount) (*specs.Spec, error) {
	h := c.HostConfig
	namespaces, err := e.namespaces(c)
	if err != nil {
		return nil, err
	}
	resources, err := e.resources(h)
	if err != nil {
		return nil, err
	}
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
			Namespaces:    namespaces,
			Sysctl:        maps.Clone(h.Sysctls),
			Resources:     resources,
		},
	}
	if h.UTSMode.IsHost() {
		s.Hostname, s.Domainname = "", ""
	}
	if s.Process, err = e.process(c, rootfs); err != nil {
		return nil, err
	}
	if s.Mounts, err = e.mounts(c); err != nil {
		return nil, err
	}
	if s.Linux.RootfsPropagation, err = rootPropagation(c); err != nil {
		return nil, err
	}
	if err := e.addInit(c, s); err != nil {
		return nil, err
	}
	if h.NetworkMode.IsPrivate() {
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
	p.User.AdditionalGids = []uint32{p.User.GID} // Docker's: a group that a file shuts out cannot be left behind
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
