package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// scope says which processes belong to a host, or to a whole lab: those in its network namespaces, in its cgroups, or
// with its mark in their environment. Any one is enough: containers have namespaces of their own, shims have the
// cgroup of whoever started them, and a namespace that has lost its name is found by the mark.
type scope struct {
	namespaces []uint64 // inodes
	cgroup     string   // with all below
	marks      []string // values of hostMarker; "" stands for any
}

// processes returns the ids of the processes of the scope that are alive, and never that of the caller.
func (s scope) processes() ([]int, error) {
	found := map[int]bool{}
	trees, err := cgroupTrees()
	if err != nil {
		return nil, err
	}
	for _, t := range trees {
		for _, pid := range cgroupProcesses(filepath.Join(t, s.cgroup)) {
			found[pid] = true
		}
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || found[pid] {
			continue
		}
		var st syscall.Stat_t
		if syscall.Stat(fmt.Sprintf("/proc/%d/ns/net", pid), &st) == nil && slices.Contains(s.namespaces, st.Ino) {
			found[pid] = true
			continue
		}
		found[pid] = s.marked(pid)
	}
	var pids []int
	for pid, yes := range found {
		if yes && pid > 1 && pid != os.Getpid() && alive(pid) {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return pids, nil
}

func (s scope) marked(pid int) bool {
	if len(s.marks) == 0 {
		return false
	}
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		return false
	}
	for v := range bytes.SplitSeq(env, []byte{0}) {
		value, ok := strings.CutPrefix(string(v), hostMarker+"=")
		if ok && (slices.Contains(s.marks, value) || slices.Contains(s.marks, "")) {
			return true
		}
	}
	return false
}

// alive says whether a process still runs. A zombie does not: it waits for its parent only.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	// The name, in parentheses, may hold anything (proc_pid_stat(5)).
	i := bytes.LastIndexByte(stat, ')')
	return i >= 0 && i+2 < len(stat) && stat[i+2] != 'Z' && stat[i+2] != 'X'
}

// isDaemon says whether a process is a shoald: those die first, so that none sees its containers die and writes it
// down.
func isDaemon(pid int) bool {
	cmd, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && bytes.Contains(cmd, []byte("--config-file"))
}

// killAll kills everything of the scope with SIGKILL, daemons first, and returns when nothing of it is alive.
func killAll(ctx context.Context, s scope) error {
	return Wait(ctx, "kill the processes of the lab", func(context.Context) error {
		pids, err := s.processes()
		if err != nil {
			return GiveUp(err)
		}
		slices.SortStableFunc(pids, func(a, b int) int {
			switch da, db := isDaemon(a), isDaemon(b); {
			case da && !db:
				return -1
			case db && !da:
				return 1
			}
			return 0
		})
		for _, pid := range pids {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				return GiveUp(fmt.Errorf("kill process %d: %w", pid, err))
			}
		}
		if len(pids) > 0 {
			return fmt.Errorf("%d processes are still there, the first is %d", len(pids), pids[0])
		}
		return nil
	})
}

// cgroupTrees returns where the machine's cgroup hierarchies are mounted, of version 1 and 2.
func cgroupTrees() ([]string, error) {
	var trees []string
	err := eachMount(func(point, kind string) {
		if (kind == "cgroup" || kind == "cgroup2") && !slices.Contains(trees, point) {
			trees = append(trees, point)
		}
	})
	return trees, err
}

// cgroupProcesses returns the processes of a cgroup and of those below.
func cgroupProcesses(dir string) []int {
	var pids []int
	// What vanishes while we look is what we want to vanish.
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil
		}
		procs, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		if err != nil {
			return nil
		}
		for f := range strings.FieldsSeq(string(procs)) {
			if pid, err := strconv.Atoi(f); err == nil && pid > 0 {
				pids = append(pids, pid)
			}
		}
		return nil
	})
	return pids
}

// removeCgroups removes a cgroup and all below, in every hierarchy. It waits until the kernel has let go of the
// processes that were in them.
func removeCgroups(ctx context.Context, cgroup string) error {
	trees, err := cgroupTrees()
	if err != nil {
		return err
	}
	for _, t := range trees {
		top := filepath.Join(t, cgroup)
		err := Wait(ctx, "remove cgroup "+top, func(context.Context) error {
			var dirs []string
			_ = filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
				if err == nil && d.IsDir() {
					dirs = append(dirs, path)
				}
				return nil
			})
			for _, d := range slices.Backward(dirs) {
				if err := syscall.Rmdir(d); err != nil && !errors.Is(err, syscall.ENOENT) {
					return &os.PathError{Op: "rmdir", Path: d, Err: err}
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// eachMount calls fn with the place and the kind of every mount, in the order in which they were made.
func eachMount(fn func(point, kind string)) error {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(data)) {
		// "36 35 98:0 /root /point rw,noatime shared:1 - ext3 /dev/root rw": proc_pid_mountinfo(5)
		before, after, ok := strings.Cut(line, " - ")
		fields, kind := strings.Fields(before), strings.Fields(after)
		if ok && len(fields) >= 5 && len(kind) > 0 {
			fn(unescape(fields[4]), kind[0])
		}
	}
	return nil
}

// unescape undoes the octal escapes of blanks in mountinfo.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace

// unmountBelow unmounts everything at and below the folders, the last mounted first. Lazily: nobody uses it any more.
func unmountBelow(dirs ...string) error {
	var points []string
	err := eachMount(func(point, _ string) {
		for _, d := range dirs {
			if point == d || strings.HasPrefix(point, d+"/") {
				points = append(points, point)
			}
		}
	})
	if err != nil {
		return err
	}
	for _, p := range slices.Backward(points) {
		if err := syscall.Unmount(p, syscall.MNT_DETACH); err != nil && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, syscall.ENOENT) {
			return &os.PathError{Op: "unmount", Path: p, Err: err}
		}
	}
	return nil
}
