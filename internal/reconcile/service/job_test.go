package service_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/swarm"
	"pgregory.net/rapid"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/reconcile/plantest"
	"shoal.dev/shoal/internal/reconcile/reap"
	"shoal.dev/shoal/internal/reconcile/service"
)

func job(total, concurrent uint64) func(*cluster.Service) {
	return func(v *cluster.Service) {
		v.Spec.Mode = swarm.ServiceMode{ReplicatedJob: &swarm.ReplicatedJob{MaxConcurrent: &concurrent, TotalCompletions: &total}}
		v.JobStatus = &swarm.JobStatus{LastExecution: time.Unix(1, 0)}
	}
}

// globalJob began at a time.
func globalJob(at time.Time) func(*cluster.Service) {
	return func(v *cluster.Service) {
		v.Spec.Mode = swarm.ServiceMode{GlobalJob: &swarm.GlobalJob{}}
		v.JobStatus = &swarm.JobStatus{LastExecution: at}
	}
}

// rerun is an update of a job.
func rerun(s *plantest.Swarm, change ...func(*cluster.Service)) {
	s.Helper()
	plantest.Change(s, "web", func(v *cluster.Service) {
		st := *v.JobStatus
		for _, f := range change {
			f(v)
		}
		v.JobStatus.JobIteration.Index = st.JobIteration.Index + 1
	})
}

