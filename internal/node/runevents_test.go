package node

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/store"
)

func TestRunEvents(t *testing.T) {
	at := time.Date(2026, 1, 1, 3, 0, 0, 0, time.UTC)
	job := func(runs ...cluster.JobRun) *cluster.Service {
		s := &cluster.Service{Schedule: &cluster.ScheduleStatus{Runs: runs}}
		s.ID, s.Spec.Name = "s1", "nightly"
		return s
	}
	run := func(n uint64, result cluster.RunResult) cluster.JobRun {
		return cluster.JobRun{Run: n, Scheduled: at, Result: result}
	}
	skip := cluster.JobRun{Scheduled: at.Add(time.Hour), Result: cluster.RunSkipped, Reason: "run 1 is still at work"}
	hand := cluster.JobRun{Run: 2, Result: cluster.RunRunning, Reason: "by hand"}
	event := func(action string, attrs ...string) engine.Event {
		e := engine.Event{Type: "service", Action: action, ID: "s1", Scope: "swarm", Attributes: map[string]string{"name": "nightly"}}
		for i := 0; i < len(attrs); i += 2 {
			e.Attributes[attrs[i]] = attrs[i+1]
		}
		return e
	}
	const three, four = "2026-01-01T03:00:00Z", "2026-01-01T04:00:00Z"
	for name, c := range map[string]struct {
		old, now *cluster.Service
		want     []engine.Event
	}{
		"nothing":           {job(run(1, "running")), job(run(1, "running")), nil},
		"it begins":         {job(), job(run(1, "running")), []engine.Event{event("run_start", "run", "1", "scheduled", three)}},
		"it ends":           {job(run(1, "running")), job(run(1, "failed")), []engine.Event{event("run_end", "run", "1", "scheduled", three, "result", "failed")}},
		"it is short":       {nil, job(run(1, "complete")), []engine.Event{event("run_start", "run", "1", "scheduled", three), event("run_end", "run", "1", "scheduled", three, "result", "complete")}},
		"a time is skipped": {job(run(1, "running")), job(run(1, "running"), skip), []engine.Event{event("run_skip", "scheduled", four, "reason", "run 1 is still at work")}},
		"by hand": {job(run(1, "running")), job(run(1, "replaced"), hand),
			[]engine.Event{event("run_end", "run", "1", "scheduled", three, "result", "replaced"), event("run_start", "run", "2", "reason", "by hand")}},
	} {
		e := store.Event{Kind: cluster.KindService, ID: "s1", New: c.now}
		if c.old != nil {
			e.Old = c.old
		}
		if d := cmp.Diff(c.want, runEvents(e)); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
}
