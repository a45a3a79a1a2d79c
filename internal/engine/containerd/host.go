package containerd

import (
	"os"
	"runtime"

	"github.com/containerd/cgroups/v3"
	"golang.org/x/sys/unix"
)

// host is what this machine can do; it does not change while it runs.
type host struct {
	hostname string
	cgroup2  bool
	limits   limits
	apparmor bool
	seccomp  bool
	files    uint64 // the daemon's own hard limit of open files, which a container's cannot exceed
}

func probeHost() host {
	h := host{cgroup2: cgroups.Mode() == cgroups.Unified}
	h.hostname, _ = os.Hostname()
	h.files = hardFiles
	var own unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &own); err == nil {
		h.files = min(h.files, own.Max)
	}
	h.limits = probeLimits()
	h.probeSecurity()
	return h
}

func cpus() int { return runtime.NumCPU() }
