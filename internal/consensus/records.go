package consensus

import (
	"context"
	"fmt"

	"github.com/hashicorp/raft"

	"shoal.dev/shoal/internal/store"
)

// Records reads what this manager's folder has: the newest snapshot and every entry after it, those included that no
// majority confirmed. What Recover uses of the configuration it uses, too; the folder is left as it is. Who reads it must
// not take it for what the swarm agreed on.
func Records(ctx context.Context, c Config) (*store.Store, error) {
	f := &fsm{store.New()}
	err := c.offline(func(logs *logStore, snaps *snapshots, _ raft.Transport) error {
		if err := checkHistory(logs, snaps, c.Begun); err != nil {
			return err
		}
		list, err := snaps.List()
		if err != nil {
			return err
		}
		var from uint64
		for _, meta := range list { // newest first; checkHistory has found a good one, if any is there
			if snaps.verify(meta.ID) != nil {
				continue
			}
			_, r, err := snaps.Open(meta.ID)
			if err != nil {
				return err
			}
			if err := f.Restore(r); err != nil {
				return fmt.Errorf("reading snapshot %s: %w", meta.ID, err)
			}
			from = meta.Index
			break
		}
		first, err := logs.FirstIndex()
		if err != nil {
			return err
		}
		last, err := logs.LastIndex()
		if err != nil {
			return err
		}
		for i := max(first, from+1); i <= last && i > 0; i++ {
			if err := ctx.Err(); err != nil {
				return err
			}
			var l raft.Log
			if err := logs.GetLog(i, &l); err != nil {
				return err
			}
			if l.Type != raft.LogCommand {
				f.store.Advance(i)
				continue
			}
			if r, ok := f.Apply(&l).(*store.Result); ok && r.Err != nil {
				return r.Err
			}
		}
		return nil
	})
	return f.store, err
}
