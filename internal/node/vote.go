package node

import (
	"context"
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
