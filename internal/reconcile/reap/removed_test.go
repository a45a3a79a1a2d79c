package reap_test

import (
	"testing"
	"time"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/reconcile/plantest"
	"shoal.dev/shoal/internal/reconcile/reap"
	"shoal.dev/shoal/internal/store"
)

func TestAMarkStaysAsLongAsACertificateOfTheRemovedNodeMayBeValid(t *testing.T) {
	const day = 24 * time.Hour
	for name, c := range map[string]struct {
		expiry, before time.Duration // of certificates now, and before the settings were changed
		after          time.Duration // the removal
		stays          bool
	}{
		"just removed":               {90 * day, 0, time.Hour, true},
		"its last day":               {90 * day, 0, 90 * day, true},
		"over":                       {90 * day, 0, 92 * day, false},
		"longer ones":                {365 * day, 0, 92 * day, true},
		"longer ones, over":          {365 * day, 0, 367 * day, false},
		"shorter now than they were": {2 * time.Hour, 365 * day, 92 * day, true},
		"shorter, and it may have been longer before": {2 * time.Hour, 0, 3 * day, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := plantest.New(t)
			w := &cluster.Swarm{}
			w.Spec.CAConfig.NodeCertExpiry = c.before
			if c.before != 0 {
				w.NoteCertLife(c.expiry)
			}
			w.Spec.CAConfig.NodeCertExpiry = c.expiry
			s.Put(w)
			s.Put(&cluster.Claim{ID: cluster.ClaimRemoved("n1"), Owner: "n1"})
			s.At = s.At.Add(c.after)
			s.Settle(reap.Planner{})
			if _, stays := store.Get[*cluster.Claim](s.Store.Snapshot(), cluster.ClaimRemoved("n1")); stays != c.stays {
				t.Errorf("it stays: %v", stays)
			}
		})
	}
}
