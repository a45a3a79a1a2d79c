package node

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"
)

func TestTheAdvertisedAddressIsChosenOrAskedFor(t *testing.T) {
	c := func(addr, on string) candidate { return candidate{netip.MustParseAddr(addr), on} }
	for _, tc := range []struct {
		name  string
		found []candidate
		want  string
	}{
		{"one", []candidate{c("198.51.100.1", "eth0")}, "198.51.100.1"},
		{"none", nil, "could not find the system's IP address"},
		{"two of one interface", []candidate{c("198.51.100.1", "eth0"), c("198.51.100.2", "eth0")},
			"could not choose an IP address to advertise since this system has multiple addresses on interface eth0 (198.51.100.1 and 198.51.100.2)"},
		{"three of two", []candidate{c("198.51.100.1", "eth0"), c("198.51.100.2", "eth0"), c("203.0.113.1", "eth1")},
			"could not choose an IP address to advertise since this system has multiple addresses on different interfaces (198.51.100.1 on eth0, 198.51.100.2 on eth0 and 203.0.113.1 on eth1)"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := choose(tc.found)
			if err != nil && (err.Error() != tc.want || !errdefs.IsInvalidArgument(err)) || err == nil && got.String() != tc.want {
				t.Errorf("%s, %v; want %s", got, err, tc.want)
			}
		})
	}
}

// TestBadOptionsOfASwarm are those that Docker's client passes on unread. Nothing is made of them.
func TestBadOptionsOfASwarm(t *testing.T) {
	good := swarm.InitRequest{ListenAddr: "0.0.0.0:2377", AdvertiseAddr: "198.51.100.1"}
	for _, tc := range []struct {
		name   string
		change func(*swarm.InitRequest)
		want   string
	}{
		{"nothing wrong", func(*swarm.InitRequest) {}, ""},
		{"by interface", func(r *swarm.InitRequest) { r.ListenAddr, r.AdvertiseAddr, r.DataPathAddr = "lo:2399", "lo", "lo" }, ""},
		{"a listen address of no interface", func(r *swarm.InitRequest) { r.ListenAddr = "nosuchif0:2377" }, badListen + `: "nosuchif0"`},
		{"a listen port", func(r *swarm.InitRequest) { r.ListenAddr = "0.0.0.0:99999" }, badListen},
		{"advertising everything", func(r *swarm.InitRequest) { r.AdvertiseAddr = "0.0.0.0" }, badAdvertise},
		{"advertising a name", func(r *swarm.InitRequest) { r.AdvertiseAddr = "host.example" }, badAdvertise + `: "host.example"`},
		{"advertising port 0", func(r *swarm.InitRequest) { r.AdvertiseAddr = "198.51.100.1:0" }, badAdvertise},
		{"tunnels of everything", func(r *swarm.InitRequest) { r.DataPathAddr = "0.0.0.0" }, badDataPath},
		{"tunnels with a port", func(r *swarm.InitRequest) { r.DataPathAddr = "198.51.100.1:4789" }, badDataPath},
		{"a tunnel port of the system", func(r *swarm.InitRequest) { r.DataPathPort = 53 }, "Datapath port number is not in valid range (1024-49151) : 53"},
		{"availability", func(r *swarm.InitRequest) { r.Availability = "asleep" }, `invalid Availability: "asleep"`},
		{"subnets too small", func(r *swarm.InitRequest) { r.SubnetSize = 30 }, "subnet size is out of range: 30"},
		{"another authority", func(r *swarm.InitRequest) { r.Spec.CAConfig.ExternalCAs = []*swarm.ExternalCA{{}} }, "external certificate authorities (--external-ca) are not implemented by Shoal"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := good
			tc.change(&r)
			_, err := (&Node{}).initState(&r)
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.HasPrefix(err.Error(), tc.want)) {
				t.Errorf("%v, want %q", err, tc.want)
			}
			if tc.want != "" && !errdefs.IsInvalidArgument(err) && !errdefs.IsNotImplemented(err) {
				t.Errorf("the class of %v", err)
			}
		})
	}
	if _, _, err := (&Node{}).joinRequest(swarm.JoinRequest{Availability: "asleep"}); err == nil || err.Error() != `invalid Availability: "asleep"` {
		t.Errorf("joining: %v", err)
	}
}
