package control_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/store"
)

func TestFiltersOfNodes(t *testing.T) {
	c, s := newControl(t, fakeRegistry{})
	if _, err := s.Update(t.Context(), func(tx *store.Tx) error {
		for id, host := range map[string]string{"aaa1": "web1", "aaa2": "web2", "bbb1": "db1"} {
			n := &cluster.Node{}
			n.ID, n.Description.Hostname, n.Spec.Role = id, host, swarm.NodeRoleWorker
			n.Spec.Labels = map[string]string{"rack": id[:1], "disk": ""}
			n.Description.Engine.Labels = map[string]string{"os": host[:2]}
			tx.Write(store.Create(n))
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	type f = map[string][]string
	for _, tc := range []struct {
		name string
		f    f
		want string
	}{
		{"none", nil, "aaa1 aaa2 bbb1 node1id"},
		{"a prefix of IDs", f{"id": {"aaa"}}, "aaa1 aaa2"},
		{"two IDs", f{"id": {"aaa1", "bbb1"}}, "aaa1 bbb1"},
		{"a prefix of names", f{"name": {"web"}}, "aaa1 aaa2"},
		{"a node's label", f{"node.label": {"rack=a"}}, "aaa1 aaa2"},
		{"a node's label of any value", f{"node.label": {"rack"}}, "aaa1 aaa2 bbb1"},
		{"a node's label of no value", f{"node.label": {"rack="}}, "aaa1 aaa2 bbb1"},
		{"two labels of a node", f{"node.label": {"rack=a", "disk"}}, "aaa1 aaa2"},
		{"an engine's label", f{"label": {"os=db"}}, "bbb1"},
		{"a role", f{"role": {"manager"}}, "node1id"},
		{"a role in capitals", f{"role": {"Worker"}}, "aaa1 aaa2 bbb1"},
		{"both roles", f{"role": {"worker", "manager"}}, "aaa1 aaa2 bbb1 node1id"},
		{"accepted", f{"membership": {"accepted"}}, "aaa1 aaa2 bbb1 node1id"},
		{"pending", f{"membership": {"pending"}}, ""},
		{"a role and a name", f{"role": {"worker"}, "name": {"db"}}, "bbb1"},
		{"an unknown filter", f{"state": {"ready"}}, "invalid filter 'state'"},
		{"an unknown role", f{"role": {"boss"}}, "Invalid role filter: 'boss'"},
		{"an unknown membership", f{"membership": {"guest"}}, "Invalid membership filter: 'guest'"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			nodes, err := c.Nodes(t.Context(), tc.f)
			var ids []string
			for _, n := range nodes {
				ids = append(ids, n.ID)
			}
			slices.Sort(ids)
			got := strings.Join(ids, " ")
			if err != nil {
				got = err.Error()
				if !errdefs.IsInvalidArgument(err) {
					t.Errorf("the class of %v", err)
				}
			}
			if got != tc.want {
				t.Errorf("%s, want %s", got, tc.want)
			}
		})
	}
	if _, err := c.Tasks(t.Context(), f{"node": {"node1"}, "desired-state": {"Running", "shutdown"}}); err != nil {
		t.Error(err)
	}
	if _, err := c.Tasks(t.Context(), f{"desired-state": {"tired"}}); err == nil || err.Error() != "Invalid desired-state filter: 'tired'" {
		t.Errorf("%v", err)
	}
}

func TestANodesSpecificationInCapitals(t *testing.T) {
	c, _ := newControl(t, fakeRegistry{})
	n, err := c.Node(t.Context(), "node1")
	if err != nil {
		t.Fatal(err)
	}
	n.Spec.Availability, n.Spec.Role = "Drain", "MANAGER"
	if err := c.UpdateNode(t.Context(), n.ID, n.Version.Index, n.Spec); err != nil {
		t.Fatal(err)
	}
	if n, err = c.Node(t.Context(), "node1"); err != nil || n.Spec.Availability != swarm.NodeAvailabilityDrain || n.Spec.Role != swarm.NodeRoleManager {
		t.Errorf("%+v, %v", n, err)
	}
	for want, change := range map[string]func(*swarm.NodeSpec){
		`invalid Availability: "asleep"`: func(s *swarm.NodeSpec) { s.Availability = "asleep" },
		`invalid Role: "boss"`:           func(s *swarm.NodeSpec) { s.Role = "boss" },
	} {
		spec := n.Spec
		change(&spec)
		if err := c.UpdateNode(t.Context(), n.ID, n.Version.Index, spec); err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
}
