package local

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"
)

// The options of the bridge driver that mean something here; Docker's.
const (
	optionBridge      = "com.docker.network.bridge.name"
	optionICC         = "com.docker.network.bridge.enable_icc"
	optionMasquerade  = "com.docker.network.bridge.enable_ip_masquerade"
	optionHostBinding = "com.docker.network.bridge.host_binding_ipv4"
	optionMTU         = "com.docker.network.driver.mtu"
)

// absentOptions would change what the network does, and do not yet.
var absentOptions = []string{
	"com.docker.network.bridge.inhibit_ipv4", "com.docker.network.bridge.gateway_mode_ipv4", "com.docker.network.bridge.gateway_mode_ipv6",
	"com.docker.network.bridge.trusted_host_interfaces", "com.docker.network.container_iface_prefix",
}

// maxMTU is the largest MTU that the kernel gives an interface, in bytes.
const maxMTU = 65535

// Network is a network of the host: the API's own record, in which the subnet and the gateway are always filled in.
type Network struct{ network.Network }

func (n *Network) config() network.IPAMConfig {
	if len(n.IPAM.Config) == 0 {
		return network.IPAMConfig{}
	}
	return n.IPAM.Config[0]
}

// Subnet is invalid for the networks host and none.
func (n *Network) Subnet() netip.Prefix { return n.config().Subnet }

// Gateway is the host's address on the network.
func (n *Network) Gateway() netip.Addr { return n.config().Gateway }

// BridgeName is the name of its interface on the host.
func (n *Network) BridgeName() string {
	if name := n.Options[optionBridge]; name != "" {
		return name
	}
	return "shoal-" + n.ID[:min(9, len(n.ID))] // with the most that a name may have, 15 characters
}

// MTU is in bytes; 0 is the host's.
func (n *Network) MTU() int { v, _ := strconv.Atoi(n.Options[optionMTU]); return v }

// Together says whether its containers reach each other.
func (n *Network) Together() bool { return n.on(optionICC) }

// Masquerade says whether what leaves the host gets the host's address.
func (n *Network) Masquerade() bool { return n.on(optionMasquerade) && !n.Internal }

// HostBinding is the address of the host that ports are published on which name none; invalid is all.
func (n *Network) HostBinding() netip.Addr {
	a, _ := netip.ParseAddr(n.Options[optionHostBinding])
	if a.IsUnspecified() {
		return netip.Addr{}
	}
	return a
}

// Named says whether containers resolve each other's names on it.
func (n *Network) Named() bool { return !Predefined(n.Name) }

// on reads an option that is true unless it says otherwise.
func (n *Network) on(option string) bool {
	v, err := strconv.ParseBool(n.Options[option])
	return err != nil || v
}

// reserved are the addresses that no container gets.
func (n *Network) reserved() []netip.Addr {
	out := []netip.Addr{n.Gateway()}
	for _, a := range n.config().AuxAddress {
		out = append(out, a)
	}
	return out
}

func (n *Network) defaultGateway() (netip.Addr, error) {
	aux := n.reserved()
	for a, last := bounds(n.Subnet()); a.Compare(last) <= 0; a = a.Next() {
		if !slices.Contains(aux, a) {
			return a, nil
		}
	}
	return netip.Addr{}, invalid("no available addresses on this pool")
}

// bounds are the first and the last address of a subnet that a host may have.
func bounds(p netip.Prefix) (first, last netip.Addr) {
	if !p.IsValid() {
		return netip.Addr{}, netip.Addr{}
	}
	p = p.Masked()
	b := p.Addr().As4()
	v := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	v |= uint32(1<<(32-p.Bits()) - 1)
	first, last = p.Addr(), netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)})
	if p.Bits() < 31 { // its own address and that of broadcasts
		first, last = first.Next(), last.Prev()
	}
	return first, last
}

