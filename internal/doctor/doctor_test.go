package doctor

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"
)

const release = "6.1.0-42"

// healthy is a host where all is well.
func healthy() *Host {
	var config strings.Builder
	for _, f := range features() {
		fmt.Fprintf(&config, "%s=y\n", f.option)
	}
	return &Host{
		Release: release, Superuser: true,
		Root: fstest.MapFS{
			"proc/config.gz":                            {Data: zipped(config.String())},
			"sys/fs/cgroup/cgroup.controllers":          {Data: []byte("cpuset cpu io memory hugetlb pids\n")},
			"sys/fs/cgroup/cgroup.subtree_control":      {Data: []byte("cpuset cpu io memory pids\n")},
			"proc/sys/net/ipv4/ip_forward":              {Data: []byte("1\n")},
			"proc/net/route":                            {Data: []byte("Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\neth0\t00000000\t0100A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n")},
			"proc/sys/net/netfilter/nf_conntrack_count": {Data: []byte("100\n")},
			"proc/sys/net/netfilter/nf_conntrack_max":   {Data: []byte("262144\n")},
		},
		Run: func(_ context.Context, _, name string, args ...string) ([]byte, error) {
			switch name + " " + strings.Join(args, " ") {
			case "runc --version":
				return []byte("runc version 1.1.5+ds1\ncommit: 1.1.5\n"), nil
			case "nft --version":
				return []byte("nftables v1.0.6 (Lester Gooch #5)\n"), nil
			case "nft -j -t list ruleset":
				return []byte(`{"nftables": []}`), nil
			}
			return nil, exec.ErrNotFound
		},
		Owner:  func(string, netip.Addr, uint16) (string, bool) { return "", false },
		Disk:   func(string) (Disk, error) { return Disk{Used: 40, UsedInodes: 3, Free: 60e9, Blocks: 100e9}, nil },
		Synced: func() (bool, error) { return true, nil },
		MTU: func(name string) (int, error) {
			if name == "eth0" {
				return 1500, nil
			}
			return 0, errors.New("no such network interface")
		},
	}
}

func zipped(text string) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write([]byte(text)) // into memory
	_ = w.Close()
	return b.Bytes()
}

func (h *Host) put(name, text string) {
	h.Root.(fstest.MapFS)[name] = &fstest.MapFile{Data: []byte(text)}
}

// prints has one program print something else, or fail.
func (h *Host) prints(command, text string, err error) {
	was := h.Run
	h.Run = func(ctx context.Context, input, name string, args ...string) ([]byte, error) {
		if name+" "+strings.Join(args, " ") == command {
			return []byte(text), err
		}
		return was(ctx, input, name, args...)
	}
}

func TestAllIsWell(t *testing.T) {
	r := healthy().Examine(t.Context(), DefaultFacts())
	for _, f := range r.Findings {
		if f.Level != OK || f.Remedy != "" || f.Found == "" || strings.Contains(f.Found, "\n") {
			t.Errorf("%+v", f)
		}
	}
	var checks []string
	for _, f := range r.Findings {
		checks = append(checks, f.Check)
	}
	want := []string{"kernel", "cgroups", "runc", "nft", "port 2377/tcp", "port 4789/udp", "firewall", "ip_forward", "bridge-nf-call", "conntrack", "MTU", "clock", "disk"}
	if !slices.Equal(checks, want) || r.Failed() {
		t.Errorf("looked at %q, failed: %v", checks, r.Failed())
	}
}

