package consensus

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"shoal.dev/shoal/internal/store"
)

// ErrUnknownOutcome says that leadership or the connection to the majority was lost while an entry was being written: it may or may not
// be in the log.
var ErrUnknownOutcome = errors.New("it is not known whether the change was made: the leader changed while it was being written")

// Propose implements [store.Proposer]. It waits until the entry is applied to this manager's store, for as long as ctx allows (30 s where ctx has
// no deadline). store.ErrNotLeader means that the entry is in nobody's log; with any other error it may be. Concurrent
// calls share writes to the disk and to the other managers.
func (c *Consensus) Propose(ctx context.Context, entry []byte) (*store.Result, error) {
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	ctx, cancel, left := withDeadline(ctx)
	defer cancel()
	f := c.raft.Apply(entry, left)
	if err := c.wait(ctx, f); err != nil {
		switch {
		case notWritten(err):
			return nil, store.ErrNotLeader
		case errors.Is(err, raft.ErrLeadershipLost), errors.Is(err, raft.ErrAbortedByRestore):
			return nil, ErrUnknownOutcome
		case errors.Is(err, raft.ErrRaftShutdown):
			return nil, fmt.Errorf("this manager is stopping: %w", ErrUnknownOutcome)
		case errors.Is(err, raft.ErrEnqueueTimeout):
			return nil, fmt.Errorf("the change could not be written in time: %w", context.DeadlineExceeded)
		case ctx.Err() != nil:
			return nil, fmt.Errorf("the change was written here and not confirmed by a majority of the managers in time: %w", err)
		}
		return nil, fmt.Errorf("writing to the swarm's log: %w", err)
	}
	r, ok := f.Response().(*store.Result)
	if !ok {
		return nil, fmt.Errorf("the swarm's log gave a %T for a change", f.Response())
	}
	return r, nil
}

// notWritten says whether raft refused before it did anything.
func notWritten(err error) bool {
	return errors.Is(err, raft.ErrNotLeader) || errors.Is(err, raft.ErrLeadershipTransferInProgress)
}

// withDeadline gives ctx a deadline where it has none, and says how long it is until then.
func withDeadline(ctx context.Context) (context.Context, context.CancelFunc, time.Duration) {
	if d, ok := ctx.Deadline(); ok {
		return ctx, func() {}, max(time.Until(d), time.Millisecond)
	}
	ctx, cancel := context.WithTimeout(ctx, operationTimeout)
	return ctx, cancel, operationTimeout
}

// wait waits for a future of raft's, which knows no contexts. They end with leadership, and with raft those do not that raft
// had not begun.
func (c *Consensus) wait(ctx context.Context, f raft.Future) error {
	if !c.inflight.begin() {
		return raft.ErrRaftShutdown
	}
	done := make(chan error, 1)
	go func() {
		defer c.inflight.end()
		done <- f.Error()
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-c.closed:
		return raft.ErrRaftShutdown
	}
}

// reads lets concurrent calls of ReadIndex share one round of messages.
type reads struct {
	mu      sync.Mutex
	waiting *read // not started; whoever comes joins it
	running bool
	// term is the last term whose start this manager's store is known to have reached as leader. Only the running round uses it.
	term uint64
}

type read struct {
	done  chan struct{}
	index uint64
	err   error
}

// ReadIndex returns a store version: a store that has it has every write that was acknowledged, by any manager, before the call. Wait for it with
// store.WaitIndex, on this manager or another. Only the leader answers, others return store.ErrNotLeader.
func (c *Consensus) ReadIndex(ctx context.Context) (uint64, error) {
	r := &c.reads
	r.mu.Lock()
	if r.waiting == nil {
		r.waiting = &read{done: make(chan struct{})}
	}
	mine := r.waiting
	if !r.running {
		r.running = true
		go c.readRounds()
	}
	r.mu.Unlock()
	select {
	case <-mine.done:
		return mine.index, mine.err
	case <-ctx.Done():
		return 0, fmt.Errorf("asking the other managers whether this one still leads: %w", context.Cause(ctx))
	}
}

// readRounds runs rounds while anybody waits.
func (c *Consensus) readRounds() {
	r := &c.reads
	for {
		r.mu.Lock()
		round := r.waiting
		r.waiting = nil
		if round == nil {
			r.running = false
			r.mu.Unlock()
			return
		}
		r.mu.Unlock()
		round.index, round.err = c.readRound()
		close(round.done)
	}
}

// readRound is one round. Writes of this term that were acknowledged are in this store, because Propose answers after that; a barrier
// brings in those of earlier terms. Raft's own commit index would not do: it counts entries that no store sees.
func (c *Consensus) readRound() (uint64, error) {
	term := c.raft.CurrentTerm()
	if c.reads.term != term || c.hasNonvoter() {
		// With a member that has no vote, raft's VerifyLeader counts that one's answer towards the majority.
		if err := c.wait(context.Background(), c.raft.Barrier(operationTimeout)); err != nil {
			return 0, readError(err)
		}
		if c.raft.CurrentTerm() != term {
			return 0, store.ErrNotLeader
		}
		c.reads.term = term
		return c.cfg.Store.Index(), nil
	}
	index := c.cfg.Store.Index()
	if err := c.wait(context.Background(), c.raft.VerifyLeader()); err != nil {
		return 0, readError(err)
	}
	return index, nil
}

func (c *Consensus) hasNonvoter() bool {
	for _, s := range c.raft.GetConfiguration().Configuration().Servers {
		if s.Suffrage != raft.Voter {
			return true
		}
	}
	return false
}

// readError: a read that failed changed nothing, so lost leadership is the same as none.
func readError(err error) error {
	if notWritten(err) || errors.Is(err, raft.ErrLeadershipLost) {
		return store.ErrNotLeader
	}
	return fmt.Errorf("asking the other managers whether this one still leads: %w", err)
}
