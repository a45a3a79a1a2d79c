package ledger

import (
	"net/netip"
	"runtime"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
)

// CheckOptions refuses settings that no host could give, as Docker does: what is malformed, and what contradicts
// itself. c is what the user asked for, before the image's settings are filled in.
func CheckOptions(c *container.Config, h *container.HostConfig) error {
	bad := func(format string, args ...any) error {
		return Errorf(errdefs.ErrInvalidArgument, format, args...)
	}
	if err := checkJoinedNetwork(c, h); err != nil {
		return err
	}
	const longest = 64 // HOST_NAME_MAX of the kernel
	switch {
	case h.UTSMode.IsHost() && c.Hostname != "":
		return bad("conflicting options: hostname and the UTS mode")
	case h.NetworkMode.IsHost() && len(h.Links) > 0:
		return bad("conflicting options: host type networking can't be used with links. This would result in undefined behavior")
	case len(c.Hostname) > longest:
		return bad("hostname %q is too long (maximum %d bytes)", c.Hostname, longest)
	case !h.IpcMode.Valid():
		return bad("invalid IPC mode: %v", h.IpcMode)
	case !h.PidMode.Valid():
		return bad("invalid PID mode: %v", h.PidMode)
	case !h.UTSMode.Valid():
		return bad("invalid UTS mode: %v", h.UTSMode)
	case !h.CgroupnsMode.Valid():
		return bad("invalid cgroup namespace mode: %v", h.CgroupnsMode)
	case !h.UsernsMode.Valid():
		return bad("invalid user namespace mode: %v", h.UsernsMode)
	case !h.Isolation.IsValid():
		return bad("invalid isolation (%s): %s only supports 'default'", h.Isolation, runtime.GOOS)
	case h.IOMaximumBandwidth != 0:
		return bad("invalid option: QoS maximum bandwidth configuration is not supported on %s", runtime.GOOS)
	case h.IOMaximumIOps != 0:
		return bad("invalid option: QoS maximum IOPs configuration is not supported on %s", runtime.GOOS)
	case h.CPUShares < 0:
		return bad("invalid CPU shares (%d): value must be a positive integer", h.CPUShares)
	case h.OomScoreAdj < -1000 || h.OomScoreAdj > 1000:
		return bad("Invalid value %d, range for oom score adj is [-1000, 1000]", h.OomScoreAdj)
	case h.ShmSize < 0:
		return bad("SHM size can not be less than 0")
	case len(h.StorageOpt) > 0:
		return bad("--storage-opt is supported only for overlay over xfs with 'pquota' mount option")
	}
	for k := range h.Annotations {
		if k == "" {
			return bad("invalid Annotations: the empty string is not permitted as an annotation key")
		}
	}
	for _, e := range h.ExtraHosts {
		if err := checkExtraHost(e); err != nil {
			return err
		}
	}
	return nil
}

// checkJoinedNetwork refuses what only the container that has the network can set.
func checkJoinedNetwork(c *container.Config, h *container.HostConfig) error {
	if h.NetworkMode != "container" && !h.NetworkMode.IsContainer() {
		return nil
	}
	for _, x := range []struct {
		is    bool
		words string
	}{
		{h.NetworkMode.ConnectedContainer() == "", "invalid network mode: invalid container format container:<name|id>"},
		{c.Hostname != "", "conflicting options: hostname and the network mode"},
		{len(h.Links) > 0, "conflicting options: container type network can't be used with links. This would result in undefined behavior"},
		{len(h.DNS) > 0, "conflicting options: dns and the network mode"},
		{len(h.ExtraHosts) > 0, "conflicting options: custom host-to-IP mapping and the network mode"},
		{len(h.PortBindings) > 0 || h.PublishAllPorts, "conflicting options: port publishing and the container type network mode"},
		{len(c.ExposedPorts) > 0, "conflicting options: port exposing and the container type network mode"},
	} {
		if x.is {
			return Errorf(errdefs.ErrInvalidArgument, "%s", x.words)
		}
	}
	return nil
}

// checkExtraHost looks at a NAME:ADDRESS of --add-host.
func checkExtraHost(e string) error {
	name, ip, ok := strings.Cut(e, ":")
	if !ok || name == "" {
		return Errorf(errdefs.ErrInvalidArgument, "bad format for add-host: %q", e)
	}
	if ip == "host-gateway" {
		return nil
	}
	if len(ip) > 2 && ip[0] == '[' && ip[len(ip)-1] == ']' {
		ip = ip[1 : len(ip)-1]
	}
	if _, err := netip.ParseAddr(ip); err != nil {
		return Errorf(errdefs.ErrInvalidArgument, "invalid IP address in add-host: %q", ip)
	}
	return nil
}
