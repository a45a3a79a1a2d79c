package service_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/swarm"
	"pgregory.net/rapid"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/reconcile/plantest"
	"shoal.dev/shoal/internal/reconcile/service"
	"shoal.dev/shoal/internal/store"
)

// show is the tasks of a service, a line each: slot, state, desired state, node; sorted.
func show(s *plantest.Swarm, id string) []string {
	var out []string
	for _, t := range s.Tasks(id) {
		line := fmt.Sprintf("%d %s/%s", t.Slot, t.Status.State, t.DesiredState)
		if t.NodeID != "" {
			line += " " + t.NodeID
		}
		if t.Attempt > 0 {
			line += fmt.Sprintf(" attempt %d", t.Attempt)
		}
		out = append(out, line)
	}
	slices.Sort(out)
	return out
}

// run puts the tasks of a service on nodes in the order of their slots, running.
func run(s *plantest.Swarm, id string, nodes ...string) {
	s.Helper()
	ts := s.Tasks(id)
	slices.SortFunc(ts, func(a, b *cluster.Task) int { return a.Slot - b.Slot })
	i := 0
	for _, t := range ts {
		if t.NodeID == "" && t.WantsToRun() {
			plantest.Change(s, t.ID, func(t *cluster.Task) {
				t.NodeID, t.Status.State = nodes[i%len(nodes)], swarm.TaskStateRunning
			})
			i++
		}
	}
}

func policy(f func(*swarm.RestartPolicy)) func(*cluster.Service) {
	return func(v *cluster.Service) {
		v.Spec.TaskTemplate.RestartPolicy = &swarm.RestartPolicy{}
		f(v.Spec.TaskTemplate.RestartPolicy)
	}
}

func end(s *plantest.Swarm, id string, slot int, state swarm.TaskState) {
	s.Helper()
	for _, t := range s.Tasks(id) {
		if t.Slot == slot && !t.Ended() {
			plantest.Change(s, t.ID, func(t *cluster.Task) { t.Status.State = state })
		}
	}
}

