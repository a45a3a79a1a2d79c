package consensus

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/hashicorp/raft"
)

// SetAddress has every member look for a member at another address; its vote stays. Whoever calls it has made sure that the
// member is there: a wrong address is one manager fewer. Only the leader can; others return store.ErrNotLeader.
func (c *Consensus) SetAddress(ctx context.Context, id, addr string) error {
	ctx, left, servers, end, err := c.beginChange(ctx)
	if err != nil {
		return err
	}
	defer end()
	var have *Server
	for _, s := range servers {
		switch {
		case s.ID == id:
			have = &s
		case s.Addr == addr:
			return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("the address %s belongs to manager %s", addr, s.ID))
		}
	}
	switch {
	case have == nil:
		return errdefs.ErrNotFound.WithMessage(fmt.Sprintf("node %s is not one of the swarm's managers", id))
	case have.Addr == addr:
		return nil
	}
	change := c.raft.AddNonvoter // of a member that is known, both change the address only
	if have.Voter {
		change = c.raft.AddVoter
	}
	if err := c.wait(ctx, change(raft.ServerID(id), raft.ServerAddress(addr), 0, left)); err != nil {
		return memberError("changing the address of", id, err)
	}
	return nil
}
