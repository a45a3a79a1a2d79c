package node

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"shoal.dev/shoal/internal/pki"
)

// A manager that ends waits for a dial that is under way; who asks for a link meanwhile is not held up. Seed 1062 of
// sim/swarm stood still here.
func TestNobodyWaitsForTheEndOfLinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dial := func(ctx context.Context, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		p := newPeers(pki.NewHolder(&pki.Identity{}), nil, dial, slog.New(slog.DiscardHandler))
		dialed, closed := make(chan error, 1), make(chan struct{})
		go func() {
			_, err := p.to(t.Context(), "192.0.2.1:2377")
			dialed <- err
		}()
		synctest.Wait()
		go func() {
			p.close()
			close(closed)
		}()
		synctest.Wait()
		began := time.Now()
		if _, err := p.to(t.Context(), "192.0.2.2:2377"); !errors.Is(err, errPeersClosed) || time.Since(began) > 0 {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
		if err := <-dialed; err == nil {
			t.Error("the dial has succeeded")
		}
		<-closed
		if took := time.Since(began); took > dialTimeout {
			t.Errorf("closing took %s", took)
		}
	})
}
