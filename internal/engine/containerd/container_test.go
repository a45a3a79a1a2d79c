package containerd

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"
	mounttypes "github.com/moby/moby/api/types/mount"
	"golang.org/x/sys/unix"

	"shoal.dev/shoal/internal/engine"
)

// made makes a container that goes with the test.
func (l *lab) made(t *testing.T, s engine.Spec) string {
	t.Helper()
	if s.Config.Image == "" {
		s.Config.Image = "busybox:test"
	}
	if s.HostConfig == nil {
		s.HostConfig = &container.HostConfig{}
	}
	if s.HostConfig.NetworkMode == "" {
		s.HostConfig.NetworkMode = "none"
	}
	id, _, err := l.engine.Create(t.Context(), s)
	if err != nil {
		t.Fatalf("create: %v", err)
	}
	t.Cleanup(func() {
		if err := l.engine.Remove(context.Background(), id, true); err != nil && !errdefs.IsNotFound(err) {
			t.Errorf("clean up: %v", err)
		}
	})
	return id
}

// output runs a container to its end and returns its exit code and what it wrote.
func (l *lab) output(t *testing.T, s engine.Spec) (int, string) {
	t.Helper()
	id := l.made(t, s)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := l.engine.Start(ctx, id); err != nil {
		t.Fatalf("start: %v", err)
	}
	ch, err := l.engine.Wait(ctx, id, container.WaitConditionNotRunning)
	if err != nil {
		t.Fatal(err)
	}
	r := <-ch
	if r.Err != nil {
		t.Fatal(r.Err)
	}
	return r.ExitCode, l.log(t, id)
}

