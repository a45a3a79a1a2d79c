package containerd

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"

	"shoal.dev/shoal/internal/engine"
)

// probe runs testdata/probe in a container with these settings and returns what it says, by name.
func (l *lab) probe(t *testing.T, h container.HostConfig) map[string]string {
	t.Helper()
	dir := filepath.Join(l.dir, "probe")
	if _, err := os.Stat(dir); err != nil {
		cmd := exec.Command("go", "build", "-o", filepath.Join(dir, "probe"), "./testdata/probe")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("build the probe: %v\n%s", err, out)
		}
	}
	h.Binds = append(h.Binds, dir+":/probe:ro")
	code, out := l.output(t, engine.Spec{Config: &container.Config{Cmd: []string{"/probe/probe"}}, HostConfig: &h})
	if code != 0 {
		t.Fatalf("the probe ended with %d: %s", code, out)
	}
	said := map[string]string{}
	for line := range strings.Lines(out) {
		if i := strings.LastIndex(line, " "); i > 0 {
			said[line[:i]] = strings.TrimSpace(line[i:])
		}
	}
	return said
}

// What Docker's sandbox answers by default: seccomp's EPERM, the devices' EPERM, read-only and masked paths.
func TestSandbox(t *testing.T) {
	l := real(t)
	const refused = "EPERM"
	want := map[string]string{
		"clone3": "ENOSYS", "clone of a user namespace": refused, "unshare of a mount namespace": refused,
		"personality of linux": "done", "personality without random addresses": refused, "ptrace": "done",
		"mknod of a disk": "done", "open of that disk": refused, "mknod of memory": "done", "open of that memory": refused,
		"mknod of the kernel's log": "done", "open of that log": refused, "mknod of null": "done", "open of that null": "done",
		"no new privileges": "0", "files": "done", "socket of a virtual machine": refused,
	}
	for _, call := range []string{"keyctl", "add_key", "request_key", "bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "kexec_load",
		"kexec_file_load", "init_module", "open_by_handle_at", "mount", "umount2", "fsopen", "open_tree", "move_mount", "pivot_root", "setns",
		"quotactl", "reboot", "swapon", "acct", "syslog", "settimeofday"} {
		want[call] = refused
	}
	got := l.probe(t, container.HostConfig{})
	for name, answer := range got {
		switch {
		case strings.HasPrefix(name, "write to /proc/"), strings.HasPrefix(name, "write to /sys/"):
			want[name] = "EROFS"
		case strings.HasPrefix(name, "sight of "):
			want[name] = "nothing"
		case name == "hard files":
			want[name] = answer // the daemon's own, at most
		case name == "iopl":
			want[name] = refused
		}
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("by default (-want +got):\n%s", d)
	}

	// Without the filter the same calls get elsewhere, so it was the filter that answered.
	open := l.probe(t, container.HostConfig{SecurityOpt: []string{"seccomp=unconfined", "no-new-privileges=true"}})
	for name, answer := range map[string]string{"clone of a user namespace": "done", "personality without random addresses": "done", "no new privileges": "1",
		"open of that disk": refused, "open of that memory": refused} {
		if open[name] != answer {
			t.Errorf("without seccomp, %s: %s; want %s", name, open[name], answer)
		}
	}
	for _, name := range []string{"keyctl", "clone3", "io_uring_setup"} {
		if open[name] == got[name] {
			t.Errorf("without seccomp, %s is still %s", name, open[name])
		}
	}

	// A privileged container is not confined.
	all := l.probe(t, container.HostConfig{Privileged: true})
	for _, name := range []string{"open of that disk", "open of that memory", "open of that log"} { // there need be no such disk
		if all[name] == refused {
			t.Errorf("privileged, %s: %s", name, all[name])
		}
	}
	for name, answer := range all {
		if strings.HasPrefix(name, "write to ") && answer != "done" {
			t.Errorf("privileged, %s: %s", name, answer)
		}
	}
	if all["sight of /proc/interrupts"] != "bytes" || all["keyctl"] == refused {
		t.Errorf("privileged: /proc/interrupts %s, keyctl %s", all["sight of /proc/interrupts"], all["keyctl"])
	}
}

