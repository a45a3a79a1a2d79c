package schedule_test

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
	"shoal.dev/shoal/internal/reconcile/schedule"
	"shoal.dev/shoal/internal/reconcile/service"
	"shoal.dev/shoal/internal/store"
)

var midnight = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// every ten minutes, of so many tasks.
func scheduled(total uint64, labels ...string) func(*cluster.Service) {
	return func(v *cluster.Service) {
		v.Spec.Mode = swarm.ServiceMode{ReplicatedJob: &swarm.ReplicatedJob{MaxConcurrent: &total, TotalCompletions: &total}}
		v.JobStatus = &swarm.JobStatus{}
		v.Spec.Labels = map[string]string{cluster.LabelSchedule: "*/10 * * * *"}
		for _, l := range labels {
			name, value, _ := strings.Cut(l, "=")
			v.Spec.Labels["shoal.schedule."+name] = value
		}
	}
}

// harness is a swarm with one scheduled job, "web".
type harness struct{ *plantest.Swarm }

func begin(t testing.TB, total uint64, labels ...string) harness {
	s := harness{plantest.New(t)}
	s.At = midnight
	s.Node("n1")
	s.Service("web", 0, scheduled(total, labels...))
	s.plan()
	return s
}

func (s harness) plan() {
	s.Helper()
	s.Settle(schedule.Planner{}, service.Planner{})
}

// pass lets minutes pass and plans.
func (s harness) pass(minutes float64) {
	s.Helper()
	s.At = s.At.Add(time.Duration(minutes * float64(time.Minute)))
	s.plan()
}

// end ends the tasks that work, in a state, and plans.
func (s harness) end(state swarm.TaskState) {
	s.Helper()
	for _, t := range s.Tasks("web") {
		if t.WantsToRun() && !t.Ended() {
			plantest.Change(s.Swarm, t.ID, func(t *cluster.Task) { t.NodeID, t.Status.State = "n1", state })
		}
	}
	s.plan()
}

func (s harness) edit(f func(v *cluster.Service)) {
	s.Helper()
	plantest.Change(s.Swarm, "web", f)
	s.plan()
}

// byHand is a run that a user begins.
func (s harness) byHand() {
	s.Helper()
	s.edit(func(v *cluster.Service) {
		v.JobStatus.JobIteration.Index++
		v.JobStatus.LastExecution = s.At
	})
}

// runs are the service's runs: number, minutes when it was due and began, result.
func (s harness) runs() []string {
	s.Helper()
	var out []string
	st := plantest.Get[*cluster.Service](s.Swarm, "web").Schedule
	if st == nil {
		return nil
	}
	minute := func(t time.Time) string {
		if t.IsZero() {
			return "-"
		}
		return fmt.Sprint(t.Sub(midnight).Minutes())
	}
	for _, r := range st.Runs {
		out = append(out, strings.TrimSpace(fmt.Sprintf("%d %s %s %s %s", r.Run, minute(r.Scheduled), minute(r.StartedAt), r.Result, r.Reason)))
	}
	return out
}

