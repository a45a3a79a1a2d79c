package service_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/reconcile/plantest"
	"shoal.dev/shoal/internal/reconcile/reap"
	"shoal.dev/shoal/internal/reconcile/service"
)

// rollout is a service "web" that is updated, with nodes that do what they are told.
type rollout struct {
	*plantest.Swarm
}

func newRollout(t testing.TB, replicas uint64, c swarm.UpdateConfig, change ...func(*cluster.Service)) *rollout {
	r := &rollout{plantest.New(t)}
	for _, n := range []string{"n1", "n2", "n3"} {
		r.Node(n)
	}
	r.Service("web", replicas, func(v *cluster.Service) {
		back := c
		v.Spec.UpdateConfig, v.Spec.RollbackConfig = &c, &back
		delay := time.Duration(0)
		v.Spec.TaskTemplate.RestartPolicy = &swarm.RestartPolicy{Delay: &delay}
		for _, f := range change {
			f(v)
		}
	})
	r.rest()
	r.work("")
	r.rest()
	return r
}

// rest plans until there is nothing to do at this time.
func (r *rollout) rest() {
	r.Helper()
	r.Settle(service.Planner{}, reap.Planner{})
}

// image updates the service as control does.
func (r *rollout) image(name string) {
	r.Helper()
	plantest.Change(r.Swarm, "web", func(v *cluster.Service) {
		prev := v.Clone().(*cluster.Service).Spec
		v.PreviousSpec, v.UpdateStatus = &prev, nil
		v.Spec.TaskTemplate.ContainerSpec.Image = name
	})
	r.rest()
}

// work lets the nodes do what tasks want: start, unless the image is bad, and stop.
func (r *rollout) work(bad string) {
	r.Helper()
	for _, t := range r.Tasks("web") {
		to := t.Status.State
		switch {
		case t.Ended():
		case !t.WantsToRun():
			to = swarm.TaskStateShutdown
		case t.DesiredState == swarm.TaskStateReady:
			to = swarm.TaskStateReady
		case bad != "" && t.Spec.ContainerSpec.Image == bad:
			to = swarm.TaskStateRejected
		default:
			to = swarm.TaskStateRunning
		}
		r.become(t, to)
	}
}

func (r *rollout) become(t *cluster.Task, to swarm.TaskState) {
	r.Helper()
	if t.Status.State == to {
		return
	}
	plantest.Change(r.Swarm, t.ID, func(t *cluster.Task) {
		if t.NodeID == "" {
			t.NodeID = fmt.Sprintf("n%d", 1+t.Slot%3)
		}
		st := t.Status
		st.State = to
		t.SetStatus(st, r.At)
	})
}

// turn is nodes that work and a second that passes.
func (r *rollout) turn(bad string) {
	r.Helper()
	r.work(bad)
	r.At = r.At.Add(time.Second)
	r.rest()
}

// shown counts what is meant to run and runs, by image.
func (r *rollout) shown() string {
	n := map[string]int{}
	for _, t := range r.Tasks("web") {
		if t.WantsToRun() && t.Status.State == swarm.TaskStateRunning {
			n[t.Spec.ContainerSpec.Image]++
		}
	}
	var out []string
	for _, k := range slices.Sorted(maps.Keys(n)) {
		out = append(out, fmt.Sprintf("%d %s", n[k], k))
	}
	return strings.Join(out, ", ")
}

func (r *rollout) status() (swarm.UpdateState, string) {
	r.Helper()
	st := plantest.Get[*cluster.Service](r.Swarm, "web").UpdateStatus
	if st == nil {
		return "", ""
	}
	return st.State, st.Message
}

