package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"shoal.dev/shoal/internal/link"
	"shoal.dev/shoal/internal/pki"
)

// dialTimeout bounds opening a link to another manager. It is below Swarm's 5 s for a dial, so that a caller still
// has time for another manager.
const dialTimeout = 3 * time.Second

// peers holds this manager's own links to the other managers: what it asks the leader goes over them.
type peers struct {
	identity *pki.Holder
	handler  http.Handler // what other managers may ask this node over its links
	dial     link.Dialer
	log      *slog.Logger

	mu     sync.Mutex // never held while anything is waited for
	byAddr map[string]*peerLink
	closed bool
}

type peerLink struct {
	dialing chan struct{} // capacity 1; has a value while somebody dials or looks
	link    *link.Link
}

func newPeers(id *pki.Holder, handler http.Handler, dial link.Dialer, log *slog.Logger) *peers {
	return &peers{identity: id, handler: handler, dial: dial, log: log, byAddr: map[string]*peerLink{}}
}

// to returns a live link to the manager at addr.
func (p *peers) to(ctx context.Context, addr string) (*link.Link, error) {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil, errPeersClosed
	}
	pl := p.byAddr[addr]
	if pl == nil {
		pl = &peerLink{dialing: make(chan struct{}, 1)}
		p.byAddr[addr] = pl
	}
	p.mu.Unlock()
	select {
	case pl.dialing <- struct{}{}:
		defer func() { <-pl.dialing }()
	case <-ctx.Done():
		return nil, fmt.Errorf("connecting to the manager at %s, which somebody else tries already: %w", addr, context.Cause(ctx))
	}
	p.mu.Lock()
	closed := p.closed
	p.mu.Unlock()
	if closed {
		return nil, errPeersClosed
	}
	if pl.link != nil {
		select {
		case <-pl.link.Done():
		default:
			return pl.link, nil
		}
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	l, err := link.Dial(ctx, addr, link.DialConfig{Identity: p.identity, Handler: p.handler, Dial: p.dial, Log: p.log})
	if err != nil {
		return nil, err
	}
	pl.link = l
	return l, nil
}

var errPeersClosed = errors.New("this manager ends")

// close closes all links; there are none afterwards.
func (p *peers) close() {
	p.mu.Lock()
	p.closed = true
	all := slices.Collect(maps.Values(p.byAddr))
	p.mu.Unlock()
	for _, pl := range all {
		pl.dialing <- struct{}{} // a dial ends within dialTimeout
		if pl.link != nil {
			pl.link.Close()
		}
		<-pl.dialing
	}
}
