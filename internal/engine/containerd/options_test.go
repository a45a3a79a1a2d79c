package containerd

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/blkiodev"
	"github.com/moby/moby/api/types/container"
	"github.com/opencontainers/runtime-spec/specs-go"

	"shoal.dev/shoal/internal/engine"
)

// noChmod is a seccomp profile that allows all but changes of modes, the latter only of containers without CAP_SYS_TIME.
const noChmod = `{"defaultAction":"SCMP_ACT_ALLOW","archMap":[{"architecture":"SCMP_ARCH_X86_64","subArchitectures":["SCMP_ARCH_X86"]},
{"architecture":"SCMP_ARCH_AARCH64","subArchitectures":["SCMP_ARCH_ARM"]}],
"syscalls":[{"names":["chmod","fchmod","fchmodat"],"action":"SCMP_ACT_ERRNO","errnoRet":13,"excludes":{"caps":["CAP_SYS_TIME"]}},
{"names":["sync"],"action":"SCMP_ACT_ERRNO","includes":{"arches":["amiga"]}}]}`

// Options of docker run that are seen from inside.
func TestOptions(t *testing.T) {
	l := real(t)
	run := func(t *testing.T, sh string, c container.Config, h container.HostConfig) string {
		t.Helper()
		c.Cmd = []string{"sh", "-c", sh}
		_, out := l.output(t, engine.Spec{Config: &c, HostConfig: &h})
		return strings.TrimSpace(out)
	}
	host := func(ns string) string { s, _ := os.Readlink("/proc/self/ns/" + ns); return s }
	null := container.DeviceMapping{PathOnHost: "/dev/null", PathInContainer: "/dev/nothing", CgroupPermissions: "r"}
	swappiness, no := int64(7), true
	cgroup := func(file string) string { return "cat /sys/fs/cgroup/" + file }
	devs := t.TempDir()
	if err := os.Symlink("/dev/zero", filepath.Join(devs, "link")); err != nil {
		t.Fatal(err)
	}
	type test struct {
		name, sh string
		c        container.Config
		h        container.HostConfig
		want     string
	}
	tests := []test{
		{name: "host's processes", sh: "readlink /proc/self/ns/pid", h: container.HostConfig{PidMode: "host"}, want: host("pid")},
		{name: "host's IPC", sh: "readlink /proc/self/ns/ipc", h: container.HostConfig{IpcMode: "host"}, want: host("ipc")},
		{name: "host's name", sh: "readlink /proc/self/ns/uts", h: container.HostConfig{UTSMode: "host"}, want: host("uts")},
		{name: "host's network", sh: "readlink /proc/self/ns/net", h: container.HostConfig{NetworkMode: "host"}, want: shared.hostNS},
		{name: "host's cgroups", sh: "readlink /proc/self/ns/cgroup", h: container.HostConfig{CgroupnsMode: "host"}, want: host("cgroup")},
		{name: "own cgroups", sh: "test $(readlink /proc/self/ns/cgroup) != '" + host("cgroup") + "' && echo own", h: container.HostConfig{CgroupnsMode: "private"}, want: "own"},
		{name: "host's users", sh: "readlink /proc/self/ns/user", h: container.HostConfig{UsernsMode: "host"}, want: host("user")},
		{name: "no shared memory", sh: "grep -c ' /dev/shm ' /proc/mounts", h: container.HostConfig{IpcMode: "none"}, want: "0"},
		{name: "shareable memory", sh: "grep ' /dev/shm ' /proc/mounts | grep -o size=[0-9]*k", h: container.HostConfig{IpcMode: "shareable", ShmSize: 1 << 20}, want: "size=1024k"},
		{name: "device", sh: "cat /dev/nothing && echo read; echo x 2>&1 > /dev/nothing", h: container.HostConfig{Resources: container.Resources{Devices: []container.DeviceMapping{null}}}, want: "read"},
		{name: "device by link", sh: "head -c 3 /dev/z | wc -c", h: container.HostConfig{Resources: container.Resources{Devices: []container.DeviceMapping{
			{PathOnHost: filepath.Join(devs, "link"), PathInContainer: "/dev/z", CgroupPermissions: "rwm"}}}}, want: "3"},
		{name: "devices of a folder", sh: "ls /dev/in | grep -c tty", h: container.HostConfig{Resources: container.Resources{Devices: []container.DeviceMapping{
			{PathOnHost: "/dev", PathInContainer: "/dev/in", CgroupPermissions: "rwm"}}}}, want: "~"},
		{name: "device rule", sh: "busybox mknod /tmp/kmsg c 1 11; head -c 0 /tmp/kmsg && echo opened", h: container.HostConfig{CapAdd: []string{"SYSLOG"}, Resources: container.Resources{DeviceCgroupRules: []string{"c 1:11 r"}}}, want: "opened"},
		{name: "groups", sh: "id -G", h: container.HostConfig{GroupAdd: []string{"water", "50"}}, want: "0 50 2000"},
		{name: "swappiness", sh: cgroup("memory/memory.swappiness"), h: container.HostConfig{Resources: container.Resources{MemorySwappiness: &swappiness}}, want: "7"},
		{name: "no kill for want of memory", sh: cgroup("memory/memory.oom_control") + " | head -n 1", h: container.HostConfig{Resources: container.Resources{OomKillDisable: &no, Memory: 8 << 20}}, want: "oom_kill_disable 1"},
		{name: "CPUs", sh: cgroup("cpuset/cpuset.cpus"), h: container.HostConfig{Resources: container.Resources{CpusetCpus: "0", CpusetMems: "0"}}, want: "0"},
		{name: "shares and quota", sh: cgroup("cpu/cpu.shares") + " /sys/fs/cgroup/cpu/cpu.cfs_quota_us | tr '\\n' ' '", h: container.HostConfig{Resources: container.Resources{CPUShares: 77, CPUQuota: 50000, CPUPeriod: 100000}}, want: "77 50000"},
		{name: "cgroup's parent", sh: "grep -c '/shoalt-parent/' /proc/self/cgroup | head -c 1 | tr 1-9 y", h: container.HostConfig{Resources: container.Resources{CgroupParent: cgroupParent(l.dir) + "/shoalt-parent"}}, want: "y"},
		{name: "seccomp profile", sh: "chmod 700 /tmp 2>&1", h: container.HostConfig{SecurityOpt: []string{"seccomp=" + noChmod}}, want: "chmod: /tmp: Permission denied"},
		{name: "seccomp profile that excludes", sh: "chmod 700 /tmp 2>&1 && echo done", h: container.HostConfig{SecurityOpt: []string{"seccomp=" + noChmod}, CapAdd: []string{"SYS_TIME"}}, want: "done"},
		{name: "privileged with a profile", sh: "chmod 700 /tmp 2>&1", h: container.HostConfig{SecurityOpt: []string{`seccomp={"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["chmod","fchmodat"],"action":"SCMP_ACT_ERRNO"}]}`}, Privileged: true}, want: "chmod: /tmp: Operation not permitted"},
		{name: "privileged keeps all capabilities", sh: "test $(grep CapEff /proc/self/status | cut -f2) = $(grep CapBnd /proc/1/status | cut -f2) && grep CapEff /proc/self/status | grep -c a80425fb",
			h: container.HostConfig{Privileged: true, CapDrop: []string{"ALL"}}, want: "0"},
		{name: "all but one capability", sh: "grep CapEff /proc/self/status | cut -c20-", h: container.HostConfig{CapAdd: []string{"ALL"}, CapDrop: []string{"CHOWN"}}, want: "~"},
	}
	for _, x := range []struct {
		can  bool
		file string
		r    container.Resources
	}{
		{l.engine.host.limits.readBps, "read_bps", container.Resources{BlkioDeviceReadBps: []*blkiodev.ThrottleDevice{{Path: "/dev/vda", Rate: 1 << 20}}}},
		{l.engine.host.limits.writeBps, "write_bps", container.Resources{BlkioDeviceWriteBps: []*blkiodev.ThrottleDevice{{Path: "/dev/vda", Rate: 1 << 20}}}},
		{l.engine.host.limits.readIOps, "read_iops", container.Resources{BlkioDeviceReadIOps: []*blkiodev.ThrottleDevice{{Path: "/dev/vda", Rate: 1 << 20}}}},
		{l.engine.host.limits.writeIOps, "write_iops", container.Resources{BlkioDeviceWriteIOps: []*blkiodev.ThrottleDevice{{Path: "/dev/vda", Rate: 1 << 20}}}},
	} {
		major, minor, err := deviceNumber("/dev/vda")
		if x.can && err == nil {
			tests = append(tests, test{name: x.file, sh: cgroup("blkio/blkio.throttle." + x.file + "_device"), h: container.HostConfig{Resources: x.r}, want: fmt.Sprintf("%d:%d 1048576", major, minor)})
		}
	}
	for _, x := range tests {
		if strings.Contains(x.sh, "/sys/fs/cgroup/") && l.engine.host.cgroup2 {
			continue // other files
		}
		t.Run(x.name, func(t *testing.T) {
			got := run(t, x.sh, x.c, x.h)
			if x.want == "~" && got != "" && got != "0" || got == x.want {
				return
			}
			t.Errorf("the container wrote %q; want %q", got, x.want)
		})
	}
}

