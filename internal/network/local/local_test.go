package local

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"
	"pgregory.net/rapid"
)

var (
	now    = time.Unix(1700000000, 0)
	prefix = netip.MustParsePrefix
	addr   = netip.MustParseAddr
)

func book() *Book { return NewBook("host", prefix("172.18.0.0/16"), "shoal-gw") }

func id(n int) string { return fmt.Sprintf("%05x%059x", n, n) }

func pool(c network.IPAMConfig) *network.IPAM {
	return &network.IPAM{Config: []network.IPAMConfig{c}}
}

func mac(a netip.Addr) network.HardwareAddr {
	b := a.As4()
	return network.HardwareAddr{2, 66, b[0], b[1], b[2], b[3]}
}

// TestRefusals holds Docker's words, and that a refusal changes nothing.
func TestRefusals(t *testing.T) {
	yes, no := true, false
	for _, test := range []struct {
		name  string
		r     network.CreateRequest
		is    func(error) bool
		words string
	}{
		{"no name", network.CreateRequest{Name: " "}, errdefs.IsInvalidArgument, "invalid name: name is empty"},
		{"predefined", network.CreateRequest{Name: "none"}, errdefs.IsPermissionDenied, "operation is not permitted on predefined none network "},
		{"taken", network.CreateRequest{Name: "there"}, errdefs.IsConflict, "network with name there already exists"},
		{"a second host network", network.CreateRequest{Name: "a", Driver: "host"}, errdefs.IsPermissionDenied, `only one instance of "host" network is allowed`},
		{"overlay", network.CreateRequest{Name: "a", Driver: "overlay"}, errdefs.IsInvalidArgument, "a network of the driver overlay is the swarm's, not one host's"},
		{"macvlan", network.CreateRequest{Name: "a", Driver: "macvlan"}, errdefs.IsNotImplemented, "macvlan"},
		{"unknown driver", network.CreateRequest{Name: "a", Driver: "rex"}, errdefs.IsNotFound, "could not find plugin rex in v1 plugin registry: plugin not found"},
		{"unknown IPAM driver", network.CreateRequest{Name: "a", IPAM: &network.IPAM{Driver: "rex"}}, errdefs.IsInvalidArgument, `invalid ipam driver: "rex"`},
		{"IPv6", network.CreateRequest{Name: "a", EnableIPv6: &yes}, errdefs.IsNotImplemented, "IPv6 networks are not supported"},
		{"no IP", network.CreateRequest{Name: "a", EnableIPv4: &no}, errdefs.IsInvalidArgument, "IPv4 or IPv6 must be enabled"},
		{"IPv6 subnet", network.CreateRequest{Name: "a", IPAM: pool(network.IPAMConfig{Subnet: prefix("fd00::/64")})}, errdefs.IsNotImplemented, "IPv6 networks are not supported"},
		{"overlap", network.CreateRequest{Name: "a", IPAM: pool(network.IPAMConfig{Subnet: prefix("10.5.6.0/24")})}, errdefs.IsPermissionDenied, "invalid pool request: Pool overlaps with other one on this address space"},
		{"overlap with the bridge", network.CreateRequest{Name: "a", IPAM: pool(network.IPAMConfig{Subnet: prefix("172.18.4.0/24")})}, errdefs.IsPermissionDenied, "invalid pool request"},
		{"overlap with the swarm", network.CreateRequest{Name: "a", IPAM: pool(network.IPAMConfig{Subnet: prefix("10.255.0.0/24")})}, errdefs.IsPermissionDenied, "invalid pool request"},
		{"host bits", network.CreateRequest{Name: "a", IPAM: pool(network.IPAMConfig{Subnet: prefix("10.1.2.3/24")})}, errdefs.IsInvalidArgument, "invalid network config:\ninvalid subnet 10.1.2.3/24: it should be 10.1.2.0/24"},
		{"two subnets", network.CreateRequest{Name: "a", IPAM: &network.IPAM{Config: []network.IPAMConfig{{Subnet: prefix("10.1.0.0/24")}, {Subnet: prefix("10.2.0.0/24")}}}}, errdefs.IsPermissionDenied, "bridge driver doesn't support multiple subnets"},
		{"gateway outside", network.CreateRequest{Name: "a", IPAM: pool(network.IPAMConfig{Subnet: prefix("10.1.2.0/24"), Gateway: addr("10.1.3.1")})}, errdefs.IsInvalidArgument, "invalid gateway 10.1.3.1: parent subnet 10.1.2.0/24 doesn't contain this address"},
		{"range outside", network.CreateRequest{Name: "a", IPAM: pool(network.IPAMConfig{Subnet: prefix("10.1.2.0/24"), IPRange: prefix("10.1.3.0/25")})}, errdefs.IsInvalidArgument, "invalid ip-range 10.1.3.0/25: parent subnet 10.1.2.0/24 doesn't contain ip-range"},
		{"range too large", network.CreateRequest{Name: "a", IPAM: pool(network.IPAMConfig{Subnet: prefix("10.1.2.0/24"), IPRange: prefix("10.1.0.0/16")})}, errdefs.IsInvalidArgument, "invalid ip-range 10.1.0.0/16: CIDR block is bigger than its parent subnet 10.1.2.0/24"},
		{"auxiliary outside", network.CreateRequest{Name: "a", IPAM: pool(network.IPAMConfig{Subnet: prefix("10.1.2.0/24"), AuxAddress: map[string]netip.Addr{"x": addr("10.1.3.1")}})}, errdefs.IsInvalidArgument, "invalid auxiliary address x: parent subnet 10.1.2.0/24 doesn't contain this address"},
		{"gateway without a subnet", network.CreateRequest{Name: "a", IPAM: pool(network.IPAMConfig{Gateway: addr("10.1.3.1")})}, errdefs.IsInvalidArgument, "invalid subnet"},
		{"MTU", network.CreateRequest{Name: "a", Options: map[string]string{optionMTU: "x"}}, errdefs.IsInvalidArgument, "failed to parse com.docker.network.driver.mtu value: x ("},
		{"negative MTU", network.CreateRequest{Name: "a", Options: map[string]string{optionMTU: "-1"}}, errdefs.IsInvalidArgument, "invalid MTU number: -1"},
		{"flag", network.CreateRequest{Name: "a", Options: map[string]string{optionICC: "x"}}, errdefs.IsInvalidArgument, "failed to parse com.docker.network.bridge.enable_icc value: x ("},
		{"host address", network.CreateRequest{Name: "a", Options: map[string]string{optionHostBinding: "x"}}, errdefs.IsInvalidArgument, "failed to parse com.docker.network.bridge.host_binding_ipv4 value: x (nil ip)"},
		{"bridge's name", network.CreateRequest{Name: "a", Options: map[string]string{optionBridge: `a" drop`}}, errdefs.IsInvalidArgument, "invalid bridge name"},
		{"bridge of another", network.CreateRequest{Name: "a", Options: map[string]string{optionBridge: "shoal-gw"}}, errdefs.IsPermissionDenied, "networks have same bridge name"},
		{"an option that would change something", network.CreateRequest{Name: "a", Options: map[string]string{"com.docker.network.bridge.inhibit_ipv4": "true"}}, errdefs.IsNotImplemented, "inhibit_ipv4"},
		{"configuration only", network.CreateRequest{Name: "a", ConfigOnly: true}, errdefs.IsNotImplemented, "configuration-only networks"},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := book()
			if _, err := b.Create(id(1), network.CreateRequest{Name: "there", IPAM: pool(network.IPAMConfig{Subnet: prefix("10.5.0.0/16")})}, Taken{}, now); err != nil {
				t.Fatal(err)
			}
			_, err := b.Create(id(2), test.r, Taken{Swarm: []netip.Prefix{prefix("10.255.0.0/16")}}, now)
			if !test.is(err) || !strings.HasPrefix(err.Error(), test.words) && !strings.Contains(err.Error(), test.words) {
				t.Errorf("%v; want %q", err, test.words)
			}
			if len(b.All()) != 4 {
				t.Errorf("left: %v", b.All())
			}
		})
	}
}

