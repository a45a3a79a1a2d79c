package doctor

import (
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os/exec"
	"path"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

// feature is something of the kernel: its option, the module that brings it, and what it is for.
type feature struct {
	option, module, what string
	level                Level // if it is missing
}

// features are what the engine and the network use. The options' names are those of Linux 6.x.
func features() []feature {
	return []feature{
		{"CONFIG_OVERLAY_FS", "overlay", "images", Failure},
		{"CONFIG_VETH", "veth", "containers' interfaces", Failure},
		{"CONFIG_BRIDGE", "bridge", "networks", Failure},
		{"CONFIG_VXLAN", "vxlan", "networks over several nodes", Failure},
		{"CONFIG_NF_TABLES", "nf_tables", "published ports", Failure},
		{"CONFIG_NFT_NAT", "nft_chain_nat", "published ports", Failure},
		{"CONFIG_NFT_MASQ", "nft_masq", "the way out of containers", Failure},
		{"CONFIG_NFT_FIB_IPV4", "nft_fib_ipv4", "published ports", Failure},
		{"CONFIG_NF_TABLES_NETDEV", "nf_tables", "the routing mesh", Failure},
		{"CONFIG_NF_CONNTRACK_ZONES", "nf_conntrack", "the routing mesh", Failure},
		{"CONFIG_SECCOMP_FILTER", "", "seccomp profiles", Warning},
		{"CONFIG_POSIX_MQUEUE", "", "containers' message queues", Warning},
	}
}

func (h *Host) kernel(context.Context, *Facts) []Finding {
	options, from := h.options()
	modules := h.modules()
	var missing, unknown []string
	level, load := OK, ""
	for _, f := range features() {
		set, known := options[f.option]
		_, loaded := modules[f.module]
		switch {
		case set == "y", f.module != "" && loaded:
			continue
		case set == "m" && f.module == "": // what is no module of its own is there with its option
			continue
		case known && set == "m":
			// Built, and not on this host's disk: an image of a kernel without its modules.
			load = " Its modules are missing below /lib/modules/" + h.Release
		case options == nil:
			unknown = append(unknown, f.option)
			continue
		}
		missing = append(missing, fmt.Sprintf("%s (%s)", f.option, f.what))
		if f.level == Failure {
			level = Failure
		} else if level == OK {
			level = f.level
		}
	}
	switch {
	case len(missing) > 0:
		remedy := "apt-get install linux-image-" + runtime.GOARCH
		if load != "" {
			remedy = "depmod -a " + h.Release
		}
		return one("kernel", level, remedy, "Linux %s has no %s.%s", h.Release, strings.Join(missing, ", "), load)
	case len(unknown) > 0:
		return one("kernel", Warning, "modprobe configs", "Linux %s does not say what it can: neither /proc/config.gz nor /boot/config-%s is there, and %s is not loaded",
			h.Release, h.Release, strings.Join(unknown, ", "))
	}
	return one("kernel", OK, "", "Linux %s has all that is needed, says %s", h.Release, from)
}

// maxConfig is how many bytes of a kernel's configuration are read: one is some 300 KB.
const maxConfig = 8 << 20

// options is the kernel's configuration; nil if it is not to be had.
func (h *Host) options() (options map[string]string, from string) {
	for _, name := range []string{"proc/config.gz", "boot/config-" + h.Release} {
		f, err := h.Root.Open(name)
		if err != nil {
			continue
		}
		defer f.Close()
		var r io.Reader = f
		if path.Ext(name) == ".gz" {
			if r, err = gzip.NewReader(f); err != nil {
				continue
			}
		}
		options = map[string]string{}
		for lines := bufio.NewScanner(io.LimitReader(r, maxConfig)); lines.Scan(); {
			if k, v, ok := strings.Cut(lines.Text(), "="); ok {
				options[k] = v
			}
		}
		return options, "/" + name
	}
	return nil, "/sys/module"
}

// modules are those that are loaded, built in or on the disk.
func (h *Host) modules() map[string]struct{} {
	all := map[string]struct{}{}
	loaded, _ := fs.ReadDir(h.Root, "sys/module") // without it there are none
	for _, d := range loaded {
		all[d.Name()] = struct{}{}
	}
	for _, file := range []string{"modules.builtin", "modules.dep"} {
		text, _ := h.read("lib/modules/" + h.Release + "/" + file)
		for line := range strings.Lines(text) {
			name, _, _ := strings.Cut(strings.TrimSpace(line), ":")
			name, _, _ = strings.Cut(path.Base(name), ".ko")
			all[strings.ReplaceAll(name, "-", "_")] = struct{}{}
		}
	}
	return all
}

// controllers are those that limits of containers need.
func controllers() []string { return []string{"cpu", "cpuset", "io", "memory", "pids"} }

func (h *Host) cgroups(context.Context, *Facts) []Finding {
	const check = "cgroups"
	missing := func(have []string) (none []string) {
		for _, c := range controllers() {
			if !slices.Contains(have, c) {
				none = append(none, c)
			}
		}
		return none
	}
	if text, ok := h.read("sys/fs/cgroup/cgroup.controllers"); ok {
		have := strings.Fields(text)
		if none := missing(have); len(none) > 0 {
			return one(check, Failure, enable(none), "version 2, without %s: limits of containers by them are refused", strings.Join(none, ", "))
		}
		below, _ := h.read("sys/fs/cgroup/cgroup.subtree_control")
		if none := missing(strings.Fields(below)); len(none) > 0 {
			return one(check, Warning, "echo '+"+strings.Join(none, " +")+"' > /sys/fs/cgroup/cgroup.subtree_control",
				"version 2, with %s; %s is not delegated to cgroups below the root yet", strings.Join(have, " "), strings.Join(none, ", "))
		}
		return one(check, OK, "", "version 2, with %s, delegated", strings.Join(have, " "))
	}
	text, ok := h.read("proc/cgroups")
	if !ok {
		return one(check, Failure, "mount -t cgroup2 cgroup2 /sys/fs/cgroup", "the kernel has none, or /proc is not mounted")
	}
	var have []string
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) == 4 && f[3] == "1" {
			have = append(have, strings.Replace(f[0], "blkio", "io", 1)) // its name in version 1
		}
	}
	if none := missing(have); len(none) > 0 {
		return one(check, Failure, enable(none), "version 1, without %s: limits of containers by them are refused", strings.Join(none, ", "))
	}
	for _, c := range controllers() {
		name := strings.Replace(c, "io", "blkio", 1)
		if _, err := fs.Stat(h.Root, "sys/fs/cgroup/"+name); err != nil {
			return one(check, Failure, fmt.Sprintf("mkdir -p /sys/fs/cgroup/%s && mount -t cgroup -o %s %s /sys/fs/cgroup/%s", name, name, name, name), "version 1, and %s is not mounted", name)
		}
	}
	return one(check, OK, "", "version 1, with %s", strings.Join(have, " "))
}

