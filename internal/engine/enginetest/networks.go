package enginetest

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"shoal.dev/shoal/internal/engine"
)

// network makes a network that goes with the test.
func (s *suite) network(name, subnet string, labels map[string]string) string {
	s.Helper()
	n, err := s.Engine.CreateNetwork(s.ctx, network.CreateRequest{
		Name: name, Labels: labels, IPAM: &network.IPAM{Config: []network.IPAMConfig{{Subnet: netip.MustParsePrefix(subnet)}}},
	})
	if err != nil {
		s.Fatalf("create network: %v", err)
	}
	s.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		if err := s.Engine.RemoveNetwork(ctx, n.ID); err != nil && !errdefs.IsNotFound(err) {
			s.Errorf("clean up: %v", err)
		}
	})
	return n.ID
}

func (s *suite) networkNames() []string {
	var names []string
	for _, n := range s.Engine.LocalNetworks() {
		names = append(names, n.Name)
	}
	return names
}

// networks: making and removing them, and their events.
func networks(s *suite) {
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	events := s.Engine.Events(ctx)
	before := s.networkNames()
	id := s.network("net-a", "10.201.0.0/24", nil)
	s.same("list", s.networkNames(), slices.Sorted(slices.Values(append(slices.Clone(before), "net-a"))))
	_, err := s.Engine.CreateNetwork(s.ctx, network.CreateRequest{Name: "net-a"})
	s.refused(err, errdefs.IsConflict, "network with name net-a already exists")
	_, err = s.Engine.CreateNetwork(s.ctx, network.CreateRequest{Name: "host"})
	s.refused(err, errdefs.IsPermissionDenied, "operation is not permitted on predefined host network ")
	s.refused(s.Engine.RemoveNetwork(s.ctx, "bridge"), errdefs.IsPermissionDenied, "bridge is a pre-defined network and cannot be removed")
	s.refused(s.Engine.RemoveNetwork(s.ctx, "net-b"), errdefs.IsNotFound, "network net-b not found")
	if err := s.Engine.RemoveNetwork(s.ctx, id[:10]); err != nil {
		s.Fatal(err)
	}
	s.same("list after", s.networkNames(), before)
	for _, want := range []string{"create", "destroy"} {
		e := <-events
		s.same("event", []string{e.Type, e.Action, e.ID, fmt.Sprint(e.Attributes)},
			[]string{"network", want, id, fmt.Sprint(map[string]string{"name": "net-a", "type": "bridge"})})
	}
}

