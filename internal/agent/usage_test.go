package agent_test

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/store"
)

// The agent measures the tasks that it is told to, and no others, on average since the measurement before.
func TestTasksAreMeasured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.agent()
		other := newTask("b", 0)
		other.ServiceID = "other"
		a := newTask("a", 0)
		a.NetworksAttachments = []swarm.NetworkAttachment{{
			Network: swarm.Network{ID: "ingress"}, Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.9/24")},
		}}
		b.create(a)
		b.create(other)
		b.await("a", swarm.TaskStateRunning)
		b.await("b", swarm.TaskStateRunning)
		settle(time.Minute)
		if u, ok := b.srv.Usage("a"); ok {
			t.Errorf("nobody wants to know: %+v", u)
		}
		svc := &cluster.Service{}
		svc.ID, svc.Spec.Labels = newTask("a", 0).ServiceID, map[string]string{cluster.LabelScaleMax: "3"}
		b.update(func(tx *store.Tx) { tx.Write(store.Create(svc)) })
		settle(30 * time.Second)
		u, ok := b.srv.Usage("a")
		if !ok || u.NanoCPUs < 499e6 || u.NanoCPUs > 501e6 || u.MemoryBytes != 48<<20 || u.Connections != 1 || b.store.Now().Sub(u.At) > 11*time.Second {
			t.Errorf("%+v %v", u, ok)
		}
		if u, ok := b.srv.Usage("b"); ok {
			t.Errorf("of a service that is scaled by hand: %+v", u)
		}
	})
}
