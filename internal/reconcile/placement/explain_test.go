package placement_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/swarm"
	"pgregory.net/rapid"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/reconcile/placement"
	"shoal.dev/shoal/internal/reconcile/plantest"
)

// lines are what an explanation says, a line each.
func lines(e cluster.Explanation) []string {
	var out []string
	for _, n := range e.Nodes {
		line := fmt.Sprintf("%s: %d of the service, %d of all", n.ID, n.Score.Own, n.Score.Tasks)
		for _, g := range n.Score.Spread {
			line += fmt.Sprintf(", %s=%s has %d", g.Label, g.Value, g.Tasks)
		}
		if n.Score.Avoided {
			line += fmt.Sprintf(", avoided for %d", n.Score.Failures)
		}
		if n.Rank == 0 {
			line = n.ID + ": " + n.Filter + ": " + n.Refusal
		}
		out = append(out, line)
	}
	for _, w := range e.Waiting {
		out = append(out, fmt.Sprintf("%d wait: %s", len(w.Tasks), w.Reason))
	}
	for _, f := range e.Failures {
		out = append(out, fmt.Sprintf("%d %s on %s: %s (%d)", f.Count, f.State, f.Hostname, f.Err, f.ExitCode))
	}
	return out
}

func TestExplain(t *testing.T) {
	s := plantest.New(t)
	zone := func(z string) func(*cluster.Node) {
		return func(n *cluster.Node) { n.Spec.Labels = map[string]string{"zone": z} }
	}
	linux := func(arch string) func(*cluster.Node) {
		return func(n *cluster.Node) { n.Description.Platform = swarm.Platform{OS: "linux", Architecture: arch} }
	}
	s.Node("best", zone("b"), linux("x86_64"))
	s.Node("second", zone("a"), linux("x86_64"))
	s.Node("failing", zone("c"), linux("x86_64"))
	s.Node("arm", zone("a"), linux("aarch64"))
	s.Node("unlabelled", linux("x86_64"))
	s.Node("full", zone("a"), linux("x86_64"))
	s.Node("taken", zone("a"), linux("x86_64"))
	s.Node("many", zone("a"), linux("x86_64"))
	s.Node("plain", zone("a"), linux("x86_64"), func(n *cluster.Node) { n.Description.Engine.Plugins = nil })
	s.Node("drained", func(n *cluster.Node) { n.Spec.Availability = "drain" })
	s.Node("paused", func(n *cluster.Node) { n.Spec.Availability = "pause" })
	s.Node("down", func(n *cluster.Node) { n.Status.State, n.Status.Message = "down", "heartbeat failure" })
	for _, id := range []string{"best", "second", "failing", "arm", "unlabelled", "full", "taken", "many"} {
		plantest.Change(s, id, func(n *cluster.Node) {
			n.Description.Engine.Plugins = []swarm.PluginDescription{{Type: "Volume", Name: "nfs:latest"}}
		})
	}
	svc := s.Service("web", 9, func(v *cluster.Service) {
		tt := &v.Spec.TaskTemplate
		tt.ContainerSpec.Mounts = []mount.Mount{{Type: mount.TypeVolume, VolumeOptions: &mount.VolumeOptions{DriverConfig: &mount.Driver{Name: "nfs"}}}}
		tt.Resources = &swarm.ResourceRequirements{Reservations: &swarm.Resources{NanoCPUs: 2e9, MemoryBytes: 4 << 30}}
		tt.Placement = &swarm.Placement{
			Constraints: []string{"node.labels.zone!=x"}, MaxReplicas: 1,
			Platforms:   []swarm.Platform{{OS: "linux", Architecture: "amd64"}},
			Preferences: []swarm.PlacementPreference{{Spread: &swarm.SpreadOver{SpreadDescriptor: "node.labels.zone"}}},
		}
		v.Spec.EndpointSpec = &swarm.EndpointSpec{Ports: []swarm.PortConfig{hostPort("tcp", 8080)}}
	})
	plantest.Change(s, "unlabelled", func(n *cluster.Node) { n.Spec.Labels = map[string]string{"zone": "X"} })
	task(s, "other", on("full", "running"), reserve(3e9, 1<<30))
	task(s, "other", on("full", "starting"), reserve(0, 5<<30))
	task(s, "other", on("taken", "running"), onPorts(hostPort("tcp", 8080)))
	task(s, "web", on("many", "running"))
	for range 5 {
		task(s, "web", on("failing", "failed"), func(t *cluster.Task) {
			t.DesiredState, t.Status.Timestamp, t.Status.Err = "shutdown", s.At, "task: non-zero exit (3)"
			t.Status.ContainerStatus = &swarm.ContainerStatus{ExitCode: 3}
		})
	}
	task(s, "web", on("second", "rejected"), func(t *cluster.Task) {
		t.DesiredState, t.Status.Timestamp, t.Status.Err = "shutdown", s.At.Add(-time.Hour), "No such image: x"
	})
	task(s, "web", constraint("node.labels.zone==nowhere"))
	task(s, "web", func(t *cluster.Task) { t.Status.State = swarm.TaskStateNew })
	task(s, "web", func(t *cluster.Task) { t.Spec.Placement.MaxReplicas = 3 })

	want := []string{
		"best: 0 of the service, 0 of all, node.labels.zone=b has 0",
		"second: 0 of the service, 0 of all, node.labels.zone=a has 1",
		"failing: 0 of the service, 0 of all, node.labels.zone=c has 0, avoided for 5",
		`arm: platform: the image is for linux/amd64, the node is linux/aarch64`,
		"down: ready: the node is down: heartbeat failure",
		"drained: ready: the node is drained",
		"full: resources: cpu: 2 asked, 1 free; memory: 4GiB asked, 2GiB free",
		"many: max replicas: max replicas per node: 1 allowed, 1 there",
		"paused: ready: the node is paused",
		"plain: plugins: missing plugin: volume driver nfs",
		"taken: ports: host-mode port already in use: 8080/tcp",
		`unlabelled: constraints: constraint node.labels.zone!=x: the node has "X"`,
		"1 wait: a node is about to be chosen",
		"1 wait: no suitable node (scheduling constraints not satisfied on 9 nodes; 3 nodes not available for new tasks)",
		"1 wait: waits for its addresses",
		"5 failed on host-failing: task: non-zero exit (3) (3)",
		"1 rejected on host-second: No such image: x (0)",
	}
	if diff := cmp.Diff(want, lines(placement.Explain(s.Store.Snapshot(), svc, s.At))); diff != "" {
		t.Error(diff)
	}
}

