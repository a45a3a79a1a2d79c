package ledger

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"shoal.dev/shoal/internal/engine"
)

// PortRequests are the ports of the host that a container's settings ask for, in order; none without a network of its
// own. exposed are what the image and the settings expose.
func PortRequests(exposed network.PortSet, h *container.HostConfig) ([]engine.PortRequest, error) {
	var list []engine.PortRequest
	for p, bindings := range h.PortBindings {
		if !p.IsValid() || p.Num() == 0 {
			return nil, Errorf(errdefs.ErrInvalidArgument, "invalid port specification: %q", p.String())
		}
		for _, b := range bindings {
			r := engine.PortRequest{Port: p, HostIP: b.HostIP}
			if b.HostIP.IsUnspecified() && b.HostIP.Is4() {
				r.HostIP = netip.Addr{}
			}
			if r.HostIP.IsValid() && !r.HostIP.Is4() {
				return nil, Errorf(errdefs.ErrNotImplemented, "not implemented yet: ports published on the IPv6 address %s", r.HostIP)
			}
			var err error
			if r.First, r.Last, err = portRange(b.HostPort); err != nil {
				return nil, err
			}
			list = append(list, r)
		}
		if len(bindings) == 0 {
			list = append(list, engine.PortRequest{Port: p})
		}
	}
	if h.PublishAllPorts {
		for p := range exposed {
			if _, set := h.PortBindings[p]; !set {
				list = append(list, engine.PortRequest{Port: p})
			}
		}
	}
	// Those that leave a choice come last, so that they do not take what another one needs.
	slices.SortFunc(list, func(a, b engine.PortRequest) int {
		free := func(r engine.PortRequest) int {
			if r.First == 0 {
				return 1 << 16
			}
			return int(r.Last - r.First)
		}
		return cmp.Or(cmp.Compare(free(a), free(b)), cmp.Compare(a.Port.String(), b.Port.String()), a.HostIP.Compare(b.HostIP), cmp.Compare(a.First, b.First))
	})
	if m := h.NetworkMode; !m.IsPrivate() || m.IsNone() {
		return nil, nil
	}
	return list, nil
}

// portRange reads a port of the host: "", "0", "8080" or "8000-8010".
func portRange(s string) (first, last uint16, err error) {
	if s == "" || s == "0" {
		return 0, 0, nil
	}
	from, to, is := strings.Cut(s, "-")
	if !is {
		to = from
	}
	a, aerr := strconv.ParseUint(from, 10, 16)
	b, berr := strconv.ParseUint(to, 10, 16)
	if aerr != nil || berr != nil || a == 0 || b < a {
		return 0, 0, Errorf(errdefs.ErrInvalidArgument, "invalid port specification: %q", s)
	}
	return uint16(a), uint16(b), nil
}

// portMap is the container's ports as `inspect` shows them: published ones with the host's, others with none.
func portMap(c *Container) network.PortMap {
	m := network.PortMap{}
	for p := range c.Config.ExposedPorts {
		m[p] = nil
	}
	for p := range c.HostConfig.PortBindings {
		m[p] = nil
	}
	for _, p := range c.State.Sandbox.Ports {
		m[p.Port] = append(m[p.Port], network.PortBinding{HostIP: p.HostIP, HostPort: strconv.Itoa(int(p.HostPort))})
	}
	return m
}

// ports is the container's ports as `ps` shows them.
func ports(c *Container) []container.PortSummary {
	list := []container.PortSummary{}
	for p, bindings := range portMap(c) {
		s := container.PortSummary{PrivatePort: p.Num(), Type: string(p.Proto())}
		if len(bindings) == 0 {
			list = append(list, s)
		}
		for _, b := range bindings {
			n, _ := strconv.ParseUint(b.HostPort, 10, 16) // it was a uint16
			s.IP, s.PublicPort = b.HostIP, uint16(n)
			list = append(list, s)
		}
	}
	slices.SortFunc(list, func(a, b container.PortSummary) int {
		return cmp.Or(cmp.Compare(a.PrivatePort, b.PrivatePort), cmp.Compare(a.Type, b.Type), a.IP.Compare(b.IP), cmp.Compare(a.PublicPort, b.PublicPort))
	})
	return list
}
