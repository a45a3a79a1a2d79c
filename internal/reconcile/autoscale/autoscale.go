// Package autoscale chooses the number of replicas of services that are scaled by their usage.
//
// It decides as Kubernetes' HorizontalPodAutoscaler does: what is wanted is the number of tasks times usage over target,
// unless that is within the tolerance; a task of which nothing is known counts as idle where there would be more and as
// on target where there would be fewer; of several targets the one that wants most counts; and what was wanted within a
// window bounds what is done. It owns the service's Scale together with package control, which starts it where a user
// scaled to. It never leaves the bounds, makes no tasks, and decides nothing on what was measured before this manager
// became the leader: what is remembered, the wishes within the windows, is in the record.
package autoscale

import (
	"fmt"
	"math"
	"reflect"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/reconcile"
	"shoal.dev/shoal/internal/store"
)

const (
	// Period is the time between two looks at a service, and from one change to the next; that of Kubernetes.
	Period = 15 * time.Second
	// soon is the time to the next look while nothing is known.
	soon = 5 * time.Second
	// fresh is how old a measurement may be: nodes measure every 10 s.
	fresh = 45 * time.Second
	// upStep is how many are added at a time at least, where the service says nothing; that of Kubernetes.
	upStep = 4
)

// Planner plans one service a key; the key is the service's ID.
type Planner struct{}

var _ reconcile.Planner = Planner{}

// Name is "autoscale".
func (Planner) Name() string { return "autoscale" }

// Keys is a service that is scaled by its usage, or was, when it changed.
func (Planner) Keys(_ *store.Snapshot, e store.Event) []reconcile.Key {
	if s, _ := e.New.(*cluster.Service); s != nil && concerns(s) {
		return []reconcile.Key{reconcile.Key(s.ID)}
	}
	return nil
}

func concerns(s *cluster.Service) bool { return s.Scale != nil || cluster.Autoscales(&s.Spec) }

// AllKeys is every service that is scaled by its usage, or was.
func (Planner) AllKeys(snap *store.Snapshot) []reconcile.Key {
	var keys []reconcile.Key
	for s := range store.List[*cluster.Service](snap) {
		if concerns(s) {
			keys = append(keys, reconcile.Key(s.ID))
		}
	}
	return keys
}

// Plan plans one service.
func (Planner) Plan(snap *store.Snapshot, key reconcile.Key, env reconcile.Env) reconcile.Plan {
	old, ok := store.Get[*cluster.Service](snap, string(key))
	if !ok || !concerns(old) {
		return reconcile.Plan{}
	}
	a, err := cluster.AutoscaleOf(&old.Spec)
	if err != nil { // control lets none of these in
		return reconcile.Plan{Reasons: []string{err.Error()}}
	}
	s := old.Clone().(*cluster.Service)
	out := reconcile.Plan{}
	if a == nil || s.Replicas() == 0 {
		s.Scale = nil
		if old.Scale != nil {
			out.Groups = []store.Group{{Why: "it is scaled by hand", Changes: []store.Change{store.PutState(s)}}}
		}
		return out
	}
	out.Again = env.Now.Add(Period)
	now := old.Replicas()
	if s.Scale == nil {
		s.Scale = &cluster.ScaleStatus{Replicas: now, ChangedAt: env.Now}
		s.Scale.Want(now, env.Now, a.DownWindow)
	}
	why := "its replicas are within its bounds"
	if s.Scale.Replicas != now { // the bounds are others
		s.Scale.Decide(now, env.Now, fmt.Sprintf("the bounds are %d to %d", a.Min, a.Max))
	}
	switch want, text, ok := Wanted(snap, old, a, env); {
	case !ok:
		out.Reasons, out.Again = []string{text}, env.Now.Add(soon)
	default:
		s.Scale.Want(want, env.Now, max(a.UpWindow, a.DownWindow))
		to, bound := settle(s.Scale, a, now, want, env.Now)
		out.Reasons = []string{text + bound}
		if env.Now.Before(s.Scale.ChangedAt.Add(Period)) {
			out.Again = s.Scale.ChangedAt.Add(Period)
			break
		}
		if to != now {
			s.Scale.Decide(to, env.Now, text+bound)
			why = text
		}
	}
	if !reflect.DeepEqual(old.Scale, s.Scale) {
		out.Groups = []store.Group{{Why: why, Changes: []store.Change{store.PutState(s)}}}
	}
	return out
}

