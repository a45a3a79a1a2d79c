package node

import (
	"context"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/dispatch/protocol"
	"shoal.dev/shoal/internal/pki"
)

const (
	// reissueAgain is the least time between two certificates that a node asks for because the swarm wants another: a manager
	// that is behind may want one that is gone.
	reissueAgain = 2 * time.Second
	// factsTimeout bounds the telling of the swarm what certificate the node has.
	factsTimeout = 5 * time.Second
)

// certificates is what a member does about its certificate when the swarm says something of it.
type certificates struct {
	mu      sync.Mutex
	next    time.Time   // before which no certificate is asked for
	waiting bool        // for the node's turn
	telling atomic.Bool // what certificate the node has
}

// onCertificate renews the certificate where the swarm wants another, at a random moment so that not all nodes ask at
// once, and tells the swarm what the node has where it does not know. It is told again with every heartbeat, so nothing is
// lost for good that fails.
func (m *member) onCertificate(n *Node) func(protocol.Certificate) {
	return func(c protocol.Certificate) {
		have := m.identity.Get().TLSInfo()
		if c.Wants(have) {
			m.reissueWithin(c.Spread)
			return
		}
		if c.Knows(have) || !m.certs.telling.CompareAndSwap(false, true) {
			return
		}
		n.run(func(ctx context.Context) error {
			defer m.certs.telling.Store(false)
			if err := m.tellFacts(ctx, n); err != nil && ctx.Err() == nil {
				n.log.Debug("the swarm was not told of the node's certificate", "node", m.st.NodeID, "error", err)
			}
			return nil
		})
	}
}

// reissueWithin has the certificate renewed once, at a random moment.
func (m *member) reissueWithin(spread time.Duration) {
	m.certs.mu.Lock()
	defer m.certs.mu.Unlock()
	now := time.Now()
	if m.certs.waiting || now.Before(m.certs.next) {
		return
	}
	m.certs.waiting = true
	time.AfterFunc(rand.N(max(spread, 1)), func() {
		m.certs.mu.Lock()
		m.certs.waiting, m.certs.next = false, time.Now().Add(reissueAgain)
		m.certs.mu.Unlock()
		select {
		case m.reissue <- struct{}{}:
		default: // it is about to be renewed
		}
	})
}

// tellFacts tells the swarm what the node is, its certificate among it, over the agent's link.
func (m *member) tellFacts(ctx context.Context, n *Node) error {
	l := m.link.Load()
	if l == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, factsTimeout)
	defer cancel()
	host, _, _ := net.SplitHostPort(m.st.AdvertiseAddr)
	return protocol.Post(ctx, l, protocol.PathStatus, protocol.StatusRequest{Nodes: []protocol.NodeReport{{
		NodeID: m.st.NodeID, Facts: &protocol.Facts{Description: m.describe(n)(ctx), Addr: host},
	}}})
}

// validity is how long the swarm's certificates are good.
func validity(s *cluster.Swarm) time.Duration {
	if v := s.Spec.CAConfig.NodeCertExpiry; v != 0 {
		return v
	}
	return pki.DefaultValidity
}
