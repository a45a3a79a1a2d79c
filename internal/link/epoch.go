package link

import (
	"fmt"
	"strconv"
	"strings"

	"shoal.dev/shoal/internal/cluster"
)

// epochPrefix begins the name of a protocol that nobody speaks: behind it a manager that opens a Raft connection says
// the swarm's epoch. It travels in the handshake because Raft's streams have no room for it.
const epochPrefix = "shoal-epoch/"

func protoEpoch(epoch uint64) string { return epochPrefix + strconv.FormatUint(epoch, 10) }

// epochIn is the epoch that a peer says; 0 if it says none.
func epochIn(protos []string) uint64 {
	for _, p := range protos {
		if text, ok := strings.CutPrefix(p, epochPrefix); ok {
			if epoch, err := strconv.ParseUint(text, 10, 64); err == nil {
				return epoch
			}
		}
	}
	return 0
}

func (s *Server) epoch() uint64 {
	if s.cfg.Epoch == nil {
		return 0
	}
	return s.cfg.Epoch()
}

// checkEpoch refuses a manager of a history that was cut.
func (s *Server) checkEpoch(p Peer, said uint64) error {
	if have := s.epoch(); max(said, 1) < have {
		return &superseded{fmt.Sprintf("manager %s is of epoch %s of the swarm, which goes on in epoch %s without it: make it leave and join again",
			p.NodeID, cluster.FormatEpoch(max(said, 1)), cluster.FormatEpoch(have))}
	}
	return nil
}

// superseded refuses a manager whose history was cut.
type superseded struct{ text string }

func (e *superseded) Error() string { return e.text }
