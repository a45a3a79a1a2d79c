package containerd

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/cgroups/v3"
	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/blkiodev"
	"github.com/moby/moby/api/types/container"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"shoal.dev/shoal/internal/engine/ledger"
)

// limits says which limits this kernel can set. Docker leaves out those that it cannot, with a warning.
type limits struct {
	memory, swap, reservation, swappiness, oomKillDisable bool
	pids                                                  bool
	shares, cfs, realtime                                 bool
	cpuset                                                bool
	cpus, mems                                            string // the lists of what there is, as "0-3,7"
	weight, weightDevice                                  bool
	readBps, writeBps, readIOps, writeIOps                bool
}

// probeLimits looks for the files by which the limits are set, of cgroup v1 or v2.
func probeLimits() limits {
	is := func(file string) bool { _, err := os.Stat(filepath.Join("/sys/fs/cgroup", file)); return err == nil }
	text := func(file string) string {
		b, _ := os.ReadFile(filepath.Join("/sys/fs/cgroup", file))
		return strings.TrimSpace(string(b))
	}
	if cgroups.Mode() == cgroups.Unified {
		has := func(c string) bool { return slices.Contains(strings.Fields(text("cgroup.controllers")), c) }
		mem, cpu, io := has("memory"), has("cpu"), has("io")
		return limits{
			memory: mem, swap: mem, reservation: mem, pids: has("pids"), shares: cpu, cfs: cpu,
			cpuset: has("cpuset"), cpus: text("cpuset.cpus.effective"), mems: text("cpuset.mems.effective"),
			weight: io, weightDevice: io, readBps: io, writeBps: io, readIOps: io, writeIOps: io,
		}
	}
	return limits{
		memory: is("memory/memory.limit_in_bytes"), swap: is("memory/memory.memsw.limit_in_bytes"),
		reservation: is("memory/memory.soft_limit_in_bytes"), swappiness: is("memory/memory.swappiness"),
		oomKillDisable: is("memory/memory.oom_control"), pids: is("pids"),
		shares: is("cpu/cpu.shares"), cfs: is("cpu/cpu.cfs_quota_us"), realtime: is("cpu/cpu.rt_period_us"),
		cpuset: is("cpuset/cpuset.cpus"), cpus: text("cpuset/cpuset.cpus"), mems: text("cpuset/cpuset.mems"),
		weight: is("blkio/blkio.weight"), weightDevice: is("blkio/blkio.weight_device"),
		readBps: is("blkio/blkio.throttle.read_bps_device"), writeBps: is("blkio/blkio.throttle.write_bps_device"),
		readIOps: is("blkio/blkio.throttle.read_iops_device"), writeIOps: is("blkio/blkio.throttle.write_iops_device"),
	}
}

// fit refuses limits that Docker refuses, and takes those out of r that this kernel cannot set, with a warning for
// each. update is for a container that is there already.
func (l *limits) fit(r *container.Resources, update bool) (warnings []string, err error) {
	if v := r.MemorySwappiness; v != nil && *v == -1 {
		r.MemorySwappiness = nil // the API's "leave it"
	}
	drop := func(missing bool, words string, clear func()) {
		if missing {
			warnings = append(warnings, words)
			clear()
		}
	}
	drop(r.Memory > 0 && !l.memory, "Your kernel does not support memory limit capabilities or the cgroup is not mounted. Limitation discarded.",
		func() { r.Memory, r.MemorySwap = 0, -1 })
	drop(r.Memory > 0 && r.MemorySwap != -1 && !l.swap,
		"Your kernel does not support swap limit capabilities or the cgroup is not mounted. Memory limited without swap.", func() { r.MemorySwap = -1 })
	drop(r.MemorySwappiness != nil && !l.swappiness,
		"Your kernel does not support memory swappiness capabilities or the cgroup is not mounted. Memory swappiness discarded.", func() { r.MemorySwappiness = nil })
	drop(r.MemoryReservation > 0 && !l.reservation,
		"Your kernel does not support memory soft limit capabilities or the cgroup is not mounted. Limitation discarded.", func() { r.MemoryReservation = 0 })
	if r.OomKillDisable != nil && !l.oomKillDisable {
		drop(*r.OomKillDisable, "Your kernel does not support OomKillDisable. OomKillDisable discarded.", func() {})
		r.OomKillDisable = nil
	}
	drop(r.OomKillDisable != nil && *r.OomKillDisable && r.Memory == 0,
		"OOM killer is disabled for the container, but no memory limit is set, this can result in the system running out of resources.", func() {})
	if r.PidsLimit != nil && !l.pids {
		drop(*r.PidsLimit > 0, "Your kernel does not support PIDs limit capabilities or the cgroup is not mounted. PIDs limit discarded.", func() {})
		r.PidsLimit = nil
	}
	drop(r.CPUShares > 0 && !l.shares, "Your kernel does not support CPU shares or the cgroup is not mounted. Shares discarded.", func() { r.CPUShares = 0 })
	drop((r.CPUPeriod != 0 || r.CPUQuota != 0) && !l.cfs, "Your kernel does not support CPU CFS scheduler. CPU period/quota discarded.",
		func() { r.CPUPeriod, r.CPUQuota = 0, 0 })
	drop(r.CPUPercent > 0, "linux does not support CPU percent. Percent discarded.", func() { r.CPUPercent = 0 })
	drop((r.CpusetCpus != "" || r.CpusetMems != "") && !l.cpuset, "Your kernel does not support cpuset or the cgroup is not mounted. Cpuset discarded.",
		func() { r.CpusetCpus, r.CpusetMems = "", "" })
	drop(r.BlkioWeight > 0 && !l.weight, "Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded.",
		func() { r.BlkioWeight = 0 })
	drop(len(r.BlkioWeightDevice) > 0 && !l.weightDevice,
		"Your kernel does not support Block I/O weight_device or the cgroup is not mounted. Weight-device discarded.", func() { r.BlkioWeightDevice = nil })
	drop(len(r.BlkioDeviceReadBps) > 0 && !l.readBps,
		"Your kernel does not support BPS Block I/O read limit or the cgroup is not mounted. Block I/O BPS read limit discarded.", func() { r.BlkioDeviceReadBps = nil })
	drop(len(r.BlkioDeviceWriteBps) > 0 && !l.writeBps,
		"Your kernel does not support BPS Block I/O write limit or the cgroup is not mounted. Block I/O BPS write limit discarded.", func() { r.BlkioDeviceWriteBps = nil })
	drop(len(r.BlkioDeviceReadIOps) > 0 && !l.readIOps,
		"Your kernel does not support IOPS Block read limit or the cgroup is not mounted. Block I/O IOPS read limit discarded.", func() { r.BlkioDeviceReadIOps = nil })
	drop(len(r.BlkioDeviceWriteIOps) > 0 && !l.writeIOps,
		"Your kernel does not support IOPS Block write limit or the cgroup is not mounted. Block I/O IOPS write limit discarded.", func() { r.BlkioDeviceWriteIOps = nil })
	return warnings, l.refuse(r, update)
}

