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

func scheduled(name string, labels ...string) swarm.ServiceSpec {
	s := inMode(name, swarm.ServiceMode{ReplicatedJob: &swarm.ReplicatedJob{}})
	s.Labels = map[string]string{}
	for _, l := range labels {
		k, v, _ := strings.Cut(l, "=")
		s.Labels["shoal.schedule"+k] = v
	}
	return s
}

func TestSchedulesAreChecked(t *testing.T) {
	c, _ := newControl(t, fakeRegistry{})
	for _, tc := range []struct {
		name string
		spec swarm.ServiceSpec
		want string
	}{
		{"fields", scheduled("x", "=0 3 * *"), `label shoal.schedule: "0 3 * *": expected exactly 5 fields, found 4: [0 3 * *]`},
		{"never", scheduled("x", "=0 3 31 2 *"), `label shoal.schedule: "0 3 31 2 *": it never comes`},
		{"zone", scheduled("x", "=@daily", ".timezone=Mars/Olympus"), `label shoal.schedule.timezone: "Mars/Olympus": unknown time zone Mars/Olympus`},
		{"concurrency", scheduled("x", "=@daily", ".concurrency=allow"), `label shoal.schedule.concurrency: "allow": must be forbid or replace; runs of one service never overlap`},
		{"deadline", scheduled("x", "=@daily", ".deadline=10"), `label shoal.schedule.deadline: "10": must be a duration from 1s to 168h0m0s`},
		{"a long deadline", scheduled("x", "=@daily", ".deadline=200h"), `label shoal.schedule.deadline: "200h": must be a duration from 1s to 168h0m0s`},
		{"suspend", scheduled("x", "=@daily", ".suspend=perhaps"), `label shoal.schedule.suspend: "perhaps": must be true or false`},
		{"no schedule", scheduled("x", ".suspend=true"), "label shoal.schedule.suspend: the service has no label shoal.schedule"},
		{"no job", func() swarm.ServiceSpec {
			s := scheduled("x", "=@daily")
			s.Mode = swarm.ServiceMode{Replicated: &swarm.ReplicatedService{}}
			return s
		}(), "label shoal.schedule: only jobs can have a schedule: use the mode replicated-job or global-job"},
	} {
		if _, err := c.CreateService(t.Context(), tc.spec, "", false); !errdefs.IsInvalidArgument(err) || err.Error() != tc.want {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}

// An update of a job with a schedule is no run of it, unless by force.
func TestAScheduledJobWaits(t *testing.T) {
	c, st := newControl(t, fakeRegistry{})
	mustCreate(t, c, scheduled("nightly", "=0 3 * * *"))
	get := func() *swarm.Service {
		t.Helper()
		s, err := c.Service(t.Context(), "nightly", false)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	update := func(o control.UpdateOptions, change func(*swarm.ServiceSpec)) {
		t.Helper()
		s := get()
		change(&s.Spec)
		if _, err := c.UpdateService(t.Context(), "nightly", s.Version.Index, s.Spec, o); err != nil {
			t.Fatal(err)
		}
	}
	at := func(what string, run uint64, never bool) {
		t.Helper()
		if s := get(); s.JobStatus.JobIteration.Index != run || s.JobStatus.LastExecution.IsZero() != never {
			t.Errorf("%s: %+v", what, s.JobStatus)
		}
	}
	at("created", 0, true)
	update(control.UpdateOptions{}, func(s *swarm.ServiceSpec) { s.Labels["a"] = "b" })
	at("updated", 0, true)
	update(control.UpdateOptions{Rollback: "previous"}, func(*swarm.ServiceSpec) {})
	at("rolled back", 0, true)
	update(control.UpdateOptions{}, func(s *swarm.ServiceSpec) { s.TaskTemplate.ForceUpdate++ })
	at("forced", 1, false)
	if run, err := c.RunService(t.Context(), "nightly"); err != nil || run != 2 {
		t.Errorf("run %d, %v", run, err)
	}
	at("run", 2, false)
	update(control.UpdateOptions{}, func(s *swarm.ServiceSpec) { delete(s.Labels, "shoal.schedule") })
	at("no schedule any more", 2, false)
	update(control.UpdateOptions{}, func(s *swarm.ServiceSpec) { s.Labels["a"] = "c" })
	at("a job as others are", 3, false)
	update(control.UpdateOptions{}, func(s *swarm.ServiceSpec) { s.Labels["shoal.schedule"] = "@daily" })
	at("a schedule", 3, false)

	// A run that is at work is not replaced.
	if _, err := st.Update(t.Context(), func(tx *store.Tx) error {
		s, _ := tx.ServiceByName("nightly")
		n := s.Clone().(*cluster.Service)
		n.Schedule = &cluster.ScheduleStatus{Runs: []cluster.JobRun{{Run: 3, Result: cluster.RunRunning}}}
		tx.Write(store.PutState(n))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.RunService(t.Context(), "nightly"); !errdefs.IsConflict(err) || !strings.HasPrefix(err.Error(), "run 3 of service nightly is still at work") {
		t.Error(err)
	}
	update(control.UpdateOptions{}, func(s *swarm.ServiceSpec) { s.Labels["shoal.schedule.concurrency"] = "replace" })
	if run, err := c.RunService(t.Context(), "nightly"); err != nil || run != 4 {
		t.Errorf("run %d, %v", run, err)
	}
	mustCreate(t, c, spec("web", 1))
	if _, err := c.RunService(t.Context(), "web"); !errdefs.IsInvalidArgument(err) || err.Error() != "service web is not a job: only replicated-job and global-job services run" {
		t.Error(err)
	}
	if _, err := c.RunService(t.Context(), "nope"); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	if _, err := c.Schedules(t.Context(), "web"); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
	all, err := c.Schedules(t.Context(), "")
	if err != nil || len(all) != 1 || all[0].Schedule != "@daily" || all[0].Concurrency != "replace" || len(all[0].Runs) != 1 {
		t.Errorf("%+v, %v", all, err)
	}
}
