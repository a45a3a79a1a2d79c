package control

import (
	"context"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/pki"
	"shoal.dev/shoal/internal/store"
)

// UnlockKey returns the key that managers need after a restart, "" if they are not locked.
func (c *Control) UnlockKey(ctx context.Context) (string, error) {
	_, snap, err := c.read(ctx)
	if err != nil {
		return "", err
	}
	k, ok := store.Get[*cluster.UnlockKey](snap, cluster.SingletonID)
	if !ok {
		return "", nil
	}
	return pki.FormatUnlockKey(k.Bytes), nil
}

// setUnlockKey makes a key where managers are to be locked and have none, takes it away where they are not to be, and
// replaces it if asked. Every manager then does so on its own disk.
func setUnlockKey(tx *store.Tx, lock, rotate bool) {
	old, known := store.Get[*cluster.UnlockKey](tx.Snapshot, cluster.SingletonID)
	locked := known && len(old.Bytes) > 0
	if lock == locked && !(lock && rotate) {
		return
	}
	k := &cluster.UnlockKey{ID: cluster.SingletonID}
	if known {
		k = old.Clone().(*cluster.UnlockKey)
	}
	k.Bytes = nil
	if lock {
		k.Bytes = pki.NewUnlockKey()
	}
	if known {
		tx.Write(store.PutSpec(k))
	} else {
		tx.Write(store.Create(k))
	}
}
