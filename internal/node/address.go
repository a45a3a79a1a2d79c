package node

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

// DefaultPort is Swarm's port for everything between nodes but tunnels.
const DefaultPort = "2377"

// Docker's words for addresses that are none.
const (
	badListen    = "listen address must be an IP address or network interface (with optional port number)"
	badAdvertise = "advertise address must be a non-zero IP address or network interface (with optional port number)"
	badDataPath  = "data path address must be a non-zero IP address or network interface (without a port number)"
)

func badAddress(text, value string) error {
	return errdefs.ErrInvalidArgument.WithMessage(text + ": " + strconv.Quote(value))
}

// resolveListen reads a listen address: ADDR, INTERFACE or either with :PORT. "" is all addresses.
func resolveListen(s string) (string, error) {
	if s == "" {
		return net.JoinHostPort("0.0.0.0", DefaultPort), nil
	}
	host, port := splitPort(s)
	a, err := hostAddr(host, badListen)
	if err != nil {
		return "", err
	}
	if port != "0" && !validPort(port) { // 0 is any: tests
		return "", badAddress(badListen, s)
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
	a, err := hostAddr(host, badAdvertise)
	if err != nil {
		return "", err
	}
	if a.IsUnspecified() || !validPort(port) {
		return "", badAddress(badAdvertise, s)
	}
	return net.JoinHostPort(a.String(), port), nil
}

// resolveDataPath reads the address that tunnels use; "" leaves the choice to the manager.
func resolveDataPath(s string) (netip.Addr, error) {
	if s == "" {
		return netip.Addr{}, nil
	}
	a, err := hostAddr(s, badDataPath)
	if err == nil && a.IsUnspecified() {
		err = badAddress(badDataPath, s)
	}
	return a, err
}

func splitPort(s string) (host, port string) {
	if h, p, err := net.SplitHostPort(s); err == nil {
		return h, p
	}
	return s, DefaultPort
}

func validPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0
}

// hostAddr is an address, or that of the interface of the name; bad is what to say of anything else.
func hostAddr(s, bad string) (netip.Addr, error) {
	if ifi, err := net.InterfaceByName(s); err == nil {
		return interfaceAddr(ifi)
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Addr{}, badAddress(bad, s)
	}
	return a.Unmap(), nil
}

func interfaceAddr(ifi *net.Interface) (netip.Addr, error) {
	found, err := hostAddrs(ifi)
	if err != nil {
		return netip.Addr{}, err
	}
	switch len(found) {
	case 0:
		return netip.Addr{}, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("interface %s has no usable IPv4 or IPv6 address", ifi.Name))
	case 1:
		return found[0], nil
	}
	return netip.Addr{}, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("interface %s has more than one IPv4 address (%s)", ifi.Name, joinAnd(found)))
}

// candidate is an address that others could use.
type candidate struct {
	addr netip.Addr
	on   string // its interface
}

func (c candidate) String() string { return c.addr.String() + " on " + c.on }

// onlyAddr is the host's address, if it has exactly one that others could use.
func onlyAddr() (netip.Addr, error) {
	all, err := net.Interfaces()
	if err != nil {
		return netip.Addr{}, err
	}
	var found []candidate
	for _, ifi := range all {
		if ifi.Flags&net.FlagUp == 0 || ifi.Flags&net.FlagLoopback != 0 || strings.HasPrefix(ifi.Name, "shoal") {
			continue
		}
		addrs, err := hostAddrs(&ifi)
		if err != nil {
			continue // the interface went away
		}
		for _, a := range addrs {
			found = append(found, candidate{a, ifi.Name})
		}
	}
	return choose(found)
}

// choose takes the only candidate. The client adds to Docker's words that --advertise-addr chooses one.
func choose(found []candidate) (netip.Addr, error) {
	if len(found) == 1 {
		return found[0].addr, nil
	}
	text := "could not find the system's IP address"
	if len(found) > 1 {
		text = "could not choose an IP address to advertise since this system has multiple addresses "
		one := true
		var addrs []netip.Addr
		for _, c := range found {
			one = one && c.on == found[0].on
			addrs = append(addrs, c.addr)
		}
		if one {
			text += fmt.Sprintf("on interface %s (%s)", found[0].on, joinAnd(addrs))
		} else {
			text += fmt.Sprintf("on different interfaces (%s)", joinAnd(found))
		}
	}
	return netip.Addr{}, errdefs.ErrInvalidArgument.WithMessage(text)
}

// joinAnd is "a, b and c".
func joinAnd[T fmt.Stringer](all []T) string {
	var b strings.Builder
	for i, v := range all {
		switch i {
		case 0:
		case len(all) - 1:
			b.WriteString(" and ")
		default:
			b.WriteString(", ")
		}
		b.WriteString(v.String())
	}
	return b.String()
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