// validBridge is what the kernel takes as an interface's name and a rule as a string.
var validBridge = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,14}$`)

// parse checks a request as far as it can be without knowing other networks.
func parse(id string, r network.CreateRequest, now time.Time) (Network, error) {
	n := Network{network.Network{
		ID: id, Name: r.Name, Created: now, Scope: "local", Driver: "bridge", EnableIPv4: true, Internal: r.Internal, Attachable: r.Attachable,
		Options: maps.Clone(r.Options), Labels: maps.Clone(r.Labels),
	}}
	if n.Options == nil {
		n.Options = map[string]string{}
	}
	if n.Labels == nil {
		n.Labels = map[string]string{}
	}
	switch {
	case Predefined(r.Name):
		return n, forbidden("operation is not permitted on predefined %s network ", r.Name)
	case strings.TrimSpace(r.Name) == "":
		return n, invalid("invalid name: name is empty")
	case r.Driver == "host" || r.Driver == "null":
		return n, forbidden("only one instance of %q network is allowed", r.Driver)
	case r.Driver == "overlay" || r.Scope == "swarm" || r.Ingress:
		return n, invalid("a network of the driver overlay is the swarm's, not one host's")
	case r.Driver == "macvlan" || r.Driver == "ipvlan":
		return n, absent("creating a network of the driver %s is not supported: it is not implemented by Shoal yet", r.Driver)
	case r.Driver != "" && r.Driver != "bridge" && r.Driver != "default":
		return n, errdefs.ErrNotFound.WithMessage(fmt.Sprintf("could not find plugin %s in v1 plugin registry: plugin not found", r.Driver))
	case r.Scope != "" && r.Scope != "local":
		return n, invalid("invalid scope %q: a network of the driver bridge is local", r.Scope)
	case r.ConfigOnly || r.ConfigFrom != nil && r.ConfigFrom.Network != "":
		return n, absent("configuration-only networks are not supported: they are not implemented by Shoal yet")
	case r.EnableIPv6 != nil && *r.EnableIPv6:
		return n, absent("IPv6 networks are not supported: they are not implemented by Shoal yet")
	case r.EnableIPv4 != nil && !*r.EnableIPv4:
		return n, invalid("IPv4 or IPv6 must be enabled")
	}
	if err := checkOptions(n.Options); err != nil {
		return n, err
	}
	n.IPAM = network.IPAM{Driver: "default", Options: map[string]string{}}
	if r.IPAM != nil {
		if d := r.IPAM.Driver; d != "" && d != "default" {
			return n, invalid("invalid ipam driver: %q", d)
		}
		n.IPAM.Options = r.IPAM.Options
		if err := checkPools(r.IPAM.Config); err != nil {
			return n, err
		}
		n.IPAM.Config = slices.Clone(r.IPAM.Config)
	}
	switch len(n.IPAM.Config) {
	case 0:
		n.IPAM.Config = []network.IPAMConfig{{}}
	case 1:
	default:
		return n, forbidden("bridge driver doesn't support multiple subnets")
	}
	return n, nil
}

func checkOptions(options map[string]string) error {
	for _, o := range absentOptions {
		if v, is := options[o]; is && v != "" && v != "nat" {
			return absent("the option %s of a network is not supported: it is not implemented by Shoal yet", o)
		}
	}
	bad := func(option string, err error) error {
		return invalid("failed to parse %s value: %s (%s)", option, options[option], err)
	}
	for _, o := range []string{optionICC, optionMasquerade} {
		if v, is := options[o]; is {
			if _, err := strconv.ParseBool(v); err != nil {
				return bad(o, err)
			}
		}
	}
	if v, is := options[optionMTU]; is {
		mtu, err := strconv.Atoi(v)
		if err != nil {
			return bad(optionMTU, err)
		}
		if mtu != 0 && (mtu < 68 || mtu > maxMTU) { // the least that IPv4 allows
			return invalid("invalid MTU number: %d", mtu)
		}
	}
	if v, is := options[optionHostBinding]; is {
		if a, err := netip.ParseAddr(v); err != nil || !a.Is4() {
			return bad(optionHostBinding, errors.New("nil ip"))
		}
	}
	if v, is := options[optionBridge]; is && v != "" && !validBridge.MatchString(v) {
		return invalid("invalid bridge name %q: at most 15 letters, digits, '_', '.' and '-'", v)
	}
	return nil
}

// checkPools is Docker's check of the subnets that a user names, all errors at once.
func checkPools(list []network.IPAMConfig) error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	for _, c := range list {
		switch {
		case !c.Subnet.IsValid():
			if c.IPRange.IsValid() || c.Gateway.IsValid() || len(c.AuxAddress) > 0 {
				bad("invalid subnet: a gateway, ip-range or auxiliary address needs one")
			}
			continue
		case !c.Subnet.Addr().Is4():
			return absent("IPv6 networks are not supported: they are not implemented by Shoal yet")
		case c.Subnet != c.Subnet.Masked():
			bad("invalid subnet %s: it should be %s", c.Subnet, c.Subnet.Masked())
		case c.Subnet.Bits() < 8 || c.Subnet.Addr().IsMulticast() || c.Subnet.Addr().IsLoopback():
			bad("invalid subnet %s: it is not a network of hosts", c.Subnet)
		}
		if r := c.IPRange; r.IsValid() {
			if !r.Addr().Is4() {
				bad("invalid ip-range %s: parent subnet is an IPv4 block", r)
			} else {
				if r.Bits() < c.Subnet.Bits() {
					bad("invalid ip-range %s: CIDR block is bigger than its parent subnet %s", r, c.Subnet)
				}
				if r != r.Masked() {
					bad("invalid ip-range %s: it should be %s", r, r.Masked())
				}
				if !c.Subnet.Overlaps(r) {
					bad("invalid ip-range %s: parent subnet %s doesn't contain ip-range", r, c.Subnet)
				}
			}
		}
		if err := within(c.Gateway, c.Subnet); err != nil {
			bad("invalid gateway %s: %w", c.Gateway, err)
		}
		for name, a := range c.AuxAddress {
			if err := within(a, c.Subnet); err != nil {
				bad("invalid auxiliary address %s: %w", name, err)
			} else if a == c.Gateway {
				bad("invalid auxiliary address %s: Address already in use", name)
			}
		}
	}
	if len(errs) > 0 {
		return invalid("invalid network config:\n%s", errors.Join(errs...))
	}
	return nil
}

func within(a netip.Addr, subnet netip.Prefix) error {
	switch {
	case !a.IsValid():
		return nil
	case !a.Is4():
		return errors.New("parent subnet is an IPv4 block")
	case !subnet.Contains(a):
		return fmt.Errorf("parent subnet %s doesn't contain this address", subnet)
	}
	return nil
}
