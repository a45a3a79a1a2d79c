package dispatch_test

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/dispatch"
	"shoal.dev/shoal/internal/dispatch/memhttp"
	"shoal.dev/shoal/internal/dispatch/protocol"
	"shoal.dev/shoal/internal/link"
	"shoal.dev/shoal/internal/store"
)

// world is a store with some records and the servers on it.
type world struct {
	t     testing.TB
	store *store.Store
}

func newWorld(t testing.TB, nodes ...string) *world {
	w := &world{t: t, store: store.New()}
	store.NewLocal(w.store)
	w.update(func(tx *store.Tx) {
		sw := &cluster.Swarm{Epoch: 1}
		tx.Write(store.Create(sw))
		n := &cluster.Network{}
		n.ID, n.Spec.Name, n.Spec.Ingress = "net", "ingress", true
		n.IPAMOptions = &swarm.IPAMOptions{Configs: []swarm.IPAMConfig{{Subnet: netip.MustParsePrefix("10.0.0.0/16")}}}
		n.DriverState.Options = map[string]string{"com.docker.network.driver.overlay.vxlanid_list": "4096"}
		tx.Write(store.Create(n))
		for i, id := range nodes {
			n := &cluster.Node{Index: uint16(i + 1)}
			n.ID, n.Spec.Role = id, swarm.NodeRoleWorker
			if id[0] == 'm' {
				n.Spec.Role = swarm.NodeRoleManager
			}
			n.DataPathAddr = netip.AddrFrom4([4]byte{198, 18, byte(i / 250), byte(i%250 + 1)})
			n.IngressAddr = netip.AddrFrom4([4]byte{10, 0, 200 + byte(i/250), byte(i%250 + 1)})
			tx.Write(store.Create(n))
		}
	})
	return w
}

func (w *world) update(fn func(*store.Tx)) {
	w.t.Helper()
	if _, err := w.store.Update(context.Background(), func(tx *store.Tx) error { fn(tx); return nil }); err != nil {
		w.t.Fatal(err)
	}
}

// task makes a task that is assigned to the node, with address n on the mesh if n is not 0.
func task(id, node string, n int) *cluster.Task {
	t := &cluster.Task{ServiceName: "web"}
	t.ID, t.ServiceID, t.Slot, t.NodeID, t.DesiredState = id, "svc", 1, node, swarm.TaskStateRunning
	t.Status.State = swarm.TaskStateAssigned
	t.Spec.ContainerSpec = &swarm.ContainerSpec{Image: "hello:1"}
	if n > 0 {
		a := netip.AddrFrom4([4]byte{10, 0, byte(n / 250), byte(n%250 + 1)})
		t.NetworksAttachments = []swarm.NetworkAttachment{{
			Network: swarm.Network{ID: "net"}, Addresses: []netip.Prefix{netip.PrefixFrom(a, 16)},
		}}
	}
	return t
}

func (w *world) create(objects ...cluster.Object) {
	w.t.Helper()
	w.update(func(tx *store.Tx) {
		for _, o := range objects {
			tx.Write(store.Create(o))
		}
	})
}

// change writes the specification of a task.
func (w *world) change(id string, fn func(*cluster.Task)) {
	w.t.Helper()
	w.update(func(tx *store.Tx) {
		t, ok := store.Get[*cluster.Task](tx.Snapshot, id)
		if !ok {
			w.t.Fatalf("no task %s", id)
		}
		t = t.Clone().(*cluster.Task)
		fn(t)
		tx.Write(store.PutBoth(t))
	})
}

func (w *world) remove(o cluster.Object) {
	w.t.Helper()
	w.update(func(tx *store.Tx) { tx.Write(store.Delete(o)) })
}

func (w *world) task(id string) *cluster.Task {
	w.t.Helper()
	t, ok := store.Get[*cluster.Task](w.store.Snapshot(), id)
	if !ok {
		w.t.Fatalf("no task %s", id)
	}
	return t
}