func TestPlanJob(t *testing.T) {
	var p service.Planner
	begin := func(s *plantest.Swarm, change ...func(*cluster.Service)) {
		s.Helper()
		s.Service("web", 0, change...)
		s.Plan(p)
		run(s, "web", "n1", "n2")
	}
	onFailure := policy(func(r *swarm.RestartPolicy) { r.Condition = "on-failure" })
	tests := []struct {
		name string
		do   func(s *plantest.Swarm)
		want []string
	}{
		{"as many at a time as may be", func(s *plantest.Swarm) { s.Service("web", 0, job(5, 2)) },
			[]string{"0 pending/complete", "1 pending/complete"}},
		{"no more than are wanted", func(s *plantest.Swarm) { s.Service("web", 0, job(2, 5)) },
			[]string{"0 pending/complete", "1 pending/complete"}},
		{"nothing at all", func(s *plantest.Swarm) { s.Service("web", 0, job(0, 5)) }, nil},
		{"none at a time", func(s *plantest.Swarm) { s.Service("web", 0, job(5, 0)) }, nil},
		{"the next begins when one is complete", func(s *plantest.Swarm) {
			begin(s, job(3, 2))
			end(s, "web", 0, swarm.TaskStateComplete)
		}, []string{"0 complete/complete n1", "1 running/complete n2", "2 pending/complete"}},
		{"all are complete", func(s *plantest.Swarm) {
			begin(s, job(2, 2))
			end(s, "web", 0, swarm.TaskStateComplete)
			end(s, "web", 1, swarm.TaskStateComplete)
		}, []string{"0 complete/complete n1", "1 complete/complete n2"}},
		{"one that failed is tried again after the delay", func(s *plantest.Swarm) {
			begin(s, job(3, 1), onFailure)
			end(s, "web", 0, swarm.TaskStateFailed)
		}, []string{"0 failed/shutdown n1", "0 pending/ready attempt 1"}},
		{"and then started", func(s *plantest.Swarm) {
			begin(s, job(3, 1), onFailure)
			end(s, "web", 0, swarm.TaskStateFailed)
			s.Plan(p)
			s.At = s.At.Add(5 * time.Second)
		}, []string{"0 failed/shutdown n1", "0 pending/complete attempt 1"}},
		{"condition any is for failures too, as a job ends", func(s *plantest.Swarm) {
			begin(s, job(1, 1), policy(func(r *swarm.RestartPolicy) { r.Condition = "any" }))
			end(s, "web", 0, swarm.TaskStateComplete)
		}, []string{"0 complete/complete n1"}},
		{"condition none: the slot is lost and the others go on", func(s *plantest.Swarm) {
			begin(s, job(2, 1), policy(func(r *swarm.RestartPolicy) { r.Condition = "none" }))
			end(s, "web", 0, swarm.TaskStateFailed)
		}, []string{"0 failed/shutdown n1", "1 pending/complete"}},
		{"max attempts", func(s *plantest.Swarm) {
			begin(s, job(1, 1), policy(func(r *swarm.RestartPolicy) {
				n, d := uint64(1), time.Duration(0)
				r.Condition, r.MaxAttempts, r.Delay = "on-failure", &n, &d
			}))
			end(s, "web", 0, swarm.TaskStateFailed)
			s.Plan(p)
			end(s, "web", 0, swarm.TaskStateFailed)
		}, []string{"0 failed/shutdown attempt 1", "0 failed/shutdown n1"}},
		{"its node is lost", func(s *plantest.Swarm) {
			begin(s, job(1, 1), onFailure)
			plantest.Change(s, "n1", func(n *cluster.Node) { n.Status.State = swarm.NodeStateDown })
		}, []string{"0 pending/complete", "0 running/shutdown n1"}},
		{"and its task was complete after all", func(s *plantest.Swarm) {
			begin(s, job(1, 1), onFailure)
			plantest.Change(s, "n1", func(n *cluster.Node) { n.Status.State = swarm.NodeStateDown })
			s.Plan(p)
			for _, t := range s.Tasks("web") {
				if t.NodeID == "n1" {
					plantest.Change(s, t.ID, func(t *cluster.Task) { t.Status.State = swarm.TaskStateComplete })
				}
			}
		}, []string{"0 complete/shutdown n1", "0 pending/shutdown"}},
		{"run again", func(s *plantest.Swarm) {
			begin(s, job(2, 2))
			end(s, "web", 0, swarm.TaskStateComplete)
			s.Plan(p)
			rerun(s)
		}, []string{"0 complete/shutdown n1", "0 pending/complete", "1 running/shutdown n2"}},
		{"with all at work when the old run has ended", func(s *plantest.Swarm) {
			begin(s, job(2, 2))
			end(s, "web", 0, swarm.TaskStateComplete)
			rerun(s)
			s.Settle(p)
			obey(s)
		}, []string{"0 complete/shutdown n1", "0 pending/complete", "1 pending/complete", "1 shutdown/shutdown n2"}},
		{"or does not end", func(s *plantest.Swarm) {
			begin(s, job(2, 2))
			end(s, "web", 0, swarm.TaskStateComplete)
			rerun(s)
			s.Settle(p)
			s.At = s.At.Add(61 * time.Second)
		}, []string{"0 complete/shutdown n1", "0 pending/complete", "1 pending/complete", "1 running/shutdown n2"}},
		{"run again with fewer", func(s *plantest.Swarm) {
			begin(s, job(2, 2))
			end(s, "web", 0, swarm.TaskStateComplete)
			end(s, "web", 1, swarm.TaskStateComplete)
			rerun(s, job(1, 1))
		}, []string{"0 complete/shutdown n1", "0 pending/complete", "1 complete/remove n2"}},
		{"global: once on every node", func(s *plantest.Swarm) {
			s.Service("web", 0, globalJob(s.At.Add(time.Hour)))
			s.Plan(p)
			become(s, "n1", swarm.TaskStateComplete)
			become(s, "n2", swarm.TaskStateRunning)
		}, []string{"0 complete/complete n1", "0 running/complete n2"}},
		{"global: not on nodes that came later", func(s *plantest.Swarm) { s.Service("web", 0, globalJob(s.At.Add(-time.Hour))) }, nil},
		{"global: on a node that was drained when it is back", func(s *plantest.Swarm) {
			s.Service("web", 0, globalJob(s.At.Add(time.Hour)))
			s.Plan(p)
			become(s, "n1", swarm.TaskStateComplete)
			become(s, "n2", swarm.TaskStateRunning)
			for _, av := range []swarm.NodeAvailability{"drain", "active"} {
				for _, n := range []string{"n1", "n2"} {
					plantest.Change(s, n, func(n *cluster.Node) { n.Spec.Availability = av })
				}
				s.Plan(p)
				obey(s)
			}
		}, []string{"0 complete/complete n1", "0 pending/complete n2", "0 shutdown/shutdown n2"}},
		{"global: run again", func(s *plantest.Swarm) {
			s.Service("web", 0, globalJob(s.At.Add(time.Hour)))
			s.Plan(p)
			become(s, "n1", swarm.TaskStateComplete)
			become(s, "n2", swarm.TaskStateRunning)
			rerun(s)
		}, []string{"0 complete/shutdown n1", "0 pending/complete n1", "0 pending/ready n2", "0 running/shutdown n2"}},
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

// Whatever becomes of its tasks, a job never has more at work than it may, does nothing twice in one run, comes to rest,
// and is done in the end.
func TestAJobEnds(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := plantest.New(t)
		nodes := []string{"n1", "n2", "n3"}
		for _, n := range nodes {
			s.Node(n)
		}
		total := rapid.Uint64Range(0, 6).Draw(rt, "total")
		concurrent := rapid.Uint64Range(1, 3).Draw(rt, "concurrent")
		s.Service("web", 0, job(total, concurrent), policy(func(r *swarm.RestartPolicy) { r.Condition = "on-failure" }))
		check := func() {
			s.Settle(service.Planner{}, reap.Planner{})
			v := plantest.Get[*cluster.Service](s, "web")
			working, complete := uint64(0), map[int]int{}
			for _, t := range s.Tasks("web") {
				if t.JobIteration == nil {
					rt.Fatalf("task %s is of no run", t.ID)
				}
				if t.WantsToRun() && !t.Ended() {
					working++
				}
				if t.Status.State == swarm.TaskStateComplete && t.JobIteration.Index == v.JobStatus.JobIteration.Index {
					complete[t.Slot]++
				}
			}
			if working > concurrent || uint64(len(complete)) > total {
				rt.Fatalf("%d at work, %d complete:\n%s", working, len(complete), strings.Join(show(s, "web"), "\n"))
			}
		}
		step := func(task *cluster.Task, st swarm.TaskState) {
			node := rapid.SampledFrom(nodes).Draw(rt, "on")
			plantest.Change(s, task.ID, func(t *cluster.Task) {
				if t.NodeID == "" {
					t.NodeID = node
				}
				t.Status.State = st
			})
		}
		check()
		for range rapid.IntRange(1, 20).Draw(rt, "steps") {
			var live []*cluster.Task
			for _, t := range s.Tasks("web") {
				if !t.Ended() {
					live = append(live, t)
				}
			}
			switch k := rapid.IntRange(0, 6).Draw(rt, "what"); {
			case k == 0:
				rerun(s)
			case k == 1:
				st := rapid.SampledFrom([]swarm.NodeState{swarm.NodeStateReady, swarm.NodeStateDown}).Draw(rt, "state")
				plantest.Change(s, rapid.SampledFrom(nodes).Draw(rt, "node"), func(n *cluster.Node) { n.Status.State = st })
			case k == 2:
				s.At = s.At.Add(time.Duration(rapid.IntRange(0, 90).Draw(rt, "seconds")) * time.Second)
			case len(live) > 0:
				step(rapid.SampledFrom(live).Draw(rt, "task"), rapid.SampledFrom([]swarm.TaskState{"running", "running", "failed", "complete"}).Draw(rt, "becomes"))
			}
			check()
		}
		// From now on all goes well.
		for _, n := range nodes {
			plantest.Change(s, n, func(n *cluster.Node) { n.Status.State = swarm.NodeStateReady })
		}
		for range 30 {
			for _, task := range s.Tasks("web") {
				switch {
				case task.Ended():
				case !task.WantsToRun():
					step(task, swarm.TaskStateShutdown)
				case task.DesiredState == swarm.TaskStateComplete:
					step(task, swarm.TaskStateComplete)
				}
			}
			s.At = s.At.Add(5 * time.Second)
			check()
		}
		v := plantest.Get[*cluster.Service](s, "web")
		done := map[int]bool{}
		for _, t := range s.Tasks("web") {
			if t.JobIteration.Index == v.JobStatus.JobIteration.Index && t.Status.State == swarm.TaskStateComplete {
				done[t.Slot] = true
			}
		}
		if uint64(len(done)) != total {
			rt.Fatalf("%d of %d are complete:\n%s", len(done), total, strings.Join(show(s, "web"), "\n"))
		}
	})
}

// A task of a job belongs to its run and wants to be complete.
func TestANewJobTask(t *testing.T) {
	s := plantest.New(t)
	s.Service("web", 0, job(1, 1), func(v *cluster.Service) { v.JobStatus.JobIteration.Index = 3 })
	s.Plan(service.Planner{})
	task := s.Tasks("web")[0]
	if task.Global || task.JobIteration == nil || task.JobIteration.Index != 3 || task.DesiredState != swarm.TaskStateComplete {
		t.Errorf("%+v", fmt.Sprint(task.JobIteration, task.DesiredState))
	}
}
