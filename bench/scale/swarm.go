// Package scale measures the control plane without containers: how long planning takes, and what a manager of a large
// swarm costs.
//
// It decides the shapes that are measured and from when to when; each measurement says so. It uses the parts of a manager
// as a manager does (the store, the runner with all its planners, the log on the disk) and leaves out what makes no
// plan: links, agents, kernels. It judges nothing: a figure is kept beside those of earlier runs.
package scale

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/raft"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/consensus"
	"shoal.dev/shoal/internal/reconcile"
	"shoal.dev/shoal/internal/reconcile/address"
	"shoal.dev/shoal/internal/reconcile/liveness"
	"shoal.dev/shoal/internal/reconcile/placement"
	"shoal.dev/shoal/internal/reconcile/reap"
	"shoal.dev/shoal/internal/reconcile/service"
	"shoal.dev/shoal/internal/store"
)

// chunk is how many records the shapes are made with at a time.
const chunk = 500

// planning is a manager's store and runner.
type planning struct {
	store  *store.Store
	runner *reconcile.Runner
}

// newPlanning makes an empty swarm. With onDisk its log is that of a single manager, synced to a temporary folder entry by
// entry; otherwise entries are encoded, decoded and applied, and kept nowhere. done ends it.
func newPlanning(ctx context.Context, onDisk bool) (p *planning, done func() error, err error) {
	p = &planning{store: store.New()}
	done = func() error { return nil }
	if onDisk {
		if done, err = logOnDisk(ctx, p.store); err != nil {
			return nil, nil, err
		}
	} else {
		store.NewLocal(p.store)
	}
	sw, ingress := &cluster.Swarm{}, &cluster.Network{}
	sw.ID, ingress.ID = cluster.SingletonID, "ingress"
	ingress.Spec.Name, ingress.Spec.Ingress = "ingress", true
	ingress.IPAMOptions = ipam("10.0.0.0/10")
	return p, done, p.put(ctx, sw, ingress)
}

