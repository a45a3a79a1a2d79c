package consensus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/hashicorp/raft"

	"shoal.dev/shoal/internal/store"
)

// catchUpPoll is how often AddVoter looks how far a new member is; heartbeats tell it every 0.1 to 0.2 s.
const catchUpPoll = 20 * time.Millisecond

// undoTimeout bounds taking out again a member that could not be added.
const undoTimeout = 5 * time.Second

// Server is a member of the group.
type Server struct {
	ID, Addr string
	// Voter is false while a new member catches up.
	Voter bool
}

// Servers are the members, as this manager knows them; none before Bootstrap or the first contact by a leader.
func (c *Consensus) Servers() ([]Server, error) {
	f := c.raft.GetConfiguration()
	if err := f.Error(); err != nil {
		return nil, fmt.Errorf("reading the members: %w", err)
	}
	var out []Server
	for _, s := range f.Configuration().Servers {
		out = append(out, Server{string(s.ID), string(s.Address), s.Suffrage == raft.Voter})
	}
	return out, nil
}

func soleVoter(s []Server, id string) bool { return len(s) == 1 && s[0].ID == id && s[0].Voter }

// Reachable says whether the member answered this manager within the last two heartbeat time-outs. Only a leader hears
// members, so elsewhere it is false for all but this manager itself.
func (c *Consensus) Reachable(id string) bool {
	if id == c.cfg.NodeID {
		return true
	}
	p, ok := c.transport.contact(raft.ServerID(id))
	return ok && c.IsLeader() && time.Since(p.at) < 2*c.cfg.Tuning.Heartbeat
}

// AddVoter adds a manager: first without a vote, and once it has the log, with one, so that one that cannot be reached never counts towards the
// majority. It is taken out again if it did not catch up before ctx ended (30 s where ctx has no deadline). A member whose address changed is
// updated. Only the leader can; others return store.ErrNotLeader.
func (c *Consensus) AddVoter(ctx context.Context, id, addr string) error {
	ctx, left, servers, end, err := c.beginChange(ctx)
	if err != nil {
		return err
	}
	defer end()
	known := false
	for _, s := range servers {
		switch {
		case s.ID == id && s.Addr == addr && s.Voter:
			return nil
		case s.ID == id:
			known = true
		case s.Addr == addr:
			return errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf("the address %s belongs to manager %s: remove that one first", addr, s.ID))
		}
	}
	sid, saddr := raft.ServerID(id), raft.ServerAddress(addr)
	// Only what it answers from now on counts.
	c.transport.forget(sid)
	if !known {
		if err := c.wait(ctx, c.raft.AddNonvoter(sid, saddr, 0, left)); err != nil {
			return memberError("adding", id, err)
		}
	}
	if err := c.catchUp(ctx, sid); err != nil {
		err = fmt.Errorf("manager %s at %s was not added: it did not get the swarm's log from this one in time: %w", id, addr, err)
		if !known {
			err = errors.Join(err, c.undo(sid))
		}
		return err
	}
	if err := c.wait(ctx, c.raft.AddVoter(sid, saddr, 0, left)); err != nil {
		return memberError("adding", id, err)
	}
	return nil
}

// undo takes out a member that is not to stay; it has no vote, so that is safe.
func (c *Consensus) undo(id raft.ServerID) error {
	ctx, cancel := context.WithTimeout(context.Background(), undoTimeout) // the caller's is over
	defer cancel()
	if err := c.wait(ctx, c.raft.RemoveServer(id, 0, undoTimeout)); err != nil {
		return fmt.Errorf("taking it out again: %w", err)
	}
	c.transport.forget(id)
	return nil
}

// catchUp waits until the member's log reaches where the leader's is now.
func (c *Consensus) catchUp(ctx context.Context, id raft.ServerID) error {
	target := c.raft.LastIndex()
	t := time.NewTicker(catchUpPoll)
	defer t.Stop()
	for {
		if p, ok := c.transport.contact(id); ok && p.lastLog >= target {
			return nil
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			if p, ok := c.transport.contact(id); ok {
				return fmt.Errorf("it has %d of %d entries: %w", p.lastLog, target, context.Cause(ctx))
			}
			return fmt.Errorf("it does not answer: %w", context.Cause(ctx))
		}
		if !c.IsLeader() {
			return store.ErrNotLeader
		}
	}
}

// Remove takes a manager out of the group; one that is not in it is no error. It refuses what would leave fewer reachable managers than a
// majority of the rest. A leader that removes itself goes on until the removal is committed and then stops leading; hand over with Transfer first to
// spare the swarm an election. Only the leader can; others return store.ErrNotLeader.
func (c *Consensus) Remove(ctx context.Context, id string) error {
	ctx, left, servers, end, err := c.beginChange(ctx)
	if err != nil {
		return err
	}
	defer end()
	var member, voter bool
	rest, reachable := 0, 0
	for _, s := range servers {
		if s.ID == id {
			member, voter = true, s.Voter
			continue
		}
		if s.Voter {
			rest++
			if c.Reachable(s.ID) {
				reachable++
			}
		}
	}
	switch {
	case !member:
		return nil
	case voter && rest == 0:
		return errdefs.ErrFailedPrecondition.WithMessage("manager " + id + " is the last one of the swarm and cannot be removed")
	case voter && reachable < rest/2+1:
		return errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf("can't remove member from the raft: this would result in a loss of quorum "+
			"(%d of the %d other managers can be reached)", reachable, rest))
	}
	if err := c.wait(ctx, c.raft.RemoveServer(raft.ServerID(id), 0, left)); err != nil {
		return memberError("removing", id, err)
	}
	c.transport.forget(raft.ServerID(id))
	return nil
}

// Transfer hands leadership to the voter whose log goes furthest and waits until that one has it. Without another voter it is an error.
func (c *Consensus) Transfer(ctx context.Context) error {
	ctx, cancel, _ := withDeadline(ctx)
	defer cancel()
	if !c.IsLeader() {
		return store.ErrNotLeader
	}
	if err := c.wait(ctx, c.raft.LeadershipTransfer()); err != nil {
		return fmt.Errorf("handing leadership to another manager: %w", err)
	}
	return nil
}

// beginChange takes the right to change the members, of which there is one at a time, and gives those that there are. ctx
// is then bounded, with so much time left. end gives the right back.
func (c *Consensus) beginChange(ctx context.Context) (bounded context.Context, left time.Duration, servers []Server, end func(), err error) {
	bounded, cancel, left := withDeadline(ctx)
	select {
	case c.changing <- struct{}{}:
	case <-bounded.Done():
		err = fmt.Errorf("waiting for another change of the managers: %w", context.Cause(bounded))
		cancel()
		return nil, 0, nil, nil, err
	}
	end = func() {
		<-c.changing
		cancel()
	}
	servers, err = c.Servers()
	if err == nil && !c.IsLeader() {
		err = store.ErrNotLeader
	}
	if err != nil {
		end()
		return nil, 0, nil, nil, err
	}
	return bounded, left, servers, end, nil
}

func memberError(doing, id string, err error) error {
	if notWritten(err) {
		return store.ErrNotLeader
	}
	return fmt.Errorf("%s manager %s: %w", doing, id, err)
}