// leader runs a server that leads.
func (w *world) leader() *dispatch.Server { return w.server(nil) }

// server runs a server whose leader is behind rt; nil is the server itself.
func (w *world) server(rt http.RoundTripper) *dispatch.Server {
	w.t.Helper()
	s := dispatch.New(dispatch.Config{
		Store: w.store, NodeID: "m1", DataPathPort: 4789,
		Leader:   func() (http.RoundTripper, bool, error) { return rt, rt == nil, nil },
		Managers: func() []swarm.Peer { return []swarm.Peer{{NodeID: "m1", Addr: "198.18.0.1:2377"}} },
	})
	w.run(s)
	if rt == nil {
		s.BecomeLeader()
	}
	return s
}

func (w *world) run(s *dispatch.Server) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Run(ctx); err != nil {
			w.t.Error(err)
		}
	})
	w.t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
}

func (w *world) dial(s *dispatch.Server, node string) *memhttp.Link {
	role := swarm.NodeRoleWorker
	if node[0] == 'm' {
		role = swarm.NodeRoleManager
	}
	return memhttp.Dial(w.t, s.Handler(), link.Peer{SwarmID: "s", NodeID: node, Role: role})
}

// stream is an open session.
type stream struct {
	t      testing.TB
	frames chan *protocol.Frame
	end    context.CancelFunc
}

func open(t testing.TB, rt http.RoundTripper, req protocol.SessionRequest) (*stream, error) {
	ctx, cancel := context.WithCancel(context.Background())
	resp, err := protocol.Open(ctx, rt, protocol.PathSession, req)
	if err != nil {
		cancel()
		return nil, err
	}
	s := &stream{t: t, frames: make(chan *protocol.Frame, 10_000), end: cancel}
	t.Cleanup(cancel)
	go func() {
		defer close(s.frames)
		defer resp.Body.Close()
		r := bufio.NewReader(resp.Body)
		for {
			f, err := protocol.Read(r)
			if err != nil {
				return
			}
			s.frames <- f
		}
	}()
	return s, nil
}

func mustOpen(t testing.TB, rt http.RoundTripper) *stream {
	t.Helper()
	s, err := open(t, rt, protocol.SessionRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// next is the next frame that says more than that the manager lives.
func (s *stream) next() *protocol.Frame {
	s.t.Helper()
	deadline := time.After(time.Minute)
	for {
		select {
		case f, ok := <-s.frames:
			if !ok {
				s.t.Fatal("the session ended")
			}
			if f.Complete || len(f.Tasks)+len(f.Removed)+len(f.Overlays)+len(f.OverlaysGone)+len(f.Files)+len(f.DroppedFiles) > 0 || f.Mesh != nil || f.Managers != nil {
				return f
			}
		case <-deadline:
			s.t.Fatal("no frame")
		}
	}
}

// ended says whether the session ends within d.
func (s *stream) ended(d time.Duration) bool {
	deadline := time.After(d)
	for {
		select {
		case _, ok := <-s.frames:
			if !ok {
				return true
			}
		case <-deadline:
			return false
		}
	}
}

func report(rt http.RoundTripper, node string, st ...protocol.TaskStatus) error {
	return protocol.Post(context.Background(), rt, protocol.PathStatus,
		protocol.StatusRequest{Nodes: []protocol.NodeReport{{NodeID: node, Statuses: st}}})
}

var began = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

// status is a status at second n.
func status(id string, state swarm.TaskState, n int) protocol.TaskStatus {
	return protocol.TaskStatus{TaskID: id, Status: swarm.TaskStatus{
		State: state, Timestamp: began.Add(time.Duration(n) * time.Second), Message: fmt.Sprint(state, " at ", n),
	}}
}

func ids(tasks []*cluster.Task) []string {
	var out []string
	for _, t := range tasks {
		out = append(out, t.ID)
	}
	return out
}
