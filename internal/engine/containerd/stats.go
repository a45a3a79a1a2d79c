package containerd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"
	"golang.org/x/sys/unix"
)

// clockTick is the kernel's unit of CPU time in /proc and cgroup v1, USER_HZ, which is 100 on every architecture that
// Go runs on.
const clockTick = time.Second / 100

// Stats implements engine.Life.
func (e *Engine) Stats(_ context.Context, name string) (*container.StatsResponse, error) {
	c, err := e.ledger.Find(name)
	if err != nil {
		return nil, err
	}
	s := &container.StatsResponse{ID: c.ID, Name: "/" + c.Name, OSType: "linux"}
	if !c.Running() {
		return s, nil
	}
	err = readCgroups("/", c.State.Pid, s)
	if err == nil {
		s.CPUStats.SystemUsage, err = systemCPU("/proc/stat")
	}
	if err == nil && e.usesSandbox(c) {
		s.Networks, err = readNetDev(fmt.Sprintf("/proc/%d/net/dev", c.State.Pid))
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ESRCH) { // it ended meanwhile
		return &container.StatsResponse{ID: c.ID, Name: "/" + c.Name, OSType: "linux"}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("statistics of container %s: %w", c.ID, err)
	}
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err == nil { // "no limit" is the machine's memory, as in Docker
		if total := uint64(info.Totalram) * uint64(info.Unit); s.MemoryStats.Limit == 0 || s.MemoryStats.Limit > total {
			s.MemoryStats.Limit = total
		}
	}
	s.Read, s.CPUStats.OnlineCPUs = time.Now().UTC(), uint32(cpus())
	return s, nil
}

// readCgroups fills s from the cgroups of a process. root is where /proc and /sys are.
func readCgroups(root string, pid int, s *container.StatsResponse) error {
	b, err := os.ReadFile(filepath.Join(root, "proc", strconv.Itoa(pid), "cgroup"))
	if err != nil {
		return err
	}
	base := filepath.Join(root, "sys/fs/cgroup")
	v1, readers := false, readersV1()
	for line := range strings.Lines(string(b)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) < 3 {
			continue
		}
		for controller := range strings.SplitSeq(f[1], ",") {
			if read := readers[controller]; read != nil {
				v1 = true
				if err := read(filepath.Join(base, controller, f[2]), s); err != nil {
					return err
				}
			}
		}
	}
	for line := range strings.Lines(string(b)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok && !v1 {
			return readV2(filepath.Join(base, path), s)
		}
	}
	return nil
}

// readersV1 reads the cgroup of each controller.
func readersV1() map[string]func(dir string, s *container.StatsResponse) error {
	return map[string]func(dir string, s *container.StatsResponse) error{
		"cpuacct": func(dir string, s *container.StatsResponse) (err error) {
			u := &s.CPUStats.CPUUsage
			if u.TotalUsage, err = number(dir, "cpuacct.usage"); err != nil {
				return err
			}
			split, err := pairs(dir, "cpuacct.stat")
			if err != nil {
				return err
			}
			u.UsageInUsermode, u.UsageInKernelmode = split["user"]*uint64(clockTick), split["system"]*uint64(clockTick)
			b, err := os.ReadFile(filepath.Join(dir, "cpuacct.usage_percpu"))
			for f := range strings.FieldsSeq(string(b)) {
				n, _ := strconv.ParseUint(f, 10, 64)
				u.PercpuUsage = append(u.PercpuUsage, n)
			}
			return err
		},
		"cpu": func(dir string, s *container.StatsResponse) error {
			m, err := pairs(dir, "cpu.stat")
			s.CPUStats.ThrottlingData = container.ThrottlingData{Periods: m["nr_periods"], ThrottledPeriods: m["nr_throttled"], ThrottledTime: m["throttled_time"]}
			return err
		},
		"memory": func(dir string, s *container.StatsResponse) (err error) {
			m := &s.MemoryStats
			for name, field := range map[string]*uint64{"usage": &m.Usage, "max_usage": &m.MaxUsage, "limit": &m.Limit} {
				if *field, err = number(dir, "memory."+name+"_in_bytes"); err != nil {
					return err
				}
			}
			if m.Failcnt, err = number(dir, "memory.failcnt"); err != nil {
				return err
			}
			m.Stats, err = pairs(dir, "memory.stat")
			return err
		},
		"pids": readPids,
		"blkio": func(dir string, s *container.StatsResponse) (err error) {
			// The accounting by which the kernel throttles is there with every I/O scheduler; an older kernel has no recursive one.
			for file, field := range map[string]*[]container.BlkioStatEntry{
				"blkio.throttle.io_service_bytes": &s.BlkioStats.IoServiceBytesRecursive,
				"blkio.throttle.io_serviced":      &s.BlkioStats.IoServicedRecursive,
			} {
				if *field, err = blkioV1(filepath.Join(dir, file+"_recursive")); errors.Is(err, fs.ErrNotExist) {
					*field, err = blkioV1(filepath.Join(dir, file))
				}
				if err != nil && !errors.Is(err, fs.ErrNotExist) {
					return err
				}
			}
			return nil
		},
	}
}

