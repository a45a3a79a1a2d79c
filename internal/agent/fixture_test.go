package agent_test

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/agent"
	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/dispatch"
	"shoal.dev/shoal/internal/dispatch/memhttp"
	"shoal.dev/shoal/internal/link"
	"shoal.dev/shoal/internal/store"
)

const pinned = "hello:1@sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"

// bench is a swarm of one leader and one worker, "n1".
type bench struct {
	t     *testing.T
	store *store.Store
	srv   *dispatch.Server
	eng   *fakeEngine
	net   *fakeNetwork
	dir   string
	use   agent.Engine  // instead of eng, if not nil
	full  atomic.Int64  // what the agent finds its disk to be full with
	asked atomic.Uint64 // how often connections were counted
	// obstacle is the text of what drops tasks' packets.
	obstacle atomic.Value

	mu      sync.Mutex
	handler http.Handler                              // what the agent connects to
	wrap    func(http.RoundTripper) http.RoundTripper // of each new connection
	link    *memhttp.Link                             // the newest
	dials   int
	down    bool // nothing can be reached
}

func newBench(t *testing.T) *bench {
	b := &bench{t: t, store: store.New(), eng: newFakeEngine("hello:1", pinned), net: &fakeNetwork{}, dir: t.TempDir()}
	store.NewLocal(b.store)
	b.update(func(tx *store.Tx) {
		tx.Write(store.Create(&cluster.Swarm{Epoch: 1}))
		n := &cluster.Network{}
		n.ID, n.Spec.Name, n.Spec.Ingress = "net", "ingress", true
		n.IPAMOptions = &swarm.IPAMOptions{Configs: []swarm.IPAMConfig{{Subnet: netip.MustParsePrefix("10.0.0.0/16")}}}
		n.DriverState.Options = map[string]string{"com.docker.network.driver.overlay.vxlanid_list": "4096"}
		tx.Write(store.Create(n))
		for i, id := range []string{"n1", "n2"} {
			n := &cluster.Node{Index: uint16(i + 1)}
			n.ID, n.Spec.Role = id, swarm.NodeRoleWorker
			n.DataPathAddr = netip.AddrFrom4([4]byte{198, 18, 0, byte(i + 1)})
			n.IngressAddr = netip.AddrFrom4([4]byte{10, 0, 200, byte(i + 1)})
			tx.Write(store.Create(n))
		}
	})
	b.srv = dispatch.New(dispatch.Config{
		Store: b.store, NodeID: "m1", DataPathPort: 4789,
		Leader: func() (http.RoundTripper, bool, error) { return nil, true, nil },
	})
	b.srv.BecomeLeader()
	b.handler = b.srv.Handler()
	run(t, b.srv.Run)
	return b
}

// run runs fn until the returned function is called or the test ends.
func run(t *testing.T, fn func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := fn(ctx); err != nil {
			t.Error(err)
		}
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		<-done
	})
	t.Cleanup(stop)
	return stop
}

// agent runs an agent on the bench's engine.
func (b *bench) agent() (stop func()) {
	eng := agent.Engine(b.eng)
	if b.use != nil {
		eng = b.use
	}
	a := agent.New(agent.Config{
		NodeID: "n1", Addr: "198.18.0.1", Engine: eng, Network: b.net, StateDir: b.dir, Connect: b.connect, Parallel: 4,
		Describe: func(context.Context) swarm.NodeDescription { return swarm.NodeDescription{Hostname: "host1"} },
		DiskFull: func() int { return int(b.full.Load()) },
		Connections: func() (map[netip.Addr]uint64, error) { // ten more with each measurement
			return map[netip.Addr]uint64{netip.MustParseAddr("10.0.0.9"): b.asked.Add(1) * 10}, nil
		},
		Obstacle: func() string {
			why, _ := b.obstacle.Load().(string)
			return why
		},
	})
	return run(b.t, a.Run)
}

func (b *bench) connect(ctx context.Context) (agent.Session, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.dials++
	if b.down {
		return agent.Session{}, errors.New("connection refused")
	}
	l := memhttp.Dial(b.t, b.handler, link.Peer{SwarmID: "s", NodeID: "n1", Role: swarm.NodeRoleWorker})
	b.link = l
	rt := http.RoundTripper(l)
	if b.wrap != nil {
		rt = b.wrap(rt)
	}
	return agent.Session{RoundTripper: rt, Done: l.Done(), Close: l.Close}, nil
}

func (b *bench) connections() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.dials
}

// serve makes h the manager from the next connection on.
func (b *bench) serve(h http.Handler) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.handler = h
}

func (b *bench) setDown(down bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.down = down
	if down && b.link != nil {
		b.link.Close()
	}
}

func (b *bench) update(fn func(*store.Tx)) {
	b.t.Helper()
	if _, err := b.store.Update(context.Background(), func(tx *store.Tx) error { fn(tx); return nil }); err != nil {
		b.t.Fatal(err)
	}
}

// newTask is a task of n1, with an address on the mesh if addr is not 0.
func newTask(id string, addr byte) *cluster.Task {
	t := &cluster.Task{ServiceName: "web"}
	t.ID, t.ServiceID, t.Slot, t.NodeID, t.DesiredState = id, "svc", 1, "n1", swarm.TaskStateRunning
	t.Status.State = swarm.TaskStateAssigned
	t.Spec.ContainerSpec = &swarm.ContainerSpec{Image: "hello:1"}
	if addr > 0 {
		t.NetworksAttachments = []swarm.NetworkAttachment{{
			Network: swarm.Network{ID: "net"}, Addresses: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, addr}), 16)},
		}}
	}
	return t
}

func (b *bench) create(tasks ...*cluster.Task) {
	b.t.Helper()
	b.update(func(tx *store.Tx) {
		for _, t := range tasks {
			tx.Write(store.Create(t))
		}
	})
}

// desire sets a task's desired state, and that no node sends it connections any more.
func (b *bench) desire(id string, s swarm.TaskState) {
	b.t.Helper()
	b.change(id, func(t *cluster.Task) { t.DesiredState, t.Released = s, true })
}

func (b *bench) change(id string, f func(*cluster.Task)) {
	b.t.Helper()
	b.update(func(tx *store.Tx) {
		t, _ := store.Get[*cluster.Task](tx.Snapshot, id)
		t = t.Clone().(*cluster.Task)
		f(t)
		tx.Write(store.PutSpec(t))
	})
}

func (b *bench) remove(id string) {
	b.t.Helper()
	b.update(func(tx *store.Tx) {
		t, _ := store.Get[*cluster.Task](tx.Snapshot, id)
		tx.Write(store.Delete(t))
	})
}

func (b *bench) status(id string) swarm.TaskStatus {
	b.t.Helper()
	t, ok := store.Get[*cluster.Task](b.store.Snapshot(), id)
	if !ok {
		b.t.Fatalf("no task %s", id)
	}
	return t.Status
}

// await waits until the task is in the state.
func (b *bench) await(id string, want swarm.TaskState) swarm.TaskStatus {
	b.t.Helper()
	b.until(string("task "+id+" is "+string(want)), func() bool { return b.status(id).State == want })
	return b.status(id)
}

// until waits, a minute at most, until the condition holds.
func (b *bench) until(what string, ok func() bool) {
	b.t.Helper()
	for range 60_000 {
		synctest.Wait()
		if ok() {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t, _ := store.Get[*cluster.Task](b.store.Snapshot(), "a")
	b.t.Fatalf("not within a minute: %s (task a: %+v)", what, t)
}

// settle lets everything happen that happens by itself within d.
func settle(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func name(id string) string { return "web.1." + id }
