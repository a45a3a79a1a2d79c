package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/api/types/swarm"
	"github.com/rogpeppe/go-internal/testscript"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/control"
	"shoal.dev/shoal/internal/reconcile"
	"shoal.dev/shoal/internal/reconcile/address"
	"shoal.dev/shoal/internal/reconcile/gate"
	"shoal.dev/shoal/internal/reconcile/placement"
	"shoal.dev/shoal/internal/reconcile/reap"
	"shoal.dev/shoal/internal/reconcile/schedule"
	"shoal.dev/shoal/internal/reconcile/service"
	"shoal.dev/shoal/internal/store"
)

// TestModes runs the scripts of testdata/modes with both clients against a swarm of three nodes that is real but for
// its containers: control, store and planners are the daemon's, and every node does at once what its tasks want.
func TestModes(t *testing.T) {
	run := func(t *testing.T, client string) {
		t.Helper()
		testscript.Run(t, testscript.Params{
			Dir: "testdata/modes",
			// [shoal] begins a line that is for our client only.
			Condition: func(cond string) (bool, error) {
				if cond != "shoal" {
					return false, fmt.Errorf("unknown condition %s", cond)
				}
				return client == "shoal", nil
			},
			Cmds: map[string]func(*testscript.TestScript, bool, []string){
				"until": until,
			},
			Setup: func(e *testscript.Env) error {
				ctl, stop, err := toySwarm()
				if err != nil {
					return err
				}
				e.Defer(stop)
				return setup(e, client, ctl)
			},
		})
	}
	t.Run("shoal", func(t *testing.T) { run(t, "shoal") })
	t.Run("docker", func(t *testing.T) {
		path, err := exec.LookPath("docker")
		if err != nil {
			t.Skip("there is no docker client on this machine")
		}
		run(t, path)
	})
}

// until REGEXP COMMAND... asks again until the answer is so.
func until(ts *testscript.TestScript, _ bool, args []string) {
	re, deadline := regexp.MustCompile("(?m)"+args[0]), time.Now().Add(20*time.Second)
	for {
		err := ts.Exec(args[1], args[2:]...)
		out := ts.ReadFile("stdout")
		if err == nil && re.MatchString(out) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%s never says %s: %v\n%s%s", strings.Join(args[1:], " "), args[0], err, out, ts.ReadFile("stderr"))
		}
	}
}

// toySwarm is a swarm of node1, node2 and node3, until stop is called.
func toySwarm() (ctl *control.Control, stop func(), err error) {
	s := store.New()
	store.NewLocal(s)
	if _, err := s.Update(context.Background(), func(tx *store.Tx) error {
		sw := &cluster.Swarm{}
		sw.ID = "swarmid"
		tx.Write(store.Create(sw))
		for _, name := range []string{"node1", "node2", "node3"} {
			n := &cluster.Node{}
			n.ID, n.Description.Hostname = name+"id", name
			n.Spec = swarm.NodeSpec{Role: swarm.NodeRoleWorker, Availability: swarm.NodeAvailabilityActive}
			n.Status.State = swarm.NodeStateReady
			n.Description.Platform = swarm.Platform{OS: "linux", Architecture: "x86_64"}
			n.Description.Resources = swarm.Resources{NanoCPUs: 4e9, MemoryBytes: 8 << 30}
			tx.Write(store.Create(n))
		}
		return nil
	}); err != nil {
		return nil, nil, err
	}
	ctl = control.New(noRegistry{})
	ctl.Activate(&control.Manager{
		NodeID: "node1id", Store: s, ReadBarrier: func(context.Context) error { return nil },
		Leader: func() string { return "node1id" }, MayDemote: func(string) error { return nil },
	})
	runner := reconcile.NewRunner(reconcile.Config{
		Store: s, Observed: toyObserved{s}, NewID: cluster.NewID, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Planners: []reconcile.Planner{schedule.Planner{}, service.Planner{}, address.Planner{}, gate.Planner{}, placement.Planner{}, reap.Planner{}},
	})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = runner.Run(ctx) }) // it ends with ctx
	wg.Go(func() { toyNodes(ctx, s) })
	return ctl, func() { cancel(); wg.Wait() }, nil
}

type noRegistry struct{}

func (noRegistry) Distribution(context.Context, string, *registry.AuthConfig) (*registry.DistributionInspect, error) {
	return nil, errdefs.ErrUnavailable
}

type toyObserved struct{ s *store.Store }

func (o toyObserved) LastHeard(string) (time.Time, bool) { return o.s.Now(), true }
func (o toyObserved) LeaderSince() time.Time             { return time.Time{} }
func (o toyObserved) Usage(string) (cluster.Usage, bool) { return cluster.Usage{}, false }
func (o toyObserved) Applied(string) uint64              { return o.s.Index() }

// toyNodes does what tasks want: those of jobs end well after a moment, unless their command is false.
func toyNodes(ctx context.Context, s *store.Store) {
	w, _ := s.Watch()
	defer w.Close()
	for {
		w.Take()
		next := map[string]swarm.TaskState{}
		for t := range store.List[*cluster.Task](s.Snapshot()) {
			if to := toyNext(t); to != t.Status.State {
				next[t.ID] = to
			}
		}
		if len(next) > 0 {
			// What another writer changed at the same time is looked at again.
			_, err := s.Update(ctx, func(tx *store.Tx) error {
				for _, id := range slices.Sorted(maps.Keys(next)) {
					t, ok := store.Get[*cluster.Task](tx.Snapshot, id)
					if !ok || toyNext(t) != next[id] {
						continue
					}
					c := t.Clone().(*cluster.Task)
					c.SetStatus(swarm.TaskStatus{State: next[id], Timestamp: s.Now(), ContainerStatus: &swarm.ContainerStatus{}}, s.Now())
					tx.Write(store.PutState(c))
				}
				return nil
			})
			if err != nil && ctx.Err() == nil && !errors.Is(err, context.Canceled) {
				panic(err)
			}
		}
		select {
		case <-w.Ready():
		case <-ctx.Done():
			return
		}
	}
}

func toyNext(t *cluster.Task) swarm.TaskState {
	now := t.Status.State
	switch {
	case t.Ended() || cluster.Before(now, swarm.TaskStateAssigned):
		return now
	case !t.WantsToRun():
		return swarm.TaskStateShutdown
	case t.DesiredState == swarm.TaskStateReady:
		return swarm.TaskStateReady
	case now != swarm.TaskStateRunning:
		return swarm.TaskStateRunning
	case t.JobIteration == nil, slices.Equal(t.Spec.ContainerSpec.Args, []string{"sleep"}):
		return now
	case slices.Equal(t.Spec.ContainerSpec.Args, []string{"false"}):
		return swarm.TaskStateFailed
	}
	return swarm.TaskStateComplete
}