func TestFindings(t *testing.T) {
	dropping := `{"nftables": [{"chain": {"family": "ip", "table": "filter", "name": "FORWARD", "hook": "forward", "policy": "drop"}}]}`
	running := func(f *Facts) { f.Running = true }
	for name, c := range map[string]struct {
		host  func(h *Host)
		facts func(f *Facts)
		want  Finding // Found is a part of it
	}{
		"a kernel without VXLAN": {host: func(h *Host) {
			h.put("proc/config.gz", string(zipped("CONFIG_OVERLAY_FS=y\n# CONFIG_VXLAN is not set\n")))
		},
			want: Finding{"kernel", Failure, "CONFIG_VXLAN (networks over several nodes)", "apt-get install linux-image-"}},
		"a kernel without seccomp": {host: func(h *Host) {
			var b strings.Builder
			for _, f := range features() {
				if f.option != "CONFIG_SECCOMP_FILTER" {
					fmt.Fprintln(&b, f.option+"=y")
				}
			}
			h.put("proc/config.gz", string(zipped(b.String())))
		}, want: Finding{"kernel", Warning, "has no CONFIG_SECCOMP_FILTER", "apt-get install linux-image-"}},
		"a kernel whose modules are not here": {host: func(h *Host) {
			var b strings.Builder
			for _, f := range features() {
				fmt.Fprintln(&b, f.option+"=m")
			}
			h.put("proc/config.gz", string(zipped(b.String())))
			h.put("lib/modules/"+release+"/modules.dep", "kernel/drivers/net/veth.ko.xz:\nkernel/net/bridge/bridge.ko: kernel/net/llc/llc.ko\n")
			h.put("sys/module/overlay/refcnt", "1")
		}, want: Finding{"kernel", Failure, "CONFIG_VXLAN (networks over several nodes), CONFIG_NF_TABLES", "depmod -a " + release}},
		"a kernel that says nothing": {host: func(h *Host) { delete(h.Root.(fstest.MapFS), "proc/config.gz") },
			want: Finding{"kernel", Warning, "does not say what it can", "modprobe configs"}},
		"a configuration that is none": {host: func(h *Host) { h.put("proc/config.gz", "x") }, want: Finding{"kernel", Warning, "does not say what it can", "modprobe configs"}},
		"cgroups without memory": {host: func(h *Host) { h.put("sys/fs/cgroup/cgroup.controllers", "cpuset cpu io pids") },
			want: Finding{"cgroups", Failure, "version 2, without memory", "cgroup_enable=memory"}},
		"cgroups that are not delegated": {host: func(h *Host) { h.put("sys/fs/cgroup/cgroup.subtree_control", "memory pids") },
			want: Finding{"cgroups", Warning, "cpu, cpuset, io is not delegated", "echo '+cpu +cpuset +io' > /sys/fs/cgroup/cgroup.subtree_control"}},
		"version 1": {host: func(h *Host) {
			delete(h.Root.(fstest.MapFS), "sys/fs/cgroup/cgroup.controllers")
			h.put("proc/cgroups", "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpuset\t1\t1\t1\ncpu\t2\t1\t1\nblkio\t3\t1\t1\nmemory\t4\t1\t1\npids\t5\t1\t1\n")
			for _, c := range []string{"cpuset", "cpu", "blkio", "memory", "pids"} {
				h.put("sys/fs/cgroup/"+c+"/tasks", "")
			}
		}, want: Finding{"cgroups", OK, "version 1, with cpuset cpu io memory pids", ""}},
		"version 1 without memory": {host: func(h *Host) {
			delete(h.Root.(fstest.MapFS), "sys/fs/cgroup/cgroup.controllers")
			h.put("proc/cgroups", "cpuset\t1\t1\t1\ncpu\t2\t1\t1\nblkio\t3\t1\t1\nmemory\t0\t1\t0\npids\t5\t1\t1\n")
		}, want: Finding{"cgroups", Failure, "version 1, without memory", "update-grub"}},
		"version 1 that is not mounted": {host: func(h *Host) {
			delete(h.Root.(fstest.MapFS), "sys/fs/cgroup/cgroup.controllers")
			h.put("proc/cgroups", "cpuset\t1\t1\t1\ncpu\t2\t1\t1\nblkio\t3\t1\t1\nmemory\t4\t1\t1\npids\t5\t1\t1\n")
		}, want: Finding{"cgroups", Failure, "cpu is not mounted", "mount -t cgroup -o cpu cpu /sys/fs/cgroup/cpu"}},
		"no cgroups":               {host: func(h *Host) { delete(h.Root.(fstest.MapFS), "sys/fs/cgroup/cgroup.controllers") }, want: Finding{"cgroups", Failure, "has none", "mount -t cgroup2"}},
		"no runc":                  {host: func(h *Host) { h.prints("runc --version", "", exec.ErrNotFound) }, want: Finding{"runc", Failure, "runc is not installed", "apt-get install runc"}},
		"an old runc":              {host: func(h *Host) { h.prints("runc --version", "runc version 1.0.0~rc93", nil) }, want: Finding{"runc", Warning, "older than 1.1", "apt-get install runc"}},
		"a runc without a version": {host: func(h *Host) { h.prints("runc --version", "hello", nil) }, want: Finding{"runc", Warning, "does not say its version", "apt-get install runc"}},
		"an nft that fails":        {host: func(h *Host) { h.prints("nft --version", "", errors.New("exit status 1")) }, want: Finding{"nft", Failure, "does not work: exit status 1", "apt-get install nftables"}},
		"another one's port": {host: func(h *Host) {
			h.Owner = func(string, netip.Addr, uint16) (string, bool) { return "process dockerd (7)", true }
		},
			want: Finding{"port 2377/tcp", Failure, "held by process dockerd (7)", "ss -ltnp 'sport = :2377'"}},
		"another one's tunnels": {host: func(h *Host) {
			h.Owner = func(string, netip.Addr, uint16) (string, bool) { return "process flannel (7)", true }
		},
			want: Finding{"port 4789/udp", Failure, "held by process flannel (7)", "ss -lunp 'sport = :4789'"}},
		"a port of nobody who is seen": {host: func(h *Host) { h.Owner = func(string, netip.Addr, uint16) (string, bool) { return "", true } },
			want: Finding{"port 2377/tcp", Failure, "held by a process that cannot be seen from here", "ss -ltnp"}},
		"our port": {host: func(h *Host) {
			h.Owner = func(string, netip.Addr, uint16) (string, bool) { return "process shoald (7)", true }
		}, want: Finding{"port 2377/tcp", OK, "held by shoald", ""}},
		"our tunnels": {host: func(h *Host) { h.Owner = func(string, netip.Addr, uint16) (string, bool) { return "", true } }, want: Finding{"port 4789/udp", OK, "held by the kernel", ""}},
		"a worker":    {facts: func(f *Facts) { f.Member = true }, want: Finding{"port 2377/tcp", OK, "worker, which needs none", ""}},
		"a filter in the way": {host: func(h *Host) { h.prints("nft -j -t list ruleset", dropping, nil) },
			want: Finding{"firewall", Failure, "chain FORWARD of table ip filter drops what containers send", "iptables -I FORWARD -i shoal+ -j ACCEPT"}},
		"a filter that cannot be read": {host: func(h *Host) { h.prints("nft -j -t list ruleset", "", errors.New("boom")) }, want: Finding{"firewall", Warning, "boom", "nft list ruleset"}},
		"iptables-legacy":              {host: func(h *Host) { h.put("proc/net/ip_tables_names", "filter\n") }, want: Finding{"firewall", Warning, "iptables-legacy", "iptables-legacy -S FORWARD"}},
		"not root":                     {host: func(h *Host) { h.Superuser = false }, want: Finding{"firewall", Warning, "only root", "sudo shoal doctor"}},
		"a managed filter":             {facts: func(f *Facts) { f.Managed = true }, want: Finding{"firewall", OK, `"firewall" is "manage"`, ""}},
		"no forwarding yet":            {host: func(h *Host) { h.put("proc/sys/net/ipv4/ip_forward", "0\n") }, want: Finding{"ip_forward", OK, "shoald turns it on", ""}},
		"no forwarding":                {host: func(h *Host) { h.put("proc/sys/net/ipv4/ip_forward", "0\n") }, facts: running, want: Finding{"ip_forward", Failure, "net.ipv4.ip_forward is 0", "sysctl -w net.ipv4.ip_forward=1"}},
		"bridged frames":               {host: func(h *Host) { h.put("proc/sys/net/bridge/bridge-nf-call-iptables", "1\n") }, want: Finding{"bridge-nf-call", OK, "is 1", ""}},
		"frames that are not":          {host: func(h *Host) { h.put("proc/sys/net/bridge/bridge-nf-call-iptables", "0\n") }, want: Finding{"bridge-nf-call", OK, "is 0", ""}},
		"many connections":             {host: func(h *Host) { h.put("proc/sys/net/netfilter/nf_conntrack_count", "200000") }, want: Finding{"conntrack", Warning, "200000 of 262144 connections, 76 %", "sysctl -w net.netfilter.nf_conntrack_max=524288"}},
		"too many connections":         {host: func(h *Host) { h.put("proc/sys/net/netfilter/nf_conntrack_count", "262000") }, want: Finding{"conntrack", Failure, "new ones are dropped", "sysctl -w net.netfilter.nf_conntrack_max=524288"}},
		"no limit":                     {host: func(h *Host) { delete(h.Root.(fstest.MapFS), "proc/sys/net/netfilter/nf_conntrack_max") }, want: Finding{"conntrack", OK, "no limit", ""}},
		"a narrow link":                {host: func(h *Host) { h.MTU = func(string) (int, error) { return 1300, nil } }, want: Finding{"MTU", Warning, "leaves 1250", "ip link set eth0 mtu 1500"}},
		"too wide a tunnel":            {host: func(h *Host) { h.MTU = func(string) (int, error) { return 1500, nil } }, want: Finding{"MTU", Failure, "shoal-vx has 1500", "ip link set shoal-vx mtu 1450"}},
		"no way out":                   {host: func(h *Host) { delete(h.Root.(fstest.MapFS), "proc/net/route") }, want: Finding{"MTU", OK, "no default route", ""}},
		"a clock nobody keeps":         {host: func(h *Host) { h.Synced = func() (bool, error) { return false, nil } }, want: Finding{"clock", Warning, "nobody keeps it right", "timedatectl set-ntp true"}},
		"a clock that is off": {facts: func(f *Facts) { f.Clocks = []Clock{{"manager a", time.Second}, {"manager b", -time.Minute}} },
			want: Finding{"clock", Failure, "1m0s off that of manager b", "timedatectl set-ntp true"}},
		"a clock that is right": {facts: func(f *Facts) { f.Clocks = []Clock{{"manager a", 3 * time.Millisecond}} }, want: Finding{"clock", OK, "3ms off that of manager a", ""}},
		"a disk to clean":       {host: func(h *Host) { h.Disk = used(81, 1) }, want: Finding{"disk", Warning, "above 80 % images", "shoal system prune --all"}},
		"a disk that fills up":  {host: func(h *Host) { h.Disk = used(86, 1) }, want: Finding{"disk", Warning, "above 90 % the node takes no new tasks", "shoal system prune --all"}},
		"a full disk":           {host: func(h *Host) { h.Disk = used(91, 1) }, want: Finding{"disk", Failure, "takes no new tasks, until it is at 85 %", "shoal system prune --all"}},
		"no inodes":             {host: func(h *Host) { h.Disk = used(20, 99) }, want: Finding{"disk", Failure, "99 % of its inodes", "shoal system prune --all"}},
		"limits that are off":   {host: func(h *Host) { h.Disk = used(99, 1) }, facts: func(f *Facts) { f.Cleanup, f.Full = 0, 0 }, want: Finding{"disk", OK, "99 % used", ""}},
		"no folder": {host: func(h *Host) {
			h.Disk = func(dir string) (Disk, error) {
				if dir == "/" {
					return used(3, 3)(dir)
				}
				return Disk{}, errors.New("no such file or directory")
			}
		}, want: Finding{"disk", OK, "/, where /var/lib/shoal will be,", ""}},
		"no folder of a daemon": {host: func(h *Host) { h.Disk = func(string) (Disk, error) { return Disk{}, errors.New("input/output error") } }, facts: running,
			want: Finding{"disk", Failure, "input/output error", "mkdir -p /var/lib/shoal"}},
		"a peer that refuses": {host: func(h *Host) {
			h.Dial = func(context.Context, string, string) (net.Conn, error) { return nil, syscall.ECONNREFUSED }
		}, facts: peer("node2"),
			want: Finding{"peer node2", Failure, "2377/tcp: refused", "ssh node2 shoal doctor"}},
		"a peer that is silent": {host: func(h *Host) {
			h.Dial = func(context.Context, string, string) (net.Conn, error) { return nil, context.DeadlineExceeded }
		}, facts: peer("node2:2399"),
			want: Finding{"peer node2", Failure, "2399/tcp: no answer", "ping -c 3 node2"}},
	} {
		t.Run(name, func(t *testing.T) {
			h, f := healthy(), DefaultFacts()
			if c.host != nil {
				c.host(h)
			}
			if c.facts != nil {
				c.facts(&f)
			}
			r := h.Examine(t.Context(), f)
			at := slices.IndexFunc(r.Findings, func(f Finding) bool { return f.Check == c.want.Check })
			if at < 0 {
				t.Fatalf("nothing of %s: %+v", c.want.Check, r.Findings)
			}
			got := r.Findings[at]
			if got.Level != c.want.Level || !strings.Contains(got.Found, c.want.Found) || !strings.Contains(got.Remedy, c.want.Remedy) || (got.Remedy == "") != (c.want.Remedy == "") {
				t.Errorf("got  %+v\nwant %+v", got, c.want)
			}
			if got.Level == Failure && !r.Failed() {
				t.Error("the report has not failed")
			}
		})
	}
}