func readPids(dir string, s *container.StatsResponse) (err error) {
	if s.PidsStats.Current, err = number(dir, "pids.current"); err == nil {
		s.PidsStats.Limit, err = number(dir, "pids.max")
	}
	return err
}

// readV2 reads a cgroup of the unified hierarchy. A controller that is not enabled has no files.
func readV2(dir string, s *container.StatsResponse) error {
	optional := func(err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	cpu, err := pairs(dir, "cpu.stat")
	if err != nil {
		return err
	}
	usec := uint64(time.Microsecond)
	s.CPUStats.CPUUsage = container.CPUUsage{TotalUsage: cpu["usage_usec"] * usec, UsageInUsermode: cpu["user_usec"] * usec, UsageInKernelmode: cpu["system_usec"] * usec}
	s.CPUStats.ThrottlingData = container.ThrottlingData{Periods: cpu["nr_periods"], ThrottledPeriods: cpu["nr_throttled"], ThrottledTime: cpu["throttled_usec"] * usec}
	m := &s.MemoryStats
	if m.Usage, err = number(dir, "memory.current"); optional(err) != nil {
		return err
	}
	if m.Limit, err = number(dir, "memory.max"); optional(err) != nil {
		return err
	}
	if m.Stats, err = pairs(dir, "memory.stat"); optional(err) != nil {
		return err
	}
	events, err := pairs(dir, "memory.events")
	if optional(err) != nil {
		return err
	}
	m.Failcnt = events["oom"]
	if err := optional(readPids(dir, s)); err != nil {
		return err
	}
	s.BlkioStats.IoServiceBytesRecursive, err = ioV2(filepath.Join(dir, "io.stat"))
	return optional(err)
}

// number reads a file of one number; "max" is 0.
func number(dir, file string) (uint64, error) {
	b, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return 0, err
	}
	text := strings.TrimSpace(string(b))
	if text == "max" {
		return 0, nil
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", file, err)
	}
	return n, nil
}

// pairs reads a file of lines "name number".
func pairs(dir, file string) (map[string]uint64, error) {
	b, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return nil, err
	}
	m := map[string]uint64{}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 2 {
			if n, err := strconv.ParseUint(f[1], 10, 64); err == nil {
				m[f[0]] = n
			}
		}
	}
	return m, nil
}

// blkioV1 reads lines "8:0 Read 4096".
func blkioV1(path string) ([]container.BlkioStatEntry, error) {
	b, err := os.ReadFile(path)
	list := []container.BlkioStatEntry{}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) != 3 {
			continue // the total of all devices
		}
		var x container.BlkioStatEntry
		if _, err := fmt.Sscanf(f[0]+" "+f[2], "%d:%d %d", &x.Major, &x.Minor, &x.Value); err == nil {
			x.Op = f[1]
			list = append(list, x)
		}
	}
	return list, err
}

// ioV2 reads lines "8:0 rbytes=4096 wbytes=0 rios=1 …".
func ioV2(path string) ([]container.BlkioStatEntry, error) {
	b, err := os.ReadFile(path)
	list := []container.BlkioStatEntry{}
	for line := range strings.Lines(string(b)) {
		dev, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		var x container.BlkioStatEntry
		if _, err := fmt.Sscanf(dev, "%d:%d", &x.Major, &x.Minor); err != nil {
			continue
		}
		for f := range strings.FieldsSeq(rest) {
			key, value, _ := strings.Cut(f, "=")
			if x.Op = map[string]string{"rbytes": "read", "wbytes": "write"}[key]; x.Op != "" {
				x.Value, _ = strconv.ParseUint(value, 10, 64)
				list = append(list, x)
			}
		}
	}
	return list, err
}

// systemCPU is the time that all CPUs have spent, idle or not, in nanoseconds: the first line of /proc/stat without
// the guests' time, which is in the user's.
func systemCPU(path string) (uint64, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	line, _, _ := strings.Cut(string(b), "\n")
	f := strings.Fields(line)
	if len(f) < 8 || f[0] != "cpu" {
		return 0, fmt.Errorf("%s begins with %q", path, line)
	}
	var sum uint64
	for _, v := range f[1:8] {
		n, err := strconv.ParseUint(v, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", path, err)
		}
		sum += n
	}
	return sum * uint64(clockTick), nil
}

// readNetDev reads the counters of a network namespace's interfaces, the loopback aside.
func readNetDev(path string) (map[string]container.NetworkStats, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	m := map[string]container.NetworkStats{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		name, rest, ok := strings.Cut(lines.Text(), ":")
		v := strings.Fields(rest)
		if name = strings.TrimSpace(name); !ok || name == "lo" || len(v) < 12 {
			continue
		}
		n := func(i int) uint64 { x, _ := strconv.ParseUint(v[i], 10, 64); return x }
		m[name] = container.NetworkStats{RxBytes: n(0), RxPackets: n(1), RxErrors: n(2), RxDropped: n(3),
			TxBytes: n(8), TxPackets: n(9), TxErrors: n(10), TxDropped: n(11)}
	}
	return m, lines.Err()
}
