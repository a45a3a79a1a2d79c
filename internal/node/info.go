package node

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"
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
		ID: n.id, Name: hostname(), Driver: "overlayfs", LoggingDriver: "json-file", CgroupDriver: "cgroupfs",
		CgroupVersion: cgroupVersion(), KernelVersion: unix.ByteSliceToString(uts.Release[:]), OperatingSystem: osName(),
		OSType: runtime.GOOS, Architecture: machine(uts), NCPU: cpus, MemTotal: mem, DockerRootDir: n.cfg.DataRoot,
		DefaultRuntime: n.cfg.Runtime, Labels: n.current().Labels, MemoryLimit: true, SwapLimit: true, CPUShares: true, CPUSet: true,
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
	info.Debug = n.current().Debug
	for _, w := range n.cfg.openDoors() {
		info.Warnings = append(info.Warnings, "WARNING: "+w) // clients print them as they are
	}
	info.CDISpecDirs = []string{}
	info.Runtimes = map[string]system.RuntimeWithStatus{n.cfg.Runtime: {Runtime: system.Runtime{Path: n.cfg.Runtime}}}
	info.Plugins.Network = []string{"bridge", "host", "null", "overlay"}
	info.Plugins.Log = []string{"json-file"}
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
	return swarm.NodeDescription{
		Hostname:  hostname(),
		Platform:  swarm.Platform{Architecture: machine(uts), OS: runtime.GOOS},
		Resources: swarm.Resources{NanoCPUs: int64(cpus) * 1e9, MemoryBytes: mem},
		Engine: swarm.EngineDescription{EngineVersion: n.version, Labels: n.current().labels(), Plugins: []swarm.PluginDescription{
			{Type: "Log", Name: "json-file"}, {Type: "Network", Name: "bridge"}, {Type: "Network", Name: "host"},
			{Type: "Network", Name: "null"}, {Type: "Network", Name: "overlay"}, {Type: "Volume", Name: "local"},
		}},
	}
}

// hostNetworks are the networks that every node has.
func (n *Node) hostNetworks() []network.Inspect {
	var out []network.Inspect
	for _, d := range [][2]string{{"bridge", "bridge"}, {"host", "host"}, {"none", "null"}} {
		i := network.Inspect{}
		// The ID is derived from the node's, so that it stays and differs between nodes.
		i.ID = fmt.Sprintf("%x", hashID(n.id+"/"+d[0]))
		i.Name, i.Driver, i.Scope, i.EnableIPv4 = d[0], d[1], "local", true
		i.IPAM.Driver = "default"
		if d[0] == "bridge" {
			if p := n.kernel.BridgeSubnet(); p.IsValid() {
				i.IPAM.Config = []network.IPAMConfig{{Subnet: p.Masked(), Gateway: p.Addr()}}
			}
		}
		i.Options, i.Labels = map[string]string{}, map[string]string{}
		out = append(out, i)
	}
	return out
}

// Networks lists the host's networks and, on a manager, the swarm's.
func (n *Node) Networks(ctx context.Context, f map[string][]string) ([]network.Inspect, error) {
	for k := range f {
		if !slices.Contains([]string{"id", "name", "driver", "scope", "type", "label", "dangling"}, k) {
			return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid filter '%s'", k))
		}
	}
	all := n.hostNetworks()
	if ofSwarm, err := n.control.Networks(ctx); err == nil {
		all = append(all, ofSwarm...)
	}
	match := func(key string, ok func(v string) bool) bool {
		return len(f[key]) == 0 || slices.ContainsFunc(f[key], ok)
	}
	out := []network.Inspect{}
	for _, i := range all {
		if match("id", func(v string) bool { return strings.HasPrefix(i.ID, v) }) &&
			match("name", func(v string) bool { return strings.Contains(i.Name, v) }) &&
			match("driver", func(v string) bool { return i.Driver == v }) &&
			match("scope", func(v string) bool { return i.Scope == v }) &&
			match("type", func(v string) bool { return v == "builtin" }) &&
			match("dangling", func(v string) bool { return v == "false" || v == "0" }) &&
			match("label", func(v string) bool {
				k, want, has := strings.Cut(v, "=")
				got, ok := i.Labels[k]
				return ok && (!has || got == want)
			}) {
			out = append(out, i)
		}
	}
	return out, nil
}

// Network gives one network by name, ID or a prefix of the ID.
func (n *Node) Network(ctx context.Context, ref, scope string, _ bool) (*network.Inspect, error) {
	all, err := n.Networks(ctx, nil)
	if err != nil {
		return nil, err
	}
	if scope == "swarm" && ref == cluster.HostNetwork {
		// Of every node the same, as a service that is to use it says.
		i := &network.Inspect{}
		i.ID, i.Name, i.Driver, i.Scope = ref, ref, "host", scope
		return i, nil
	}
	var found []*network.Inspect
	for i := range all {
		x := &all[i]
		if scope != "" && x.Scope != scope {
			continue
		}
		if x.ID == ref || x.Name == ref {
			return x, nil
		}
		if ref != "" && strings.HasPrefix(x.ID, ref) {
			found = append(found, x)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return nil, errdefs.ErrNotFound.WithMessage(fmt.Sprintf("network %s not found", ref))
	}
	return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("network %s is ambiguous (%d matches found on ID prefix)", ref, len(found)))
}
