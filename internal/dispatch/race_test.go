package dispatch_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"shoal.dev/shoal/internal/network"
	"shoal.dev/shoal/internal/store"
)

// Outside a bubble, where writers and the server really run at the same time: no change may be lost between what the
// server was told and what it looked at, and no version may be claimed before its changes were sent.
func TestNothingIsLostBesideWriters(t *testing.T) {
	const writers, each = 4, 400
	w := newWorld(t, "m1", "n1", "n2")
	srv := w.leader()
	ss := mustOpen(t, w.dial(srv, "n1"))
	var made sync.Map // task -> version that has it
	var wg sync.WaitGroup
	for g := range writers {
		wg.Go(func() {
			for i := range each {
				node, addr := "n1", 0
				if i%8 == 0 {
					node, addr = "n2", 1+g*each/8+i/8
				}
				rec := task(fmt.Sprintf("t%d-%d", g, i), node, addr)
				index, err := w.store.Update(context.Background(), func(tx *store.Tx) error {
					tx.Write(store.Create(rec))
					return nil
				})
				if err != nil {
					t.Error(err)
				}
				if node == "n1" {
					made.Store(rec.ID, index)
				}
			}
		})
	}
	got := map[string]bool{}
	var mesh *network.Ingress
	deadline := time.After(time.Minute)
	const ours, others = writers * each * 7 / 8, writers * each / 8
	for len(got) < ours || mesh == nil || len(mesh.Endpoints) < others {
		select {
		case f := <-ss.frames:
			if f == nil {
				t.Fatal("the session ended")
			}
			for _, t := range f.Tasks {
				got[t.ID] = true
			}
			if f.Mesh != nil {
				var err error
				if mesh, err = f.Mesh.Resolve(mesh); err != nil {
					t.Fatal(err)
				}
			}
			made.Range(func(id, index any) bool {
				if index.(uint64) <= f.Version && !got[id.(string)] {
					t.Fatalf("version %d was claimed without task %s of version %d", f.Version, id, index)
				}
				return true
			})
		case <-deadline:
			t.Fatalf("%d of %d tasks and %d of %d endpoints arrived", len(got), ours, len(mesh.Endpoints), others)
		}
	}
	wg.Wait()
}
