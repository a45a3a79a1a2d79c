package consensus

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/store"
)

// errOutOfSequence ends an update of a record that another has changed meanwhile.
var errOutOfSequence = errors.New("out of sequence")

// Leaders hand over and are closed and opened again while clients count up: what was acknowledged must be there.
func TestWhatIsAcknowledgedOutlivesHandingOver(t *testing.T) {
	ms := group(t, 5, func(c *Config) { c.SnapshotInterval = 500 })
	var mu sync.RWMutex // held for writing while a member is exchanged
	const counters = 8
	var acked, unknown [counters]int
	for i := range counters {
		mustWrite(t, ms[0], fmt.Sprint("n", i))
	}
	raise := func(ctx context.Context, m *member, id string) (n uint64, err error) {
		old, ok := store.Get[*cluster.Task](m.store.Snapshot(), id)
		if !ok {
			return 0, store.ErrNotLeader
		}
		version := old.Version.Index
		n = old.Spec.ForceUpdate + 1
		_, err = m.store.Update(ctx, func(tx *store.Tx) error {
			now, _ := store.Get[*cluster.Task](tx.Snapshot, id)
			if now.Version.Index != version {
				return errOutOfSequence
			}
			k := now.Clone().(*cluster.Task)
			k.Spec.ForceUpdate = n
			tx.Write(store.PutBoth(k))
			return nil
		})
		return n, err
	}
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for i := range counters {
		wg.Go(func() {
			id := fmt.Sprint("n", i)
			floor := uint64(0)
			for ctx.Err() == nil {
				mu.RLock()
				all := append([]*member(nil), ms...)
				mu.RUnlock()
				for _, m := range all {
					if !m.IsLeader() {
						continue
					}
					if _, err := m.ReadIndex(ctx); err != nil {
						continue
					}
					try, cancel := context.WithTimeout(ctx, 2*time.Second)
					n, err := raise(try, m, id)
					cancel()
					switch {
					case err == nil:
						if n <= floor {
							t.Errorf("%s: %d was acknowledged after %d", id, n, floor)
						}
						floor = n
						acked[i]++
					case errors.Is(err, store.ErrNotLeader), errors.Is(err, errOutOfSequence):
					default:
						unknown[i]++
					}
				}
			}
		})
	}
	exchanges := 8
	for range exchanges {
		l := leaderOf(t, ms)
		tick := time.After(150 * time.Millisecond)
		<-tick
		try, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		_ = l.Transfer(try)
		cancel()
		closed := make(chan error, 1)
		go func() { closed <- l.Close() }()
		select {
		case err := <-closed:
			if err != nil {
				t.Fatal(err)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("a manager does not close")
		}
		mu.Lock()
		for i, m := range ms {
			if m == l {
				ms[i] = m.restart(t)
			}
		}
		mu.Unlock()
	}
	stop()
	wg.Wait()
	l := leaderOf(t, ms)
	for i := range counters {
		k, _ := store.Get[*cluster.Task](l.store.Snapshot(), fmt.Sprint("n", i))
		if n := int(k.Spec.ForceUpdate); n < acked[i] || n > acked[i]+unknown[i] {
			t.Errorf("n%d is %d after %d acknowledged updates and %d of which it is not known", i, n, acked[i], unknown[i])
		}
	}
	t.Log(acked, unknown)
}