// What only this host refuses, at the creation or the start.
func TestBadHostOptions(t *testing.T) {
	l := real(t)
	swappiness := int64(101)
	r := func(r container.Resources) container.HostConfig { return container.HostConfig{Resources: r} }
	sec := func(opt string) container.HostConfig { return container.HostConfig{SecurityOpt: []string{opt}} }
	for name, test := range map[string]struct {
		h     container.HostConfig
		words string
	}{
		"capability":        {container.HostConfig{CapAdd: []string{"FLY"}}, `invalid CapAdd: unknown capability: "CAP_FLY"`},
		"dropped":           {container.HostConfig{CapDrop: []string{"FLY"}}, `invalid CapDrop: unknown capability: "CAP_FLY"`},
		"device rule":       {r(container.Resources{DeviceCgroupRules: []string{"c 1:3"}}), "invalid device cgroup rule format: 'c 1:3'"},
		"device number":     {r(container.Resources{DeviceCgroupRules: []string{"c 99999999999999999999:3 r"}}), "invalid major value in device cgroup rule format"},
		"device mode":       {r(container.Resources{Devices: []container.DeviceMapping{{PathOnHost: "/dev/null", CgroupPermissions: "x"}}}), "invalid device mode: x"},
		"swap below memory": {r(container.Resources{Memory: 8 << 20, MemorySwap: 7 << 20}), "Minimum memoryswap limit should be larger than memory limit, see usage"},
		"swap alone":        {r(container.Resources{MemorySwap: 7 << 20}), "You should always set the Memory limit when using Memoryswap limit, see usage"},
		"swappiness":        {r(container.Resources{MemorySwappiness: &swappiness}), "Invalid value: 101, valid memory swappiness range is 0-100"},
		"little reserved":   {r(container.Resources{MemoryReservation: 1}), "Minimum memory reservation allowed is 6MB"},
		"much reserved":     {r(container.Resources{Memory: 8 << 20, MemoryReservation: 9 << 20}), "Minimum memory limit can not be less than memory reservation limit, see usage"},
		"two kinds of CPU":  {r(container.Resources{NanoCPUs: 1e9, CPUPeriod: 1000}), "Conflicting options: Nano CPUs and CPU Period cannot both be set"},
		"two quotas":        {r(container.Resources{NanoCPUs: 1e9, CPUQuota: 1000}), "Conflicting options: Nano CPUs and CPU Quota cannot both be set"},
		"period":            {r(container.Resources{CPUPeriod: 999}), "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)"},
		"quota":             {r(container.Resources{CPUQuota: 999}), "CPU cfs quota can not be less than 1ms (i.e. 1000)"},
		"no such CPU":       {r(container.Resources{CpusetCpus: "4000"}), "Requested CPUs are not available - requested 4000, available: "},
		"no such memory":    {r(container.Resources{CpusetMems: "4000"}), "Requested memory nodes are not available - requested 4000, available: "},
		"CPU list":          {r(container.Resources{CpusetCpus: "0-"}), "Invalid value 0- for cpuset cpus"},
		"security option":   {sec("colour=red"), `invalid --security-opt 2: "colour=red"`},
		"security word":     {sec("colour"), `invalid --security-opt 1: "colour"`},
		"privileges":        {sec("no-new-privileges=perhaps"), `invalid --security-opt 2: "no-new-privileges=perhaps"`},
		"profile":           {sec("seccomp={"), "Decoding seccomp profile failed: unexpected end of JSON input"},
		"null rule":         {sec(`seccomp={"defaultAction":"SCMP_ACT_ALLOW","syscalls":[null]}`), "Decoding seccomp profile failed: rule 0 of syscalls is null"},
		"profile twice":     {sec(`seccomp={"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64"],"archMap":[{"architecture":"SCMP_ARCH_X86"}]}`), "both 'architectures' and 'archMap' are specified in the seccomp profile"},
		"cgroup's parent":   {container.HostConfig{Runtime: "runsc"}, "unknown or invalid runtime name: runsc"},
	} {
		t.Run(name, func(t *testing.T) {
			before := len(must(l.engine.List(t.Context(), engine.ListOptions{All: true})))
			test.h.NetworkMode = "none"
			_, _, err := l.engine.Create(t.Context(), engine.Spec{Config: &container.Config{Image: "busybox:test"}, HostConfig: &test.h})
			if err == nil || !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), test.words) {
				t.Errorf("create: %v; want %q", err, test.words)
			}
			if after := len(must(l.engine.List(t.Context(), engine.ListOptions{All: true}))); after != before {
				t.Errorf("%d containers became %d", before, after)
			}
		})
	}
	for name, test := range map[string]struct {
		h     container.HostConfig
		words string
	}{
		"no such device":        {r(container.Resources{Devices: []container.DeviceMapping{{PathOnHost: "/dev/nope", PathInContainer: "/dev/nope", CgroupPermissions: "rwm"}}}), `error gathering device information while adding custom device "/dev/nope": no such file or directory`},
		"no device":             {r(container.Resources{Devices: []container.DeviceMapping{{PathOnHost: "/etc/passwd", PathInContainer: "/dev/x", CgroupPermissions: "rwm"}}}), `error gathering device information while adding custom device "/etc/passwd": not a device node`},
		"the kernel's sysctl":   {container.HostConfig{Sysctls: map[string]string{"vm.swappiness": "1"}}, `sysctl "vm.swappiness" is not in a separate kernel namespace`},
		"host network's sysctl": {container.HostConfig{NetworkMode: "host", Sysctls: map[string]string{"net.ipv4.ip_forward": "1"}}, `sysctl "net.ipv4.ip_forward" not allowed in host network namespace`},
		"host IPC's sysctl":     {container.HostConfig{IpcMode: "host", Sysctls: map[string]string{"kernel.shmmax": "1"}}, `sysctl "kernel.shmmax" is not allowed in the hosts ipc namespace`},
		"profile's action":      {sec(`seccomp={"defaultAction":"SCMP_ACT_DANCE","syscalls":[]}`), "SCMP_ACT_DANCE"},
		"weight of no device":   {r(container.Resources{BlkioDeviceReadBps: []*blkiodev.ThrottleDevice{{Path: "/dev/nope", Rate: 1}}}), "stat /dev/nope: no such file or directory"},
	} {
		t.Run(name, func(t *testing.T) {
			id := l.made(t, engine.Spec{Config: &container.Config{Cmd: []string{"true"}}, HostConfig: &test.h})
			if err := l.engine.Start(t.Context(), id); err == nil || !strings.Contains(err.Error(), test.words) {
				t.Errorf("start: %v; want %q", err, test.words)
			}
		})
	}
	if !l.engine.host.apparmor {
		h := sec("apparmor=docker-default")
		h.NetworkMode = "none"
		_, _, err := l.engine.Create(t.Context(), engine.Spec{Config: &container.Config{Image: "busybox:test"}, HostConfig: &h})
		if err == nil || !strings.Contains(err.Error(), "AppArmor is not enabled in your kernel") {
			t.Errorf("apparmor: %v", err)
		}
	}
}