// settle is how many replicas there shall be now, where so many are wanted; bound says what keeps it from that.
func settle(st *cluster.ScaleStatus, a *cluster.Autoscale, now, want uint64, at time.Time) (to uint64, bound string) {
	least, _ := st.Extremes(at.Add(-a.UpWindow))
	_, most := st.Extremes(at.Add(-a.DownWindow))
	to = now
	switch {
	case want > now:
		if to = max(now, min(want, least)); to < want {
			bound = fmt.Sprintf("; not %d before that was wanted for %s", want, a.UpWindow)
		}
		step := max(upStep, now)
		if a.UpStep > 0 {
			step = a.UpStep
		}
		if to > now+step {
			to, bound = now+step, fmt.Sprintf("; %d at a time", step)
		}
	case want < now:
		if to = min(now, max(want, most)); to > want {
			bound = fmt.Sprintf("; not %d before that was wanted for %s", want, a.DownWindow)
		}
		if a.DownStep > 0 && to+a.DownStep < now {
			to, bound = now-a.DownStep, fmt.Sprintf("; %d at a time", a.DownStep)
		}
	}
	return to, bound
}

// Wanted is how many replicas the usage of the service's tasks asks for, within its bounds, and why; ok is false while
// that cannot be said.
func Wanted(snap *store.Snapshot, svc *cluster.Service, a *cluster.Autoscale, env reconcile.Env) (want uint64, why string, ok bool) {
	since := env.Observed.LeaderSince()
	if env.Now.Before(since.Add(Period)) {
		return 0, "the leader is new and waits for measurements", false
	}
	var known []cluster.Usage
	for t := range snap.TasksByService(svc.ID) {
		u, ok := env.Observed.Usage(t.ID)
		if ok && t.WantsToRun() && t.Status.State == swarm.TaskStateRunning && !u.At.Before(since) && env.Now.Sub(u.At) <= fresh {
			known = append(known, u)
		}
	}
	tasks := max(int(svc.Replicas()), len(known)) // more, while an update starts new ones first
	if len(known) == 0 {
		return 0, fmt.Sprintf("none of %d tasks has been measured within %s", tasks, fresh), false
	}
	for _, m := range []struct {
		name        string
		unit        string
		digits      int     // after the point
		target, one float64 // one unit of what a task uses
		of          func(cluster.Usage) float64
	}{
		{"cpu", "%", 0, a.CPU, float64(a.PerCPU) / 100, func(u cluster.Usage) float64 { return float64(u.NanoCPUs) }},
		{"memory", "%", 0, a.Memory, float64(a.PerMemory) / 100, func(u cluster.Usage) float64 { return float64(u.MemoryBytes) }},
		{"connections", "/s", 1, a.Connections, 1, func(u cluster.Usage) float64 { return u.Connections }},
	} {
		if m.target == 0 {
			continue
		}
		sum := 0.0
		for _, u := range known {
			sum += max(0, m.of(u)) / m.one
		}
		n := ask(sum, m.target, len(known), tasks, a.Tolerance)
		n = min(max(n, a.Min), a.Max)
		if n > want || why == "" {
			want, why = n, fmt.Sprintf("%s %.*f%s of %g%s", m.name, m.digits, sum/float64(len(known)), m.unit, m.target, m.unit)
			if missing := tasks - len(known); missing > 0 {
				why += fmt.Sprintf(", %d of %d tasks not measured", missing, tasks)
			}
		}
	}
	return want, why + fmt.Sprintf(": %d wanted", want), true
}

// ask is how many tasks bring usage to its target. sum is the usage of those that were measured, in the target's unit.
func ask(sum, target float64, known, tasks int, tolerance float64) uint64 {
	ratio := sum / float64(known) / target
	if within(ratio, tolerance) {
		return uint64(tasks)
	}
	up := ratio > 1
	if missing := tasks - known; missing > 0 {
		if !up {
			sum += float64(missing) * target
		}
		ratio = sum / float64(tasks) / target
		if within(ratio, tolerance) || up != (ratio > 1) {
			return uint64(tasks)
		}
	}
	// What a division leaves over its last digits asks for nobody.
	return uint64(max(0, math.Ceil(ratio*float64(tasks)-1e-9)))
}

func within(ratio, tolerance float64) bool { return math.Abs(ratio-1) <= tolerance }