// enable is how a kernel is told to have controllers, at its next start.
func enable(names []string) string {
	return "sed -i 's/^GRUB_CMDLINE_LINUX=\"/&cgroup_enable=" + strings.Join(names, " cgroup_enable=") + " /' /etc/default/grub && update-grub && reboot"
}

// program is one that the distribution brings.
type program struct {
	check, name string
	pkg         string // Debian's
	atLeast     [2]int // the oldest version that Shoal's tests have seen work
}

var version = regexp.MustCompile(`v?(\d+)\.(\d+)(\.\d+)?\S*`)

func (h *Host) programs(ctx context.Context, f *Facts) []Finding {
	var all []Finding
	for _, p := range []program{{"runc", f.Runtime, "runc", [2]int{1, 1}}, {"nft", "nft", "nftables", [2]int{1, 0}}} {
		install := "apt-get install " + p.pkg
		out, err := h.Run(ctx, "", p.name, "--version")
		m := version.FindStringSubmatch(string(out))
		switch {
		case errors.Is(err, exec.ErrNotFound), errors.Is(err, fs.ErrNotExist):
			all = append(all, one(p.check, Failure, install, "the program %s is not installed", p.name)...)
		case err != nil:
			all = append(all, one(p.check, Failure, install, "%s --version does not work: %s", p.name, err)...)
		case m == nil:
			all = append(all, one(p.check, Warning, install, "%s does not say its version", p.name)...)
		default:
			major, _ := strconv.Atoi(m[1])
			minor, _ := strconv.Atoi(m[2])
			if major < p.atLeast[0] || major == p.atLeast[0] && minor < p.atLeast[1] {
				all = append(all, one(p.check, Warning, install, "version %s is older than %d.%d, the oldest that was tried", strings.TrimPrefix(m[0], "v"), p.atLeast[0], p.atLeast[1])...)
				continue
			}
			all = append(all, one(p.check, OK, "", "version %s", strings.TrimPrefix(m[0], "v"))...)
		}
	}
	return all
}
