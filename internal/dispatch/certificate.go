package dispatch

import (
	"time"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/dispatch/protocol"
	"shoal.dev/shoal/internal/store"
)

const (
	// spreadNode is the time that a node adds to that over which nodes spread: 200 certificates a second are one percent
	// of a core.
	spreadNode = 5 * time.Millisecond
	spreadMin  = 200 * time.Millisecond
	spreadMax  = time.Minute
)

// certificate is what a node's heartbeat is answered about its certificate. When the root changes it is the managers' turn
// first: who connects to a manager then meets one that has done it.
func (s *Server) certificate(snap *store.Snapshot, node *cluster.Node) *protocol.Certificate {
	sw := snap.Swarm()
	if sw == nil {
		return nil
	}
	c := &protocol.Certificate{Have: protocol.TLSDigest(node.Description.TLSInfo), Spread: s.spread()}
	if node.Spec.Role == swarm.NodeRoleManager || s.managersHave(snap, sw) {
		c.Want = protocol.TLSDigest(sw.TLSInfo)
	}
	return c
}

// managersHave says whether the managers that are there have certificates of the issuer that the swarm's are to be of.
func (s *Server) managersHave(snap *store.Snapshot, sw *cluster.Swarm) bool {
	for _, p := range s.cfg.Managers() {
		n, ok := store.Get[*cluster.Node](snap, p.NodeID)
		if ok && n.Status.State == swarm.NodeStateReady && !n.HasIssuer(sw) {
			return false
		}
	}
	return true
}

// spread supposes that the other managers have as many sessions as this one.
func (s *Server) spread() time.Duration {
	s.mu.Lock()
	n := len(s.sessions)
	s.mu.Unlock()
	return min(max(spreadMin, time.Duration(n*len(s.cfg.Managers()))*spreadNode), spreadMax)
}