// Each line is what runs when the update has been asked for, and after each second.
func TestRollout(t *testing.T) {
	c := func(f func(*swarm.UpdateConfig)) swarm.UpdateConfig {
		c := swarm.UpdateConfig{Parallelism: 1, Monitor: time.Second}
		f(&c)
		return c
	}
	tests := []struct {
		name   string
		config swarm.UpdateConfig
		bad    bool
		want   []string
		state  swarm.UpdateState
		says   string
	}{
		{"one after the other, stop first", c(func(*swarm.UpdateConfig) {}), false,
			[]string{"2 hello:1", "2 hello:1", "1 hello:1, 1 hello:2", "1 hello:1, 1 hello:2", "2 hello:2"}, swarm.UpdateStateUpdating, "update in progress"},
		{"all at once", c(func(c *swarm.UpdateConfig) { c.Parallelism = 0 }), false,
			[]string{"", "", "3 hello:2"}, swarm.UpdateStateCompleted, "update completed"},
		{"two at once", c(func(c *swarm.UpdateConfig) { c.Parallelism = 2 }), false,
			[]string{"1 hello:1", "1 hello:1", "2 hello:2"}, swarm.UpdateStateUpdating, "update in progress"},
		{"start first", c(func(c *swarm.UpdateConfig) { c.Parallelism, c.Order = 0, swarm.UpdateOrderStartFirst }), false,
			[]string{"3 hello:1", "3 hello:2"}, swarm.UpdateStateCompleted, "update completed"},
		{"with a delay", c(func(c *swarm.UpdateConfig) { c.Order, c.Delay = swarm.UpdateOrderStartFirst, 3*time.Second }), false,
			[]string{"3 hello:1", "2 hello:1, 1 hello:2", "2 hello:1, 1 hello:2", "2 hello:1, 1 hello:2", "1 hello:1, 2 hello:2"}, swarm.UpdateStateUpdating, "update in progress"},
		{"watched before it ends", c(func(c *swarm.UpdateConfig) {
			c.Parallelism, c.Order, c.Monitor = 0, swarm.UpdateOrderStartFirst, 3*time.Second
		}), false,
			[]string{"3 hello:1", "3 hello:2", "3 hello:2"}, swarm.UpdateStateUpdating, "update in progress"},
		{"fails and pauses", c(func(*swarm.UpdateConfig) {}), true,
			[]string{"2 hello:1", "2 hello:1", "2 hello:1", "2 hello:1"}, swarm.UpdateStatePaused, "update paused due to failure or early termination of task id"},
		{"fails and goes on", c(func(c *swarm.UpdateConfig) { c.FailureAction = swarm.UpdateFailureActionContinue }), true,
			[]string{"2 hello:1", "2 hello:1", "1 hello:1", "1 hello:1", "", "", "", ""}, swarm.UpdateStateCompleted, "update completed"},
		{"one of three may fail", c(func(c *swarm.UpdateConfig) { c.MaxFailureRatio = 0.4 }), true,
			[]string{"2 hello:1", "2 hello:1", "1 hello:1", "1 hello:1", "1 hello:1"}, swarm.UpdateStatePaused, "update paused due to failure or early termination of task id"},
		{"fails and goes back", c(func(c *swarm.UpdateConfig) { c.FailureAction = swarm.UpdateFailureActionRollback }), true,
			[]string{"2 hello:1", "2 hello:1", "2 hello:1", "3 hello:1", "3 hello:1"}, swarm.UpdateStateRollbackCompleted, "rollback completed"},
		{"fails and goes back, start first", c(func(c *swarm.UpdateConfig) {
			c.FailureAction, c.Order, c.Parallelism = swarm.UpdateFailureActionRollback, swarm.UpdateOrderStartFirst, 0
		}), true, []string{"3 hello:1", "3 hello:1", "3 hello:1"}, swarm.UpdateStateRollbackCompleted, "rollback completed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRollout(t, 3, tt.config)
			bad := ""
			if tt.bad {
				bad = "hello:2"
			}
			r.image("hello:2")
			got := []string{r.shown()}
			for range len(tt.want) - 1 {
				r.turn(bad)
				got = append(got, r.shown())
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Error(d)
			}
			if state, says := r.status(); state != tt.state || !strings.HasPrefix(says, tt.says) {
				t.Errorf("%s: %s, want %s: %s", state, says, tt.state, tt.says)
			}
		})
	}
}

// The order of a rollback is its own. What was never stopped is not stopped for it.
func TestGoesBackToTheTaskThatRuns(t *testing.T) {
	r := newRollout(t, 3, swarm.UpdateConfig{Monitor: time.Second, Order: swarm.UpdateOrderStartFirst, FailureAction: swarm.UpdateFailureActionRollback})
	plantest.Change(r.Swarm, "web", func(v *cluster.Service) { v.Spec.RollbackConfig.Order = swarm.UpdateOrderStopFirst })
	before := map[string]bool{}
	for _, t := range r.Tasks("web") {
		before[t.ID] = true
	}
	r.image("hello:2")
	for range 4 {
		r.turn("hello:2")
		if got := r.shown(); got != "3 hello:1" {
			t.Errorf("%s run", got)
		}
	}
	for _, task := range r.Tasks("web") {
		if task.WantsToRun() && !before[task.ID] {
			t.Errorf("task %s is new", task.ID)
		}
	}
	if state, _ := r.status(); state != swarm.UpdateStateRollbackCompleted {
		t.Errorf("%s", state)
	}
}