func TestPlan(t *testing.T) {
	for _, c := range []struct {
		name   string
		labels []string
		do     func(s harness)
		want   []string
	}{
		{"nothing before its time", nil, func(s harness) { s.pass(9.9) }, nil},
		{"at its time", nil, func(s harness) { s.pass(10) }, []string{"1 10 10 running"}},
		{"and it ends well", nil, func(s harness) { s.pass(10); s.end("complete") }, []string{"1 10 10 complete"}},
		{"or not", nil, func(s harness) {
			s.edit(func(v *cluster.Service) {
				v.Spec.TaskTemplate.RestartPolicy = &swarm.RestartPolicy{Condition: swarm.RestartPolicyConditionNone}
			})
			s.pass(10)
			s.end("failed")
		}, []string{"1 10 10 failed 2 of 2 tasks failed for good"}},
		{"and again", nil, func(s harness) { s.pass(10); s.end("complete"); s.pass(10) }, []string{"1 10 10 complete", "2 20 20 running"}},
		{"forbidden while it works", nil, func(s harness) { s.pass(10); s.pass(10); s.pass(10) },
			[]string{"1 10 10 running", "0 30 - skipped run 1 is still at work"}},
		{"and allowed when it has ended", nil, func(s harness) { s.pass(10); s.pass(10); s.end("complete"); s.pass(5); s.pass(5) },
			[]string{"1 10 10 complete", "0 20 - skipped run 1 is still at work", "2 30 30 running"}},
		{"replaced while it works", []string{"concurrency=replace"}, func(s harness) { s.pass(10); s.pass(10) },
			[]string{"1 10 10 replaced another run began", "2 20 20 running"}},
		{"the last of those that were missed", nil, func(s harness) { s.pass(47) }, []string{"1 40 47 running 7m0s late, and for earlier times as well"}},
		{"one that was missed", nil, func(s harness) { s.pass(12) }, []string{"1 10 12 running 2m0s late"}},
		{"too late", []string{"deadline=5m"}, func(s harness) { s.pass(17) },
			[]string{"0 10 - skipped it would have begun 7m0s late, more than the deadline of 5m0s"}},
		{"too late, and the next", []string{"deadline=5m"}, func(s harness) { s.pass(37); s.pass(3) },
			[]string{"0 30 - skipped it would have begun 7m0s late, more than the deadline of 5m0s", "1 40 40 running"}},
		{"suspended", []string{"suspend=true"}, func(s harness) { s.pass(10); s.pass(10) }, nil},
		{"what passed while it was suspended is not made up for", []string{"suspend=true"}, func(s harness) {
			s.pass(15)
			s.edit(func(v *cluster.Service) { delete(v.Spec.Labels, cluster.LabelSuspend) })
			s.pass(1)
			s.pass(4)
		}, []string{"1 20 20 running"}},
		{"another schedule", nil, func(s harness) {
			s.edit(func(v *cluster.Service) { v.Spec.Labels[cluster.LabelSchedule] = "@every 3m" })
			s.pass(3)
			s.end("complete")
			s.pass(4)
		}, []string{"1 3 3 complete", "2 6 7 running 1m0s late"}},
		{"by hand", nil, func(s harness) { s.pass(1); s.byHand(); s.end("complete"); s.pass(9) },
			[]string{"1 - 1 complete by hand", "2 10 10 running"}},
		{"by hand while it works", nil, func(s harness) { s.pass(10); s.byHand() },
			[]string{"1 10 10 replaced another run began", "2 - 10 running by hand"}},
		{"no schedule any more", nil, func(s harness) {
			s.pass(10)
			s.edit(func(v *cluster.Service) { delete(v.Spec.Labels, cluster.LabelSchedule) })
			s.pass(10)
		}, nil},
		{"no more than are kept", nil, func(s harness) {
			for range 8 {
				s.pass(10)
				s.end("complete")
			}
		}, []string{"4 40 40 complete", "5 50 50 complete", "6 60 60 complete", "7 70 70 complete", "8 80 80 complete"}},
		{"scaled down while it works", nil, func(s harness) {
			s.pass(10)
			s.edit(func(v *cluster.Service) { *v.Spec.Mode.ReplicatedJob.TotalCompletions = 1 })
			s.end("complete")
		}, []string{"1 10 10 complete"}},
		{"scaled between runs", nil, func(s harness) {
			s.pass(10)
			s.end("complete")
			s.edit(func(v *cluster.Service) { *v.Spec.Mode.ReplicatedJob.TotalCompletions = 9 })
			if n := len(s.Tasks("web")); n != 2 {
				s.Errorf("%d tasks after one run of 2", n)
			}
		}, []string{"1 10 10 complete"}},
		{"nothing to do", nil, func(s harness) {
			s.edit(func(v *cluster.Service) { *v.Spec.Mode.ReplicatedJob.TotalCompletions = 0 })
			s.pass(10)
			s.pass(1)
		}, []string{"1 10 10 complete nothing was to be done"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := begin(t, 2, c.labels...)
			c.do(s)
			if d := cmp.Diff(c.want, s.runs()); d != "" {
				t.Error(d)
			}
		})
	}
}

// What the planner writes never makes a user's update out of sequence.
func TestOnlyTheStatePartIsWritten(t *testing.T) {
	s := begin(t, 1)
	before := plantest.Get[*cluster.Service](s.Swarm, "web").Version
	s.pass(10)
	s.end("complete")
	if now := plantest.Get[*cluster.Service](s.Swarm, "web").Version; now != before {
		t.Errorf("the version is %v, was %v", now, before)
	}
}

