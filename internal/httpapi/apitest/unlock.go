package apitest

import (
	"context"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"
)

// UnlockKeys are those that the swarm has one after the other.
var UnlockKeys = [2]string{"SWMKEY-1-" + strings.Repeat("a", 43), "SWMKEY-1-" + strings.Repeat("b", 43)}

func (f *Swarm) UnlockKey(context.Context) (string, error) {
	if err := f.manager(); err != nil || !f.Autolock {
		return "", err
	}
	if f.Rotate.ManagerUnlockKey {
		return UnlockKeys[1], nil
	}
	return UnlockKeys[0], nil
}

func (f *Swarm) Unlock(_ context.Context, r swarm.UnlockRequest) error {
	switch {
	case !f.Locked:
		return errdefs.ErrConflict.WithMessage("swarm is not locked")
	case !strings.HasPrefix(r.UnlockKey, "SWMKEY-1-"):
		return errdefs.ErrInvalidArgument.WithMessage("invalid key string")
	case r.UnlockKey != UnlockKeys[0]:
		return errdefs.ErrUnauthenticated.WithMessage("swarm could not be unlocked: invalid key provided")
	}
	f.Locked = false
	return nil
}