func (l *lab) log(t *testing.T, id string) string {
	t.Helper()
	var b strings.Builder
	err := l.engine.Logs(t.Context(), id, engine.LogOptions{Stdout: true, Stderr: true, Tail: -1}, func(line engine.LogLine) error {
		b.Write(line.Line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// What Docker's settings are inside a container.
func TestSettings(t *testing.T) {
	l := real(t)
	bind := t.TempDir()
	if err := os.WriteFile(filepath.Join(bind, "f"), []byte("bound\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	pids := int64(33)
	const caps = "grep CapEff /proc/self/status"
	for _, test := range []struct {
		name   string
		sh     string
		config container.Config
		host   container.HostConfig
		want   string // the output, or part of it if it begins with ~
	}{
		{name: "image environment", sh: "echo $PATH $FROM", want: "/bin image\n"},
		{name: "own environment", sh: "echo $FROM $X", config: container.Config{Env: []string{"FROM=me", "X=y z"}}, want: "me y z\n"},
		{name: "hostname", sh: "hostname; cat /etc/hostname; echo $HOSTNAME", config: container.Config{Hostname: "fishy"}, want: "fishy\nfishy\nfishy\n"},
		{name: "working directory", sh: "pwd", config: container.Config{WorkingDir: "/home"}, want: "/home\n"},
		{name: "working directory that is not there", sh: "pwd", config: container.Config{WorkingDir: "/new/dir"}, want: "/new/dir\n"},
		{name: "root", sh: "id -u; id -g", want: "0\n0\n"},
		{name: "user by name", sh: "id -u; id -g; id -G; echo $HOME", config: container.Config{User: "fish"}, want: "1000\n1000\n1000 2000\n/home\n"},
		{name: "user and group by name", sh: "id -u; id -g", config: container.Config{User: "fish:water"}, want: "1000\n2000\n"},
		{name: "user by number", sh: "id -u; id -g", config: container.Config{User: "5:6"}, want: "5\n6\n"},
		{name: "more groups", sh: "id -G", host: container.HostConfig{GroupAdd: []string{"water", "77"}}, want: "0 77 2000\n"},
		{name: "default capabilities", sh: caps, want: "CapEff:\t00000000a80425fb\n"},
		{name: "no capabilities", sh: caps, host: container.HostConfig{CapDrop: []string{"ALL"}}, want: "CapEff:\t0000000000000000\n"},
		{name: "one capability", sh: caps, host: container.HostConfig{CapDrop: []string{"all"}, CapAdd: []string{"CAP_CHOWN"}}, want: "CapEff:\t0000000000000001\n"},
		{name: "seccomp", sh: "grep Seccomp: /proc/self/status", want: "Seccomp:\t2\n"},
		{name: "no seccomp", sh: "grep Seccomp: /proc/self/status", host: container.HostConfig{SecurityOpt: []string{"seccomp=unconfined"}}, want: "Seccomp:\t0\n"},
		{name: "privileges may grow", sh: "grep NoNewPrivs /proc/self/status", want: "NoNewPrivs:\t0\n"},
		{name: "privileges may not grow", sh: "grep NoNewPrivs /proc/self/status", host: container.HostConfig{SecurityOpt: []string{"no-new-privileges"}}, want: "NoNewPrivs:\t1\n"},
		{name: "privileged", sh: "grep Seccomp: /proc/self/status; ls -d /dev/null /dev/kmsg", host: container.HostConfig{Privileged: true}, want: "~Seccomp:\t0"},
		{name: "masked", sh: "cat /proc/keys | grep -c . ; (echo x > /proc/sys/kernel/domainname) 2>&1", want: "0\nsh: can't create /proc/sys/kernel/domainname: Read-only file system\n"},
		{name: "bind", sh: "cat /b/f; touch /b/new && echo wrote", host: container.HostConfig{Binds: []string{bind + ":/b"}}, want: "bound\nwrote\n"},
		{name: "read-only bind", sh: "touch /b/x 2>&1", host: container.HostConfig{Binds: []string{bind + ":/b:ro"}}, want: "~Read-only file system"},
		{name: "mount", sh: "cat /b/f", host: container.HostConfig{Mounts: []mounttypes.Mount{{Type: "bind", Source: bind, Target: "/b", ReadOnly: true}}}, want: "bound\n"},
		{name: "tmpfs", sh: "grep ' /t ' /proc/mounts", host: container.HostConfig{Tmpfs: map[string]string{"/t": "size=1m,exec"}}, want: "~tmpfs /t tmpfs rw,nosuid,nodev,relatime,size=1024k"},
		{name: "tmpfs mount", sh: "grep ' /t ' /proc/mounts", host: container.HostConfig{Mounts: []mounttypes.Mount{{Type: "tmpfs", Target: "/t", TmpfsOptions: &mounttypes.TmpfsOptions{SizeBytes: 2 << 20, Mode: 0o700}}}}, want: "~size=2048k,mode=700"},
		{name: "shared memory", sh: "grep ' /dev/shm ' /proc/mounts", host: container.HostConfig{ShmSize: 3 << 20}, want: "~size=3072k"},
		{name: "read-only root", sh: "touch /x 2>&1", host: container.HostConfig{ReadonlyRootfs: true}, want: "~Read-only file system"},
		{name: "memory limit", sh: "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; true", host: container.HostConfig{Resources: container.Resources{Memory: 32 << 20}}, want: "33554432\n"},
		{name: "process limit", sh: "cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null; true", host: container.HostConfig{Resources: container.Resources{PidsLimit: &pids}}, want: "33\n"},
		{name: "ulimit", sh: "ulimit -n", host: container.HostConfig{Resources: container.Resources{Ulimits: []*units.Ulimit{{Name: "nofile", Soft: 55, Hard: 66}}}}, want: "55\n"},
		{name: "default ulimit", sh: "ulimit -Sn", want: "1024\n"},
		{name: "sysctl", sh: "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/net/ipv4/ip_forward", host: container.HostConfig{Sysctls: map[string]string{"net.ipv4.ip_forward": "1"}}, want: "0\n1\n"},
		{name: "oom score", sh: "cat /proc/self/oom_score_adj", host: container.HostConfig{OomScoreAdj: 321}, want: "321\n"},
		{name: "hosts", sh: "grep -c . /etc/hosts; grep extra /etc/hosts", host: container.HostConfig{ExtraHosts: []string{"extra:10.1.2.3"}}, want: "7\n10.1.2.3\textra\n"},
		{name: "resolver", sh: "cat /etc/resolv.conf | grep -v options", host: container.HostConfig{DNS: []netip.Addr{netip.MustParseAddr("10.9.9.9")}, DNSSearch: []string{"sea"}}, want: "nameserver 10.9.9.9\nsearch sea\n"},
		{name: "terminal", sh: "test -t 0 && test -t 1 && echo terminal $TERM", config: container.Config{Tty: true}, want: "terminal xterm\r\n"},
		{name: "host network", sh: "ls /proc/self/ns/net >/dev/null; grep -c lo: /proc/net/dev", host: container.HostConfig{NetworkMode: "host"}, want: "1\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.config.Cmd = []string{"sh", "-c", test.sh}
			_, out := l.output(t, engine.Spec{Config: &test.config, HostConfig: &test.host})
			if part, is := strings.CutPrefix(test.want, "~"); is && strings.Contains(out, part) || out == test.want {
				return
			}
			t.Errorf("the container wrote %q; want %q", out, test.want)
		})
	}
}

func TestStartErrors(t *testing.T) {
	l := real(t)
	for _, test := range []struct {
		name  string
		cmd   []string
		user  string
		code  int
		words string
	}{
		{"no such command", []string{"nonsense"}, "", 127, `exec: "nonsense": executable file not found in $PATH`},
		{"no such file", []string{"/no/such"}, "", 127, "no such file or directory"},
		{"not executable", []string{"/etc/passwd"}, "", 126, "permission denied"},
		{"no such user", []string{"true"}, "nobody-here", 128, "unable to find user nobody-here"},
	} {
		t.Run(test.name, func(t *testing.T) {
			id := l.made(t, engine.Spec{Config: &container.Config{Cmd: test.cmd, User: test.user}})
			err := l.engine.Start(t.Context(), id)
			if err == nil || !strings.Contains(err.Error(), test.words) || !errdefs.IsInvalidArgument(err) {
				t.Fatalf("start: %v; want %q", err, test.words)
			}
			if test.code != 128 && !strings.HasPrefix(err.Error(), "failed to create task for container: failed to create shim task: OCI runtime create failed: ") {
				t.Errorf("start: %v; it does not begin as Docker's", err)
			}
			i, ierr := l.engine.Inspect(t.Context(), id)
			if ierr != nil {
				t.Fatal(ierr)
			}
			if i.State.ExitCode != test.code || i.State.Error != err.Error() || i.State.Running {
				t.Errorf("state %+v; want exit code %d and the error", i.State, test.code)
			}
			if err := l.engine.Remove(t.Context(), id, false); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestBadMounts(t *testing.T) {
	l := real(t)
	for name, test := range map[string]struct {
		host  container.HostConfig
		words string
	}{
		"missing source":  {container.HostConfig{Mounts: []mounttypes.Mount{{Type: "bind", Source: "/no/such", Target: "/t"}}}, `invalid mount config for type "bind": bind source path does not exist: /no/such`},
		"relative source": {container.HostConfig{Mounts: []mounttypes.Mount{{Type: "bind", Source: "x", Target: "/t"}}}, "mount path must be absolute"},
		"twice":           {container.HostConfig{Binds: []string{"/tmp:/t", "/tmp:/t/"}}, "Duplicate mount point: /t"},
		"root":            {container.HostConfig{Binds: []string{"/tmp:/"}}, "invalid volume specification"},
		"mode":            {container.HostConfig{Binds: []string{"/tmp:/t:rx"}}, "invalid mode: rx"},
		"unknown":         {container.HostConfig{Mounts: []mounttypes.Mount{{Type: "cloud", Target: "/t"}}}, `mount type unknown: "cloud"`},
		"memory":          {container.HostConfig{Resources: container.Resources{Memory: 1}}, "Minimum memory limit allowed is 6MB"},
		"cpus":            {container.HostConfig{Resources: container.Resources{NanoCPUs: 1e15}}, "range of CPUs is from 0.01 to"},
		"log driver":      {container.HostConfig{LogConfig: container.LogConfig{Type: "carrier-pigeon"}}, "no log driver named 'carrier-pigeon' is registered"},
		"log option":      {container.HostConfig{LogConfig: container.LogConfig{Config: map[string]string{"max-size": "much"}}}, "max-size"},
		"runtime":         {container.HostConfig{Runtime: "walc"}, "unknown or invalid runtime name: walc"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := l.engine.Create(t.Context(), engine.Spec{Config: &container.Config{Image: "busybox:test"}, HostConfig: &test.host})
			if err == nil || !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), test.words) {
				t.Errorf("create: %v; want %q", err, test.words)
			}
		})
	}
}

func TestOutOfMemory(t *testing.T) {
	l := real(t)
	l.leaksNothing(t)
	id := l.made(t, engine.Spec{Config: &container.Config{Cmd: []string{"dd", "if=/dev/zero", "of=/dev/null", "bs=200M", "count=1"}},
		HostConfig: &container.HostConfig{Resources: container.Resources{Memory: 8 << 20, MemorySwap: 8 << 20}}})
	events := l.engine.Events(t.Context())
	if err := l.engine.Start(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	ch, err := l.engine.Wait(t.Context(), id, container.WaitConditionNotRunning)
	if err != nil {
		t.Fatal(err)
	}
	if r := <-ch; r.ExitCode != 137 {
		t.Errorf("exit code %d; want 137", r.ExitCode)
	}
	if i, _ := l.engine.Inspect(t.Context(), id); !i.State.OOMKilled {
		t.Errorf("state %+v; want OOMKilled", i.State)
	}
	var seen []string
	for e := range events {
		if seen = append(seen, e.Action); e.Action == "die" {
			break
		}
	}
	if !slices.Contains(seen, "oom") {
		t.Errorf("events %q; want an oom", seen)
	}
}

func TestNetwork(t *testing.T) {
	l := real(t)
	net := l.engine.cfg.Sandboxes.(*testNet)
	ingress := netip.MustParseAddr("10.255.3.4")
	id := l.made(t, engine.Spec{Config: &container.Config{Hostname: "deep", Cmd: []string{"sh", "-c", "grep deep /etc/hosts; exec sleep 1000"}},
		HostConfig: &container.HostConfig{NetworkMode: "bridge"}, Ingress: ingress})
	if err := l.engine.Start(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	i, err := l.engine.Inspect(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	own, err1 := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", i.State.Pid))
	var sandbox unix.Stat_t
	err2 := unix.Stat(i.NetworkSettings.SandboxKey, &sandbox)
	if want := fmt.Sprintf("net:[%d]", sandbox.Ino); err1 != nil || err2 != nil || own != want {
		t.Errorf("network namespace %q, %v; the sandbox's is %q, %v", own, err1, want, err2)
	}
	ep := i.NetworkSettings.Networks["bridge"]
	if ep == nil || !netip.MustParsePrefix("172.18.0.0/16").Contains(ep.IPAddress) || ep.Gateway.String() != "172.18.0.1" || ep.IPPrefixLen != 16 || !strings.HasPrefix(ep.MacAddress.String(), "02:42:ac:12:00:") {
		t.Fatalf("endpoint %+v", ep)
	}
	line := ep.IPAddress.String() + "\tdeep\n"
	if !poll(10*time.Second, func() bool { return l.log(t, id) == line }) {
		t.Errorf("/etc/hosts says %q", l.log(t, id))
	}
	if err := l.engine.Kill(t.Context(), id, ""); err != nil {
		t.Fatal(err)
	}
	if !poll(10*time.Second, func() bool { net.mu.Lock(); defer net.mu.Unlock(); return slices.Contains(net.got, "detach "+id) }) {
		t.Error("not detached at its end")
	}
	if want := fmt.Sprintf("attach %s %s", id, ingress); !slices.Contains(net.got, want) {
		t.Errorf("calls %q lack %q", net.got, want)
	}
}

// Nothing of a container is left when it is removed.
func TestRemoveLeavesNothing(t *testing.T) {
	l := real(t)
	id := l.made(t, engine.Spec{Config: &container.Config{Cmd: script("sleep")}, HostConfig: &container.HostConfig{NetworkMode: "bridge"}})
	if err := l.engine.Start(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if err := l.engine.Remove(t.Context(), id, true); err != nil {
		t.Fatal(err)
	}
	left := func() []string {
		var list []string
		for _, p := range []string{"root/containers/" + id, "netns/" + id, "st/runc/*/" + id, "st/containerd/*/*/" + id, "root/containerd/*/*/" + id} {
			found, _ := filepath.Glob(filepath.Join(l.dir, p))
			list = append(list, found...)
		}
		cgroups, _ := filepath.Glob("/sys/fs/cgroup/*" + cgroupParent(l.dir) + "/" + id)
		sockets, _ := os.ReadDir(filepath.Join(l.dir, "st", "s"))
		for _, s := range sockets {
			list = append(list, s.Name())
		}
		mounts, _ := os.ReadFile("/proc/self/mounts")
		if strings.Contains(string(mounts), id) {
			list = append(list, "a mount")
		}
		if _, err := l.engine.snapshots.Stat(l.engine.scope(context.Background()), id); err == nil {
			list = append(list, "its snapshot")
		}
		return append(list, cgroups...)
	}
	if !poll(time.Minute, func() bool { return len(left()) == 0 }) {
		t.Errorf("left behind: %q", left())
	}
}
