package gate_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/reconcile"
	"shoal.dev/shoal/internal/reconcile/gate"
	"shoal.dev/shoal/internal/reconcile/plantest"
	"shoal.dev/shoal/internal/store"
)

func TestConditions(t *testing.T) {
	type state struct {
		slot           int
		state, desired swarm.TaskState
	}
	two := uint64(2)
	replicated := swarm.ServiceMode{Replicated: &swarm.ReplicatedService{Replicas: &two}}
	job := swarm.ServiceMode{ReplicatedJob: &swarm.ReplicatedJob{TotalCompletions: &two}}
	none := uint64(0)
	for _, c := range []struct {
		name      string
		condition string
		mode      swarm.ServiceMode
		tasks     []state
		met       bool
	}{
		{"nothing there yet", cluster.ServiceStarted, replicated, nil, false},
		{"one of two", cluster.ServiceStarted, replicated, []state{{1, "running", "running"}, {2, "preparing", "running"}}, false},
		{"started, not healthy yet", cluster.ServiceStarted, replicated, []state{{1, "running", "running"}, {2, "starting", "running"}}, true},
		{"not healthy yet", cluster.ServiceHealthy, replicated, []state{{1, "running", "running"}, {2, "starting", "running"}}, false},
		{"healthy", cluster.ServiceHealthy, replicated, []state{{1, "running", "running"}, {2, "running", "running"}}, true},
		{"one slot twice", cluster.ServiceHealthy, replicated, []state{{1, "running", "running"}, {1, "running", "running"}}, false},
		{"one that is to stop", cluster.ServiceHealthy, replicated, []state{{1, "running", "running"}, {2, "running", "shutdown"}}, false},
		{"scaled to nothing", cluster.ServiceHealthy, swarm.ServiceMode{Replicated: &swarm.ReplicatedService{Replicas: &none}}, nil, true},
		{"running is not completed", cluster.ServiceCompleted, replicated, []state{{1, "complete", "shutdown"}, {2, "running", "running"}}, false},
		{"failed is not completed", cluster.ServiceCompleted, replicated, []state{{1, "complete", "shutdown"}, {2, "failed", "shutdown"}}, false},
		{"completed", cluster.ServiceCompleted, replicated, []state{{1, "complete", "shutdown"}, {2, "complete", "shutdown"}}, true},
		{"half a job", cluster.ServiceCompleted, job, []state{{1, "complete", "complete"}}, false},
		{"a job", cluster.ServiceCompleted, job, []state{{1, "complete", "complete"}, {2, "complete", "complete"}}, true},
		{"a job that has begun", cluster.ServiceStarted, job, []state{{1, "running", "complete"}}, true},
		{"a global service without a node", cluster.ServiceStarted, swarm.ServiceMode{Global: &swarm.GlobalService{}}, nil, false},
		{"a global service", cluster.ServiceHealthy, swarm.ServiceMode{Global: &swarm.GlobalService{}}, []state{{1, "running", "running"}}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := plantest.New(t)
			s.Service("web", 1, func(v *cluster.Service) {
				v.Spec.Name = "shop_web"
				v.Spec.Labels = map[string]string{cluster.LabelStack: "shop", cluster.LabelDependsOn: "db:" + c.condition}
			})
			if s.Settle(gate.Planner{}); len(plantest.Get[*cluster.Service](s, "web").Met) > 0 {
				t.Fatal("met by a service that is not there")
			}
			s.Service("db", 1, func(v *cluster.Service) {
				v.Spec.Name, v.Spec.Mode = "shop_db", c.mode
				if c.mode.ReplicatedJob != nil {
					v.JobStatus = &swarm.JobStatus{JobIteration: swarm.Version{Index: 1}}
				}
			})
			last := &cluster.Task{}
			put := func(k state, run uint64) {
				x := &cluster.Task{ServiceName: "shop_db"}
				x.ID, x.ServiceID, x.Slot, x.Status.State, x.DesiredState = s.NewID(), "db", k.slot, k.state, k.desired
				if c.mode.ReplicatedJob != nil {
					x.JobIteration = &swarm.Version{Index: run}
				}
				s.Put(x)
				last = x
			}
			for _, k := range []int{1, 2} { // an older run of a job says nothing
				if c.mode.ReplicatedJob != nil {
					put(state{k, "complete", "remove"}, 0)
				}
			}
			for _, k := range c.tasks {
				put(k, 1)
			}
			if len(c.tasks) > 0 { // a task's event asks for the plan
				if keys := (gate.Planner{}).Keys(s.Store.Snapshot(), store.Event{Kind: cluster.KindTask, ID: last.ID, New: last}); !slices.Equal(keys, []reconcile.Key{"web"}) {
					t.Errorf("keys %v", keys)
				}
			}
			s.Settle(gate.Planner{})
			if met := len(plantest.Get[*cluster.Service](s, "web").Unmet()) == 0; met != c.met {
				t.Fatalf("met is %t", met)
			}
			if !c.met {
				return
			}
			// What was met stays met.
			for _, k := range s.Tasks("db") {
				plantest.Change(s, k.ID, func(x *cluster.Task) { x.Status.State = "failed" })
			}
			if s.Settle(gate.Planner{}); len(plantest.Get[*cluster.Service](s, "web").Unmet()) > 0 {
				t.Error("it waits again")
			}
			// Another dependency is looked at for itself.
			plantest.Change(s, "web", func(v *cluster.Service) { v.Spec.Labels[cluster.LabelDependsOn] += ",cache" })
			if u := plantest.Get[*cluster.Service](s, "web").Unmet(); len(u) != 1 || u[0].String() != "cache (started)" {
				t.Errorf("waits for %v", u)
			}
		})
	}
}

func TestParse(t *testing.T) {
	for text, want := range map[string]string{
		"db": "db (started)", "db:service_healthy, m:service_completed_successfully": "db (healthy) m (completed successfully)",
		":service_started": "a service has no name", "db:ready": `the condition "ready" of service db is none of`, "db,db:service_healthy": "service db is named twice",
	} {
		deps, err := cluster.ParseDependencies(map[string]string{cluster.LabelDependsOn: text})
		var got []string
		for _, d := range deps {
			got = append(got, d.String())
		}
		if err != nil {
			got = append(got, err.Error())
		}
		if !strings.Contains(strings.Join(got, " "), want) {
			t.Errorf("%s: %v", text, got)
		}
	}
}