func TestKeys(t *testing.T) {
	s := begin(t, 1)
	s.Service("other", 1)
	var p schedule.Planner
	if d := cmp.Diff([]string{"web"}, texts(p.AllKeys(s.Store.Snapshot()))); d != "" {
		t.Error(d)
	}
	s.pass(10)
	task := s.Tasks("web")[0]
	ended := task.Clone().(*cluster.Task)
	ended.Status.State = swarm.TaskStateComplete
	snap := s.Store.Snapshot()
	for name, c := range map[string]struct {
		e    store.Event
		want []string
	}{
		"a task has ended":    {store.Event{Kind: cluster.KindTask, Old: task, New: ended}, []string{"web"}},
		"a task is as it was": {store.Event{Kind: cluster.KindTask, Old: task, New: task}, nil},
		"a service without":   {store.Event{Kind: cluster.KindService, New: plantest.Get[*cluster.Service](s.Swarm, "other")}, nil},
		"one with":            {store.Event{Kind: cluster.KindService, New: plantest.Get[*cluster.Service](s.Swarm, "web")}, []string{"web"}},
	} {
		if d := cmp.Diff(c.want, texts(p.Keys(snap, c.e))); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
}

func texts[K ~string](keys []K) (out []string) {
	for _, k := range keys {
		out = append(out, string(k))
	}
	return out
}

// Whatever happens, no run begins before its time or twice for one, none beside another that is forbidden, and what is
// planned stays as it is.
func TestRuns(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var labels []string
		forbid := rapid.Bool().Draw(rt, "forbid")
		if !forbid {
			labels = append(labels, "concurrency=replace")
		}
		s := begin(t, uint64(rapid.IntRange(1, 3).Draw(rt, "tasks")), labels...)
		seen := map[uint64]cluster.JobRun{}
		for range rapid.IntRange(1, 30).Draw(rt, "steps") {
			switch rapid.IntRange(0, 5).Draw(rt, "what") {
			case 0:
				s.end(swarm.TaskStateComplete)
			case 1:
				s.byHand()
			default:
				s.pass(float64(rapid.IntRange(0, 35).Draw(rt, "minutes")))
			}
			svc := plantest.Get[*cluster.Service](s.Swarm, "web")
			working := 0
			for _, r := range svc.Schedule.Runs {
				if r.Result == cluster.RunRunning {
					working++
				}
				if r.Run == 0 {
					continue
				}
				old, known := seen[r.Run]
				if !r.Scheduled.IsZero() && (r.StartedAt.Before(r.Scheduled) || r.Scheduled.Minute()%10 != 0) {
					rt.Fatalf("run %d of %s began at %s", r.Run, r.Scheduled, r.StartedAt)
				}
				for n, o := range seen {
					if n != r.Run && !r.Scheduled.IsZero() && o.Scheduled.Equal(r.Scheduled) {
						rt.Fatalf("runs %d and %d are both of %s", n, r.Run, r.Scheduled)
					}
				}
				if known && old.Result != cluster.RunRunning && old.Result != r.Result {
					rt.Fatalf("run %d was %s and is %s", r.Run, old.Result, r.Result)
				}
				if forbid && !r.Scheduled.IsZero() && !known && seen[r.Run-1].Result == cluster.RunRunning && svc.Schedule.Runs[0].Run != r.Run {
					for _, o := range svc.Schedule.Runs {
						if o.Run == r.Run-1 && o.Result == cluster.RunReplaced {
							rt.Fatalf("run %d replaced one that was at work", r.Run)
						}
					}
				}
				seen[r.Run] = r
			}
			if working > 1 {
				rt.Fatalf("%d runs are at work: %v", working, s.runs())
			}
			if len(svc.Schedule.Runs) > 5 {
				rt.Fatalf("%d runs are kept", len(svc.Schedule.Runs))
			}
			if n := svc.Schedule.Next; !n.After(s.At) {
				rt.Fatalf("the next time is %s, now it is %s", n, s.At)
			}
		}
	})
}
