package cluster

import (
	"errors"
	"net/netip"
	"regexp"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/swarm"
)

// HostNetwork is the target of a service that uses its node's own network.
const HostNetwork = "host"

// The options of overlay networks. OptionVNI has VXLAN network identifiers, decimal and separated by commas.
const (
	OptionVNI       = "com.docker.network.driver.overlay.vxlanid_list"
	OptionMTU       = "com.docker.network.driver.mtu"
	OptionEncrypted = "encrypted"
)

// MaxVNI is the largest VXLAN network identifier (RFC 7348).
const MaxVNI = 1<<24 - 1

// What an IPv4 packet may be at least and a device at most.
const (
	minMTU = 68
	maxMTU = 65535
)

var networkName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`)

// Subnet is the network's first IPv4 subnet, and its gateway, which is the subnet's first address unless another was
// asked for. It is false for a network that has none yet.
func (n *Network) Subnet() (subnet netip.Prefix, gateway netip.Addr, ok bool) {
	o := n.IPAMOptions
	if o == nil || len(o.Configs) == 0 {
		o = n.Spec.IPAMOptions
	}
	if o == nil {
		return subnet, gateway, false
	}
	for _, c := range o.Configs {
		if !c.Subnet.IsValid() || !c.Subnet.Addr().Is4() {
			continue
		}
		subnet, gateway = c.Subnet.Masked(), c.Gateway
		if !gateway.IsValid() {
			gateway = subnet.Addr().Next()
		}
		return subnet, gateway, true
	}
	return subnet, gateway, false
}

// VNI is the network's VXLAN network identifier; 0 if it has none yet.
func (n *Network) VNI() uint32 {
	first, _, _ := strings.Cut(n.DriverState.Options[OptionVNI], ",")
	vni, err := strconv.ParseUint(strings.TrimSpace(first), 10, 24)
	if err != nil {
		return 0
	}
	return uint32(vni)
}

// MTU is what the user wants of the network's interfaces; 0 leaves it to the node.
func (n *Network) MTU() int {
	mtu, err := strconv.Atoi(n.DriverState.Options[OptionMTU])
	if err != nil {
		return 0
	}
	return mtu
}

// ValidateNetwork says in Docker's words what is wrong with a network of the swarm that is to be made.
func ValidateNetwork(r network.CreateRequest) error {
	switch {
	case r.Name == "":
		return invalid("invalid network name: name is empty")
	case !networkName.MatchString(r.Name):
		return invalid("invalid network name: %q: only [a-zA-Z0-9][a-zA-Z0-9_.-]* is allowed", r.Name)
	}
	if r.IPAM != nil {
		if err := validateIPAM(r.IPAM.Config); err != nil {
			return err
		}
	}
	if v, ok := r.Options[OptionMTU]; ok {
		if mtu, err := strconv.Atoi(v); err != nil || mtu < minMTU || mtu > maxMTU {
			return invalid("invalid value %q for option %s: it is a number of bytes from %d to %d", v, OptionMTU, minMTU, maxMTU)
		}
	}
	if v, ok := r.Options[OptionVNI]; ok {
		if vni, err := strconv.ParseUint(v, 10, 32); err != nil || vni == 0 || vni > MaxVNI {
			return invalid("invalid value %q for option %s: it is one VXLAN identifier from 1 to %d", v, OptionVNI, MaxVNI)
		}
	}
	return nil
}

// validateIPAM checks each subnet by itself. All that is wrong is said at once.
func validateIPAM(configs []network.IPAMConfig) error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, invalid(format, args...)) }
	for _, c := range configs {
		if !c.Subnet.IsValid() {
			if c.IPRange.IsValid() || c.Gateway.IsValid() || len(c.AuxAddress) > 0 {
				bad("invalid network config: a range, a gateway or an auxiliary address needs its subnet")
			}
			continue
		}
		if c.Subnet != c.Subnet.Masked() {
			bad("invalid subnet %s: it should be %s", c.Subnet, c.Subnet.Masked())
		}
		if c.IPRange.IsValid() {
			if c.IPRange != c.IPRange.Masked() {
				bad("invalid ip-range %s: it should be %s", c.IPRange, c.IPRange.Masked())
			}
			if c.IPRange.Bits() < c.Subnet.Bits() || !c.Subnet.Contains(c.IPRange.Addr()) {
				bad("invalid ip-range %s: parent subnet %s doesn't contain ip-range", c.IPRange, c.Subnet)
			}
		}
		if c.Gateway.IsValid() && !c.Subnet.Contains(c.Gateway) {
			bad("invalid gateway %s: parent subnet %s doesn't contain this address", c.Gateway, c.Subnet)
		}
		for name, a := range c.AuxAddress {
			switch {
			case !c.Subnet.Contains(a):
				bad("invalid auxiliary address %s: parent subnet %s doesn't contain this address", name, c.Subnet)
			case a == c.Gateway:
				bad("invalid auxiliary address %s: Address already in use", name)
			}
		}
	}
	if len(errs) == 0 {
		return nil
	}
	return invalid("invalid network config:\n%s", errors.Join(errs...))
}

// UnsupportedNetwork names the first thing that a valid request for a network of the swarm asks for and that nothing
// here does yet. The error is NotImplemented.
func UnsupportedNetwork(r network.CreateRequest) error {
	_, encrypted := r.Options[OptionEncrypted]
	list := []missing{
		{r.Driver != "" && r.Driver != "overlay", "swarm networks of drivers other than overlay", "Driver"},
		{r.EnableIPv6 != nil && *r.EnableIPv6, "overlay networks with IPv6", "EnableIPv6"},
		{r.EnableIPv4 != nil && !*r.EnableIPv4, "overlay networks without IPv4", "EnableIPv4"},
		{r.ConfigOnly || r.ConfigFrom != nil, "networks that only configure others", "ConfigOnly, ConfigFrom"},
		{encrypted && r.Options[OptionEncrypted] != "false", "encrypted overlay networks", "Options.encrypted"},
	}
	if i := r.IPAM; i != nil {
		list = append(list,
			missing{i.Driver != "" && i.Driver != "default", "address managers other than default", "IPAM.Driver"},
			missing{len(i.Config) > 1, "overlay networks with several subnets", "IPAM.Config"})
		for _, c := range i.Config {
			list = append(list,
				missing{c.Subnet.IsValid() && !c.Subnet.Addr().Is4(), "overlay networks with IPv6", "IPAM.Config.Subnet"},
				missing{c.Subnet.IsValid() && c.Subnet.Addr().Is4() && (c.Subnet.Bits() > 29 || c.Subnet.Bits() < 8), "overlay networks with fewer than 8 or more than 16777216 addresses", "IPAM.Config.Subnet"})
		}
	}
	return refuse(list)
}

// Targets are the IDs of the networks that a task's specification asks for, without the host's own.
func Targets(t *swarm.TaskSpec) []string {
	var ids []string
	for _, n := range t.Networks {
		if n.Target != HostNetwork {
			ids = append(ids, n.Target)
		}
	}
	return ids
}

// OnHostNetwork says whether the task uses its node's own network.
func OnHostNetwork(t *swarm.TaskSpec) bool {
	for _, n := range t.Networks {
		if n.Target == HostNetwork {
			return true
		}
	}
	return false
}
