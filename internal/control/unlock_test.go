package control_test

import (
	"strings"
	"testing"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/control"
)

func TestTheUnlockKeyFollowsTheSwarmsSetting(t *testing.T) {
	c, _ := newControl(t, fakeRegistry{})
	update := func(lock, rotate bool) string {
		t.Helper()
		s, err := c.Swarm(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		s.Spec.EncryptionConfig.AutoLockManagers = lock
		if err := c.UpdateSwarm(t.Context(), s.Version.Index, s.Spec, control.RotateFlags{ManagerUnlockKey: rotate}); err != nil {
			t.Fatal(err)
		}
		key, err := c.UnlockKey(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	if key, err := c.UnlockKey(t.Context()); err != nil || key != "" {
		t.Fatalf("a swarm that never was locked has the key %q, %v", key, err)
	}
	if key := update(false, true); key != "" {
		t.Errorf("rotating the key of what is not locked made %q", key)
	}
	first := update(true, false)
	if !strings.HasPrefix(first, "SWMKEY-1-") {
		t.Errorf("the key is %q", first)
	}
	if key := update(true, false); key != first {
		t.Error("another update replaced the key")
	}
	second := update(true, true)
	if second == first || second == "" {
		t.Errorf("rotated from %q to %q", first, second)
	}
	if key := update(false, false); key != "" {
		t.Errorf("switched off, the key is %q", key)
	}
	if key := update(true, false); key == "" || key == first || key == second {
		t.Errorf("switched on again, the key is %q", key)
	}
	var s *swarm.Swarm
	var err error
	if s, err = c.Swarm(t.Context()); err != nil || !s.Spec.EncryptionConfig.AutoLockManagers {
		t.Errorf("inspect shows %+v, %v", s, err)
	}
}
