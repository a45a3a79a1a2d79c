package containerd

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
)

// leaksNothing compares what the engine holds of the host now with what it holds when the test has cleaned up. It is
// for a test's beginning.
func (l *lab) leaksNothing(t *testing.T) {
	t.Helper()
	before := l.holdings(t)
	t.Cleanup(func() {
		var more []string
		ok := poll(time.Minute, func() bool {
			more = nil
			for what, n := range l.holdings(t) {
				if n > before[what] {
					more = append(more, fmt.Sprintf("%s: %d, were %d", what, n, before[what]))
				}
			}
			return len(more) == 0
		})
		if !ok {
			t.Errorf("left behind: %s", strings.Join(more, "; "))
		}
	})
}

// holdings counts what belongs to the lab's engine.
func (l *lab) holdings(t *testing.T) map[string]int {
	t.Helper()
	n := map[string]int{"containers": len(l.engine.ledger.All()), "goroutines": runtime.NumGoroutine()}
	mounts, _ := os.ReadFile("/proc/self/mounts")
	n["mounts"] = strings.Count(string(mounts), " "+l.dir+"/")
	namespaces, _ := os.ReadDir(filepath.Join(l.dir, "netns"))
	n["network namespaces"] = len(namespaces)
	for _, pattern := range []string{"/sys/fs/cgroup/*" + cgroupParent(l.dir) + "/*/", "/sys/fs/cgroup" + cgroupParent(l.dir) + "/*/"} {
		found, _ := filepath.Glob(pattern)
		n["cgroups"] += len(found)
	}
	err := l.engine.snapshots.Walk(l.engine.scope(context.Background()), func(context.Context, snapshots.Info) error {
		n["snapshots"]++
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	_ = filepath.WalkDir(filepath.Join(l.dir, "st"), func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil // gone meanwhile
		}
		switch d.Type() {
		case fs.ModeNamedPipe:
			n["FIFOs"]++
		case fs.ModeSocket:
			n["sockets"]++
		}
		return nil
	})
	for _, dir := range []string{"root/containers", "st/runc/*", "st/shm", "st/m"} {
		found, _ := filepath.Glob(filepath.Join(l.dir, dir, "*"))
		n["folders in "+dir] = len(found)
	}
	n["processes"] = len(l.processes(""))
	return n
}

// processes are those of the lab's containers and shims whose command line has the word.
func (l *lab) processes(word string) (pids []int) {
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range procs {
		exe, _ := os.Readlink(filepath.Join(p, "exe"))
		cg, _ := os.ReadFile(filepath.Join(p, "cgroup"))
		if !strings.HasPrefix(exe, l.dir+"/shim") && !strings.Contains(string(cg), ":"+cgroupParent(l.dir)+"/") {
			continue
		}
		if line, _ := os.ReadFile(filepath.Join(p, "cmdline")); strings.Contains(string(line), word) {
			pid, _ := strconv.Atoi(filepath.Base(p))
			pids = append(pids, pid)
		}
	}
	return pids
}
