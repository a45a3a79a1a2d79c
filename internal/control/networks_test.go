package control_test

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	apinetwork "github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/control"
	"shoal.dev/shoal/internal/store"
)

func overlayRequest(name string, change ...func(*apinetwork.CreateRequest)) apinetwork.CreateRequest {
	r := apinetwork.CreateRequest{Name: name, Driver: "overlay"}
	for _, f := range change {
		f(&r)
	}
	return r
}

func subnet(prefix string) func(*apinetwork.CreateRequest) {
	return func(r *apinetwork.CreateRequest) {
		r.IPAM = &apinetwork.IPAM{Config: []apinetwork.IPAMConfig{{Subnet: netip.MustParsePrefix(prefix)}}}
	}
}

func option(k, v string) func(*apinetwork.CreateRequest) {
	return func(r *apinetwork.CreateRequest) { r.Options = map[string]string{k: v} }
}

func record(t *testing.T, s *store.Store, name string) *cluster.Network {
	t.Helper()
	n, ok := s.Snapshot().NetworkByName(name)
	if !ok {
		t.Fatalf("no network %s", name)
	}
	return n
}

func TestNetworksGetSubnetsAndIdentifiersOfTheirOwn(t *testing.T) {
	c, s := newControl(t, fakeRegistry{})
	for _, r := range []apinetwork.CreateRequest{
		overlayRequest("a"), overlayRequest("mine", subnet("10.0.2.0/23")), overlayRequest("b"), overlayRequest("c"),
		overlayRequest("vni", option(cluster.OptionVNI, "5000")),
	} {
		if _, err := c.CreateNetwork(t.Context(), r); err != nil {
			t.Fatalf("%s: %v", r.Name, err)
		}
	}
	want := map[string]string{"a": "10.0.1.0/24 4097", "mine": "10.0.2.0/23 4098", "b": "10.0.4.0/24 4099", "c": "10.0.5.0/24 4100", "vni": "10.0.6.0/24 5000"}
	for name, w := range want {
		n := record(t, s, name)
		p, gw, _ := n.Subnet()
		if got := p.String() + " " + n.DriverState.Options[cluster.OptionVNI]; got != w || gw != p.Addr().Next() {
			t.Errorf("%s has %s and gateway %s, want %s", name, got, gw, w)
		}
	}
	list, err := c.Networks(t.Context())
	if err != nil || len(list) != len(want) {
		t.Fatalf("%d networks, %v", len(list), err)
	}
	// What a network had rests, because its containers may still be stopping, and is free again once the others are taken.
	if err := c.RemoveNetwork(t.Context(), "a", false); err != nil {
		t.Fatal(err)
	}
	if _, err := c.CreateNetwork(t.Context(), overlayRequest("again")); err != nil {
		t.Fatal(err)
	}
	if p, _, _ := record(t, s, "again").Subnet(); p.String() != "10.0.7.0/24" || record(t, s, "again").VNI() != 4101 {
		t.Errorf("%v %d", p, record(t, s, "again").VNI())
	}
}

// A small pool is used up, and what is freed in it found again.
func TestPoolsGoRound(t *testing.T) {
	c, s := newControl(t, fakeRegistry{})
	sw := s.Snapshot().Swarm().Clone().(*cluster.Swarm)
	sw.DefaultAddrPool, sw.SubnetSize = []netip.Prefix{netip.MustParsePrefix("10.9.0.0/23"), netip.MustParsePrefix("10.8.0.0/24")}, 24
	if _, err := s.Update(t.Context(), func(tx *store.Tx) error { tx.Write(store.PutSpec(sw)); return nil }); err != nil {
		t.Fatal(err)
	}
	create := func(name string) string {
		t.Helper()
		if _, err := c.CreateNetwork(t.Context(), overlayRequest(name)); err != nil {
			return err.Error()
		}
		p, _, _ := record(t, s, name).Subnet()
		return p.String()
	}
	var got []string
	for _, name := range []string{"a", "b", "c", "d"} {
		got = append(got, create(name))
	}
	if want := []string{"10.9.1.0/24", "10.9.0.0/24", "10.8.0.0/24"}; !slices.Equal(got[:3], want) || !strings.Contains(got[3], "could not find an available, non-overlapping IPv4 address pool") {
		t.Errorf("%q", got)
	}
	for _, name := range []string{"b", "a"} {
		if err := c.RemoveNetwork(t.Context(), name, false); err != nil {
			t.Fatal(err)
		}
	}
	if got := create("e"); got != "10.9.1.0/24" {
		t.Errorf("after the last of the pools: %s", got)
	}
	if got := create("f"); got != "10.9.0.0/24" {
		t.Errorf("then: %s", got)
	}
}

