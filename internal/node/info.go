package node

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/api/types/system"
	"golang.org/x/sys/unix"

	"shoal.dev/shoal/internal/cluster"
)

// hostInfo says what this machine is.
func (n *Node) hostInfo(context.Context) (system.Info, error) {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return system.Info{}, err
	}
	cpus, mem := resources()
	info := system.Info{
		ID: n.id, Name: hostname(), Driver: "overlayfs", LoggingDriver: n.cfg.logDriver(), CgroupDriver: "cgroupfs",
		CgroupVersion: cgroupVersion(), KernelVersion: unix.ByteSliceToString(uts.Release[:]), OperatingSystem: osName(),
		OSType: runtime.GOOS, Architecture: machine(uts), NCPU: cpus, MemTotal: mem, DockerRootDir: n.cfg.DataRoot,
		DefaultRuntime: n.cfg.Runtime, InitBinary: filepath.Base(n.cfg.InitPath), Labels: n.current().Labels, MemoryLimit: true, SwapLimit: true, CPUShares: true, CPUSet: true,
		CPUCfsPeriod: true, CPUCfsQuota: true, PidsLimit: true, OomKillDisable: true, IPv4Forwarding: true,
		LiveRestoreEnabled: true, IndexServerAddress: "https://index.docker.io/v1/",
		SecurityOptions: []string{"name=seccomp,profile=builtin"},
	}
	if n.cfg.systemdCgroup() {
		info.CgroupDriver = "systemd"
	}
	info.RegistryConfig = &registry.ServiceConfig{
		InsecureRegistryCIDRs: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		IndexConfigs:          map[string]*registry.IndexInfo{"docker.io": {Name: "docker.io", Mirrors: n.current().RegistryMirrors, Secure: true, Official: true}},
		Mirrors:               n.current().RegistryMirrors,
	}
	for _, r := range n.current().InsecureRegistries {
		if p, err := netip.ParsePrefix(r); err == nil {
			info.RegistryConfig.InsecureRegistryCIDRs = append(info.RegistryConfig.InsecureRegistryCIDRs, p)
			continue
		}
		info.RegistryConfig.IndexConfigs[r] = &registry.IndexInfo{Name: r, Mirrors: []string{}}
	}
	info.ContainerdCommit.ID, info.RuncCommit.ID, info.InitCommit.ID = n.parts.containerd, n.parts.runtime, n.version
	info.HTTPProxy, info.HTTPSProxy, info.NoProxy = proxies()
	info.NFd = openFiles()
	info.Debug = n.current().Debug
	for _, w := range n.cfg.openDoors() {
		info.Warnings = append(info.Warnings, "WARNING: "+w) // clients print them as they are
	}
	info.CDISpecDirs = []string{}
	info.Runtimes = map[string]system.RuntimeWithStatus{n.cfg.Runtime: {Runtime: system.Runtime{Path: n.cfg.Runtime}}}
	info.Plugins.Network = []string{"bridge", "host", "null", "overlay"}
	info.Plugins.Log = []string{"json-file", "local", "none"}
	info.Plugins.Volume = []string{"local"}
	return info, nil
}

func hostname() string {
	h, err := os.Hostname()
	if err != nil {
		return "localhost"
	}
	return h
}

// resources is what the machine has: processors and bytes of memory.
func resources() (cpus int, mem int64) {
	var si unix.Sysinfo_t
	if unix.Sysinfo(&si) == nil {
		mem = int64(si.Totalram) * int64(si.Unit)
	}
	return runtime.NumCPU(), mem
}

func machine(uts unix.Utsname) string { return unix.ByteSliceToString(uts.Machine[:]) }

func cgroupVersion() string {
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		return "2"
	}
	return "1"
}

// osName is PRETTY_NAME of os-release(5).
func osName() string {
	for _, p := range []string{"/etc/os-release", "/usr/lib/os-release"} {
		data, err := os.ReadFile(p)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(data)) {
			if v, ok := strings.CutPrefix(strings.TrimSpace(line), "PRETTY_NAME="); ok {
				return strings.Trim(v, `"'`)
			}
		}
	}
	return "Linux"
}

// describe is what the node tells the swarm about itself.
func (n *Node) describe(context.Context) swarm.NodeDescription {
	var uts unix.Utsname
	_ = unix.Uname(&uts) // cannot fail with a valid pointer
	cpus, mem := resources()
	generic, _ := cluster.ParseGenericResources(n.cfg.GenericResources) // Validate has read them
	return swarm.NodeDescription{
		Hostname:  hostname(),
		Platform:  swarm.Platform{Architecture: machine(uts), OS: runtime.GOOS},
		Resources: swarm.Resources{NanoCPUs: int64(cpus) * 1e9, MemoryBytes: mem, GenericResources: generic},
		Engine: swarm.EngineDescription{EngineVersion: n.version, Labels: n.current().labels(), Plugins: []swarm.PluginDescription{
			{Type: "Log", Name: "json-file"}, {Type: "Network", Name: "bridge"}, {Type: "Network", Name: "host"},
			{Type: "Network", Name: "null"}, {Type: "Network", Name: "overlay"}, {Type: "Volume", Name: "local"},
		}},
	}
}
