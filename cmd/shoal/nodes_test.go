package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/api/types/swarm"
	"github.com/rogpeppe/go-internal/testscript"

	"shoal.dev/shoal/internal/agent"
	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/control"
	"shoal.dev/shoal/internal/dispatch"
	"shoal.dev/shoal/internal/dispatch/memhttp"
	"shoal.dev/shoal/internal/engine/fake"
	"shoal.dev/shoal/internal/link"
	"shoal.dev/shoal/internal/network"
	"shoal.dev/shoal/internal/reconcile"
	"shoal.dev/shoal/internal/reconcile/address"
	"shoal.dev/shoal/internal/reconcile/placement"
	"shoal.dev/shoal/internal/reconcile/reap"
	"shoal.dev/shoal/internal/reconcile/service"
	"shoal.dev/shoal/internal/store"
)

// TestNodes runs the scripts of testdata/nodes with both clients against a swarm of two nodes that is the daemon's but
// for its engines, which are in memory; see package fake for what their containers do. What only shoal can say is under
// the condition [shoal].
func TestNodes(t *testing.T) {
	run := func(t *testing.T, client string) {
		t.Helper()
		testscript.Run(t, testscript.Params{
			Dir:       "testdata/nodes",
			Condition: func(cond string) (bool, error) { return cond == "shoal" && client == "shoal", nil },
			Cmds:      map[string]func(*testscript.TestScript, bool, []string){"until": untilSaid},
			Setup: func(e *testscript.Env) error {
				w := newNodes(t)
				e.Defer(w.stop)
				return setup(e, client, w.control)
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

// untilSaid is the command until REGEXP COMMAND...: it asks again until the answer is so.
func untilSaid(ts *testscript.TestScript, _ bool, args []string) {
	re, deadline := regexp.MustCompile("(?m)"+args[0]), time.Now().Add(30*time.Second)
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

// nodes is a swarm with the daemon's control, planners, dispatch and agents.
type nodes struct {
	control *control.Control
	store   *store.Store
	engines map[string]*fake.Engine // by node ID
	stop    func()
}

// secretDoor lets ada into the registry private.example, and everybody into any other.
func secretDoor(image reference.Named, auth *registry.AuthConfig) error {
	if reference.Domain(image) == "private.example" && (auth == nil || auth.Username != "ada" || auth.Password != "lovelace") {
		return errdefs.ErrUnauthenticated.WithMessage("no basic auth credentials")
	}
	return nil
}

func newNodes(t *testing.T) *nodes {
	t.Helper()
	w := &nodes{store: store.New(), engines: map[string]*fake.Engine{}}
	store.NewLocal(w.store)
	names := []string{"node1", "node2"}
	if _, err := w.store.Update(t.Context(), func(tx *store.Tx) error {
		sw := &cluster.Swarm{Epoch: 1}
		sw.ID = "swarmid"
		tx.Write(store.Create(sw))
		for i, name := range names {
			n := &cluster.Node{Index: uint16(i + 1), DataPathAddr: netip.AddrFrom4([4]byte{198, 18, 0, byte(i + 1)})}
			n.ID, n.Description.Hostname = name+"id", name
			n.Spec = swarm.NodeSpec{Role: swarm.NodeRoleWorker, Availability: swarm.NodeAvailabilityActive}
			n.Status.State = swarm.NodeStateReady
			tx.Write(store.Create(n))
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	run := func(f func(context.Context) error) {
		wg.Go(func() {
			if err := f(ctx); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
		})
	}
	srv := dispatch.New(dispatch.Config{Store: w.store, NodeID: "m1", Log: log, Leader: func() (http.RoundTripper, bool, error) { return nil, true, nil }})
	srv.BecomeLeader()
	run(srv.Run)
	for _, name := range names {
		eng := fake.New()
		eng.AnyImage, eng.Door = true, secretDoor
		w.engines[name+"id"] = eng
		dir := t.TempDir()
		a := agent.New(agent.Config{
			NodeID: name + "id", Engine: eng, Network: noKernel{}, StateDir: dir, Log: log,
			Describe: func(context.Context) swarm.NodeDescription {
				d := swarm.NodeDescription{Hostname: name, Platform: swarm.Platform{OS: "linux", Architecture: "x86_64"}}
				d.Resources = swarm.Resources{NanoCPUs: 4e9, MemoryBytes: 8 << 30, GenericResources: []swarm.GenericResource{
					{DiscreteResourceSpec: &swarm.DiscreteGenericResource{Kind: "SSD", Value: 4}},
				}}
				return d
			},
			Connect: func(context.Context) (agent.Session, error) {
				l := memhttp.Dial(t, srv.Handler(), link.Peer{SwarmID: "swarmid", NodeID: name + "id", Role: swarm.NodeRoleWorker})
				return agent.Session{RoundTripper: l, Done: l.Done(), Close: l.Close}, nil
			},
		})
		run(a.Run)
	}
	w.control = control.New(w.engines["node1id"])
	w.control.Activate(&control.Manager{
		NodeID: "node1id", Store: w.store, ReadBarrier: func(context.Context) error { return nil },
		Leader: func() string { return "node1id" }, MayDemote: func(string) error { return errors.New("no") },
	})
	runner := reconcile.NewRunner(reconcile.Config{
		Store: w.store, Observed: toyObserved{w.store}, NewID: cluster.NewID, Log: log,
		Planners: []reconcile.Planner{service.Planner{}, address.Planner{}, placement.Planner{}, reap.Planner{}},
	})
	run(runner.Run)
	w.stop = sync.OnceFunc(func() {
		cancel()
		wg.Wait()
		for _, eng := range w.engines {
			eng.Close()
		}
	})
	return w
}

type noKernel struct{}

func (noKernel) Apply(context.Context, network.Desired) error { return nil }