// refuse says which limit is wrong, in Docker's words.
func (l *limits) refuse(r *container.Resources, update bool) error {
	bad := func(format string, args ...any) error {
		return ledger.Errorf(errdefs.ErrInvalidArgument, format, args...)
	}
	const leastMemory = 6 << 20 // Docker's
	switch {
	case r.Memory != 0 && r.Memory < leastMemory:
		return bad("Minimum memory limit allowed is 6MB")
	case r.Memory > 0 && r.MemorySwap > 0 && r.MemorySwap < r.Memory:
		return bad("Minimum memoryswap limit should be larger than memory limit, see usage")
	case r.Memory == 0 && r.MemorySwap > 0 && !update:
		return bad("You should always set the Memory limit when using Memoryswap limit, see usage")
	case r.MemorySwappiness != nil && (*r.MemorySwappiness < 0 || *r.MemorySwappiness > 100):
		return bad("Invalid value: %d, valid memory swappiness range is 0-100", *r.MemorySwappiness)
	case r.MemoryReservation > 0 && r.MemoryReservation < leastMemory:
		return bad("Minimum memory reservation allowed is 6MB")
	case r.Memory > 0 && r.MemoryReservation > 0 && r.Memory < r.MemoryReservation:
		return bad("Minimum memory limit can not be less than memory reservation limit, see usage")
	case r.NanoCPUs > 0 && r.CPUPeriod > 0:
		return bad("Conflicting options: Nano CPUs and CPU Period cannot both be set")
	case r.NanoCPUs > 0 && r.CPUQuota > 0:
		return bad("Conflicting options: Nano CPUs and CPU Quota cannot both be set")
	case r.NanoCPUs > 0 && !l.cfs:
		return bad("NanoCPUs can not be set, as your kernel does not support CPU CFS scheduler or the cgroup is not mounted")
	case r.NanoCPUs < 0, r.NanoCPUs > int64(cpus())*1e9, r.NanoCPUs > 0 && r.NanoCPUs < 1e7:
		return bad("range of CPUs is from 0.01 to %d.00, as there are only %d CPUs available", cpus(), cpus())
	case r.CPUPeriod != 0 && (r.CPUPeriod < 1000 || r.CPUPeriod > 1000000):
		return bad("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")
	case r.CPUQuota > 0 && r.CPUQuota < 1000:
		return bad("CPU cfs quota can not be less than 1ms (i.e. 1000)")
	case (r.CPURealtimePeriod != 0 || r.CPURealtimeRuntime != 0) && !l.realtime:
		return bad("kernel does not support CPU real-time scheduler")
	case r.CPURealtimePeriod != 0 && r.CPURealtimeRuntime > r.CPURealtimePeriod:
		return bad("cpu real-time runtime cannot be higher than cpu real-time period")
	case r.BlkioWeight > 0 && (r.BlkioWeight < 10 || r.BlkioWeight > 1000):
		return bad("Range of blkio weight is from 10 to 1000")
	}
	for _, x := range []struct{ what, asked, there, words string }{
		{"cpuset cpus", r.CpusetCpus, l.cpus, "Requested CPUs are not available - requested %s, available: %s"},
		{"cpuset mems", r.CpusetMems, l.mems, "Requested memory nodes are not available - requested %s, available: %s"},
	} {
		if x.asked == "" {
			continue
		}
		asked, err := parseList(x.asked)
		if err != nil {
			return bad("Invalid value %s for %s: %s", x.asked, x.what, err)
		}
		there, err := parseList(x.there)
		if err != nil {
			continue // the kernel will say
		}
		for _, a := range asked {
			if !within(a, there) {
				return bad(x.words, x.asked, x.there)
			}
		}
	}
	return nil
}

