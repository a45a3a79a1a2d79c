package control_test

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/control"
	"shoal.dev/shoal/internal/store"
)

func scaled(replicas uint64, labels ...string) swarm.ServiceSpec {
	s := spec("web", replicas)
	s.TaskTemplate.Resources = &swarm.ResourceRequirements{Reservations: &swarm.Resources{NanoCPUs: 5e8}}
	s.Labels = map[string]string{}
	for _, l := range labels {
		k, v, _ := strings.Cut(l, "=")
		s.Labels["shoal.autoscale."+k] = v
	}
	return s
}

func TestAutoscalingIsChecked(t *testing.T) {
	c, _ := newControl(t, fakeRegistry{})
	for _, tc := range []struct {
		name string
		spec swarm.ServiceSpec
		want string
	}{
		{"no bound", scaled(1, "min=2"), "label shoal.autoscale.min: the service has no label shoal.autoscale.max"},
		{"no number", scaled(1, "max=many", "cpu=50"), `label shoal.autoscale.max: "many": must be a number from 1 to 10000`},
		{"none", scaled(1, "max=3", "min=0", "cpu=50"), `label shoal.autoscale.min: "0": must be a number from 1 to 10000`},
		{"crossed", scaled(1, "max=3", "min=4", "cpu=50"), "label shoal.autoscale.min: 4 is more than shoal.autoscale.max, which is 3"},
		{"no target", scaled(1, "max=3"), "label shoal.autoscale.max: there is no target: set shoal.autoscale.cpu, shoal.autoscale.memory or shoal.autoscale.connections"},
		{"percent", scaled(1, "max=3", "cpu=NaN"), `label shoal.autoscale.cpu: "NaN": must be percent, from 1 to 10000`},
		{"of nothing", scaled(1, "max=3", "memory=50"), "label shoal.autoscale.memory: percent of what? Set a memory reservation or limit"},
		{"no rate", scaled(1, "max=3", "connections=0"), `label shoal.autoscale.connections: "0": must be connections a second, more than 0 and at most 1000000`},
		{"no port", scaled(1, "max=3", "connections=50"), "label shoal.autoscale.connections: the service publishes no port on the routing mesh, where connections are counted"},
		{"window", scaled(1, "max=3", "cpu=50", "down-window=2h"), `label shoal.autoscale.down-window: "2h": must be a duration from 0s to 1h0m0s`},
		{"tolerance", scaled(1, "max=3", "cpu=50", "tolerance=1"), `label shoal.autoscale.tolerance: "1": must be a number from 0 to less than 1`},
		{"unknown", scaled(1, "max=3", "cpu=50", "mood=good"), "label shoal.autoscale.mood: it is not known"},
		{"global", func() swarm.ServiceSpec {
			s := scaled(1, "max=3", "cpu=50")
			s.Mode = swarm.ServiceMode{Global: &swarm.GlobalService{}}
			return s
		}(), "label shoal.autoscale.max: only replicated services are scaled"},
	} {
		if _, err := c.CreateService(t.Context(), tc.spec, "", false); !errdefs.IsInvalidArgument(err) || err.Error() != tc.want {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}

// What the swarm chose is shown as the number of replicas; a user's update leaves it as it is unless it says another one.
func TestScalingByHandAndByUsage(t *testing.T) {
	c, st := newControl(t, fakeRegistry{})
	mustCreate(t, c, scaled(1, "min=2", "max=8", "cpu=50"))
	update := func(change func(*swarm.ServiceSpec)) []string {
		t.Helper()
		s, err := c.Service(t.Context(), "web", false)
		if err != nil {
			t.Fatal(err)
		}
		change(&s.Spec)
		r, err := c.UpdateService(t.Context(), "web", s.Version.Index, s.Spec, control.UpdateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return r.Warnings
	}
	has := func(what string, want uint64) {
		t.Helper()
		all, err := c.Services(t.Context(), nil, true)
		if err != nil || *all[0].Spec.Mode.Replicated.Replicas != want || all[0].ServiceStatus.DesiredTasks != want {
			t.Errorf("%s: %d replicas, %+v, want %d, %v", what, *all[0].Spec.Mode.Replicated.Replicas, all[0].ServiceStatus, want, err)
		}
	}
	to := func(n uint64) func(*swarm.ServiceSpec) {
		return func(s *swarm.ServiceSpec) { s.Mode.Replicated.Replicas = &n }
	}
	has("created", 2)
	if _, err := st.Update(t.Context(), func(tx *store.Tx) error { // as the planner does
		s, _ := tx.ServiceByName("web")
		n := s.Clone().(*cluster.Service)
		n.Scale = &cluster.ScaleStatus{Replicas: 2}
		n.Scale.Decide(5, st.Now(), "cpu 100% of 50%: 5 wanted")
		tx.Write(store.PutState(n))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	has("scaled by usage", 5)
	update(func(s *swarm.ServiceSpec) { s.Labels["a"] = "b" })
	has("updated", 5)
	update(to(7))
	has("scaled by hand", 7)
	if w := update(to(20)); len(w) != 1 || w[0] != "replicas 20 is not from 2 (label shoal.autoscale.min) to 8 (label shoal.autoscale.max): the service has 8" {
		t.Errorf("warnings %q", w)
	}
	has("scaled too far", 8)
	update(to(0))
	has("scaled to nothing", 0)
	update(to(3))
	has("and up again", 3)
	update(func(s *swarm.ServiceSpec) { s.Labels = nil })
	has("by hand from now on", 3)
}