// What this kernel cannot limit is left out, and said.
func TestLimitsLeftOut(t *testing.T) {
	yes, seven := true, int64(7)
	r := container.Resources{Memory: 8 << 20, MemorySwap: 16 << 20, MemoryReservation: 7 << 20, MemorySwappiness: &seven, OomKillDisable: &yes, PidsLimit: &seven,
		CPUShares: 5, CPUPeriod: 1000, CPUPercent: 5, CpusetCpus: "0", BlkioWeight: 20, BlkioWeightDevice: []*blkiodev.WeightDevice{{}},
		BlkioDeviceReadBps: []*blkiodev.ThrottleDevice{{}}, BlkioDeviceWriteBps: []*blkiodev.ThrottleDevice{{}},
		BlkioDeviceReadIOps: []*blkiodev.ThrottleDevice{{}}, BlkioDeviceWriteIOps: []*blkiodev.ThrottleDevice{{}}}
	warnings, err := (&limits{}).fit(&r, false)
	if err != nil || len(warnings) != 15 {
		t.Errorf("%d warnings, %v: %q", len(warnings), err, warnings)
	}
	left, _ := json.Marshal(r)
	want, _ := json.Marshal(container.Resources{MemorySwap: -1})
	if string(left) != string(want) {
		t.Errorf("left %s; want %s", left, want)
	}
	r = container.Resources{CPURealtimeRuntime: 5}
	if _, err := (&limits{}).fit(&r, false); err == nil || err.Error() != "kernel does not support CPU real-time scheduler" {
		t.Errorf("real time: %v", err)
	}
}