// span is the numbers from first to last.
type span struct{ first, last int }

// parseList reads the kernel's form of a set of numbers, as "0-3,7".
func parseList(s string) ([]span, error) {
	var out []span
	for part := range strings.SplitSeq(s, ",") {
		a, b, ranged := strings.Cut(strings.TrimSpace(part), "-")
		first, err := strconv.ParseUint(a, 10, 13) // 8192 CPUs are the kernel's own limit
		last := first
		if err == nil && ranged {
			last, err = strconv.ParseUint(b, 10, 13)
		}
		if err != nil || last < first {
			return nil, fmt.Errorf("invalid format: %s", s)
		}
		out = append(out, span{int(first), int(last)})
	}
	return out, nil
}

func within(a span, list []span) bool {
	for n := a.first; n <= a.last; n++ {
		if !slices.ContainsFunc(list, func(s span) bool { return s.first <= n && n <= s.last }) {
			return false
		}
	}
	return true
}

// blockIO are the limits of block devices, which are named by their files.
func blockIO(r *container.Resources) (*specs.LinuxBlockIO, error) {
	var b specs.LinuxBlockIO
	if r.BlkioWeight > 0 {
		b.Weight = &r.BlkioWeight
	}
	for _, d := range r.BlkioWeightDevice {
		major, minor, err := deviceNumber(d.Path)
		if err != nil {
			return nil, err
		}
		w := specs.LinuxWeightDevice{Weight: &d.Weight}
		w.Major, w.Minor = major, minor
		b.WeightDevice = append(b.WeightDevice, w)
	}
	for _, x := range []struct {
		from []*blkiodev.ThrottleDevice
		to   *[]specs.LinuxThrottleDevice
	}{
		{r.BlkioDeviceReadBps, &b.ThrottleReadBpsDevice}, {r.BlkioDeviceWriteBps, &b.ThrottleWriteBpsDevice},
		{r.BlkioDeviceReadIOps, &b.ThrottleReadIOPSDevice}, {r.BlkioDeviceWriteIOps, &b.ThrottleWriteIOPSDevice},
	} {
		for _, d := range x.from {
			major, minor, err := deviceNumber(d.Path)
			if err != nil {
				return nil, err
			}
			t := specs.LinuxThrottleDevice{Rate: d.Rate}
			t.Major, t.Minor = major, minor
			*x.to = append(*x.to, t)
		}
	}
	return &b, nil
}

func deviceNumber(path string) (major, minor int64, err error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, 0, ledger.Errorf(errdefs.ErrInvalidArgument, "%s", &os.PathError{Op: "stat", Path: path, Err: err})
	}
	return int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev)), nil
}

// resources are the limits for the kernel. Figures are the API's: bytes, billionths of a CPU.
func (e *Engine) resources(h *container.HostConfig) (*specs.LinuxResources, error) {
	r := &specs.LinuxResources{
		Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}, // runc adds the usual devices itself
		Memory:  &specs.LinuxMemory{DisableOOMKiller: h.OomKillDisable},
		CPU:     &specs.LinuxCPU{Cpus: h.CpusetCpus, Mems: h.CpusetMems},
	}
	if h.Memory > 0 {
		r.Memory.Limit = &h.Memory
		if e.host.limits.swap {
			swap := h.MemorySwap
			if swap == 0 {
				swap = doubled(h.Memory)
			}
			r.Memory.Swap = &swap
		}
	}
	if h.MemoryReservation > 0 {
		r.Memory.Reservation = &h.MemoryReservation
	}
	if v := h.MemorySwappiness; v != nil && *v >= 0 {
		n := uint64(*v)
		r.Memory.Swappiness = &n
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
	if h.CPURealtimePeriod > 0 {
		period := uint64(h.CPURealtimePeriod)
		r.CPU.RealtimePeriod = &period
	}
	if h.CPURealtimeRuntime != 0 {
		r.CPU.RealtimeRuntime = &h.CPURealtimeRuntime
	}
	if h.PidsLimit != nil {
		limit := *h.PidsLimit
		if limit <= 0 {
			limit = -1
		}
		r.Pids = &specs.LinuxPids{Limit: &limit}
	}
	var err error
	r.BlockIO, err = blockIO(&h.Resources)
	return r, err
}

// doubled is Docker's default for memory and swap together: as much swap again.
func doubled(memory int64) int64 {
	if memory > math.MaxInt64/2 {
		return math.MaxInt64
	}
	return 2 * memory
}
