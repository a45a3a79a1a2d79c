package node

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/consensus"
	"shoal.dev/shoal/internal/control"
	"shoal.dev/shoal/internal/pki"
	"shoal.dev/shoal/internal/store"
)

// testManager is the manager's part of a node, without an engine, an agent and planners.
type testManager struct {
	*manager
	n    *Node
	st   *state
	dir  string
	id   *pki.Identity
	stop func()
}

// openTestManager opens a manager on the folder and runs its port and its log.
func openTestManager(t *testing.T, dir string, st *state, id *pki.Identity) *testManager {
	t.Helper()
	n := &Node{log: slog.New(slog.DiscardHandler), control: control.New(nil)}
	m, err := n.openManager(dir, st, pki.NewHolder(id))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		go func() { _ = m.server.Run(ctx) }()
		_ = m.cons.Run(ctx)
		m.peers.close()
	}()
	tm := &testManager{m, n, st, dir, id, func() { cancel(); <-done }}
	t.Cleanup(tm.stop)
	return tm
}

func identity(t *testing.T, ca *cluster.Authority, swarmID, nodeID string) *pki.Identity {
	t.Helper()
	key, csr, err := pki.NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := pki.Sign(ca, csr, swarmID, nodeID, swarm.NodeRoleManager, time.Hour, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	id, err := pki.NewIdentity(key, cert, ca.Cert)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// foundSwarm makes a swarm of one manager whose records also have another manager, a worker and a task on each.
func foundSwarm(t *testing.T) *testManager {
	t.Helper()
	ca, err := pki.NewAuthority(time.Now().Add(-time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	id := identity(t, ca, "sw", "m1")
	st := &state{
		SwarmID: "sw", NodeID: "m1", Role: swarm.NodeRoleManager, ListenAddr: "127.0.0.1:0", AdvertiseAddr: "127.0.0.1:2399", DataPathPort: 4789, RaftKey: newRaftKey(),
	}
	m := openTestManager(t, t.TempDir(), st, id)
	if err := m.found(t.Context(), &swarm.InitRequest{}, st, ca, id.TLSInfo(), swarm.NodeDescription{Hostname: "node1"}); err != nil {
		t.Fatal(err)
	}
	_, err = m.store.Update(t.Context(), func(tx *store.Tx) error {
		for id, role := range map[string]swarm.NodeRole{"m2": swarm.NodeRoleManager, "w1": swarm.NodeRoleWorker} {
			n, err := newNode(id, role, &joinRequest{AdvertiseAddr: "198.51.100.7:2377"})
			if err != nil {
				return err
			}
			n.Status.State, n.Spec.Labels = swarm.NodeStateReady, map[string]string{"disk": "ssd"}
			tx.Write(store.Create(n))
		}
		for _, node := range []string{"m1", "m2", "w1"} {
			k := &cluster.Task{}
			k.ID, k.NodeID, k.DesiredState = "task-"+node, node, swarm.TaskStateRunning
			k.Status.State = swarm.TaskStateRunning
			tx.Write(store.Create(k))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// records are what must be as it was: all but the swarm and the nodes.
func records(m *manager) map[string]cluster.Object {
	out := map[string]cluster.Object{}
	snap := m.store.Snapshot()
	for o := range store.List[*cluster.Task](snap) {
		out["task "+o.ID] = o
	}
	for o := range store.List[*cluster.Network](snap) {
		out["network "+o.ID] = o
	}
	for o := range store.List[*cluster.Claim](snap) {
		out["claim "+o.ID] = o
	}
	for o := range store.List[*cluster.Authority](snap) {
		out["authority"] = o
	}
	return out
}

func (m *testManager) node(t *testing.T, id string) *cluster.Node {
	t.Helper()
	n, ok := store.Get[*cluster.Node](m.store.Snapshot(), id)
	if !ok {
		t.Fatalf("node %s has no record", id)
	}
	return n
}

var addrs = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
var prefixes = cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })

func TestTheSurvivorsSwarmHasEveryRecordAndOneManager(t *testing.T) {
	m := foundSwarm(t)
	before, tokens := records(m.manager), m.store.Snapshot().Swarm().JoinTokens
	m.stop()
	next, err := aloneState(*m.st, &swarm.InitRequest{ListenAddr: "0.0.0.0:2377", AdvertiseAddr: "127.0.0.2:2399"})
	if err != nil {
		t.Fatal(err)
	}
	if next.ListenAddr != m.st.ListenAddr || next.AdvertiseAddr != "127.0.0.2:2399" {
		t.Errorf("it will listen on %s and be found at %s", next.ListenAddr, next.AdvertiseAddr)
	}
	err = consensus.Recover(t.Context(), consensus.Config{
		Dir: filepath.Join(m.dir, "raft"), NodeID: next.NodeID, Addr: next.AdvertiseAddr, Key: next.RaftKey, Log: m.n.log,
	}, cutTo(&next))
	if err != nil {
		t.Fatal(err)
	}
	alone := openTestManager(t, m.dir, &next, m.id)
	if err := alone.waitToLead(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := alone.catchUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(before, records(alone.manager), addrs, prefixes); d != "" {
		t.Errorf("records changed:\n%s", d)
	}
	s := alone.store.Snapshot().Swarm()
	if s.Epoch != 2 || s.JoinTokens != tokens || alone.epoch() != 2 {
		t.Errorf("epoch %d, tokens kept: %v", s.Epoch, s.JoinTokens == tokens)
	}
	if n := alone.node(t, "m1"); n.Spec.Role != swarm.NodeRoleManager || n.ManagerStatus == nil || n.ManagerStatus.Addr != "127.0.0.2:2399" ||
		n.Status.Addr != "127.0.0.2" || n.DataPathAddr != netip.MustParseAddr("127.0.0.2") {
		t.Errorf("the manager's record is %+v", n)
	}
	for _, id := range []string{"m2", "w1"} {
		if n := alone.node(t, id); n.Spec.Role != swarm.NodeRoleWorker || n.ManagerStatus != nil || n.Spec.Labels["disk"] != "ssd" {
			t.Errorf("%s is %+v", id, n)
		}
	}
	// The manager that was given up gets a worker's certificate if it asks, and the survivor goes on taking changes.
	if r, err := alone.reissue(renewRequest{NodeID: "m2", CSR: request(t)}); err != nil || r.Role != swarm.NodeRoleWorker {
		t.Errorf("m2 asks for a certificate: %s, %v", r.Role, err)
	}
	if _, err := alone.store.Update(t.Context(), func(tx *store.Tx) error {
		c := tx.Swarm().Clone().(*cluster.Swarm)
		c.Spec.Labels = map[string]string{"a": "b"}
		tx.Write(store.PutSpec(c))
		return nil
	}); err != nil {
		t.Error(err)
	}
}

func TestARestoredSwarmHasEveryRecordAndANewManager(t *testing.T) {
	m := foundSwarm(t)
	before := records(m.manager)
	var file bytes.Buffer
	if err := m.store.Snapshot().Backup(&file); err != nil {
		t.Fatal(err)
	}
	m.stop()
	backup, err := store.ReadBackup(&file)
	if err != nil {
		t.Fatal(err)
	}
	st, err := (&Node{}).initState(&swarm.InitRequest{ListenAddr: "127.0.0.1:0", AdvertiseAddr: "127.0.0.3:2399"})
	if err != nil {
		t.Fatal(err)
	}
	id, err := restored(t.Context(), st, backup, swarm.NodeDescription{Hostname: "node9"})
	if err != nil {
		t.Fatal(err)
	}
	if id.NodeID != st.NodeID || id.SwarmID != "sw" || id.Role != swarm.NodeRoleManager || st.Bootstrap {
		t.Errorf("the new manager's certificate is of %+v", id.Peer)
	}
	dir := t.TempDir()
	if err := consensus.Seed(consensus.Config{
		Dir: filepath.Join(dir, "raft"), NodeID: st.NodeID, Addr: st.AdvertiseAddr, Key: st.RaftKey, Log: m.n.log,
	}, backup); err != nil {
		t.Fatal(err)
	}
	next := openTestManager(t, dir, st, id)
	if err := next.waitToLead(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := next.catchUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(before, records(next.manager), addrs, prefixes); d != "" {
		t.Errorf("records changed:\n%s", d)
	}
	if next.epoch() != 2 {
		t.Errorf("epoch %d", next.epoch())
	}
	if n := next.node(t, st.NodeID); n.ManagerStatus == nil || n.ManagerStatus.Addr != "127.0.0.3:2399" || n.Description.Hostname != "node9" {
		t.Errorf("the new manager's record is %+v", n)
	}
	for _, id := range []string{"m1", "m2", "w1"} {
		if n := next.node(t, id); n.Spec.Role != swarm.NodeRoleWorker || n.ManagerStatus != nil {
			t.Errorf("%s is %+v", id, n)
		}
	}
	// The swarm takes changes, and its tokens are good.
	if _, err := next.issue(t.Context(), &joinRequest{Token: next.store.Snapshot().Swarm().JoinTokens.Worker, AdvertiseAddr: "198.51.100.9:2377", CSR: request(t)}); err != nil {
		t.Error(err)
	}
	empty := store.New()
	if _, err := restored(t.Context(), st, empty, swarm.NodeDescription{}); err == nil || !strings.Contains(err.Error(), "the backup has no swarm") {
		t.Errorf("a backup of nothing: %v", err)
	}
}

func request(t *testing.T) []byte {
	t.Helper()
	_, csr, err := pki.NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	return csr
}

func TestASwarmThatDecidesIsNotCut(t *testing.T) {
	m := foundSwarm(t)
	if err := m.mayBeAlone(); err != nil {
		t.Errorf("a swarm of one manager: %v", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	st := &state{SwarmID: "sw", NodeID: "m2", Role: swarm.NodeRoleManager, ListenAddr: addr, AdvertiseAddr: addr, RaftKey: newRaftKey()}
	ca, _ := store.Get[*cluster.Authority](m.store.Snapshot(), cluster.SingletonID)
	other := openTestManager(t, t.TempDir(), st, identity(t, ca, "sw", "m2"))
	if err := m.cons.AddVoter(t.Context(), "m2", addr); err != nil {
		t.Fatal(err)
	}
	if err := m.mayBeAlone(); err == nil || !strings.Contains(err.Error(), "--force-new-cluster is for one that has lost it") {
		t.Errorf("a swarm with a majority: %v", err)
	}
	other.stop()
	until(t, "without a majority it may", func() bool { return m.mayBeAlone() == nil })
}
