package node

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/pki"
	"shoal.dev/shoal/internal/store"
)

// freeAddr is an address of the loopback device that nobody listens on.
func freeAddr(t *testing.T, host string) string {
	t.Helper()
	l, err := net.Listen("tcp", host+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestWhereAManagerListensThatMoves(t *testing.T) {
	onHost := func(a netip.Addr) bool {
		return a == netip.MustParseAddr("198.51.100.2") || a == netip.MustParseAddr("203.0.113.1")
	}
	for _, tc := range []struct{ name, listen, to, wantListen, data, wantData string }{
		{"everywhere", "0.0.0.0:2377", "198.51.100.2:2377", "0.0.0.0:2377", "", "invalid IP"},
		{"at its old address", "198.51.100.1:2377", "198.51.100.2:2377", "198.51.100.2:2377", "198.51.100.1", "198.51.100.2"},
		{"at an address of its own", "203.0.113.1:4000", "198.51.100.2:2377", "203.0.113.1:4000", "203.0.113.1", "203.0.113.1"},
		{"at one that is gone", "203.0.113.9:4000", "198.51.100.2:2377", "198.51.100.2:4000", "", "invalid IP"},
		{"behind another's address", "198.51.100.1:2377", "192.0.2.1:2377", "0.0.0.0:2377", "", "invalid IP"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			old := []swarm.Peer{{NodeID: "m1", Addr: "198.51.100.1:2377"}, {NodeID: "m2", Addr: "198.51.100.7:2377"}}
			s := state{NodeID: "m1", ListenAddr: tc.listen, AdvertiseAddr: "198.51.100.1:2377", Managers: old}
			if tc.data != "" {
				s.DataPathAddr = netip.MustParseAddr(tc.data)
			}
			s.move(tc.to, onHost)
			if s.ListenAddr != tc.wantListen || s.AdvertiseAddr != tc.to || s.DataPathAddr.String() != tc.wantData ||
				s.Managers[0].Addr != tc.to || s.Managers[1].Addr != "198.51.100.7:2377" || old[0].Addr != "198.51.100.1:2377" {
				t.Errorf("%+v", s)
			}
		})
	}
}

// TestAManagerThatMovedIsFound moves one of three managers, and then the leader, to another address: each tells the swarm
// after it came up there, by way of whoever it reaches, and a wrong address is refused.
func TestAManagerThatMovedIsFound(t *testing.T) {
	m1 := foundSwarm(t)
	addr := map[string]string{"m2": freeAddr(t, "127.0.0.1"), "m3": freeAddr(t, "127.0.0.1")}
	ca, _ := store.Get[*cluster.Authority](m1.store.Snapshot(), cluster.SingletonID)
	all := map[string]*testManager{"m1": m1}
	move := func(id string) {
		t.Helper()
		old := all[id]
		old.stop()
		st := *old.st
		st.move(freeAddr(t, "127.0.0.1"), assigned)
		st.ListenAddr = st.AdvertiseAddr
		now := openTestManager(t, old.dir, &st, old.id)
		all[id] = now
		go func() { _ = now.keepAddress(t.Context()) }()
		if err := now.settled(t.Context()); err != nil {
			t.Fatalf("%s: %v", id, err)
		}
		for other, m := range all {
			until(t, other+" looks for "+id+" at its new address", func() bool {
				for _, p := range m.managers() {
					if p.NodeID == id && p.Addr == st.AdvertiseAddr {
						n, ok := store.Get[*cluster.Node](m.store.Snapshot(), id)
						return ok && n.ManagerStatus != nil && n.ManagerStatus.Addr == st.AdvertiseAddr && n.Status.Addr == "127.0.0.1"
					}
				}
				return false
			})
		}
	}
	move("m1") // the only one; it is its own leader
	m1 = all["m1"]
	for _, id := range []string{"m2", "m3"} {
		st := &state{SwarmID: "sw", NodeID: id, Role: swarm.NodeRoleManager, ListenAddr: addr[id], AdvertiseAddr: addr[id], RaftKey: newRaftKey()}
		all[id] = openTestManager(t, t.TempDir(), st, identity(t, ca, "sw", id))
		if id == "m3" {
			n, err := newNode(id, swarm.NodeRoleManager, &joinRequest{AdvertiseAddr: addr[id]})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := m1.store.Update(t.Context(), func(tx *store.Tx) error { tx.Write(store.Create(n)); return nil }); err != nil {
				t.Fatal(err)
			}
		}
		if err := m1.cons.AddVoter(t.Context(), id, addr[id]); err != nil {
			t.Fatal(err)
		}
	}
	for name, bad := range map[string]addressRequest{
		"nobody is there":     {"m2", freeAddr(t, "127.0.0.1")},
		"another is there":    {"m2", addr["m3"]},
		"no address":          {"m2", "host.example:2377"},
		"an address, no port": {"m2", "127.0.0.1"},
	} {
		if err := m1.setAddress(t.Context(), bad); err == nil || !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := m1.cons.SetAddress(t.Context(), "m2", addr["m3"]); err == nil || !strings.Contains(err.Error(), "belongs to manager m3") {
		t.Errorf("an address that is taken: %v", err)
	}
	if err := m1.cons.SetAddress(t.Context(), "m9", "127.0.0.1:1"); !errdefs.IsNotFound(err) {
		t.Errorf("a manager that there is not: %v", err)
	}
	move("m3") // a follower
	for id, m := range all {
		if m.cons.IsLeader() {
			move(id)
			break
		}
	}
	until(t, "the swarm takes changes", func() bool {
		for _, m := range all {
			if m.cons.IsLeader() {
				return m.setManagerStatus(t.Context(), "w1", nil) == nil && m.readBarrier(t.Context()) == nil
			}
		}
		return false
	})
}

// TestAManagerWhoseListenAddressIsGoneComesUp opens a manager on an address that this host does not have, which only one
// that has been a manager survives.
func TestAManagerWhoseListenAddressIsGoneComesUp(t *testing.T) {
	m := foundSwarm(t)
	m.stop()
	st := *m.st
	st.ListenAddr = "198.51.100.99:0"
	again := openTestManager(t, m.dir, &st, m.id)
	if host, _, _ := net.SplitHostPort(again.server.Addr().String()); host != "127.0.0.1" {
		t.Errorf("it listens on %s", again.server.Addr())
	}
	if err := again.waitToLead(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := m.n.openManager(t.TempDir(), &st, pki.NewHolder(m.id)); err == nil {
		t.Error("a new manager listens on an address that is not the host's")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := again.keepAddress(ctx); err != nil {
		t.Error(err)
	}
}
