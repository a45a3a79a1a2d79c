package agent_test

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/agent"
	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/dispatch"
	"shoal.dev/shoal/internal/dispatch/memhttp"
	"shoal.dev/shoal/internal/link"
	"shoal.dev/shoal/internal/store"
)

// BenchmarkHollowNodes assigns 1,000 tasks with addresses on the mesh to 200 real agents without containers and waits
// until the swarm knows that all run, then stops them. It reports the CPU time of both sides together.
func BenchmarkHollowNodes(b *testing.B) {
	const nodes, tasks = 200, 1000
	for b.Loop() {
		st := store.New()
		store.NewLocal(st)
		update(b, st, func(tx *store.Tx) {
			tx.Write(store.Create(&cluster.Swarm{Epoch: 1}))
			n := &cluster.Network{}
			n.ID, n.Spec.Name, n.Spec.Ingress = "net", "ingress", true
			n.IPAMOptions = &swarm.IPAMOptions{Configs: []swarm.IPAMConfig{{Subnet: netip.MustParsePrefix("10.0.0.0/16")}}}
			n.DriverState.Options = map[string]string{"com.docker.network.driver.overlay.vxlanid_list": "4096"}
			tx.Write(store.Create(n))
			for i := range nodes {
				n := &cluster.Node{Index: uint16(i + 1)}
				n.ID, n.Spec.Role = fmt.Sprintf("n%d", i), swarm.NodeRoleWorker
				n.DataPathAddr = netip.AddrFrom4([4]byte{198, 18, 1, byte(i + 1)})
				n.IngressAddr = netip.AddrFrom4([4]byte{10, 0, 200, byte(i + 1)})
				tx.Write(store.Create(n))
			}
		})
		srv := dispatch.New(dispatch.Config{Store: st, DataPathPort: 4789,
			Leader: func() (http.RoundTripper, bool, error) { return nil, true, nil }})
		ctx, cancel := context.WithCancel(b.Context())
		var wg sync.WaitGroup
		wg.Go(func() { srv.Run(ctx) })
		for i := range nodes {
			id := fmt.Sprintf("n%d", i)
			a := agent.New(agent.Config{
				NodeID: id, Engine: newFakeEngine("hello:1"), Network: &fakeNetwork{}, StateDir: b.TempDir(),
				Describe: func(context.Context) swarm.NodeDescription { return swarm.NodeDescription{Hostname: id} },
				Connect: func(context.Context) (agent.Session, error) {
					l := memhttp.Dial(b, srv.Handler(), link.Peer{NodeID: id, Role: swarm.NodeRoleWorker})
					return agent.Session{RoundTripper: l, Done: l.Done(), Close: l.Close}, nil
				},
			})
			wg.Go(func() { a.Run(ctx) })
		}
		described := func() bool {
			for n := range store.List[*cluster.Node](st.Snapshot()) {
				if n.Description.Hostname == "" {
					return false
				}
			}
			return true
		}
		poll(b, described)

		cpu, began, entries := cpuTime(b), time.Now(), st.Index()
		for i := range tasks {
			update(b, st, func(tx *store.Tx) {
				t := newTask(fmt.Sprintf("t%d", i), 1)
				t.NodeID = fmt.Sprintf("n%d", i%nodes)
				t.NetworksAttachments[0].Addresses[0] = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(i / 250), byte(i%250 + 1)}), 16)
				tx.Write(store.Create(t))
			})
		}
		all := func(want swarm.TaskState) func() bool {
			return func() bool {
				for t := range store.List[*cluster.Task](st.Snapshot()) {
					if t.Status.State != want {
						return false
					}
				}
				return true
			}
		}
		poll(b, all(swarm.TaskStateRunning))
		b.ReportMetric(float64((cpuTime(b) - cpu).Milliseconds()), "start-cpu-ms")
		b.ReportMetric(float64(time.Since(began).Milliseconds()), "start-ms")
		b.ReportMetric(float64(st.Index()-entries-tasks), "status-entries")
		cpu, began = cpuTime(b), time.Now()
		update(b, st, func(tx *store.Tx) {
			for t := range store.List[*cluster.Task](tx.Snapshot) {
				t = t.Clone().(*cluster.Task)
				t.DesiredState, t.Released = swarm.TaskStateShutdown, true
				tx.Write(store.PutSpec(t))
			}
		})
		poll(b, all(swarm.TaskStateShutdown))
		b.ReportMetric(float64((cpuTime(b) - cpu).Milliseconds()), "stop-cpu-ms")
		b.ReportMetric(float64(time.Since(began).Milliseconds()), "stop-ms")
		cpu, began = cpuTime(b), time.Now()
		select {
		case <-time.After(4 * time.Second):
		case <-ctx.Done():
		}
		b.ReportMetric(float64((cpuTime(b)-cpu).Milliseconds())/time.Since(began).Seconds(), "idle-cpu-ms/s")
		cancel()
		wg.Wait()
	}
}

func update(b *testing.B, st *store.Store, fn func(*store.Tx)) {
	if _, err := st.Update(b.Context(), func(tx *store.Tx) error { fn(tx); return nil }); err != nil {
		b.Fatal(err)
	}
}

func poll(b *testing.B, ok func() bool) {
	b.Helper()
	deadline := time.After(time.Minute)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			b.Fatal("not within a minute")
		}
	}
}

func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