// A container that joins others' namespaces is in them.
func TestJoin(t *testing.T) {
	l := real(t)
	l.leaksNothing(t)
	donor := l.made(t, engine.Spec{Name: "donor", Config: &container.Config{Hostname: "giver", Cmd: []string{"sh", "-c", "echo given > /dev/shm/gift; exec sleep 1000"}},
		HostConfig: &container.HostConfig{IpcMode: "shareable", NetworkMode: "bridge"}})
	if err := l.engine.Start(t.Context(), donor); err != nil {
		t.Fatal(err)
	}
	i, err := l.engine.Inspect(t.Context(), donor)
	if err != nil {
		t.Fatal(err)
	}
	want := ""
	for _, ns := range []string{"ipc", "net", "pid"} {
		link, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", i.State.Pid, ns))
		if err != nil {
			t.Fatal(err)
		}
		want += link + "\n"
	}
	_, out := l.output(t, engine.Spec{Config: &container.Config{Cmd: []string{"sh", "-c",
		"for n in ipc net pid; do readlink /proc/self/ns/$n; done; hostname; grep -c giver /etc/hosts; until cat /dev/shm/gift 2>/dev/null; do :; done; echo taken > /dev/shm/thanks"}},
		HostConfig: &container.HostConfig{IpcMode: "container:donor", NetworkMode: "container:donor", PidMode: "container:donor"}})
	if want += "giver\n1\ngiven\n"; out != want {
		t.Errorf("the guest wrote %q; want %q", out, want)
	}
	if b, err := os.ReadFile(filepath.Join(l.engine.shmDir(donor), "thanks")); string(b) != "taken\n" {
		t.Errorf("the donor got %q, %v", b, err)
	}
	if err := l.engine.Kill(t.Context(), donor, ""); err != nil {
		t.Fatal(err)
	}
	if !poll(time.Minute, func() bool { _, err := os.Stat(l.engine.shmDir(donor)); return os.IsNotExist(err) }) {
		t.Error("the shared memory stays mounted")
	}
}

