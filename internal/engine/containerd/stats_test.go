package containerd

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"

	"shoal.dev/shoal/internal/engine"
)

// tree writes files, "path: text" a line with "|" for newlines, and returns their root.
func tree(t *testing.T, files string) string {
	t.Helper()
	root := t.TempDir()
	for line := range strings.Lines(files) {
		name, text, ok := strings.Cut(strings.TrimSpace(line), ": ")
		if !ok {
			continue
		}
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(strings.ReplaceAll(text, "|", "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestCgroupStats(t *testing.T) {
	v2 := tree(t, `
		proc/7/cgroup: 0::/shoal/x
		sys/fs/cgroup/shoal/x/cpu.stat: usage_usec 30|user_usec 20|system_usec 10|nr_periods 4|nr_throttled 3|throttled_usec 2
		sys/fs/cgroup/shoal/x/memory.current: 4096
		sys/fs/cgroup/shoal/x/memory.max: max
		sys/fs/cgroup/shoal/x/memory.stat: anon 1|inactive_file 2
		sys/fs/cgroup/shoal/x/memory.events: low 0|oom 5
		sys/fs/cgroup/shoal/x/pids.current: 6
		sys/fs/cgroup/shoal/x/pids.max: 9
		sys/fs/cgroup/shoal/x/io.stat: 8:0 rbytes=10 wbytes=20 rios=1 wios=2|nonsense
	`)
	v1 := tree(t, `
		proc/7/cgroup: 4:memory:/x|3:cpu,cpuacct:/x|2:blkio:/x|1:pids:/x|0::/x
		sys/fs/cgroup/cpuacct/x/cpuacct.usage: 30000
		sys/fs/cgroup/cpuacct/x/cpuacct.usage_percpu: 10000 20000
		sys/fs/cgroup/cpuacct/x/cpuacct.stat: user 2|system 1
		sys/fs/cgroup/cpu/x/cpu.stat: nr_periods 4|nr_throttled 3|throttled_time 2000
		sys/fs/cgroup/memory/x/memory.usage_in_bytes: 4096
		sys/fs/cgroup/memory/x/memory.max_usage_in_bytes: 8192
		sys/fs/cgroup/memory/x/memory.limit_in_bytes: 9223372036854771712
		sys/fs/cgroup/memory/x/memory.failcnt: 5
		sys/fs/cgroup/memory/x/memory.stat: total_inactive_file 2
		sys/fs/cgroup/pids/x/pids.current: 6
		sys/fs/cgroup/pids/x/pids.max: max
		sys/fs/cgroup/blkio/x/blkio.throttle.io_service_bytes: 8:0 Read 10|8:0 Write 20|Total 30
	`)
	throttled := container.ThrottlingData{Periods: 4, ThrottledPeriods: 3, ThrottledTime: 2000}
	for name, test := range map[string]struct {
		root string
		want container.StatsResponse
	}{
		"v2": {v2, container.StatsResponse{
			CPUStats:    container.CPUStats{CPUUsage: container.CPUUsage{TotalUsage: 30000, UsageInUsermode: 20000, UsageInKernelmode: 10000}, ThrottlingData: throttled},
			MemoryStats: container.MemoryStats{Usage: 4096, Failcnt: 5, Stats: map[string]uint64{"anon": 1, "inactive_file": 2}},
			PidsStats:   container.PidsStats{Current: 6, Limit: 9},
			BlkioStats:  container.BlkioStats{IoServiceBytesRecursive: []container.BlkioStatEntry{{Major: 8, Op: "read", Value: 10}, {Major: 8, Op: "write", Value: 20}}},
		}},
		"v1": {v1, container.StatsResponse{
			CPUStats:    container.CPUStats{CPUUsage: container.CPUUsage{TotalUsage: 30000, PercpuUsage: []uint64{10000, 20000}, UsageInUsermode: 2e7, UsageInKernelmode: 1e7}, ThrottlingData: throttled},
			MemoryStats: container.MemoryStats{Usage: 4096, MaxUsage: 8192, Limit: 9223372036854771712, Failcnt: 5, Stats: map[string]uint64{"total_inactive_file": 2}},
			PidsStats:   container.PidsStats{Current: 6},
			BlkioStats: container.BlkioStats{IoServiceBytesRecursive: []container.BlkioStatEntry{{Major: 8, Op: "Read", Value: 10}, {Major: 8, Op: "Write", Value: 20}},
				IoServicedRecursive: []container.BlkioStatEntry{}},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			var got container.StatsResponse
			if err := readCgroups(test.root, 7, &got); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(test.want, got); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
	if err := readCgroups(v1, 8, &container.StatsResponse{}); !os.IsNotExist(err) {
		t.Errorf("a process that is gone: %v", err)
	}
}

func TestNetDev(t *testing.T) {
	root := tree(t, `dev: Inter-|   Receive  |  Transmit| face |bytes packets|    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0|  eth0: 100 2 3 4 0 0 0 0 500 6 7 8 0 0 0 0`)
	got, err := readNetDev(filepath.Join(root, "dev"))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]container.NetworkStats{"eth0": {RxBytes: 100, RxPackets: 2, RxErrors: 3, RxDropped: 4, TxBytes: 500, TxPackets: 6, TxErrors: 7, TxDropped: 8}}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestParsePS(t *testing.T) {
	out := "UID PID PPID CMD\nroot 1 0 init\nroot 7 1 sh -c a b\n- - - thread\nroot 8 1 other\n- - - thread\n"
	got, err := parsePS(out, map[int]bool{7: true})
	if err != nil {
		t.Fatal(err)
	}
	want := &container.TopResponse{Titles: []string{"UID", "PID", "PPID", "CMD"}, Processes: [][]string{{"root", "7", "1", "sh -c a b"}, {"-", "-", "-", "thread"}}}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	for _, bad := range []string{"", "UID CMD\n", "PID CMD\nx y\n"} {
		if _, err := parsePS(bad, nil); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
	for args, ok := range map[string]bool{"aux": true, "-eo pid,args": true, "-o pid=x": false, "-eo uid=pid": false, "-opid=": false} {
		if err := checkPSArgs(strings.Fields(args)); (err == nil) != ok {
			t.Errorf("%q: %v", args, err)
		}
	}
}

// What a container has written counts, and its image beside it.
func TestSize(t *testing.T) {
	l := real(t)
	ctx := t.Context()
	id, _, err := l.engine.Create(ctx, engine.Spec{Config: &container.Config{Image: "busybox:test", Cmd: []string{"dd", "if=/dev/zero", "of=/big", "bs=1024", "count=512"}},
		HostConfig: &container.HostConfig{NetworkMode: "none"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.engine.Remove(t.Context(), id, true) })
	ch, err := l.engine.Wait(ctx, id, container.WaitConditionNextExit)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.engine.Start(ctx, id); err != nil {
		t.Fatal(err)
	}
	<-ch
	rw, rootFS, err := l.engine.Size(ctx, id)
	if err != nil || rw < 512<<10 || rw > 600<<10 || rootFS < rw+1<<20 {
		t.Errorf("size %d of %d, %v", rw, rootFS, err)
	}
}
