package authority_test

import (
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/reconcile/authority"
	"shoal.dev/shoal/internal/reconcile/plantest"
)

// rotating is a swarm of which some nodes have a certificate of the new root, and others of the old one.
func rotating(t *testing.T, nodes map[string]swarm.NodeState, have ...string) *plantest.Swarm {
	s := plantest.New(t)
	sw := &cluster.Swarm{}
	sw.TLSInfo = swarm.TLSInfo{TrustRoot: "old", CertIssuerSubject: []byte("ca"), CertIssuerPublicKey: []byte("new key")}
	sw.RootRotationInProgress = true
	sw.JoinTokens = swarm.JoinTokens{Worker: "old worker", Manager: "old manager"}
	a := &cluster.Authority{ID: cluster.SingletonID, Cert: []byte("old"), PrivateKey: []byte("old"), Next: &cluster.NextRoot{
		Cert: []byte("new"), PrivateKey: []byte("new"), CrossSigned: []byte("cross"), Began: s.At,
		Tokens: swarm.JoinTokens{Worker: "new worker", Manager: "new manager"},
	}}
	s.Put(sw, a)
	for id, state := range nodes {
		s.Node(id, func(n *cluster.Node) {
			n.Status.State = state
			n.Description.TLSInfo = swarm.TLSInfo{TrustRoot: "old", CertIssuerSubject: []byte("ca"), CertIssuerPublicKey: []byte("old key")}
		})
	}
	for _, id := range have {
		renew(s, id)
	}
	return s
}

func renew(s *plantest.Swarm, id string) {
	plantest.Change(s, id, func(n *cluster.Node) { n.Description.TLSInfo.CertIssuerPublicKey = []byte("new key") })
}

func over(t *testing.T, s *plantest.Swarm) bool {
	t.Helper()
	sw, a := plantest.Get[*cluster.Swarm](s, cluster.SingletonID), plantest.Get[*cluster.Authority](s, cluster.SingletonID)
	if sw.RootRotationInProgress != (a.Next != nil) {
		t.Errorf("the records contradict each other: %v, %v", sw.RootRotationInProgress, a.Next)
	}
	if a.Next != nil {
		return false
	}
	if string(a.Cert) != "new" || string(a.PrivateKey) != "new" || string(a.CrossSigned) != "cross" || sw.TLSInfo.TrustRoot != "new" ||
		string(sw.TLSInfo.CertIssuerPublicKey) != "new key" || sw.JoinTokens.Worker != "new worker" || sw.JoinTokens.Manager != "new manager" {
		t.Errorf("after the end: %+v, %+v", a, sw)
	}
	return true
}

func TestPlan(t *testing.T) {
	const ready, down, unknown = swarm.NodeStateReady, swarm.NodeStateDown, swarm.NodeStateUnknown
	nodes := map[string]swarm.NodeState{"a": ready, "b": ready, "c": down}
	tests := []struct {
		name   string
		nodes  map[string]swarm.NodeState
		have   []string
		after  time.Duration
		over   bool
		reason string
		again  bool
	}{
		{"nobody", nodes, nil, 0, false, "3 nodes have no certificate of the new root yet: host-a, host-b, host-c (down)", true},
		{"one is down", nodes, []string{"a", "b"}, 0, false, "1 nodes have no certificate of the new root yet: host-c (down)", true},
		{"all", nodes, []string{"a", "b", "c"}, 0, true, "", false},
		{"one is down for a day", nodes, []string{"a", "b"}, authority.Patience, true, "", false},
		{"one is there and late", nodes, []string{"a"}, authority.Patience, false, "1 nodes have no certificate of the new root yet: host-b", false},
		{"one that joins", map[string]swarm.NodeState{"a": unknown}, nil, 0, false, "host-a (unknown)", true},
		{"many", map[string]swarm.NodeState{"a": ready, "b": ready, "c": ready, "d": ready, "e": ready, "f": ready, "g": ready}, nil, 0, false, "host-e and 2 more", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := rotating(t, tt.nodes, tt.have...)
			began := s.At
			s.At = s.At.Add(tt.after)
			_, reasons, again := s.Plan(authority.Planner{})
			if over(t, s) != tt.over || strings.Join(reasons, ";") != tt.reason && !(tt.reason != "" && strings.Contains(strings.Join(reasons, ";"), tt.reason)) {
				t.Errorf("over %v, reasons %q", !tt.over, reasons)
			}
			if want := began.Add(authority.Patience); again.IsZero() == tt.again || tt.again && !again.Equal(want) {
				t.Errorf("looks again at %v", again)
			}
			s.Settle(authority.Planner{})
		})
	}
}

// TestKeys sees that what may end a rotation is noticed, and nothing else.
func TestKeys(t *testing.T) {
	for name, change := range map[string]func(*plantest.Swarm){
		"renewed": func(s *plantest.Swarm) { renew(s, "a") },
		"down": func(s *plantest.Swarm) {
			plantest.Change(s, "a", func(n *cluster.Node) { n.Status.State = swarm.NodeStateDown })
		},
		"neither": func(s *plantest.Swarm) { plantest.Change(s, "a", func(n *cluster.Node) { n.Index = 9 }) },
	} {
		s := rotating(t, map[string]swarm.NodeState{"a": swarm.NodeStateReady})
		w, _ := s.Store.Watch()
		change(s)
		events, _ := w.Take()
		keys := 0
		for _, e := range events {
			keys += len(authority.Planner{}.Keys(s.Store.Snapshot(), e))
		}
		if (keys > 0) != (name != "neither") {
			t.Errorf("%s: %d keys", name, keys)
		}
		w.Close()
	}
}