func used(percent, inodes int) func(string) (Disk, error) {
	return func(string) (Disk, error) {
		return Disk{Used: percent, UsedInodes: inodes, Blocks: 100e9, Free: uint64(100-percent) * 1e9}, nil
	}
}

func peer(addr string) func(*Facts) { return func(f *Facts) { f.Peers = []string{addr} } }

// TestPeersOfTheKernel asks real sockets.
func TestPeersOfTheKernel(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h, f := ThisHost(), DefaultFacts()
	f.Peers = []string{l.Addr().String()}
	f.Tunnels = netip.MustParseAddrPort(udp.LocalAddr().String()).Port()
	if got := h.peers(t.Context(), &f); len(got) != 1 || got[0].Level != OK || !strings.Contains(got[0].Found, "/udp: not refused") {
		t.Errorf("a peer that is there: %+v", got)
	}
	if err := udp.Close(); err != nil {
		t.Fatal(err)
	}
	if got := h.peers(t.Context(), &f); got[0].Level != Warning || !strings.Contains(got[0].Found, "/udp: refused") {
		t.Errorf("a peer without tunnels: %+v", got)
	}
}

// TestThisHost sees that the real seams find what is there.
func TestThisHost(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f := DefaultFacts()
	f.DataRoot, f.Port = t.TempDir(), netip.MustParseAddrPort(l.Addr().String()).Port()
	for _, found := range ThisHost().Examine(t.Context(), f).Findings {
		t.Logf("%+v", found)
		if strings.HasPrefix(found.Check, "port") && strings.HasSuffix(found.Check, "/tcp") && !strings.Contains(found.Found, "held by process doctor.test") {
			t.Errorf("%+v", found)
		}
	}
}