func TestPlan(t *testing.T) {
	var p service.Planner
	replicas := func(s *plantest.Swarm, n uint64) {
		plantest.Change(s, "web", func(v *cluster.Service) { v.Spec.Mode.Replicated.Replicas = &n })
	}
	tests := []struct {
		name string
		do   func(s *plantest.Swarm)
		want []string
	}{
		{"create", func(s *plantest.Swarm) { s.Service("web", 2) },
			[]string{"1 pending/running", "2 pending/running"}},
		{"zero replicas", func(s *plantest.Swarm) { s.Service("web", 0) }, nil},
		{"no mode is one replica", func(s *plantest.Swarm) {
			s.Service("web", 3, func(v *cluster.Service) { v.Spec.Mode = swarm.ServiceMode{} })
		}, []string{"1 pending/running"}},
		{"scale up fills the lowest slots", func(s *plantest.Swarm) {
			s.Service("web", 1)
			s.Plan(p)
			run(s, "web", "n1")
			replicas(s, 3)
		}, []string{"1 running/running n1", "2 pending/running", "3 pending/running"}},
		{"scale down takes what does not run", func(s *plantest.Swarm) {
			s.Service("web", 3)
			s.Plan(p)
			run(s, "web", "n1", "n2", "n2")
			end(s, "web", 1, swarm.TaskStatePreparing)
			replicas(s, 2)
		}, []string{"1 preparing/remove n1", "2 running/running n2", "3 running/running n2"}},
		{"scale down takes from the fullest node", func(s *plantest.Swarm) {
			s.Service("web", 4)
			s.Plan(p)
			run(s, "web", "n1", "n2", "n2", "n2")
			replicas(s, 2)
		}, []string{"1 running/running n1", "2 running/running n2", "3 running/remove n2", "4 running/remove n2"}},
		{"scale down and up again", func(s *plantest.Swarm) {
			s.Service("web", 1)
			s.Plan(p)
			run(s, "web", "n1")
			replicas(s, 0)
			s.Plan(p)
			replicas(s, 1)
		}, []string{"1 pending/running", "1 running/remove n1"}},
		{"service gone", func(s *plantest.Swarm) {
			v := s.Service("web", 2)
			s.Plan(p)
			run(s, "web", "n1")
			end(s, "web", 2, swarm.TaskStateFailed)
			s.Plan(p)
			v = plantest.Get[*cluster.Service](s, "web")
			if _, err := s.Store.Update(s.Context(), func(tx *store.Tx) error { tx.Write(store.Delete(v)); return nil }); err != nil {
				s.Fatal(err)
			}
		}, []string{"1 running/remove n1", "2 failed/remove n1", "2 pending/remove attempt 1"}},
		{"a task that ended is replaced after the delay", func(s *plantest.Swarm) {
			s.Service("web", 1)
			s.Plan(p)
			run(s, "web", "n1")
			end(s, "web", 1, swarm.TaskStateFailed)
		}, []string{"1 failed/shutdown n1", "1 pending/ready attempt 1"}},
		{"and started then", func(s *plantest.Swarm) {
			s.Service("web", 1)
			s.Plan(p)
			run(s, "web", "n1")
			end(s, "web", 1, swarm.TaskStateComplete)
			_, _, again := s.Plan(p)
			if want := s.At.Add(5 * time.Second); !again.Equal(want) {
				s.Errorf("looks again at %v, not %v", again, want)
			}
			s.At = again
		}, []string{"1 complete/shutdown n1", "1 pending/running attempt 1"}},
		{"without a delay at once", func(s *plantest.Swarm) {
			s.Service("web", 1, policy(func(r *swarm.RestartPolicy) { d := time.Duration(0); r.Delay = &d }))
			s.Plan(p)
			run(s, "web", "n1")
			end(s, "web", 1, swarm.TaskStateRejected)
		}, []string{"1 pending/running attempt 1", "1 rejected/shutdown n1"}},
		{"condition none", func(s *plantest.Swarm) {
			s.Service("web", 1, policy(func(r *swarm.RestartPolicy) { r.Condition = "none" }))
			s.Plan(p)
			run(s, "web", "n1")
			end(s, "web", 1, swarm.TaskStateFailed)
		}, []string{"1 failed/shutdown n1"}},
		{"condition on-failure, completed", func(s *plantest.Swarm) {
			s.Service("web", 1, policy(func(r *swarm.RestartPolicy) { r.Condition = "on-failure" }))
			s.Plan(p)
			run(s, "web", "n1")
			end(s, "web", 1, swarm.TaskStateComplete)
		}, []string{"1 complete/shutdown n1"}},
		{"condition on-failure, failed", func(s *plantest.Swarm) {
			s.Service("web", 1, policy(func(r *swarm.RestartPolicy) { r.Condition = "on-failure" }))
			s.Plan(p)
			run(s, "web", "n1")
			end(s, "web", 1, swarm.TaskStateFailed)
		}, []string{"1 failed/shutdown n1", "1 pending/ready attempt 1"}},
		{"max attempts", func(s *plantest.Swarm) {
			s.Service("web", 1, policy(func(r *swarm.RestartPolicy) {
				n, d := uint64(1), time.Duration(0)
				r.MaxAttempts, r.Delay = &n, &d
			}))
			for range 3 {
				s.Plan(p)
				run(s, "web", "n1")
				end(s, "web", 1, swarm.TaskStateFailed)
			}
		}, []string{"1 failed/shutdown n1", "1 failed/shutdown n1 attempt 1"}},
		{"node down: at once, without an attempt", func(s *plantest.Swarm) {
			s.Service("web", 2)
			s.Plan(p)
			run(s, "web", "n1", "n2")
			plantest.Change(s, "n1", func(n *cluster.Node) { n.Status.State = swarm.NodeStateDown })
		}, []string{"1 pending/running", "1 running/shutdown n1", "2 running/running n2"}},
		{"node down and condition none", func(s *plantest.Swarm) {
			s.Service("web", 1, policy(func(r *swarm.RestartPolicy) { r.Condition = "none" }))
			s.Plan(p)
			run(s, "web", "n1")
			plantest.Change(s, "n1", func(n *cluster.Node) { n.Status.State = swarm.NodeStateDown })
		}, []string{"1 running/shutdown n1"}},
		{"node drained: the old one stops first", func(s *plantest.Swarm) {
			s.Service("web", 1)
			s.Plan(p)
			run(s, "web", "n1")
			plantest.Change(s, "n1", func(n *cluster.Node) { n.Spec.Availability = swarm.NodeAvailabilityDrain })
			s.Plan(p)
			if got := show(s, "web"); !slices.Contains(got, "1 pending/ready") {
				s.Error(got)
			}
			end(s, "web", 1, swarm.TaskStateShutdown)
			for _, t := range s.Tasks("web") {
				if t.WantsToRun() { // end ended both
					plantest.Change(s, t.ID, func(t *cluster.Task) { t.Status.State = swarm.TaskStateReady })
				}
			}
		}, []string{"1 ready/running", "1 shutdown/shutdown n1"}},
		{"node drained and the old one does not stop", func(s *plantest.Swarm) {
			s.Service("web", 1)
			s.Plan(p)
			run(s, "web", "n1")
			plantest.Change(s, "n1", func(n *cluster.Node) { n.Spec.Availability = swarm.NodeAvailabilityDrain })
			s.Plan(p)
			s.At = s.At.Add(61 * time.Second)
		}, []string{"1 pending/running", "1 running/shutdown n1"}},
		{"node paused: nothing", func(s *plantest.Swarm) {
			s.Service("web", 1)
			s.Plan(p)
			run(s, "web", "n1")
			plantest.Change(s, "n1", func(n *cluster.Node) { n.Spec.Availability = swarm.NodeAvailabilityPause })
		}, []string{"1 running/running n1"}},
		{"node gone", func(s *plantest.Swarm) {
			s.Service("web", 1)
			s.Plan(p)
			run(s, "web", "gone")
		}, []string{"1 pending/running", "1 running/shutdown gone"}},
		{"a change of scale and labels leaves running tasks", func(s *plantest.Swarm) {
			s.Service("web", 1)
			s.Plan(p)
			run(s, "web", "n1")
			plantest.Change(s, "web", func(v *cluster.Service) {
				*v.Spec.Mode.Replicated.Replicas, v.Spec.Labels = 2, map[string]string{"a": "b"}
			})
		}, []string{"1 running/running n1", "2 pending/running"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := plantest.New(t)
			s.Node("n1")
			s.Node("n2")
			tt.do(s)
			s.Settle(p)
			if d := cmp.Diff(tt.want, show(s, "web")); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestANewTask(t *testing.T) {
	s := plantest.New(t)
	s.Service("web", 1, func(v *cluster.Service) { v.Spec.Labels = map[string]string{"a": "b"} })
	s.Plan(service.Planner{})
	v, task := plantest.Get[*cluster.Service](s, "web"), s.Tasks("web")[0]
	if task.ServiceName != "web" || task.SpecVersion != v.Version.Index || task.Labels["a"] != "b" ||
		task.Spec.ContainerSpec.Image != "hello:1" || task.Status.Message != "pending task scheduling" || !task.Status.Timestamp.Equal(s.At) {
		t.Errorf("%+v", task)
	}
	if c := plantest.Get[*cluster.Claim](s, cluster.ClaimSlot("web", 1)); c.Owner != task.ID || c.OwnerName != "web.1" {
		t.Errorf("%+v", c)
	}
}

// A task that needs an address waits for that before it waits for a node.
func TestWhatANewTaskWaitsFor(t *testing.T) {
	port := swarm.PortConfig{TargetPort: 80, PublishedPort: 8080, PublishMode: swarm.PortConfigPublishModeIngress}
	for name, want := range map[string]swarm.TaskState{"no address": swarm.TaskStatePending, "a port": swarm.TaskStateNew, "a network": swarm.TaskStateNew} {
		t.Run(name, func(t *testing.T) {
			s := plantest.New(t)
			s.Service("web", 1, func(v *cluster.Service) {
				switch name {
				case "a port":
					v.Spec.EndpointSpec = &swarm.EndpointSpec{Ports: []swarm.PortConfig{port}}
				case "a network":
					v.Spec.TaskTemplate.Networks = []swarm.NetworkAttachmentConfig{{Target: "net"}}
				}
			})
			s.Plan(service.Planner{})
			if got := s.Tasks("web")[0].Status.State; got != want {
				t.Errorf("%s, not %s", got, want)
			}
		})
	}
}

func TestAttemptsWithinAWindow(t *testing.T) {
	s := plantest.New(t)
	s.Node("n1")
	s.Service("web", 1, policy(func(r *swarm.RestartPolicy) {
		n, d, w := uint64(2), time.Duration(0), time.Minute
		r.MaxAttempts, r.Delay, r.Window = &n, &d, &w
	}))
	var p service.Planner
	for range 4 {
		s.Plan(p)
		run(s, "web", "n1")
		end(s, "web", 1, swarm.TaskStateFailed)
	}
	s.Plan(p)
	if got := s.Tasks("web"); len(got) != 3 {
		t.Fatalf("%d tasks, not 3: %v", len(got), show(s, "web"))
	}
	// Another service whose restarts lie outside of the window goes on.
	s.Service("calm", 1, policy(func(r *swarm.RestartPolicy) {
		n, d, w := uint64(2), time.Duration(0), time.Minute
		r.MaxAttempts, r.Delay, r.Window = &n, &d, &w
	}))
	for range 4 {
		s.Plan(p)
		run(s, "calm", "n1")
		end(s, "calm", 1, swarm.TaskStateFailed)
		s.At = s.At.Add(2 * time.Minute)
	}
	s.Plan(p)
	if got := s.Tasks("calm"); len(got) != 5 {
		t.Errorf("%d tasks, not 5: %v", len(got), show(s, "calm"))
	}
}

// Whatever happens to tasks and nodes, slots are held once, and planning comes to rest.
func TestSlotsAreHeldOnce(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := plantest.New(t)
		nodes := []string{"n1", "n2", "n3"}
		for _, n := range nodes {
			s.Node(n)
		}
		s.Service("web", rapid.Uint64Range(0, 6).Draw(rt, "replicas"))
		var p service.Planner
		for range rapid.IntRange(1, 15).Draw(rt, "steps") {
			ts := s.Tasks("web")
			switch k := rapid.IntRange(0, 5).Draw(rt, "what"); {
			case k == 0:
				n := rapid.Uint64Range(0, 6).Draw(rt, "replicas")
				plantest.Change(s, "web", func(v *cluster.Service) { v.Spec.Mode.Replicated.Replicas = &n })
			case k == 1:
				st := rapid.SampledFrom([]swarm.NodeState{swarm.NodeStateReady, swarm.NodeStateDown}).Draw(rt, "state")
				plantest.Change(s, rapid.SampledFrom(nodes).Draw(rt, "node"), func(n *cluster.Node) { n.Status.State = st })
			case k == 2:
				s.At = s.At.Add(time.Duration(rapid.IntRange(0, 90).Draw(rt, "seconds")) * time.Second)
			case len(ts) > 0:
				task := rapid.SampledFrom(ts).Draw(rt, "task")
				if task.Ended() {
					continue
				}
				node := rapid.SampledFrom(nodes).Draw(rt, "on")
				st := rapid.SampledFrom([]swarm.TaskState{swarm.TaskStateRunning, swarm.TaskStateFailed, swarm.TaskStateShutdown}).Draw(rt, "becomes")
				plantest.Change(s, task.ID, func(t *cluster.Task) {
					if t.NodeID == "" {
						t.NodeID = node
					}
					t.Status.State = st
				})
			}
			s.Settle(p)
			held := map[int]bool{}
			for _, task := range s.Tasks("web") {
				if !task.WantsToRun() {
					continue
				}
				if held[task.Slot] {
					rt.Fatalf("slot %d is held twice:\n%s", task.Slot, strings.Join(show(s, "web"), "\n"))
				}
				held[task.Slot] = true
			}
			if want := *plantest.Get[*cluster.Service](s, "web").Spec.Mode.Replicated.Replicas; uint64(len(held)) != want {
				rt.Fatalf("%d slots, not %d:\n%s", len(held), want, strings.Join(show(s, "web"), "\n"))
			}
		}
	})
}
