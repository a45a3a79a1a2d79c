package address_test

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/reconcile/address"
	"shoal.dev/shoal/internal/reconcile/plantest"
	"shoal.dev/shoal/internal/store"
)

func overlay(s *plantest.Swarm, id, subnet string) {
	s.Helper()
	n := &cluster.Network{}
	n.ID, n.Spec.Name = id, id
	n.IPAMOptions = &swarm.IPAMOptions{Configs: []swarm.IPAMConfig{{Subnet: netip.MustParsePrefix(subnet)}}}
	s.Put(n)
}

func on(networks ...string) func(*cluster.Service) {
	return func(v *cluster.Service) {
		v.Spec.TaskTemplate.Networks = nil
		for _, n := range networks {
			v.Spec.TaskTemplate.Networks = append(v.Spec.TaskTemplate.Networks, swarm.NetworkAttachmentConfig{Target: n})
		}
	}
}

func taskOn(s *plantest.Swarm, service string, networks ...string) *cluster.Task {
	t := task(s, service)
	plantest.Change(s, t.ID, func(t *cluster.Task) {
		for _, n := range networks {
			t.Spec.Networks = append(t.Spec.Networks, swarm.NetworkAttachmentConfig{Target: n})
		}
	})
	return t
}

func TestATaskHasAnAddressOnEachOfItsNetworks(t *testing.T) {
	s := plantest.New(t)
	var p address.Planner
	ingress(s, "10.0.0.0/24")
	overlay(s, "a", "10.1.0.0/24")
	overlay(s, "b", "10.2.0.0/25")
	s.Service("web", 1, publish(8080), on("a", "b"))
	k := taskOn(s, "web", "a", "b")
	host := taskOn(s, "quiet", "host")
	lost := taskOn(s, "quiet", "gone")
	s.Settle(p)
	got := get(s, k)
	if len(got.NetworksAttachments) != 3 || got.NetworksAttachments[0].Network.ID != "ing" {
		t.Fatalf("%+v", got.NetworksAttachments)
	}
	for n, subnet := range map[string]string{"ing": "10.0.0.0/24", "a": "10.1.0.0/24", "b": "10.2.0.0/25"} {
		a := got.Address(n)
		if !netip.MustParsePrefix(subnet).Contains(a) || plantest.Get[*cluster.Claim](s, cluster.ClaimAddr(n, a)).Owner != k.ID {
			t.Errorf("on %s: %v", n, a)
		}
	}
	if h := get(s, host); h.Status.State != swarm.TaskStatePending || len(h.NetworksAttachments) != 0 {
		t.Errorf("a task on the host's network: %+v", h.Status)
	}
	if l := get(s, lost); l.Status.State != swarm.TaskStateNew || l.Status.Err != "network gone is not there any more: update the service to use another one" {
		t.Errorf("%+v", l.Status)
	}
}

// A task that cannot have all its addresses has none: half of them would be lost.
func TestAllAddressesOrNone(t *testing.T) {
	s := plantest.New(t)
	var p address.Planner
	overlay(s, "a", "10.1.0.0/24")
	overlay(s, "full", "10.2.0.0/30") // one address beside the gateway
	s.Service("web", 1)
	first, second := taskOn(s, "web", "a", "full"), taskOn(s, "web", "a", "full")
	s.Settle(p)
	waiting := 0
	for _, k := range []*cluster.Task{get(s, first), get(s, second)} {
		if k.Status.State == swarm.TaskStateNew {
			waiting++
			if len(k.NetworksAttachments) != 0 || k.Status.Err != "could not find an available IP in subnet 10.2.0.0/30 of network full" {
				t.Errorf("%+v", k)
			}
		}
	}
	claims := 0
	for range store.Prefix[*cluster.Claim](s.Store.Snapshot(), "addr/a/") {
		claims++
	}
	if waiting != 1 || claims != 1 {
		t.Errorf("%d tasks wait, %d addresses of network a are taken", waiting, claims)
	}
}

func TestVirtualAddresses(t *testing.T) {
	s := plantest.New(t)
	var p address.Planner
	s.Node("n")
	overlay(s, "a", "10.1.0.0/24")
	overlay(s, "b", "10.2.0.0/24")
	s.Service("web", 1, on("a", "host", "b"))
	s.Service("rr", 1, on("a"), func(v *cluster.Service) { v.Spec.EndpointSpec = &swarm.EndpointSpec{Mode: swarm.ResolutionModeDNSRR} })
	s.Settle(p)
	web := func() []swarm.EndpointVirtualIP { return plantest.Get[*cluster.Service](s, "web").Endpoint.VirtualIPs }
	had := web()
	if len(had) != 2 || had[0].NetworkID != "a" || !netip.MustParsePrefix("10.1.0.0/24").Contains(had[0].Addr.Addr()) || had[1].NetworkID != "b" || had[1].Addr.Bits() != 24 {
		t.Fatalf("%+v", had)
	}
	if v := plantest.Get[*cluster.Service](s, "rr").Endpoint.VirtualIPs; v != nil {
		t.Errorf("a service that is found by its tasks has %+v", v)
	}
	// The address stays when another network goes, whose address is free when nodes let go of it.
	plantest.Change(s, "web", on("b"))
	s.Settle(p)
	if now := web(); !slices.Equal(now, had[1:]) {
		t.Errorf("%+v", now)
	}
	freed := cluster.ClaimAddr("a", had[0].Addr.Addr())
	if c := plantest.Get[*cluster.Claim](s, freed); c.ReleasedAt == 0 {
		t.Error("the address is still held")
	}
	s.Holds["n"] = s.Store.Index()
	s.Settle(p)
	if _, ok := store.Get[*cluster.Claim](s.Store.Snapshot(), freed); ok {
		t.Error("the address is never free again")
	}
	v := plantest.Get[*cluster.Service](s, "web")
	if _, err := s.Store.Update(t.Context(), func(tx *store.Tx) error { tx.Write(store.Delete(v)); return nil }); err != nil {
		t.Fatal(err)
	}
	s.Settle(p)
	if c := plantest.Get[*cluster.Claim](s, cluster.ClaimAddr("b", had[1].Addr.Addr())); c.ReleasedAt == 0 {
		t.Error("the address of a removed service is still held")
	}
}