// logOnDisk gives the store the log of a manager that is alone.
func logOnDisk(ctx context.Context, s *store.Store) (done func() error, err error) {
	dir, err := os.MkdirTemp("", "shoal-scale-")
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	cons, err := consensus.Open(consensus.Config{
		Dir: filepath.Join(dir, "raft"), NodeID: "manager", Addr: l.Addr().String(), Layer: layer{l}, Store: s,
		Key: make([]byte, 32), Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return nil, err
	}
	done = func() error {
		err := cons.Close()
		if rerr := os.RemoveAll(dir); err == nil {
			err = rerr
		}
		return err
	}
	if err := cons.Bootstrap(); err != nil {
		return nil, err
	}
	for {
		if _, err := cons.ReadIndex(ctx); err == nil {
			return done, nil
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// layer carries raft over the loopback device, to nobody.
type layer struct{ net.Listener }

func (layer) Dial(a raft.ServerAddress, d time.Duration) (net.Conn, error) {
	return net.DialTimeout("tcp", string(a), d)
}

// LastHeard, LeaderSince and Applied are reconcile.Observed: every node is there and up to date.
func (p *planning) LastHeard(string) (time.Time, bool) { return p.store.Now(), true }
func (p *planning) LeaderSince() time.Time             { return p.store.Now().Add(-time.Hour) }
func (p *planning) Applied(string) uint64              { return p.store.Index() }

func (p *planning) id() string { return cluster.NewID() }

// put writes records that are not there yet.
func (p *planning) put(ctx context.Context, records ...cluster.Object) error {
	for len(records) > 0 {
		n := min(len(records), chunk)
		groups := make([]store.Group, n)
		for i, o := range records[:n] {
			groups[i].Changes = []store.Change{store.Create(o)}
		}
		if err := p.propose(ctx, groups); err != nil {
			return err
		}
		records = records[n:]
	}
	return nil
}

func (p *planning) propose(ctx context.Context, groups []store.Group) error {
	_, errs, err := p.store.Propose(ctx, groups)
	if err != nil {
		return err
	}
	for _, e := range errs {
		if e != nil {
			return e
		}
	}
	return nil
}

// nodes makes nodes that are ready, with room for everything.
func (p *planning) nodes(ctx context.Context, count int) error {
	all := make([]cluster.Object, count)
	for i := range all {
		n := &cluster.Node{}
		n.ID = fmt.Sprintf("node%06d", i)
		n.Description.Hostname = fmt.Sprintf("host-%d", i)
		n.Description.Platform = swarm.Platform{OS: "linux", Architecture: "x86_64"}
		n.Description.Resources = swarm.Resources{NanoCPUs: 64e9, MemoryBytes: 256 << 30}
		n.Description.Engine.EngineVersion = "29.0.0"
		n.Description.Engine.Labels = map[string]string{"zone": fmt.Sprint(i % 3)}
		n.Spec.Availability, n.Spec.Role = swarm.NodeAvailabilityActive, swarm.NodeRoleWorker
		n.Status.State = swarm.NodeStateReady
		n.Index = uint16(i%65535 + 1)
		n.IngressAddr = netip.AddrFrom4([4]byte{10, 63, byte(i >> 8), byte(i)})
		n.DataPathAddr = netip.AddrFrom4([4]byte{192, 168, byte(i >> 8), byte(i)})
		all[i] = n
	}
	return p.put(ctx, all...)
}

// newService is a service as control writes it.
func (p *planning) newService(name string, replicas uint64) *cluster.Service {
	s := &cluster.Service{}
	s.ID = p.id()
	s.Spec.Name = name
	s.Spec.Labels = map[string]string{"com.docker.stack.namespace": "scale"}
	s.Spec.Mode.Replicated = &swarm.ReplicatedService{Replicas: &replicas}
	s.Spec.TaskTemplate = swarm.TaskSpec{
		ContainerSpec: &swarm.ContainerSpec{
			Image: "registry.example/hello:1@sha256:0000000000000000000000000000000000000000000000000000000000000000",
			Env:   []string{"GREETING=hello", "WHO=world"}, Args: []string{"serve", "--port", "8080"},
			Isolation: "default", StopGracePeriod: new(10 * time.Second),
		},
		Resources: &swarm.ResourceRequirements{
			Limits: &swarm.Limit{MemoryBytes: 64 << 20}, Reservations: &swarm.Resources{NanoCPUs: 1e7, MemoryBytes: 16 << 20},
		},
		RestartPolicy: &swarm.RestartPolicy{Condition: swarm.RestartPolicyConditionAny, Delay: new(5 * time.Second), MaxAttempts: new(uint64)},
		Placement:     &swarm.Placement{Platforms: []swarm.Platform{{OS: "linux", Architecture: "amd64"}}},
		Runtime:       swarm.RuntimeContainer,
	}
	return s
}

// lead begins a term of leadership and plans what there is to plan.
func (p *planning) lead(ctx context.Context) error {
	p.runner = reconcile.NewRunner(reconcile.Config{
		Store: p.store, Observed: p, NewID: p.id, Log: slog.New(slog.DiscardHandler),
		Planners: []reconcile.Planner{liveness.Planner{}, service.Planner{}, address.Planner{}, placement.Planner{}, reap.Planner{}},
	})
	if _, err := p.runner.Begin(ctx); err != nil {
		return err
	}
	return p.settle(ctx)
}

// settle plans and commits until the planners have nothing more to say.
func (p *planning) settle(ctx context.Context) error {
	for {
		before := p.store.Index()
		if _, err := p.runner.Step(ctx, p.store.Now()); err != nil {
			return err
		}
		if p.store.Index() == before {
			return nil
		}
	}
}

// run gives every task that has a node the state that its agent would report at the end.
func (p *planning) run(ctx context.Context) error {
	var groups []store.Group
	for t := range store.List[*cluster.Task](p.store.Snapshot()) {
		if t.Status.State != swarm.TaskStateAssigned {
			continue
		}
		c := t.Clone().(*cluster.Task)
		c.SetStatus(swarm.TaskStatus{
			State: swarm.TaskStateRunning, Message: "started", Timestamp: p.store.Now(),
			ContainerStatus: &swarm.ContainerStatus{ContainerID: t.ID + t.ID, PID: 1},
		}, p.store.Now())
		if groups = append(groups, store.Group{Changes: []store.Change{store.PutState(c)}}); len(groups) == chunk {
			if err := p.propose(ctx, groups); err != nil {
				return err
			}
			groups = groups[:0]
		}
	}
	if len(groups) > 0 {
		if err := p.propose(ctx, groups); err != nil {
			return err
		}
	}
	return p.settle(ctx)
}

// count is how many of the tasks are as want says.
func (p *planning) count(want func(*cluster.Task) bool) int {
	n := 0
	for t := range store.List[*cluster.Task](p.store.Snapshot()) {
		if want(t) {
			n++
		}
	}
	return n
}

func ipam(subnet string) *swarm.IPAMOptions {
	p := netip.MustParsePrefix(subnet)
	return &swarm.IPAMOptions{Configs: []swarm.IPAMConfig{{Subnet: p, Gateway: p.Addr().Next()}}}
}
