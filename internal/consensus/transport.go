package consensus

import (
	"errors"
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

	mu    sync.Mutex
	peers map[raft.ServerID]contact
}

// contact is what a member last answered.
type contact struct {
	at      time.Time
	lastLog uint64
}

var _ raft.WithPreVote = (*transport)(nil)

func newTransport(inner raft.Transport) *transport {
	return &transport{Transport: inner, peers: map[raft.ServerID]contact{}}
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
	p, err := t.Transport.AppendEntriesPipeline(id, target)
	if err != nil {
		return nil, err
	}
	return newPipeline(p), nil
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

// pipelineSlack is how many answers may wait for raft. Raft stops sending at the first look after it stopped reading, so
// it is far more than ever wait.
const pipelineSlack = 64

// pipeline takes what members answer off raft's hands. In raft 1.8 each answer waits until it is read, a message waits
// until the one before it was answered, and raft stops reading at an answer that is no success: with messages under way
// at that moment nothing would go to the member any more until the leader changes, and the leader would not stop.
type pipeline struct {
	raft.AppendPipeline
	answers chan raft.AppendFuture
	closed  chan struct{}
	once    sync.Once
}

func newPipeline(inner raft.AppendPipeline) *pipeline {
	p := &pipeline{AppendPipeline: inner, answers: make(chan raft.AppendFuture, pipelineSlack), closed: make(chan struct{})}
	go p.collect()
	return p
}

func (p *pipeline) collect() {
	for {
		select {
		case a := <-p.AppendPipeline.Consumer():
			select {
			case p.answers <- a:
			case <-p.closed:
				return
			}
		case <-p.closed:
			return
		}
	}
}

func (p *pipeline) AppendEntries(args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	bound(args)
	return p.AppendPipeline.AppendEntries(args, resp)
}

// Consumer delivers the answers.
func (p *pipeline) Consumer() <-chan raft.AppendFuture { return p.answers }

// Close ends it.
func (p *pipeline) Close() error {
	p.once.Do(func() { close(p.closed) })
	return p.AppendPipeline.Close()
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
