package consensus

import (
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// maxAppendBytes is the most that the entries of one message have in bytes, so that a manager that is far behind gets them
// in parts that pass within rpcTimeout over a link of 10 Mb/s. A single larger entry goes alone.
const maxAppendBytes = 4 << 20

// transport wraps raft's: it notes how far each member's log goes, which raft does not tell, and bounds messages.
type transport struct {
	raft.Transport

	mu        sync.Mutex
	peers     map[raft.ServerID]contact
	pipelines map[*pipeline]struct{}
	ended     bool // no pipelines any more
}

// contact is what a member last answered.
type contact struct {
	at      time.Time
	lastLog uint64
}

var _ raft.WithPreVote = (*transport)(nil)

func newTransport(inner raft.Transport) *transport {
	return &transport{Transport: inner, peers: map[raft.ServerID]contact{}, pipelines: map[*pipeline]struct{}{}}
}

// contact returns what the member last answered since the last forget.
func (t *transport) contact(id raft.ServerID) (contact, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c, ok := t.peers[id]
	return c, ok
}

func (t *transport) forget(id raft.ServerID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.peers, id)
}

// AppendEntries is called for heartbeats, too, and both are answered with the end of the member's log.
func (t *transport) AppendEntries(id raft.ServerID, target raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	bound(args)
	err := t.Transport.AppendEntries(id, target, args, resp)
	if err == nil {
		t.mu.Lock()
		t.peers[id] = contact{time.Now(), resp.LastLog}
		t.mu.Unlock()
	}
	return err
}

// AppendEntriesPipeline bounds what goes through the pipeline.
func (t *transport) AppendEntriesPipeline(id raft.ServerID, target raft.ServerAddress) (raft.AppendPipeline, error) {
	inner, err := t.Transport.AppendEntriesPipeline(id, target)
	if err != nil {
		return nil, err
	}
	p := &pipeline{inner, t}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended {
		return nil, errors.Join(raft.ErrPipelineShutdown, inner.Close())
	}
	t.pipelines[p] = struct{}{}
	return p, nil
}

// endPipelines closes the pipelines that are open and those to come. Raft must be shutting down. It waits for whoever sends
// through one, and a sender may wait for ever: for a reader that ended when a member answered with a newer term.
func (t *transport) endPipelines() error {
	t.mu.Lock()
	t.ended = true
	open := slices.Collect(maps.Keys(t.pipelines))
	t.mu.Unlock()
	var errs []error
	for _, p := range open {
		errs = append(errs, p.Close())
	}
	return errors.Join(errs...)
}

// RequestPreVote passes it on; both of raft's transports have it.
func (t *transport) RequestPreVote(id raft.ServerID, target raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	p, ok := t.Transport.(raft.WithPreVote)
	if !ok {
		return errors.New("the transport has no pre-vote")
	}
	return p.RequestPreVote(id, target, args, resp)
}

// Close closes the inner transport.
func (t *transport) Close() error {
	if c, ok := t.Transport.(raft.WithClose); ok {
		return c.Close()
	}
	return nil
}

type pipeline struct {
	raft.AppendPipeline
	t *transport
}

// Close may be called more than once.
func (p *pipeline) Close() error {
	p.t.mu.Lock()
	delete(p.t.pipelines, p)
	p.t.mu.Unlock()
	return p.AppendPipeline.Close()
}

func (p *pipeline) AppendEntries(args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	bound(args)
	return p.AppendPipeline.AppendEntries(args, resp)
}

// bound leaves out the last entries of a message that is too large. Raft looks at the request afterwards to see how far it went, so
// the rest goes with the next.
func bound(args *raft.AppendEntriesRequest) {
	size := 0
	for i, e := range args.Entries {
		size += len(e.Data) + len(e.Extensions)
		if size > maxAppendBytes && i > 0 {
			args.Entries = args.Entries[:i]
			return
		}
	}
}
