package node

import (
	"context"
	"errors"
	"slices"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/consensus"
)

// resumeVote goes on with the way of a new manager into the consensus if a restart cut it off: the leader has taken out by
// then who did not come up with the log.
func (m *member) resumeVote(n *Node) {
	if m.manager == nil {
		return
	}
	servers, err := m.manager.cons.Servers()
	if err != nil || !lacksVote(m.st.NodeID, m.st.Managers, servers) {
		return
	}
	n.log.Info("asking for the vote that this manager has not got yet", "node", m.st.NodeID)
	n.run(func(ctx context.Context) error {
		m.enlistLater(ctx, n)
		return nil
	})
}

// lacksVote says whether a manager knows of others and not of a vote of its own.
func lacksVote(id string, known []swarm.Peer, servers []consensus.Server) bool {
	others := slices.ContainsFunc(known, func(p swarm.Peer) bool { return p.NodeID != id })
	return others && !slices.ContainsFunc(servers, func(s consensus.Server) bool { return s.ID == id && s.Voter })
}

// voteAgain asks for the vote of a manager that hears of no leader, where the swarm, asked for another role, said that it
// counts on this manager. It may have been taken out of the consensus, as one that was demoted, and promoted again before
// it heard of that: no leader speaks to it then, and it does not know that it has to ask. Who has a vote keeps it.
func (m *member) voteAgain(ctx context.Context, n *Node, refusal error) {
	if m.manager == nil || !errors.Is(refusal, errCountedOn) {
		return
	}
	if _, _, ok := m.manager.cons.Leader(); ok {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, enlistTimeout)
	defer cancel()
	m.mu.Lock()
	st := m.st
	m.mu.Unlock()
	if err := m.manager.enlist(ctx, &st); err != nil {
		n.log.Debug("asking for the vote again", "node", st.NodeID, "error", err)
		return
	}
	n.log.Info("this manager has its vote again", "node", st.NodeID)
}
