package node

import (
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/containerd/errdefs"
)

// DefaultPort is Swarm's port for everything between nodes but tunnels.
const DefaultPort = "2377"

// resolveListen reads a listen address: ADDR, INTERFACE or either with :PORT. "" is all addresses.
func resolveListen(s string) (string, error) {
	if s == "" {
		return net.JoinHostPort("0.0.0.0", DefaultPort), nil
	}
	host, port := splitPort(s)
	if a, err := netip.ParseAddr(host); err == nil {
		return net.JoinHostPort(a.String(), port), nil
	}
	a, err := interfaceAddr(host)
	if err != nil {
		return "", errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("listen address %q: it must be an IP address or network interface (with optional port number)", s))
	}
	return net.JoinHostPort(a.String(), port), nil
}

// resolveAdvertise reads an advertise address likewise. "" chooses the host's only address.
func resolveAdvertise(s, listen string) (string, error) {
	listenHost, listenPort := splitPort(listen)
	if s == "" {
		if a, err := netip.ParseAddr(listenHost); err == nil && !a.IsUnspecified() {
			return listen, nil
		}
		a, err := onlyAddr()
		if err != nil {
			return "", err
		}
		return net.JoinHostPort(a.String(), listenPort), nil
	}
	host, port := s, listenPort
	if h, p, err := net.SplitHostPort(s); err == nil {
		host, port = h, p
	}
	if a, err := netip.ParseAddr(host); err == nil {
		if a.IsUnspecified() {
			return "", errdefs.ErrInvalidArgument.WithMessage("advertise address must be a non-zero IP address or network interface (with optional port number)")
		}
		return net.JoinHostPort(a.String(), port), nil
	}
	a, err := interfaceAddr(host)
	if err != nil {
		return "", err
	}
	return net.JoinHostPort(a.String(), port), nil
}

func splitPort(s string) (host, port string) {
	if h, p, err := net.SplitHostPort(s); err == nil {
		return h, p
	}
	return s, DefaultPort
}

func interfaceAddr(name string) (netip.Addr, error) {
	ifi, err := net.InterfaceByName(name)
	if err != nil {
		return netip.Addr{}, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("advertise address must be a non-zero IP address or network interface (with optional port number): there is no interface %q", name))
	}
	found, err := hostAddrs(ifi)
	if err != nil {
		return netip.Addr{}, err
	}
	switch len(found) {
	case 0:
		return netip.Addr{}, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("could not find a usable IP address on interface %s", name))
	case 1:
		return found[0], nil
	}
	return netip.Addr{}, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("interface %s has more than one IP address (%s and %s) - specify one with --advertise-addr", name, found[0], found[1]))
}

// onlyAddr is the host's address, if it has exactly one that others could use.
func onlyAddr() (netip.Addr, error) {
	all, err := net.Interfaces()
	if err != nil {
		return netip.Addr{}, err
	}
	var found []string
	var addr netip.Addr
	for _, ifi := range all {
		if ifi.Flags&net.FlagUp == 0 || ifi.Flags&net.FlagLoopback != 0 || strings.HasPrefix(ifi.Name, "shoal") {
			continue
		}
		addrs, err := hostAddrs(&ifi)
		if err != nil {
			continue // the interface went away
		}
		for _, a := range addrs {
			addr = a
			found = append(found, fmt.Sprintf("%s on interface %s", a, ifi.Name))
		}
	}
	switch len(found) {
	case 0:
		return netip.Addr{}, errdefs.ErrInvalidArgument.WithMessage("could not find the system's IP address - specify one with --advertise-addr")
	case 1:
		return addr, nil
	}
	return netip.Addr{}, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("could not choose an IP address to advertise since this system has multiple addresses (%s) - specify one with --advertise-addr", strings.Join(found, ", ")))
}

// hostAddrs are the interface's IPv4 addresses that are not link-local; tunnels run on IPv4 so far.
func hostAddrs(ifi *net.Interface) ([]netip.Addr, error) {
	addrs, err := ifi.Addrs()
	if err != nil {
		return nil, err
	}
	var out []netip.Addr
	for _, a := range addrs {
		p, err := netip.ParsePrefix(a.String())
		if err == nil && p.Addr().Is4() && !p.Addr().IsLinkLocalUnicast() {
			out = append(out, p.Addr())
		}
	}
	return out, nil
}