func FuzzSeccomp(f *testing.F) {
	f.Add(noChmod)
	f.Add(`{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"name":"x","action":"SCMP_ACT_ALLOW","includes":{"minKernel":"4.8"},"args":[null]}]}`)
	f.Add(`{"syscalls":[null]}`)
	f.Add(`{"syscalls":[{"includes":null,"excludes":{"minKernel":null}}],"Syscalls":[null]}`)
	f.Fuzz(func(t *testing.T, profile string) {
		s := &specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: []string{"CAP_CHOWN"}}}}
		if got, err := loadSeccomp(profile, s); err != nil && !errdefs.IsInvalidArgument(err) {
			t.Errorf("%v, %v", got, err)
		}
	})
}

func FuzzDeviceRules(f *testing.F) {
	f.Add("c 1:3 rwm")
	f.Add("a *:* r")
	f.Fuzz(func(t *testing.T, rule string) {
		if got, err := deviceRules([]string{rule}); err == nil && (len(got) != 1 || got[0].Major == nil || got[0].Access == "") {
			t.Errorf("%q: %+v", rule, got)
		}
	})
}

func FuzzParseList(f *testing.F) {
	f.Add("0-3,7")
	f.Fuzz(func(t *testing.T, s string) {
		list, err := parseList(s)
		for _, x := range list {
			if err == nil && (x.first < 0 || x.last < x.first || x.last > 8191) {
				t.Errorf("%q: %v", s, list)
			}
		}
	})
}
