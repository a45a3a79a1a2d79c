// Package link makes the connections between nodes: one TCP port, mutual TLS with the swarm's own certificates, and
// HTTP/1.1 in both directions over one connection (yamux). Raft has streams of its own on the same port, picked by
// ALPN; a third ALPN needs no client certificate and serves only certificate requests.
//
// It decides who is at the other end, by certificate, and when an end is dead. It owns listeners, connections and their
// liveness. It never looks into the store and never decides what a peer may do: handlers ask [PeerFrom].
package link

import (
	"context"
	"time"

	"shoal.dev/shoal/internal/pki"
)

// Peer is who is at the other end, as its certificate says.
type Peer = pki.Peer

// The protocols of the port, by ALPN.
const (
	protoLink = "shoal-link/1"
	protoRaft = "shoal-raft/1"
	protoJoin = "shoal-join/1"
)

// The bounds of a connection.
const (
	// DefaultDeadAfter is how long a peer may be silent before its link is closed.
	DefaultDeadAfter = 5 * time.Second
	// beat is how often an end that is silent sends something, unless the other end wants it more often.
	beat = time.Second
	// handshakeTimeout bounds all that comes before the first request.
	handshakeTimeout = 10 * time.Second
	// maxStreams is how many requests a peer may have open at once; further ones wait.
	maxStreams = 512
	// streamWindow is how much of a stream is under way, in bytes: 20 MB/s at a round trip of 50 ms.
	streamWindow = 1 << 20
	// maxFrame is the most of a stream that is sent at once, so that streams take turns.
	maxFrame = 64 << 10

	headerTimeout  = 10 * time.Second
	idleTimeout    = 2 * time.Minute
	maxHeaderBytes = 64 << 10
)

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

type linkKey struct{}

// LinkFrom returns the link that the request with this context came over: whoever serves a lasting request sees there
// when the peer was last heard, and can call it back.
func LinkFrom(ctx context.Context) (*Link, bool) {
	l, ok := ctx.Value(linkKey{}).(*Link)
	return l, ok
}