// networksOfContainers: containers on networks, before they run, while they do and after.
func networksOfContainers(s *suite) {
	front, back := s.network("net-front", "10.202.0.0/24", nil), s.network("net-back", "10.203.0.0/24", nil)
	addr := netip.MustParseAddr
	at := func(a string) *network.EndpointSettings {
		return &network.EndpointSettings{IPAMConfig: &network.EndpointIPAMConfig{IPv4Address: addr(a)}, Aliases: []string{"web"}}
	}
	places := func(id string) map[string]*network.EndpointSettings { return s.inspect(id).NetworkSettings.Networks }
	names := func(id string) []string { return slices.Sorted(maps.Keys(places(id))) }

	id := s.create(engine.Spec{Name: "net-one", HostConfig: &container.HostConfig{NetworkMode: "net-front"},
		Networks: map[string]*network.EndpointSettings{"net-front": at("10.202.0.50"), back[:12]: {GwPriority: 1}}}, "sleep")
	s.same("before the start", names(id), []string{"net-back", "net-front"})
	s.start(id)
	e := places(id)["net-front"]
	s.same("where it is", fmt.Sprintln(e.IPAddress, e.IPPrefixLen, e.Gateway, e.NetworkID, e.EndpointID != "", e.Aliases, e.DNSNames),
		fmt.Sprintln("10.202.0.50 24 10.202.0.1", front, true, []string{"web"}, []string{"net-one", "web", id[:12]}))
	s.same("by network", s.list(false, map[string][]string{"network": {"net-front"}}), []string{"net-one"})
	s.same("by network ID", s.list(false, map[string][]string{"network": {back[:8]}}), []string{"net-one"})
	s.refused(s.Engine.RemoveNetwork(s.ctx, "net-back"), errdefs.IsPermissionDenied, `network net-back has active endpoints (name:"net-one" id:"`)
	s.refused(s.Engine.Connect(s.ctx, "net-back", id, nil), errdefs.IsPermissionDenied, "endpoint with name net-one already exists in network net-back")
	s.refused(s.Engine.Connect(s.ctx, "net-none", id, nil), errdefs.IsNotFound, "network net-none not found")
	s.refused(s.Engine.Connect(s.ctx, "host", id, nil), errdefs.IsInvalidArgument, "cannot connect container to host network - container must be created in host network mode")
	s.refused(s.Engine.Connect(s.ctx, "none", id, nil), errdefs.IsInvalidArgument, "container cannot be connected to multiple networks with one of the networks in private (none) mode")
	s.refused(s.Engine.Connect(s.ctx, "net-back", "net-nobody", nil), errdefs.IsNotFound, "No such container: net-nobody")
	s.refused(s.Engine.Disconnect(s.ctx, "bridge", id, false), errdefs.IsInternal, "container "+id+" is not connected to network bridge")

	ctx, cancel := context.WithCancel(s.ctx)
	events := s.Engine.Events(ctx)
	if err := s.Engine.Disconnect(s.ctx, "net-back", id, false); err != nil {
		s.Fatal(err)
	}
	if err := s.Engine.Connect(s.ctx, "bridge", id, nil); err != nil {
		s.Fatal(err)
	}
	for _, want := range [][]string{{"disconnect", back, "net-back"}, {"connect", "", "bridge"}} {
		e := <-events
		if e.Type != "network" || e.Action != want[0] || want[1] != "" && e.ID != want[1] || e.Attributes["name"] != want[2] || e.Attributes["container"] != id {
			s.Errorf("event %+v; want %q", e, want)
		}
	}
	cancel()
	s.same("after a change", names(id), []string{"bridge", "net-front"})
	s.same("others stay", places(id)["net-front"].IPAddress == addr("10.202.0.50"), true)
	if err := s.Engine.RemoveNetwork(s.ctx, "net-back"); err != nil {
		s.Error(err)
	}

	other := s.create(engine.Spec{Name: "net-two", HostConfig: &container.HostConfig{NetworkMode: "net-front"},
		Networks: map[string]*network.EndpointSettings{"net-front": at("10.202.0.50")}}, "sleep")
	s.refused(s.Engine.Start(s.ctx, other), errdefs.IsPermissionDenied, "failed to set up container networking: Address already in use")
	if err := s.Engine.Kill(s.ctx, id, ""); err != nil {
		s.Fatal(err)
	}
	s.wait(id)
	s.until("its address is free", func() bool { return s.Engine.Start(s.ctx, other) == nil })
	e = places(id)["net-front"]
	s.same("after the end", fmt.Sprintf("%v %t %q %s", names(id), e.IPAddress.IsValid(), e.EndpointID, e.IPAMConfig.IPv4Address), `[bridge net-front] false "" 10.202.0.50`)

	s.same("by network ID after the end", s.list(true, map[string][]string{"network": {front}, "name": {"net-one"}}), []string{"net-one"})

	missing := s.create(engine.Spec{Name: "net-three", HostConfig: &container.HostConfig{NetworkMode: "net-later"}}, "sleep")
	s.refused(s.Engine.Start(s.ctx, missing), errdefs.IsNotFound, "failed to set up container networking: network net-later not found")
	if err := s.Engine.Disconnect(s.ctx, "net-later", missing, true); err != nil {
		s.Error(err)
	}
	if err := s.Engine.Connect(s.ctx, "net-front", missing, nil); err != nil {
		s.Error(err)
	}
	s.start(missing)
	s.same("connected before the start", places(missing)["net-front"].IPAddress.IsValid(), true)
}

func networksPrune(s *suite) {
	used := s.network("net-used", "10.204.0.0/24", map[string]string{"of": "test"})
	s.network("net-unused", "10.205.0.0/24", map[string]string{"of": "test"})
	s.network("net-kept", "10.206.0.0/24", nil)
	s.start(s.create(engine.Spec{HostConfig: &container.HostConfig{NetworkMode: container.NetworkMode(used)}}, "sleep"))
	_, err := s.Engine.PruneNetworks(s.ctx, map[string][]string{"name": {"x"}})
	s.refused(err, errdefs.IsInvalidArgument, "invalid filter 'name'")
	for _, test := range []struct {
		filters map[string][]string
		gone    []string
	}{
		{map[string][]string{"label": {"of=test"}, "until": {"1h"}}, []string{}},
		{map[string][]string{"label": {"of=test"}}, []string{"net-unused"}},
		{map[string][]string{"label": {"of=test"}, "label!": {"of"}}, []string{}},
	} {
		r, err := s.Engine.PruneNetworks(s.ctx, test.filters)
		if err != nil {
			s.Fatal(err)
		}
		s.same(fmt.Sprint(test.filters), r.NetworksDeleted, test.gone)
	}
}