// TestPools: default subnets in order, around what is in use, until there are none.
func TestPools(t *testing.T) {
	b := book()
	taken := Taken{Host: []netip.Prefix{prefix("172.20.5.0/24"), prefix("192.168.0.0/24")}}
	var got []string
	for i := range 100 {
		n, err := b.Create(id(i), network.CreateRequest{Name: fmt.Sprint("n", i)}, taken, now)
		if err != nil {
			if !errdefs.IsInvalidArgument(err) || err.Error() != "all predefined address pools have been fully subnetted" {
				t.Error(err)
			}
			break
		}
		if n.Gateway() != n.Subnet().Addr().Next() || n.BridgeName() != "shoal-"+n.ID[:9] || len(n.BridgeName()) > 15 {
			t.Errorf("%+v", n)
		}
		got = append(got, n.Subnet().String())
	}
	if len(got) != 12+15 || got[0] != "172.19.0.0/16" || got[1] != "172.21.0.0/16" || got[12] != "192.168.16.0/20" || got[26] != "192.168.240.0/20" {
		t.Errorf("%d: %q", len(got), got)
	}
}

func TestFind(t *testing.T) {
	b := book()
	for i, name := range []string{"one", "two", id(1)[:6]} {
		if _, err := b.Create(id(i+1), network.CreateRequest{Name: name}, Taken{}, now); err != nil {
			t.Fatal(err)
		}
	}
	for ref, want := range map[string]string{
		"one": id(1), id(2): id(2), id(2)[:5]: id(2), id(1)[:6]: id(3), "bridge": idOf("host", "bridge"),
		"": "network  not found", "o": "network o not found", "0000": "network 0000 is ambiguous (3 matches found based on ID prefix)",
	} {
		n, err := b.Find(ref)
		if err != nil {
			n.ID = err.Error()
		}
		if n.ID != want {
			t.Errorf("%q: %s; want %s", ref, n.ID, want)
		}
	}
}

