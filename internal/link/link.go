// Package link makes the connections between nodes: one TCP port, mutual TLS with the swarm's own certificates, and
// HTTP/1.1 in both directions over one connection (yamux). Raft has streams of its own on the same port, picked by
// ALPN; a third ALPN needs no client certificate and serves only certificate requests.
//
// It decides who is at the other end, by certificate. It owns listeners, connections and their liveness. It never
// looks into the store and never decides what a peer may do: handlers ask [PeerFrom].
package link

import (
	"context"

	"github.com/moby/moby/api/types/swarm"
)

// Peer is who is at the other end, as its certificate says.
type Peer struct {
	SwarmID string
	NodeID  string
	Role    swarm.NodeRole
}

type peerKey struct{}

// WithPeer returns a context that carries the peer. Only this package and tests call it.
func WithPeer(ctx context.Context, p Peer) context.Context {
	return context.WithValue(ctx, peerKey{}, p)
}

// PeerFrom returns the peer that sent the request with this context, and false if it did not come over a link.
func PeerFrom(ctx context.Context) (Peer, bool) {
	p, ok := ctx.Value(peerKey{}).(Peer)
	return p, ok
}