// What publishes a port of its node gives way to its successor, which could never have the port beside it.
func TestStartFirstWithHostPorts(t *testing.T) {
	port := func(n uint32) func(*cluster.Service) {
		return func(v *cluster.Service) {
			v.Spec.EndpointSpec = &swarm.EndpointSpec{Ports: []swarm.PortConfig{
				{Protocol: "tcp", TargetPort: 80, PublishedPort: n, PublishMode: swarm.PortConfigPublishModeHost}}}
		}
	}
	for _, tt := range []struct {
		name     string
		replicas uint64
		change   func(*rollout)
		want     []string
	}{
		{"a node each", 3, func(r *rollout) { r.image("hello:2") }, []string{"2 hello:1", "2 hello:1", "1 hello:1, 1 hello:2"}},
		{"a node more", 2, func(r *rollout) { r.image("hello:2") }, []string{"2 hello:1", "1 hello:1, 1 hello:2"}},
		{"another port", 3, func(r *rollout) { plantest.Change(r.Swarm, "web", port(9090)); r.rest() }, []string{"3 hello:1", "3 hello:1"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRollout(t, tt.replicas, swarm.UpdateConfig{Parallelism: 1, Order: swarm.UpdateOrderStartFirst, Monitor: time.Second}, port(8080))
			for _, k := range r.Tasks("web") {
				if k.WantsToRun() && (len(k.HostPorts) != 1 || k.HostPorts[0].PublishedPort != 8080) {
					t.Fatalf("task %s publishes %v", k.ID, k.HostPorts)
				}
			}
			tt.change(r)
			got := []string{r.shown()}
			for range len(tt.want) - 1 {
				r.turn("")
				got = append(got, r.shown())
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

// A task that ends by itself counts as a failure of the update only while it is watched.
func TestWatched(t *testing.T) {
	for ran, want := range map[time.Duration]swarm.UpdateState{
		2 * time.Second: swarm.UpdateStatePaused,
		6 * time.Second: swarm.UpdateStateUpdating,
	} {
		t.Run(ran.String(), func(t *testing.T) {
			r := newRollout(t, 2, swarm.UpdateConfig{Parallelism: 1, Delay: time.Hour, Monitor: 4 * time.Second})
			r.image("hello:2")
			for range 3 {
				r.turn("")
			}
			for _, task := range r.Tasks("web") {
				if task.Spec.ContainerSpec.Image == "hello:2" && !task.Ended() {
					r.At = task.RunningAt.Add(ran)
					r.become(task, swarm.TaskStateFailed)
				}
			}
			r.rest()
			if state, says := r.status(); state != want {
				t.Errorf("%s: %s, want %s", state, says, want)
			}
		})
	}
}

// Failures are remembered without a history of tasks, and an automatic rollback leaves the ports alone.
func TestFailuresWithoutHistory(t *testing.T) {
	c := swarm.UpdateConfig{Parallelism: 1, MaxFailureRatio: 0.4, FailureAction: swarm.UpdateFailureActionRollback}
	r := newRollout(t, 3, c)
	none := int64(0)
	s := &cluster.Swarm{}
	s.Spec.Orchestration.TaskHistoryRetentionLimit = &none
	r.Put(s)
	plantest.Change(r.Swarm, "web", func(v *cluster.Service) {
		prev := v.Clone().(*cluster.Service).Spec
		v.PreviousSpec, v.UpdateStatus = &prev, nil
		v.Spec.TaskTemplate.ContainerSpec.Image = "hello:2"
		hour := time.Hour // until the next try: the slots do not fail at the same time again
		v.Spec.TaskTemplate.RestartPolicy = &swarm.RestartPolicy{Delay: &hour}
		v.Spec.EndpointSpec = &swarm.EndpointSpec{Ports: []swarm.PortConfig{{TargetPort: 80, PublishedPort: 8080, PublishMode: swarm.PortConfigPublishModeHost}}}
		v.Spec.Labels = map[string]string{"a": "b"}
	})
	r.rest()
	for range 20 {
		r.turn("hello:2")
	}
	state, says := r.status()
	if state != swarm.UpdateStateRollbackCompleted {
		t.Errorf("%s: %s", state, says)
	}
	v := plantest.Get[*cluster.Service](r.Swarm, "web")
	if v.Spec.TaskTemplate.ContainerSpec.Image != "hello:1" || v.Spec.EndpointSpec == nil || v.Spec.Labels != nil || v.PreviousSpec != nil {
		t.Errorf("%+v", v.Spec)
	}
	if got := r.shown(); got != "3 hello:1" {
		t.Error(got)
	}
	for _, task := range r.Tasks("web") {
		if task.Ended() {
			t.Errorf("task %s is kept", task.ID)
		}
	}
}