// TestAddresses: whatever comes and goes, no address has two owners, none is outside of its range or reserved, and who
// is refused is refused because there is none left.
func TestAddresses(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := network.IPAMConfig{Subnet: netip.PrefixFrom(addr("10.9.0.0"), rapid.IntRange(24, 31).Draw(t, "bits"))}
		first, last := bounds(c.Subnet)
		if rapid.Bool().Draw(t, "ranged") && c.Subnet.Bits() < 30 {
			c.IPRange = netip.PrefixFrom(addr("10.9.0.0"), rapid.IntRange(c.Subnet.Bits(), 30).Draw(t, "range"))
		}
		c.AuxAddress = map[string]netip.Addr{"a": last}
		b := book()
		n, err := b.Create(id(1), network.CreateRequest{Name: "n", IPAM: pool(c)}, Taken{}, now)
		if err != nil {
			t.Skip(err)
		}
		have := map[string]netip.Addr{}
		for i := range rapid.IntRange(1, 80).Draw(t, "steps") {
			name := fmt.Sprint("e", i)
			switch rapid.IntRange(0, 3).Draw(t, "step") {
			case 0:
				for e := range have {
					b.Leave(n.ID, e)
					delete(have, e)
					break
				}
			default:
				want := Endpoint{ID: name, Container: name, Name: name}
				if rapid.IntRange(0, 4).Draw(t, "static") == 0 {
					want.Addr = netip.AddrFrom4([4]byte{10, 9, 0, byte(rapid.IntRange(0, 255).Draw(t, "addr"))})
				}
				p, err := b.Join(n.ID, want, mac)
				inUse := want.Addr == n.Gateway() || want.Addr == last
				for _, a := range have {
					inUse = inUse || a == want.Addr
				}
				switch {
				case want.Addr.IsValid() && (err == nil) == (inUse || want.Addr.Less(first) || last.Less(want.Addr)):
					t.Fatalf("%s asked for: %v", want.Addr, err)
				case want.Addr.IsValid():
				case err != nil:
					if free := b.Inspect(n.ID).Status.IPAM.Subnets[c.Subnet].DynamicIPsAvailable; free != 0 {
						t.Fatalf("%v with %d free", err, free)
					}
				case p.Addr == n.Gateway() || p.Addr == last || p.Addr.Less(first) || last.Less(p.Addr) || c.IPRange.IsValid() && !c.IPRange.Contains(p.Addr):
					t.Fatalf("%s of %+v", p.Addr, c)
				}
				if err == nil {
					for e, a := range have {
						if a == p.Addr {
							t.Fatalf("%s and %s have %s", e, name, a)
						}
					}
					have[name] = p.Addr
				}
			}
		}
		i := b.Inspect(n.ID)
		if len(i.Containers) != len(have) || (len(have) > 0) != b.InUse(n.ID) {
			t.Fatalf("%d containers, want %d", len(i.Containers), len(have))
		}
	})
}

func TestAddressRests(t *testing.T) {
	b := book()
	n, err := b.Create(id(1), network.CreateRequest{Name: "n"}, Taken{}, now)
	if err != nil {
		t.Fatal(err)
	}
	var got []netip.Addr
	for range 3 {
		p, err := b.Join(n.ID, Endpoint{ID: "e"}, mac)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, p.Addr)
		b.Leave(n.ID, "e")
	}
	if want := []netip.Addr{addr("172.19.0.2"), addr("172.19.0.3"), addr("172.19.0.4")}; !slices.Equal(got, want) {
		t.Errorf("%v; want %v", got, want)
	}
}

func TestFilter(t *testing.T) {
	used := network.Inspect{Containers: map[string]network.EndpointResource{"c": {}}}
	used.Name, used.ID, used.Driver, used.Scope, used.Labels = "used", "aa11", "bridge", "local", map[string]string{"k": "v", "l": ""}
	all := []network.Inspect{used, {Network: network.Network{Name: "unused", ID: "bb22", Driver: "bridge", Scope: "local"}},
		{Network: network.Network{Name: "host", ID: "cc33", Driver: "host", Scope: "local"}}, {Network: network.Network{Name: "ingress", ID: "dd44", Driver: "overlay", Scope: "swarm", Ingress: true}}}
	for _, test := range []struct {
		f    Filter
		want string
	}{
		{nil, "used unused host ingress"},
		{Filter{"name": {"used"}}, "used unused"},
		{Filter{"id": {"aa", "cc"}}, "used host"},
		{Filter{"driver": {"bridge", "host"}}, "used unused host"},
		{Filter{"scope": {"swarm"}}, "ingress"},
		{Filter{"type": {"custom"}}, "used unused"},
		{Filter{"type": {"builtin"}}, "host ingress"},
		{Filter{"dangling": {"1"}}, "unused"},
		{Filter{"dangling": {"false"}}, "used host ingress"},
		{Filter{"label": {"k=v", "l"}}, "used"},
		{Filter{"label": {"k=v", "m"}}, ""},
	} {
		f, err := NewFilter(test.f)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, n := range all {
			if f.Match(&n) {
				got = append(got, n.Name)
			}
		}
		if strings.Join(got, " ") != test.want {
			t.Errorf("%v: %q; want %q", test.f, got, test.want)
		}
	}
}
