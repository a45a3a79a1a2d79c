package store_test

import (
	"context"

	"shoal.dev/shoal/internal/store"
)

// keeper is a proposer that keeps the entry instead of committing it.
type keeper struct{ entry []byte }

func (k *keeper) Propose(_ context.Context, entry []byte) (*store.Result, error) {
	k.entry = entry
	return &store.Result{}, nil
}