// The node that is ranked first is the one that gets the next task, and if none is ranked there is none.
func TestExplainIsWhatIsDone(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := plantest.New(t)
		for i := range rapid.IntRange(1, 5).Draw(rt, "nodes") {
			s.Node(fmt.Sprint("n", i), func(n *cluster.Node) {
				n.Description.Resources.NanoCPUs = rapid.Int64Range(0, 4).Draw(rt, "cpus") * 1e9
				n.Spec.Labels = map[string]string{"zone": rapid.SampledFrom([]string{"a", "b"}).Draw(rt, "zone")}
				n.Spec.Availability = rapid.SampledFrom([]swarm.NodeAvailability{"active", "active", "drain"}).Draw(rt, "availability")
			})
		}
		svc := s.Service("web", 1, func(v *cluster.Service) {
			v.Spec.TaskTemplate.Placement = &swarm.Placement{
				MaxReplicas: rapid.Uint64Range(0, 2).Draw(rt, "max replicas"),
				Preferences: []swarm.PlacementPreference{{Spread: &swarm.SpreadOver{SpreadDescriptor: "node.labels.zone"}}},
			}
			v.Spec.TaskTemplate.Resources = &swarm.ResourceRequirements{Reservations: &swarm.Resources{NanoCPUs: 1e9}}
		})
		for range 10 {
			e := placement.Explain(s.Store.Snapshot(), svc, s.At)
			k := task(s, "web", func(t *cluster.Task) { t.Spec = svc.Spec.TaskTemplate })
			s.Settle(placement.Planner{})
			first, got := e.Nodes[0], where(s, k)
			if first.Rank == 0 {
				if err := plantest.Get[*cluster.Task](s, k.ID).Status.Err; got != "" || !strings.HasPrefix(err, "no suitable node (") {
					rt.Fatalf("no node is ranked: on %q, %q", got, err)
				}
				break
			}
			// Nodes that are equal in all that counts are told apart by the task.
			chosen := e.Nodes[0]
			for _, n := range e.Nodes {
				if n.ID == got {
					chosen = n
				}
			}
			if got == "" || !cmp.Equal(ranked(chosen), ranked(first)) {
				rt.Fatalf("on %q: %+v; first is %+v", got, chosen, first)
			}
		}
	})
}

// ranked is what of a verdict decides.
func ranked(v cluster.NodeVerdict) []int {
	out := []int{min(v.Rank, 1), v.Score.Own, v.Score.Tasks}
	for _, g := range v.Score.Spread {
		out = append(out, g.Tasks)
	}
	return out
}
