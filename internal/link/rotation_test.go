package link

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/pki"
)

// TestLinksDuringARotation opens links and joins while the swarm gets another root.
func TestLinksDuringARotation(t *testing.T) {
	s := newSwarm(t, "sw1")
	early := s.worker("early")
	next, err := pki.NewNext(s.ca, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	s.ca = s.ca.Clone().(*cluster.Authority)
	s.ca.Next = next
	manager := s.manager("m1")
	srv := serve(t, ServerConfig{Identity: manager, Handler: who})
	addr := srv.Addr().String()
	dial := func(id *pki.Holder) error {
		t.Helper()
		l, err := Dial(t.Context(), addr, DialConfig{Identity: id, Log: quiet})
		if err == nil {
			err = l.Close()
		}
		return err
	}
	join := func(root []byte) error {
		t.Helper()
		tok, err := pki.ParseToken(pki.NewToken(root))
		if err != nil {
			t.Fatal(err)
		}
		c, err := JoinDial(t.Context(), nil, addr, tok)
		if err == nil {
			c.Close()
		}
		return err
	}
	carried := s.worker("carried")
	for name, id := range map[string]*pki.Holder{"of the old root": early, "of the new one": carried} {
		if err := dial(id); err != nil {
			t.Errorf("during the rotation, with a certificate %s: %v", name, err)
		}
	}
	if err := join(s.ca.Cert); err != nil {
		t.Errorf("joining during the rotation: %v", err)
	}
	old := s.ca.Cert
	s.ca.Finish(&cluster.Swarm{})
	manager.Set(s.manager("m1").Get())
	if err := dial(carried); err != nil {
		t.Errorf("after it, with a certificate from before the end: %v", err)
	}
	err = dial(early)
	var refused *RefusedError
	if !errors.As(err, &refused) || !strings.Contains(refused.Reason, "node early") || !strings.Contains(refused.Reason, "rotated") {
		t.Errorf("after it, with a certificate of the old root: %v", err)
	}
	if err := join(s.ca.Cert); err != nil {
		t.Errorf("joining after it: %v", err)
	}
	if err := join(old); err == nil || !strings.Contains(err.Error(), "remote CA does not match fingerprint") {
		t.Errorf("joining after it with an old token: %v", err)
	}
}

// TestClocksThatDiffer has both ends take certificates that by their clocks are just not valid yet, or just no more.
func TestClocksThatDiffer(t *testing.T) {
	s := newSwarm(t, "sw1")
	srv := serve(t, ServerConfig{Identity: s.manager("m1"), Handler: who})
	for name, id := range map[string]*pki.Holder{
		"issued by a clock far ahead": s.nodeAt("n1", swarm.NodeRoleWorker, 3*time.Hour, time.Now().Add(time.Hour+9*time.Minute)),
		"over for nine minutes":       s.nodeAt("n1", swarm.NodeRoleWorker, time.Hour, time.Now().Add(-time.Hour-9*time.Minute)),
	} {
		l, err := Dial(t.Context(), srv.Addr().String(), DialConfig{Identity: id, Log: quiet})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if _, err := l.Client().Get("http://manager/"); err != nil {
			t.Errorf("%s: the link ended: %v", name, err)
		}
		l.Close()
	}
}
