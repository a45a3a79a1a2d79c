package dispatch_test

import (
	"testing"
	"testing/synctest"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/dispatch/protocol"
	"shoal.dev/shoal/internal/store"
)

// TestHeartbeatsSayWhichCertificate lets managers change theirs before workers.
func TestHeartbeatsSayWhichCertificate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "m1", "n1")
		old := swarm.TLSInfo{TrustRoot: "old", CertIssuerSubject: []byte("ca"), CertIssuerPublicKey: []byte("old")}
		next := swarm.TLSInfo{TrustRoot: "old", CertIssuerSubject: []byte("ca"), CertIssuerPublicKey: []byte("new")}
		has := func(id string, info swarm.TLSInfo) {
			w.update(func(tx *store.Tx) {
				n, _ := store.Get[*cluster.Node](tx.Snapshot, id)
				n = n.Clone().(*cluster.Node)
				n.Status.State, n.Description.TLSInfo = swarm.NodeStateReady, info
				tx.Write(store.PutState(n))
			})
		}
		has("m1", old)
		has("n1", old)
		w.update(func(tx *store.Tx) {
			sw := tx.Swarm().Clone().(*cluster.Swarm)
			sw.TLSInfo, sw.RootRotationInProgress = next, true
			tx.Write(store.PutState(sw))
		})
		srv := w.leader()
		ask := func(id string) protocol.Certificate {
			t.Helper()
			resp, err := protocol.Beat(t.Context(), w.dial(srv, id), protocol.HeartbeatRequest{})
			if err != nil || resp.Certificate == nil {
				t.Fatalf("%s: %+v, %v", id, resp, err)
			}
			return *resp.Certificate
		}
		if c := ask("m1"); !c.Wants(old) || c.Wants(next) || !c.Knows(old) || c.Spread <= 0 {
			t.Errorf("a manager: %+v", c)
		}
		if c := ask("n1"); c.Wants(old) || !c.Knows(old) {
			t.Errorf("a worker before the managers are done: %+v", c)
		}
		has("m1", next)
		if c := ask("n1"); !c.Wants(old) || c.Wants(next) {
			t.Errorf("a worker after the managers are done: %+v", c)
		}
		has("n1", next)
		if c := ask("n1"); !c.Knows(next) || c.Knows(old) {
			t.Errorf("a worker that is done: %+v", c)
		}
	})
}