func TestANetworkHasNoNodeInIt(t *testing.T) {
	c, s := newControl(t, fakeRegistry{})
	n := store.List[*cluster.Node](s.Snapshot())
	for node := range n {
		k := node.Clone().(*cluster.Node)
		k.Status.Addr = "10.0.1.77"
		if _, err := s.Update(t.Context(), func(tx *store.Tx) error { tx.Write(store.PutState(k)); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.CreateNetwork(t.Context(), overlayRequest("a")); err != nil {
		t.Fatal(err)
	}
	if p, _, _ := record(t, s, "a").Subnet(); p.String() != "10.0.2.0/24" {
		t.Errorf("subnet %s has the node's own address", p)
	}
}

func TestRefusedNetworks(t *testing.T) {
	c, s := newControl(t, fakeRegistry{})
	if _, err := c.CreateNetwork(t.Context(), overlayRequest("a")); err != nil {
		t.Fatal(err)
	}
	sp := spec("web", 1)
	sp.TaskTemplate.Networks = []swarm.NetworkAttachmentConfig{{Target: "a", Aliases: []string{"www"}}}
	web := mustCreate(t, c, sp)
	if svc, _ := c.Service(t.Context(), "web", false); svc.Spec.TaskTemplate.Networks[0].Target != record(t, s, "a").ID {
		t.Errorf("the network's name was kept: %+v", svc.Spec.TaskTemplate.Networks)
	}
	id := record(t, s, "a").ID
	create := func(r apinetwork.CreateRequest) error { _, err := c.CreateNetwork(t.Context(), r); return err }
	service := func(targets ...string) error {
		sp := spec("api", 1)
		for _, n := range targets {
			sp.TaskTemplate.Networks = append(sp.TaskTemplate.Networks, swarm.NetworkAttachmentConfig{Target: n})
		}
		_, err := c.CreateService(t.Context(), sp, "", false)
		return err
	}
	ingress := control.NewIngress(netip.MustParsePrefix("10.255.0.0/16"))
	if _, err := s.Update(t.Context(), func(tx *store.Tx) error { tx.Write(store.Create(ingress)); return nil }); err != nil {
		t.Fatal(err)
	}
	before := s.Index()
	for name, tc := range map[string]struct {
		err  error
		is   func(error) bool
		text string
	}{
		"no name":          {create(overlayRequest("")), errdefs.IsInvalidArgument, "name is empty"},
		"bad name":         {create(overlayRequest("a b")), errdefs.IsInvalidArgument, `"a b"`},
		"taken name":       {create(overlayRequest("a")), errdefs.IsAlreadyExists, "network with name a already exists"},
		"ingress":          {create(overlayRequest("ingress")), errdefs.IsAlreadyExists, "network with name ingress already exists"},
		"driver":           {create(apinetwork.CreateRequest{Name: "x", Driver: "macvlan"}), errdefs.IsNotImplemented, "Driver"},
		"unmasked subnet":  {create(overlayRequest("x", subnet("10.1.0.1/24"))), errdefs.IsInvalidArgument, "invalid subnet 10.1.0.1/24: it should be 10.1.0.0/24"},
		"overlap":          {create(overlayRequest("x", subnet("10.0.0.0/16"))), errdefs.IsPermissionDenied, "Pool overlaps with other one on this address space: 10.0.0.0/16 is part of network a"},
		"overlaps ingress": {create(overlayRequest("x", subnet("10.255.3.0/24"))), errdefs.IsPermissionDenied, "network ingress"},
		"IPv6":             {create(overlayRequest("x", subnet("fd00::/64"))), errdefs.IsNotImplemented, "IPv6"},
		"gateway outside": {create(overlayRequest("x", subnet("10.1.0.0/24"), func(r *apinetwork.CreateRequest) { r.IPAM.Config[0].Gateway = netip.MustParseAddr("10.2.0.1") })),
			errdefs.IsInvalidArgument, "invalid gateway 10.2.0.1: parent subnet 10.1.0.0/24 doesn't contain this address"},
		"encrypted":          {create(overlayRequest("x", option(cluster.OptionEncrypted, ""))), errdefs.IsNotImplemented, "encrypted"},
		"MTU":                {create(overlayRequest("x", option(cluster.OptionMTU, "12"))), errdefs.IsInvalidArgument, `"12"`},
		"identifier":         {create(overlayRequest("x", option(cluster.OptionVNI, "16777216"))), errdefs.IsInvalidArgument, "16777216"},
		"taken identifier":   {create(overlayRequest("x", option(cluster.OptionVNI, "4097"))), errdefs.IsInvalidArgument, "in use by network a"},
		"in use":             {c.RemoveNetwork(t.Context(), "a", false), errdefs.IsFailedPrecondition, "network " + id + " is in use by service " + web},
		"not there":          {c.RemoveNetwork(t.Context(), "nope", false), errdefs.IsNotFound, "network nope not found"},
		"service on none":    {service("nope"), errdefs.IsNotFound, "network nope not found"},
		"service on ingress": {service("ingress"), errdefs.IsInvalidArgument, "Service cannot be explicitly attached to the ingress network"},
		"service twice":      {service("a", id), errdefs.IsInvalidArgument, "network a is named twice"},
		"service host and a": {service("host", "a"), errdefs.IsInvalidArgument, "host's own network"},
	} {
		if tc.err == nil || !tc.is(tc.err) || !strings.Contains(tc.err.Error(), tc.text) {
			t.Errorf("%s: %v, want %q", name, tc.err, tc.text)
		}
	}
	if s.Index() != before {
		t.Errorf("a refusal changed something")
	}
	// A service that is gone leaves its network removable, although the planners have not told its tasks yet. Another
	// service's task that still has what an update took from it keeps the network until it is to go.
	other := mustCreate(t, c, spec("other", 1))
	if err := c.RemoveService(t.Context(), "web"); err != nil {
		t.Fatal(err)
	}
	orphan := &cluster.Task{}
	orphan.ID, orphan.ServiceID, orphan.NodeID, orphan.Status.State, orphan.DesiredState = "orphan", web, "node1id", swarm.TaskStateRunning, swarm.TaskStateRunning
	orphan.NetworksAttachments = []swarm.NetworkAttachment{{Network: swarm.Network{ID: id}, Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.1.4/24")}}}
	task := &cluster.Task{}
	task.ServiceID = other
	task.ID, task.NodeID, task.Status.State, task.DesiredState = "t", "node1id", swarm.TaskStateRunning, swarm.TaskStateRunning
	task.NetworksAttachments = []swarm.NetworkAttachment{{Network: swarm.Network{ID: id}, Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.1.5/24")}}}
	if _, err := s.Update(t.Context(), func(tx *store.Tx) error { tx.Write(store.Create(task)); tx.Write(store.Create(orphan)); return nil }); err != nil {
		t.Fatal(err)
	}
	if err := c.RemoveNetwork(t.Context(), "a", false); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "in use by task t") {
		t.Error(err)
	}
	have, _ := store.Get[*cluster.Task](s.Snapshot(), "t")
	done := have.Clone().(*cluster.Task)
	done.DesiredState = swarm.TaskStateRemove
	if _, err := s.Update(t.Context(), func(tx *store.Tx) error { tx.Write(store.PutSpec(done)); return nil }); err != nil {
		t.Fatal(err)
	}
	if err := c.RemoveNetwork(t.Context(), id, false); err != nil {
		t.Error(err)
	}
	if slices.ContainsFunc(slices.Collect(store.List[*cluster.Claim](s.Snapshot())), func(c *cluster.Claim) bool { return c.Owner == id }) {
		t.Error("a claim of the removed network is left")
	}
}

// allocates gives new attachments addresses, as the address planner does, until the test ends.
func allocates(t *testing.T, s *store.Store) {
	t.Helper()
	w, _ := s.Watch()
	done := make(chan struct{})
	t.Cleanup(func() { w.Close(); <-done })
	go func() {
		defer close(done)
		for {
			events, _, err := w.Next(t.Context())
			if err != nil {
				return
			}
			for _, e := range events {
				k, ok := e.New.(*cluster.Task)
				if !ok || k.Status.State != swarm.TaskStateNew || k.Status.Err != "" {
					continue
				}
				c := cluster.Fork(k)
				if addr := k.Asked; addr == netip.MustParseAddr("10.5.0.66") {
					c.Status.Err = "Address already in use"
				} else {
					if !addr.IsValid() {
						addr = netip.MustParseAddr("10.5.0.10")
					}
					c.NetworksAttachments = []swarm.NetworkAttachment{{Network: swarm.Network{ID: k.Spec.Networks[0].Target}, Addresses: []netip.Prefix{netip.PrefixFrom(addr, 24)}}}
					c.Status.State = swarm.TaskStateRunning
				}
				if _, _, err := s.Propose(t.Context(), []store.Group{{Changes: []store.Change{store.PutBoth(c)}}}); err != nil {
					return
				}
			}
		}
	}()
}

func TestAttachments(t *testing.T) {
	c, s := newControl(t, fakeRegistry{})
	for _, r := range []apinetwork.CreateRequest{
		overlayRequest("team", subnet("10.5.0.0/24"), func(r *apinetwork.CreateRequest) { r.Attachable = true }), overlayRequest("closed"),
	} {
		if _, err := c.CreateNetwork(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	allocates(t, s)
	ask := func(id string, change ...func(*cluster.AttachRequest)) cluster.AttachRequest {
		r := cluster.AttachRequest{TaskID: id, ContainerID: "c1", Network: "team", Names: []string{"one", "alias"}}
		for _, f := range change {
			f(&r)
		}
		return r
	}
	addr := func(a string) func(*cluster.AttachRequest) {
		return func(r *cluster.AttachRequest) { r.Addr = netip.MustParseAddr(a) }
	}
	network := func(n string) func(*cluster.AttachRequest) {
		return func(r *cluster.AttachRequest) { r.Network = n }
	}
	anew := func(r *cluster.AttachRequest) { r.Anew = true }
	for _, tt := range []struct {
		name, node string
		ask        cluster.AttachRequest
		want       string // the attachment, or the refusal
	}{
		{"a first one", "node1id", ask("t1"), "t1 10.5.0.10"},
		{"the same again", "node1id", ask("t2"), "t1 10.5.0.10"},
		{"asked again by its ID", "node1id", ask("t1", anew), "t1 10.5.0.10"},
		{"one that does not count", "node1id", ask("t3", anew), "t3 10.5.0.10"},
		{"another address", "node1id", ask("t4", addr("10.5.0.20")), "t4 10.5.0.20"},
		{"that address again", "node1id", ask("t5", addr("10.5.0.20")), "t4 10.5.0.20"},
		{"an address that is taken", "node1id", ask("t6", addr("10.5.0.66")), "Address already in use"},
		{"a network that is not attachable", "node1id", ask("t7", network("closed")), "network closed not manually attachable"},
		{"no such network", "node1id", ask("t8", network("nowhere")), "network nowhere not found"},
		{"no such node", "node9id", ask("t9"), "node node9id not found"},
		{"no name", "node1id", ask("t10", func(r *cluster.AttachRequest) { r.Names = nil }), "an attachment needs an ID, a container and its name"},
	} {
		a, err := c.Attach(t.Context(), tt.node, tt.ask)
		got := ""
		if err != nil {
			got = err.Error()
		} else {
			got = a.TaskID + " " + a.Addr.String()
		}
		if got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
	if tasks := slices.Collect(s.Snapshot().TasksByNode("node1id")); len(tasks) != 0 {
		t.Errorf("one that was refused left %d tasks", len(tasks))
	}
	if _, err := c.Attach(t.Context(), "node1id", ask("t11")); err != nil {
		t.Fatal(err)
	}
	for want, filter := range map[int]map[string][]string{0: nil, 1: {"runtime": {"attachment"}}} {
		if list, err := c.Tasks(t.Context(), filter); err != nil || len(list) != want {
			t.Errorf("%v lists %d tasks, %v", filter, len(list), err)
		}
	}
	if err := c.Detach(t.Context(), "node2id", []string{"t11"}); err != nil || s.Snapshot().Index() == 0 {
		t.Error(err)
	}
	if _, ok := store.Get[*cluster.Task](s.Snapshot(), "t11"); !ok {
		t.Error("another node gave it back")
	}
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := c.RemoveNetwork(short, "team", false); err == nil {
		t.Error("a network that a container is on was removed")
	}
	go func() { _ = c.Detach(t.Context(), "node1id", []string{"t11", "t99"}) }()
	if err := c.RemoveNetwork(t.Context(), "team", false); err != nil {
		t.Error(err)
	}
}

func TestReservedAddresses(t *testing.T) {
	c, s := newControl(t, fakeRegistry{})
	aux := func(a string) func(*apinetwork.CreateRequest) {
		return func(r *apinetwork.CreateRequest) {
			r.IPAM = &apinetwork.IPAM{Config: []apinetwork.IPAMConfig{{
				Subnet: netip.MustParsePrefix("10.6.0.0/24"), Gateway: netip.MustParseAddr("10.6.0.1"), AuxAddress: map[string]netip.Addr{"printer": netip.MustParseAddr(a)},
			}}}
		}
	}
	for a, want := range map[string]string{
		"10.7.0.5": "invalid auxiliary address printer: parent subnet 10.6.0.0/24 doesn't contain this address", "10.6.0.1": "invalid auxiliary address printer: Address already in use",
	} {
		if _, err := c.CreateNetwork(t.Context(), overlayRequest("a", aux(a))); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", a, err)
		}
	}
	id, err := c.CreateNetwork(t.Context(), overlayRequest("a", aux("10.6.0.5")))
	if err != nil {
		t.Fatal(err)
	}
	claim := cluster.ClaimAddr(id, netip.MustParseAddr("10.6.0.5"))
	if cl, ok := store.Get[*cluster.Claim](s.Snapshot(), claim); !ok || cl.Owner != id {
		t.Errorf("%+v", cl)
	}
	if i, err := c.Network(t.Context(), "a", false); err != nil || i.IPAM.Config[0].AuxAddress["printer"] != netip.MustParseAddr("10.6.0.5") {
		t.Errorf("%+v %v", i, err)
	}
	if err := c.RemoveNetwork(t.Context(), "a", false); err != nil {
		t.Fatal(err)
	}
	if _, ok := store.Get[*cluster.Claim](s.Snapshot(), claim); ok {
		t.Error("the address stays reserved")
	}
}

// TestIngress replaces the routing mesh's network, which only one can be and no service may need meanwhile.
func TestIngress(t *testing.T) {
	c, s := newControl(t, fakeRegistry{})
	mesh := func(r *apinetwork.CreateRequest) { r.Ingress = true }
	first, err := c.CreateNetwork(t.Context(), overlayRequest("ingress", mesh))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.CreateNetwork(t.Context(), overlayRequest("mine", mesh)); !errdefs.IsAlreadyExists(err) || err.Error() != "ingress network ("+first+") is already present" {
		t.Error(err)
	}
	web := &cluster.Service{}
	web.ID, web.Spec.Name = "webid", "web"
	web.Spec.EndpointSpec = &swarm.EndpointSpec{Ports: []swarm.PortConfig{{TargetPort: 80, PublishedPort: 8080}}}
	if _, err := s.Update(t.Context(), func(tx *store.Tx) error { tx.Write(store.Create(web)); return nil }); err != nil {
		t.Fatal(err)
	}
	if err := c.RemoveNetwork(t.Context(), "ingress", false); !errdefs.IsFailedPrecondition(err) || err.Error() != "ingress network cannot be removed because service webid depends on it" {
		t.Error(err)
	}
	if _, err := s.Update(t.Context(), func(tx *store.Tx) error {
		w, _ := store.Get[*cluster.Service](tx.Snapshot, "webid")
		tx.Write(store.Delete(w))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := c.RemoveNetwork(t.Context(), "ingress", false); err != nil {
		t.Fatal(err)
	}
	if _, err := c.CreateNetwork(t.Context(), overlayRequest("mine", mesh, subnet("10.11.0.0/16"))); err != nil || !record(t, s, "mine").Spec.Ingress {
		t.Error(err)
	}
}

func TestVerboseNetwork(t *testing.T) {
	c, s := newControl(t, fakeRegistry{})
	id, err := c.CreateNetwork(t.Context(), overlayRequest("a"))
	if err != nil {
		t.Fatal(err)
	}
	web := &cluster.Service{}
	web.ID, web.Spec.Name = "webid", "web"
	web.Spec.TaskTemplate.Networks = []swarm.NetworkAttachmentConfig{{Target: id}}
	web.Endpoint.VirtualIPs = []swarm.EndpointVirtualIP{{NetworkID: id, Addr: netip.MustParsePrefix("10.0.1.2/24")}}
	k := &cluster.Task{ServiceName: "web"}
	k.ID, k.ServiceID, k.NodeID, k.Slot, k.DesiredState = "t1", "webid", "node1id", 1, swarm.TaskStateRunning
	k.Status.State = swarm.TaskStateRunning
	k.NetworksAttachments = []swarm.NetworkAttachment{{Network: swarm.Network{ID: id}, Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.1.3/24")}}}
	if _, err := s.Update(t.Context(), func(tx *store.Tx) error { tx.Write(store.Create(web)); tx.Write(store.Create(k)); return nil }); err != nil {
		t.Fatal(err)
	}
	if i, err := c.Network(t.Context(), "a", false); err != nil || i.Services != nil || len(i.Peers) != 1 || i.Peers[0].Name != "node1-node1id" {
		t.Errorf("%+v %v", i, err)
	}
	i, err := c.Network(t.Context(), "a", true)
	if err != nil {
		t.Fatal(err)
	}
	if w := i.Services["web"]; w.VIP != netip.MustParseAddr("10.0.1.2") || len(w.Tasks) != 1 || w.Tasks[0].Name != "web.1.t1" || w.Tasks[0].EndpointIP != netip.MustParseAddr("10.0.1.3") {
		t.Errorf("%+v", i.Services)
	}
}
