package node

import (
	"context"
	"log/slog"
	"net/http"
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
	log      *slog.Logger

	mu     sync.Mutex
	byAddr map[string]*peerLink
}

type peerLink struct {
	mu   sync.Mutex // held while dialing
	link *link.Link
}

func newPeers(id *pki.Holder, handler http.Handler, log *slog.Logger) *peers {
	return &peers{identity: id, handler: handler, log: log, byAddr: map[string]*peerLink{}}
}

// to returns a live link to the manager at addr.
func (p *peers) to(ctx context.Context, addr string) (*link.Link, error) {
	p.mu.Lock()
	pl := p.byAddr[addr]
	if pl == nil {
		pl = &peerLink{}
		p.byAddr[addr] = pl
	}
	p.mu.Unlock()
	pl.mu.Lock()
	defer pl.mu.Unlock()
	if pl.link != nil {
		select {
		case <-pl.link.Done():
		default:
			return pl.link, nil
		}
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	l, err := link.Dial(ctx, addr, link.DialConfig{Identity: p.identity, Handler: p.handler, Log: p.log})
	if err != nil {
		return nil, err
	}
	pl.link = l
	return l, nil
}

// close closes all links.
func (p *peers) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, pl := range p.byAddr {
		pl.mu.Lock()
		if pl.link != nil {
			pl.link.Close()
		}
		pl.mu.Unlock()
	}
}
