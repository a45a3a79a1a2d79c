package level_test

import (
	"strings"
	"testing"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/reconcile/level"
	"shoal.dev/shoal/internal/reconcile/plantest"
)

func TestPlan(t *testing.T) {
	manager := func(l int) func(*cluster.Node) {
		return func(n *cluster.Node) { n.Spec.Role, n.Level = swarm.NodeRoleManager, l }
	}
	worker := func(l int) func(*cluster.Node) { return func(n *cluster.Node) { n.Level = l } }
	demoted := func(l int) func(*cluster.Node) {
		return func(n *cluster.Node) { n.Level, n.ManagerStatus = l, &swarm.ManagerStatus{} }
	}
	down := func(l int) func(*cluster.Node) {
		return func(n *cluster.Node) { manager(l)(n); n.Status.State = swarm.NodeStateDown }
	}
	tests := []struct {
		name   string
		swarm  int
		nodes  []func(*cluster.Node)
		want   int
		reason string
	}{
		{"from before levels", 0, []func(*cluster.Node){manager(0), manager(0)}, 0, ""},
		{"one is newer", 0, []func(*cluster.Node){manager(0), manager(5)}, 0, "stays at feature level 1 until manager host-a has a newer version; others know level 5"},
		{"all are newer", 0, []func(*cluster.Node){manager(6), manager(5)}, 5, "until manager host-b"},
		{"workers do not count", 0, []func(*cluster.Node){manager(5), worker(0)}, 5, ""},
		{"one that is being demoted counts", 0, []func(*cluster.Node){manager(5), demoted(0)}, 0, "host-b"},
		{"one that is down counts", 0, []func(*cluster.Node){manager(5), down(0)}, 0, "host-b"},
		{"it never falls", 5, []func(*cluster.Node){manager(5), manager(1)}, 5, "stays at feature level 5"},
		{"nobody", 5, nil, 5, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := plantest.New(t)
			s.Put(&cluster.Swarm{Level: tt.swarm})
			for i, f := range tt.nodes {
				s.Node(string(rune('a'+i)), f)
			}
			s.Settle(level.Planner{})
			if got := plantest.Get[*cluster.Swarm](s, cluster.SingletonID).Level; got != tt.want {
				t.Errorf("level %d, want %d", got, tt.want)
			}
			_, reasons, _ := s.Plan(level.Planner{})
			if got := strings.Join(reasons, ";"); !strings.Contains(got, tt.reason) || tt.reason == "" && got != "" {
				t.Errorf("reasons %q", got)
			}
		})
	}
}
