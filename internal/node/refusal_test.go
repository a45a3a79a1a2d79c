package node

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/link"
	"shoal.dev/shoal/internal/pki"
	"shoal.dev/shoal/internal/store"
)

// issued is a certificate that was issued so long ago, for an hour.
func issued(t *testing.T, ca *cluster.Authority, nodeID string, role swarm.NodeRole, ago time.Duration) *pki.Identity {
	t.Helper()
	key, csr, err := pki.NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := pki.Sign(ca, csr, "sw", nodeID, role, time.Hour, time.Now().Add(-ago))
	if err != nil {
		t.Fatal(err)
	}
	id, err := pki.NewIdentity(key, cert, ca.Cert)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// TestAManagerThatWasOffForLongCertifiesItself is a swarm of which every certificate expired while it was switched off.
func TestAManagerThatWasOffForLongCertifiesItself(t *testing.T) {
	m := foundSwarm(t)
	ca, _ := store.Get[*cluster.Authority](m.store.Snapshot(), cluster.SingletonID)
	m.stop()
	// The authority of foundSwarm is an hour old; this certificate ended 30 minutes ago.
	old := issued(t, ca, "m1", swarm.NodeRoleManager, 90*time.Minute)
	if pki.ValidAt(old, time.Now()) == nil {
		t.Fatal("the certificate is good")
	}
	if err := pki.SaveIdentity(m.dir, old, nil); err != nil {
		t.Fatal(err)
	}
	again := openTestManager(t, m.dir, m.st, old)
	now := again.peers.identity.Get()
	if err := pki.ValidAt(now, time.Now()); err != nil || now.NodeID != "m1" || now.Role != swarm.NodeRoleManager {
		t.Fatalf("it has the certificate of %+v: %v", now.Peer, err)
	}
	if saved, err := pki.LoadIdentity(m.dir, nil); err != nil || !saved.NotAfter().Equal(now.NotAfter()) {
		t.Errorf("it is not on the disk: %v", err)
	}
	if err := again.waitToLead(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := again.catchUp(t.Context()); err != nil || again.store.Snapshot().Swarm() == nil {
		t.Errorf("the records are gone: %v", err)
	}
	again.stop()
	// One that is no manager by its own log gets nothing.
	st := *m.st
	st.NodeID = "w1"
	worker := issued(t, ca, "w1", swarm.NodeRoleManager, 90*time.Minute)
	h := pki.NewHolder(worker)
	(&Node{log: slog.New(slog.DiscardHandler)}).certifyAlone(m.dir, &st, h)
	if h.Get() != worker {
		t.Error("a worker made itself a manager's certificate")
	}
}

func TestANodeSaysWhyTheSwarmDoesNotTakeIt(t *testing.T) {
	ca, err := pki.NewAuthority(time.Now().Add(-24 * time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	other, err := pki.NewAuthority(time.Now().Add(-24 * time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	mixed := *issued(t, ca, "n1", swarm.NodeRoleWorker, 0)
	mixed.Roots = issued(t, other, "m9", swarm.NodeRoleManager, 0).Roots
	unknown := pki.ValidAt(&mixed, time.Now())
	good, over := issued(t, ca, "n1", swarm.NodeRoleWorker, 0), issued(t, ca, "n1", swarm.NodeRoleWorker, 2*time.Hour)
	refused := fmt.Errorf("connecting: %w", &link.RefusedError{Addr: "198.51.100.1:2377", Reason: "node n1 was removed from the swarm"})
	way := []string{`"docker swarm leave"`, "docker swarm join-token worker", "docker swarm join --token TOKEN"}
	for name, tt := range map[string]struct {
		id   *pki.Identity
		err  error
		want []string // none: there is no trouble
	}{
		"all is well":     {good, nil, nil},
		"not reached":     {good, errors.New("no route to host"), nil},
		"removed":         {good, refused, append(way, "Node n1 was removed from the swarm. ")},
		"another root":    {good, unknown, append(way, "of another root than this node knows")},
		"expired":         {over, errors.New("no route to host"), append(way, "Swarm certificates have expired. To replace them, leave the swarm and join again.")},
		"expired, by him": {over, refused, append(way, "Swarm certificates have expired.")},
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			n := &Node{log: slog.New(slog.NewTextHandler(&log, nil))}
			m := &member{st: state{NodeID: "n1", Role: swarm.NodeRoleWorker}, identity: pki.NewHolder(tt.id)}
			for range 3 {
				m.judge(n, tt.err)
			}
			n.member.Store(m)
			info := n.swarmInfo()
			if len(tt.want) == 0 {
				if info.Error != "" || info.LocalNodeState != swarm.LocalNodeStateActive {
					t.Errorf("%+v", info)
				}
				return
			}
			for _, w := range tt.want {
				if !strings.Contains(info.Error, w) {
					t.Errorf("%q does not say %q", info.Error, w)
				}
			}
			if info.LocalNodeState != swarm.LocalNodeStateError {
				t.Errorf("the state is %s", info.LocalNodeState)
			}
			if got := strings.Count(log.String(), "level=ERROR"); tt.err == refused && got != 1 {
				t.Errorf("said %d times:\n%s", got, log.String())
			}
			if err := n.Join(t.Context(), swarm.JoinRequest{}); err == nil || !strings.Contains(err.Error(), "already part of a swarm") || !strings.Contains(err.Error(), way[0]) {
				t.Errorf("a join says %v", err)
			}
			m.judge(n, nil)
			if tt.id == good && m.trouble() != "" {
				t.Error("it is not over when a manager takes the node")
			}
		})
	}
}
