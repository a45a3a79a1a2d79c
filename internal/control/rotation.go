package control

import (
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/pki"
	"shoal.dev/shoal/internal/store"
)

// rotateAuthority begins, replaces or takes back a rotation of the swarm's root, if the new settings in s ask for it. The
// root that they bring does not stay in them: it is an order, and its key is secret. now is swarm time.
func rotateAuthority(tx *store.Tx, old, s *cluster.Swarm, now time.Time) error {
	ca := &s.Spec.CAConfig
	cert, key := ca.SigningCACert, ca.SigningCAKey
	ca.SigningCACert, ca.SigningCAKey = "", ""
	forced := ca.ForceRotate != old.Spec.CAConfig.ForceRotate
	if cert == "" && key == "" && !forced {
		return nil
	}
	had, ok := store.Get[*cluster.Authority](tx.Snapshot, cluster.SingletonID)
	if !ok {
		return errdefs.ErrUnavailable.WithMessage("this manager has not received the swarm's state yet: try again")
	}
	a := had.Clone().(*cluster.Authority)
	var err error
	if cert == "" && key == "" {
		a.Next, err = pki.NewNext(had, time.Now())
	} else {
		a.Next, err = pki.BringNext(had, []byte(cert), []byte(key), time.Now())
	}
	if err != nil {
		return invalid("%s", err)
	}
	if a.Next != nil {
		a.Next.Began = now
	}
	info, err := pki.TLSInfo(a)
	if err != nil {
		return err
	}
	s.TLSInfo, s.RootRotationInProgress = info, a.Next != nil
	tx.Write(store.PutSpec(a))
	return nil
}

// checkInitialAuthority refuses for a swarm that is being made what only an existing one can do.
func checkInitialAuthority(c swarm.CAConfig) error {
	if c.SigningCACert != "" || c.SigningCAKey != "" || c.ForceRotate > 0 {
		return errdefs.ErrNotImplemented.WithMessage("a swarm begins with a root of its own: bring another with \"docker swarm ca --rotate --ca-cert FILE --ca-key FILE\"")
	}
	return nil
}
