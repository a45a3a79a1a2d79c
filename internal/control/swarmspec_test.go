package control_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/control"
	"shoal.dev/shoal/internal/store"
)

func prefixes(all ...string) (out []netip.Prefix) {
	for _, s := range all {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func TestAddressPools(t *testing.T) {
	for _, tc := range []struct {
		name    string
		pools   []netip.Prefix
		size    uint32
		want    []netip.Prefix
		bits    uint32
		ingress string
		refused string
	}{
		{"none", nil, 0, prefixes("10.0.0.0/8"), 24, "10.255.0.0/16", ""},
		{"only a size", nil, 20, prefixes("10.0.0.0/8"), 20, "10.255.0.0/16", ""},
		{"a pool", prefixes("172.20.0.0/16"), 0, prefixes("172.20.0.0/16"), 24, "172.20.192.0/18", ""},
		{"a pool with host bits", prefixes("172.20.7.1/16"), 26, prefixes("172.20.0.0/16"), 26, "172.20.192.0/18", ""},
		{"two pools", prefixes("172.16.0.0/12", "192.168.0.0/16"), 24, prefixes("172.16.0.0/12", "192.168.0.0/16"), 24, "172.31.0.0/16", ""},
		{"a small pool", prefixes("192.168.9.0/24"), 28, prefixes("192.168.9.0/24"), 28, "192.168.9.192/26", ""},
		{"a pool of one subnet", prefixes("192.168.9.0/24"), 24, prefixes("192.168.9.0/24"), 24, "192.168.9.0/24", ""},
		{"subnets too small", nil, 30, nil, 0, "", "subnet size is out of range: 30"},
		{"subnets larger than the pool", prefixes("172.20.0.0/16"), 15, nil, 0, "", `invalid CIDR: "172.20.0.0/16". Subnet size is too small for pool: 15`},
		{"subnets larger than the default pool", nil, 7, nil, 0, "", `invalid CIDR: "10.0.0.0/8". Subnet size is too small for pool: 7`},
		{"IPv6", prefixes("fd00::/16"), 24, nil, 0, "", "invalid base pool fd00::/16: it must be an IPv4 subnet"},
		{"a pool that is none", []netip.Prefix{{}}, 24, nil, 0, "", "invalid base pool invalid Prefix"},
		{"pools that overlap", prefixes("172.16.0.0/12", "172.20.0.0/16"), 24, nil, 0, "", "invalid base pool 172.20.0.0/16: it overlaps the pool 172.16.0.0/12"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			pools, bits, ingress, err := control.AddressPools(tc.pools, tc.size)
			if tc.refused != "" {
				if err == nil || !strings.HasPrefix(err.Error(), tc.refused) || !errdefs.IsInvalidArgument(err) {
					t.Errorf("%v, %d, %s, %v", pools, bits, ingress, err)
				}
				return
			}
			if err != nil || !slices.Equal(pools, tc.want) || bits != tc.bits || ingress.String() != tc.ingress {
				t.Errorf("%v, %d, %s, %v", pools, bits, ingress, err)
			}
		})
	}
}

// TestNetworksComeFromTheSwarmsPools makes networks until the pool is empty.
func TestNetworksComeFromTheSwarmsPools(t *testing.T) {
	c, s := newControl(t, fakeRegistry{})
	if _, err := s.Update(t.Context(), func(tx *store.Tx) error {
		sw := tx.Swarm().Clone().(*cluster.Swarm)
		sw.DefaultAddrPool, sw.SubnetSize = prefixes("192.168.9.0/24"), 26
		tx.Write(store.PutSpec(sw))
		tx.Write(store.Create(control.NewIngress(netip.MustParsePrefix("192.168.9.192/26"))))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	var got []string
	for {
		id, err := c.CreateNetwork(t.Context(), network.CreateRequest{Name: "n" + string(rune('a'+len(got))), Driver: "overlay"})
		if err != nil {
			if !errdefs.IsResourceExhausted(err) {
				t.Error(err)
			}
			break
		}
		n, ok := store.Get[*cluster.Network](s.Snapshot(), id)
		if !ok {
			t.Fatal("the network has no record")
		}
		p, _, _ := n.Subnet()
		got = append(got, p.String())
	}
	slices.Sort(got)
	if want := []string{"192.168.9.0/26", "192.168.9.128/26", "192.168.9.64/26"}; !slices.Equal(got, want) {
		t.Errorf("the networks have %v, want %v", got, want)
	}
}

func TestDataPathPort(t *testing.T) {
	for in, want := range map[uint32]uint16{0: 4789, 1024: 1024, 49151: 49151, 7777: 7777} {
		if got, err := control.DataPathPort(in); err != nil || got != want {
			t.Errorf("%d: %d, %v", in, got, err)
		}
	}
	for _, in := range []uint32{1, 1023, 49152, 65536 + 4789} {
		if _, err := control.DataPathPort(in); err == nil || !strings.HasPrefix(err.Error(), "Datapath port number is not in valid range (1024-49151) : ") {
			t.Errorf("%d: %v", in, err)
		}
	}
}

func TestSettingsOfASwarmThatCannotBe(t *testing.T) {
	c, _ := newControl(t, fakeRegistry{})
	for _, tc := range []struct {
		name   string
		change func(*swarm.Spec)
		want   string
	}{
		{"another name", func(s *swarm.Spec) { s.Name = "mine" }, `swarm spec must be named "default"`},
		{"a negative heartbeat", func(s *swarm.Spec) { s.Dispatcher.HeartbeatPeriod = -time.Second }, "heartbeat time period cannot be a negative duration"},
		{"a hectic heartbeat", func(s *swarm.Spec) { s.Dispatcher.HeartbeatPeriod = time.Millisecond }, "heartbeat time period cannot be shorter than 100ms"},
		{"certificates of a minute", func(s *swarm.Spec) { s.CAConfig.NodeCertExpiry = time.Minute }, "minimum certificate expiry time is: 1h0m0s"},
		{"certificates of the past", func(s *swarm.Spec) { s.CAConfig.NodeCertExpiry = -time.Hour }, "minimum certificate expiry time is: 1h0m0s"},
		{"another authority", func(s *swarm.Spec) { s.CAConfig.ExternalCAs = []*swarm.ExternalCA{{URL: "https://ca.example"}} }, "external certificate authorities (--external-ca) are not implemented by Shoal: it signs its own certificates"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, err := c.Swarm(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			before := s.Version
			tc.change(&s.Spec)
			if err := c.UpdateSwarm(t.Context(), s.Version.Index, s.Spec, control.RotateFlags{}); err == nil || err.Error() != tc.want {
				t.Errorf("%v, want %s", err, tc.want)
			}
			if s, err = c.Swarm(t.Context()); err != nil || s.Version != before {
				t.Errorf("it was changed: %v, %v", s, err)
			}
		})
	}
}

func TestAnUpdateOfTheSwarmFillsInDefaults(t *testing.T) {
	c, _ := newControl(t, fakeRegistry{})
	s, err := c.Swarm(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ten := int64(10)
	if err := c.UpdateSwarm(t.Context(), s.Version.Index, swarm.Spec{Orchestration: swarm.OrchestrationConfig{TaskHistoryRetentionLimit: &ten}}, control.RotateFlags{}); err != nil {
		t.Fatal(err)
	}
	if s, err = c.Swarm(t.Context()); err != nil {
		t.Fatal(err)
	}
	if p := s.Spec; p.Name != "default" || *p.Orchestration.TaskHistoryRetentionLimit != 10 || p.Raft.SnapshotInterval != 10000 || p.Raft.KeepOldSnapshots == nil ||
		p.Dispatcher.HeartbeatPeriod != 2*time.Second || p.CAConfig.NodeCertExpiry != 90*24*time.Hour {
		t.Errorf("%+v", p)
	}
}

func TestNodeAvailability(t *testing.T) {
	for in, want := range map[swarm.NodeAvailability]swarm.NodeAvailability{"": "active", "active": "active", "pause": "pause", "drain": "drain"} {
		if got, err := control.NodeAvailability(in); err != nil || got != want {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
	if _, err := control.NodeAvailability("asleep"); err == nil || err.Error() != `invalid Availability: "asleep"` {
		t.Errorf("%v", err)
	}
}