// What a container sees of its own confinement: capabilities, mounts, devices, and nothing of the daemon's.
func TestSandboxSight(t *testing.T) {
	l := real(t)
	// The daemon's own score for the kernel's want of memory, -500 as installed, is not its containers'. (A negative one
	// needs a privilege that the tests may lack.)
	const score = "/proc/self/oom_score_adj"
	if err := os.WriteFile(score, []byte("300"), 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.WriteFile(score, []byte("0"), 0); err != nil {
			t.Error(err)
		}
	})
	sight := func(sh string, h container.HostConfig) string {
		t.Helper()
		_, out := l.output(t, engine.Spec{Config: &container.Config{Cmd: []string{"sh", "-c", sh}}, HostConfig: &h})
		return out
	}
	is := func(path string) bool { _, err := os.Stat(path); return err == nil }
	core := ""
	if is("/proc/kcore") { // a link to it, if the kernel has one
		core = "core\n"
	}
	for _, test := range []struct {
		name, sh, want string
		h              container.HostConfig
	}{
		{name: "score", sh: "cat /proc/self/oom_score_adj", want: "0\n"},
		{name: "capabilities", sh: "grep '^Cap' /proc/self/status", want: "CapInh:\t0000000000000000\nCapPrm:\t00000000a80425fb\n" +
			"CapEff:\t00000000a80425fb\nCapBnd:\t00000000a80425fb\nCapAmb:\t0000000000000000\n"},
		{name: "seccomp", sh: "grep '^Seccomp:' /proc/self/status", want: "Seccomp:\t2\n"},
		{name: "devices", sh: "ls /dev", want: core + "fd\nfull\nmqueue\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\nstdout\ntty\nurandom\nzero\n"},
		{name: "groups", sh: "grep '^Groups:' /proc/self/status", want: "Groups:\t0 \n"},
		{name: "cgroups are read-only", sh: "for d in /sys/fs/cgroup/*/; do mkdir $d/x 2>&1 | grep -v Read-only; done; ls -d /sys/fs/cgroup/*/ | grep -c . >/dev/null && echo looked", want: "looked\n"},
		{name: "writable cgroups", sh: "for d in /sys/fs/cgroup/memory /sys/fs/cgroup; do test -d $d && mkdir $d/x && rmdir $d/x && echo made && break; done",
			want: "made\n", h: container.HostConfig{SecurityOpt: []string{"writable-cgroups"}}},
		{name: "nothing is masked", sh: "cat /proc/interrupts | grep -c CPU0; mount | grep -c ' /proc/'", want: "1\n0\n",
			h: container.HostConfig{MaskedPaths: []string{}, ReadonlyPaths: []string{}}},
	} {
		if got := sight(test.sh, test.h); got != test.want {
			t.Errorf("%s: %q; want %q", test.name, got, test.want)
		}
	}

	// Type and flags of every mount that Docker makes.
	got := map[string]string{}
	for line := range strings.Lines(sight("cat /proc/self/mounts", container.HostConfig{})) {
		f := strings.Fields(line)
		if strings.HasPrefix(f[1], "/etc/") || f[1] == "/" || strings.HasPrefix(f[1], "/sys/fs/cgroup/") {
			continue
		}
		flags := strings.Split(f[3], ",")
		flags = slices.DeleteFunc(flags, func(o string) bool {
			return strings.HasPrefix(o, "nr_") || strings.HasPrefix(o, "huge") || o == "inode64" || strings.HasPrefix(o, "uid=")
		})
		got[f[1]] = f[2] + " " + strings.Join(flags, ",")
	}
	want := map[string]string{
		"/proc":       "proc rw,nosuid,nodev,noexec,relatime",
		"/dev":        "tmpfs rw,nosuid,size=65536k,mode=755",
		"/dev/pts":    "devpts rw,nosuid,noexec,relatime,gid=5,mode=620,ptmxmode=666",
		"/dev/mqueue": "mqueue rw,nosuid,nodev,noexec,relatime",
		"/dev/shm":    "tmpfs rw,nosuid,nodev,noexec,relatime,size=65536k",
		"/sys":        "sysfs ro,nosuid,nodev,noexec,relatime",
	}
	for _, p := range []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"} {
		if !is(p) {
			continue
		}
		want[p] = "proc ro,nosuid,nodev,noexec,relatime"
	}
	for p, m := range maps.Clone(got) {
		switch {
		case slices.Contains(maskedPaths(), p):
			if !strings.HasPrefix(m, "tmpfs ro,") && !strings.HasPrefix(m, "tmpfs rw,nosuid") { // a folder is masked by an empty one, a file by null
				t.Errorf("%s is masked by %s", p, m)
			}
			delete(got, p)
		case p == "/sys/fs/cgroup":
			// Of cgroup v1 this is a tmpfs of the container's own, which runc leaves writable; what is mounted in it is not.
			if m != "tmpfs rw,nosuid,nodev,noexec,relatime,mode=755" && !strings.HasPrefix(m, "cgroup2 ro,nosuid,nodev,noexec") {
				t.Errorf("%s: %s", p, m)
			}
			delete(got, p)
		}
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("mounts (-want +got):\n%s", d)
	}
}
