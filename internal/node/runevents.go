package node

import (
	"strconv"
	"time"

	"github.com/moby/moby/api/types/events"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/store"
)

// The actions of a service's events that Docker does not have.
const (
	actionRunStart = "run_start" // of a job on a schedule: a run began
	actionRunEnd   = "run_end"   // a run ended; its attribute result says how
	actionRunSkip  = "run_skip"  // a time of its schedule passed without a run; reason says why
)

// runEvents is what a record's change says of the runs of a job on a schedule.
func runEvents(c store.Event) []engine.Event {
	s, _ := c.New.(*cluster.Service)
	if s == nil || s.Schedule == nil {
		return nil
	}
	var had []cluster.JobRun
	if old, _ := c.Old.(*cluster.Service); old != nil && old.Schedule != nil {
		had = old.Schedule.Runs
	}
	var out []engine.Event
	for _, r := range s.Schedule.Runs {
		old, known := cluster.JobRun{}, false
		for _, o := range had {
			if o.Run == r.Run && o.Scheduled.Equal(r.Scheduled) {
				old, known = o, true
			}
		}
		add := func(action string) {
			e := engine.Event{Type: string(events.ServiceEventType), Action: action, ID: s.ID, Scope: "swarm", Attributes: map[string]string{"name": s.Spec.Name}}
			for k, v := range map[string]string{"run": strconv.FormatUint(r.Run, 10), "scheduled": r.Scheduled.Format(time.RFC3339), "reason": r.Reason} {
				if v != "" && !(k == "run" && r.Run == 0) && !(k == "scheduled" && r.Scheduled.IsZero()) {
					e.Attributes[k] = v
				}
			}
			if action == actionRunEnd {
				e.Attributes["result"] = string(r.Result)
			}
			out = append(out, e)
		}
		switch {
		case known && old.Result == r.Result:
			continue
		case r.Result == cluster.RunSkipped:
			add(actionRunSkip)
			continue
		case !known:
			add(actionRunStart)
		}
		if r.Result != cluster.RunRunning {
			add(actionRunEnd)
		}
	}
	return out
}
