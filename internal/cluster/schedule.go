package cluster

import (
	"strconv"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cron"
)

// The labels of a service that put a job on a schedule. They are the only place where a schedule stands: every client,
// and every Compose file (deploy.labels), can set them.
const (
	LabelSchedule    = "shoal.schedule"             // cron's five fields, or @daily, @every 1h …; see package cron
	LabelTimezone    = "shoal.schedule.timezone"    // of the IANA's database; UTC
	LabelConcurrency = "shoal.schedule.concurrency" // ConcurrencyForbid or ConcurrencyReplace; forbid
	LabelDeadline    = "shoal.schedule.deadline"    // how late a run may begin: a Go duration; DefaultDeadline
	LabelSuspend     = "shoal.schedule.suspend"     // true: it does not run on its own; false
)

// What happens at a time of a schedule while the run before is at work. The names are those of Kubernetes' CronJob. There
// is no Allow: the runs of one service have the same slots, so that they never overlap.
const (
	ConcurrencyForbid  = "forbid"  // that time is skipped
	ConcurrencyReplace = "replace" // the run before is stopped
)

const (
	// DefaultDeadline is how late a run may begin, for a schedule that does not say.
	DefaultDeadline = time.Hour
	// maxDeadline bounds what is made up for after a long time without a leader.
	maxDeadline = 7 * 24 * time.Hour
)

// Schedule is what a service's labels say of its schedule.
type Schedule struct {
	*cron.Schedule
	Text, Timezone string
	Replace        bool // see ConcurrencyReplace
	Deadline       time.Duration
	Suspended      bool
}

// ScheduleOf returns the schedule of a specification; nil without an error: it has none.
func ScheduleOf(spec *swarm.ServiceSpec) (*Schedule, error) {
	if !Scheduled(spec) {
		for _, l := range []string{LabelTimezone, LabelConcurrency, LabelDeadline, LabelSuspend} {
			if _, ok := spec.Labels[l]; ok {
				return nil, invalid("label %s: the service has no label %s", l, LabelSchedule)
			}
		}
		return nil, nil
	}
	if spec.Mode.ReplicatedJob == nil && spec.Mode.GlobalJob == nil {
		return nil, invalid("label %s: only jobs can have a schedule: use the mode replicated-job or global-job", LabelSchedule)
	}
	s := &Schedule{Text: spec.Labels[LabelSchedule], Timezone: spec.Labels[LabelTimezone], Deadline: DefaultDeadline}
	var err error
	if _, err := cron.Parse("@daily", s.Timezone); err != nil {
		return nil, invalid("label %s: %q: %s", LabelTimezone, s.Timezone, err)
	}
	if s.Schedule, err = cron.Parse(s.Text, s.Timezone); err != nil {
		return nil, invalid("label %s: %q: %s", LabelSchedule, s.Text, err)
	}
	switch v := spec.Labels[LabelConcurrency]; v {
	case "", ConcurrencyForbid:
	case ConcurrencyReplace:
		s.Replace = true
	default:
		return nil, invalid("label %s: %q: must be %s or %s; runs of one service never overlap", LabelConcurrency, v, ConcurrencyForbid, ConcurrencyReplace)
	}
	if v, ok := spec.Labels[LabelDeadline]; ok {
		if s.Deadline, err = time.ParseDuration(v); err != nil || s.Deadline < time.Second || s.Deadline > maxDeadline {
			return nil, invalid("label %s: %q: must be a duration from 1s to %s", LabelDeadline, v, maxDeadline)
		}
	}
	if v, ok := spec.Labels[LabelSuspend]; ok {
		if s.Suspended, err = strconv.ParseBool(v); err != nil {
			return nil, invalid("label %s: %q: must be true or false", LabelSuspend, v)
		}
	}
	return s, nil
}

// Scheduled says whether a specification has a schedule, valid or not.
func Scheduled(spec *swarm.ServiceSpec) bool {
	_, ok := spec.Labels[LabelSchedule]
	return ok
}

func validateSchedule(s *swarm.ServiceSpec) error {
	_, err := ScheduleOf(s)
	return err
}

// String tells a schedule from another one: what is kept of one says nothing of the other.
func (s *Schedule) String() string {
	text := s.Text
	if s.Timezone != "" {
		text += " " + s.Timezone
	}
	if s.Suspended {
		text += " (suspended)"
	}
	return text
}

// ScheduleStatus is how far a service's schedule is.
type ScheduleStatus struct {
	// Schedule is what it is the status of.
	Schedule string
	// Since is when the schedule was set, or its last time that was dealt with.
	Since time.Time
	// Next is its next time; zero while it is suspended.
	Next time.Time `json:"Next,omitzero"`
	// Runs are the last runs of the job, by hand too, and the times that were skipped, oldest first: as many as the
	// swarm keeps of a slot's tasks.
	Runs []JobRun `json:",omitempty"`
}

// JobRun is one run of a job, or a time of its schedule at which it did not run.
type JobRun struct {
	// Run is the number of the run, its JobIteration; 0: it did not run.
	Run uint64 `json:",omitempty"`
	// Scheduled is the time of the schedule; zero: it was run by hand.
	Scheduled time.Time `json:"Scheduled,omitzero"`
	// StartedAt and EndedAt are swarm time.
	StartedAt time.Time `json:"StartedAt,omitzero"`
	EndedAt   time.Time `json:"EndedAt,omitzero"`
	Result    RunResult
	// Reason says why it was skipped, or what there is to say of the result.
	Reason string `json:",omitempty"`
}

// RunResult is what became of a run.
type RunResult string

// The results.
const (
	RunRunning  RunResult = "running"
	RunComplete RunResult = "complete"
	RunFailed   RunResult = "failed"   // a slot was given up
	RunReplaced RunResult = "replaced" // by the next run, before it ended
	RunSkipped  RunResult = "skipped"
)

// Last returns the newest run that is not of the result skipped; nil: there is none.
func (s *ScheduleStatus) Last() *JobRun {
	if s == nil {
		return nil
	}
	for i := len(s.Runs) - 1; i >= 0; i-- {
		if s.Runs[i].Run != 0 {
			return &s.Runs[i]
		}
	}
	return nil
}
