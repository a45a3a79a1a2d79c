package control

import (
	"context"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/pki"
	"shoal.dev/shoal/internal/store"
)

// Swarm returns the swarm with its join tokens.
func (c *Control) Swarm(ctx context.Context) (*swarm.Swarm, error) {
	_, snap, err := c.read(ctx)
	if err != nil {
		return nil, err
	}
	s := snap.Swarm()
	if s == nil {
		return nil, errdefs.ErrUnavailable.WithMessage("this manager has not received the swarm's state yet: try again")
	}
	return inspectSwarm(s), nil
}

// RotateFlags says which secrets of the swarm an update replaces.
type RotateFlags struct{ WorkerToken, ManagerToken, ManagerUnlockKey bool }

// UpdateSwarm replaces the swarm's settings if they are still at the version, and its tokens if asked.
func (c *Control) UpdateSwarm(ctx context.Context, version uint64, spec swarm.Spec, rotate RotateFlags) error {
	m, err := c.write()
	if err != nil {
		return err
	}
	if err := checkSwarmSpec(spec); err != nil {
		return err
	}
	return m.update(ctx, func(tx *store.Tx) error {
		old := tx.Swarm()
		if old == nil || old.Version.Index != version {
			return outOfSequence()
		}
		s := old.Clone().(*cluster.Swarm)
		s.Spec = spec
		SetSwarmDefaults(&s.Spec)
		if rotate.WorkerToken {
			s.JoinTokens.Worker = pki.NewToken([]byte(s.TLSInfo.TrustRoot))
		}
		if rotate.ManagerToken {
			s.JoinTokens.Manager = pki.NewToken([]byte(s.TLSInfo.TrustRoot))
		}
		if err := rotateAuthority(tx, old, s, m.Store.Now()); err != nil {
			return err
		}
		tx.Write(store.PutBoth(s))
		setUnlockKey(tx, spec.EncryptionConfig.AutoLockManagers, rotate.ManagerUnlockKey)
		return nil
	})
}

func checkSwarmSpec(spec swarm.Spec) error {
	switch {
	case spec.Name != "" && spec.Name != "default":
		return invalid(`swarm spec must be named "default"`)
	case len(spec.CAConfig.ExternalCAs) > 0:
		return errdefs.ErrNotImplemented.WithMessage("external certificate authorities (--external-ca) are not implemented by Shoal: it signs its own certificates")
	case spec.CAConfig.NodeCertExpiry != 0 && spec.CAConfig.NodeCertExpiry < pki.MinValidity:
		return invalid("minimum certificate expiry time is: %s", pki.MinValidity)
	}
	return checkHeartbeat(spec.Dispatcher.HeartbeatPeriod)
}

// CheckSwarmSpec is what [Control.UpdateSwarm] checks, for the making of a swarm.
func CheckSwarmSpec(spec swarm.Spec) error {
	if err := checkInitialAuthority(spec.CAConfig); err != nil {
		return err
	}
	return checkSwarmSpec(spec)
}
