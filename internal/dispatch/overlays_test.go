package dispatch_test

import (
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/network"
	"shoal.dev/shoal/internal/store"
)

// onNet puts a task on a network.
func onNet(t *cluster.Task, network, addr string) *cluster.Task {
	t.NetworksAttachments = append(t.NetworksAttachments, swarm.NetworkAttachment{
		Network: swarm.Network{ID: network}, Addresses: []netip.Prefix{netip.MustParsePrefix(addr + "/24")},
	})
	return t
}

func overlayNet(id, subnet, vni string) *cluster.Network {
	n := &cluster.Network{}
	n.ID, n.Spec.Name = id, id
	n.IPAMOptions = &swarm.IPAMOptions{Configs: []swarm.IPAMConfig{{Subnet: netip.MustParsePrefix(subnet)}}}
	n.DriverState.Options = map[string]string{cluster.OptionVNI: vni}
	return n
}

func TestANodeKnowsTheNetworksOfItsTasks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "m1", "n1", "n2")
		w.create(overlayNet("a", "10.1.0.0/24", "4097"), overlayNet("b", "10.2.0.0/24", "4098"),
			onNet(task("t1", "n1", 0), "a", "10.1.0.5"), onNet(task("t2", "n2", 0), "b", "10.2.0.5"))
		ss := mustOpen(t, w.dial(w.leader(), "n1"))
		var have []*network.Overlay
		// after takes frames until what the node knows of networks changed, and gives it as NETWORK:ENDPOINTS.
		after := func() []string {
			t.Helper()
			for {
				f := ss.next()
				if !f.Complete && len(f.Overlays)+len(f.OverlaysGone) == 0 {
					continue
				}
				var err error
				if have, err = f.ResolveOverlays(have); err != nil {
					t.Fatal(err)
				}
				var out []string
				for _, o := range have {
					s := o.ID + ":"
					for _, e := range o.Endpoints {
						s += " " + e.Addr.String()
					}
					out = append(out, s)
				}
				return out
			}
		}
		expect := func(got []string, want ...string) {
			t.Helper()
			if !slices.Equal(got, want) {
				t.Errorf("the node knows %q, want %q", got, want)
			}
		}
		expect(after(), "a: 10.1.0.5")
		w.create(onNet(task("t3", "n2", 0), "a", "10.1.0.6")) // another node's task on the same network
		expect(after(), "a: 10.1.0.5 10.1.0.6")
		w.create(onNet(task("t4", "n1", 0), "b", "10.2.0.6"))
		expect(after(), "a: 10.1.0.5 10.1.0.6", "b: 10.2.0.5 10.2.0.6")
		// A task that ended takes its network along, although its record stays.
		w.update(func(tx *store.Tx) {
			k, _ := store.Get[*cluster.Task](tx.Snapshot, "t1")
			k = k.Clone().(*cluster.Task)
			k.Status.State = swarm.TaskStateFailed
			tx.Write(store.PutState(k))
		})
		expect(after(), "b: 10.2.0.5 10.2.0.6")
		// What happens on networks that the node has no task on does not reach it; the next change of its own does.
		w.create(onNet(task("t5", "n2", 0), "a", "10.1.0.7"))
		w.create(onNet(task("t6", "n2", 0), "b", "10.2.0.7"))
		expect(after(), "b: 10.2.0.5 10.2.0.6 10.2.0.7")
	})
}
