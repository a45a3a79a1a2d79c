package control

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/store"
)

// JobSchedule is a service's schedule and how far it is.
type JobSchedule struct {
	ServiceID, ServiceName string
	Schedule               string // as the user wrote it
	Timezone               string `json:",omitempty"`
	Concurrency            string
	Deadline               string
	Suspended              bool             `json:",omitempty"`
	Next                   time.Time        `json:"Next,omitzero"`
	Runs                   []cluster.JobRun // the last ones, oldest first
}

// runsNow says whether an update of a job is another run, as it is in Swarm. A job that has a schedule, or had one
// before, runs again only by force: the schedule says when it runs.
func runsNow(old, spec *swarm.ServiceSpec) bool {
	if !cluster.Scheduled(old) && !cluster.Scheduled(spec) {
		return true
	}
	return spec.TaskTemplate.ForceUpdate > old.TaskTemplate.ForceUpdate
}

// runAgain begins a job's next run.
func runAgain(s *cluster.Service, now time.Time) {
	next := s.JobStatus.JobIteration.Index + 1
	s.JobStatus = &swarm.JobStatus{LastExecution: now}
	s.JobStatus.JobIteration.Index = next
}

// RunService runs a job now, whatever its schedule. If its schedule forbids that a run is replaced, it fails while one is
// at work. It returns the number of the run.
func (c *Control) RunService(ctx context.Context, ref string) (run uint64, err error) {
	m, err := c.write()
	if err != nil {
		return 0, err
	}
	return run, m.update(ctx, func(tx *store.Tx) error {
		old, err := find(tx.Snapshot, "service", ref, serviceName)
		if err != nil {
			return err
		}
		if old.JobStatus == nil {
			return invalid("service %s is not a job: only replicated-job and global-job services run", old.Spec.Name)
		}
		sched, err := cluster.ScheduleOf(&old.Spec)
		if err != nil {
			return err
		}
		if last := old.Schedule.Last(); sched != nil && !sched.Replace && last != nil && last.Result == cluster.RunRunning {
			return errdefs.ErrConflict.WithMessage(fmt.Sprintf("run %d of service %s is still at work, and its schedule forbids another beside it: wait for its end, or replace it with service update --force", last.Run, old.Spec.Name))
		}
		s := old.Clone().(*cluster.Service)
		runAgain(s, m.Store.Now())
		run = s.JobStatus.JobIteration.Index
		tx.Write(store.PutState(s))
		return nil
	})
}

// Schedules returns every service that has a schedule; with a reference only that one, which is InvalidArgument if it has
// none.
func (c *Control) Schedules(ctx context.Context, ref string) ([]JobSchedule, error) {
	_, snap, err := c.read(ctx)
	if err != nil {
		return nil, err
	}
	out := []JobSchedule{}
	if ref == "" {
		for s := range store.List[*cluster.Service](snap) {
			if j := scheduleOf(s); j != nil {
				out = append(out, *j)
			}
		}
		return out, nil
	}
	s, err := find(snap, "service", ref, serviceName)
	if err != nil {
		return nil, err
	}
	j := scheduleOf(s)
	if j == nil {
		return nil, invalid("service %s has no schedule (label %s)", s.Spec.Name, cluster.LabelSchedule)
	}
	return append(out, *j), nil
}

// scheduleOf is the service's; nil: it has none.
func scheduleOf(s *cluster.Service) *JobSchedule {
	sched, err := cluster.ScheduleOf(&s.Spec)
	if err != nil || sched == nil {
		return nil
	}
	j := &JobSchedule{
		ServiceID: s.ID, ServiceName: s.Spec.Name, Schedule: sched.Text, Timezone: sched.Timezone, Suspended: sched.Suspended,
		Concurrency: cluster.ConcurrencyForbid, Deadline: sched.Deadline.String(), Runs: []cluster.JobRun{},
	}
	if sched.Replace {
		j.Concurrency = cluster.ConcurrencyReplace
	}
	if st := s.Schedule; st != nil && st.Schedule == sched.String() {
		j.Next = st.Next
	}
	if s.Schedule != nil {
		j.Runs = append(j.Runs, s.Schedule.Runs...)
	}
	return j
}
