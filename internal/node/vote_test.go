package node

import (
	"testing"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/consensus"
)

func TestWhoAsksForAVoteAfterARestart(t *testing.T) {
	both := []swarm.Peer{{NodeID: "m1"}, {NodeID: "m2"}}
	for name, tc := range map[string]struct {
		known   []swarm.Peer
		servers []consensus.Server
		want    bool
	}{
		"a voter":                {both, []consensus.Server{{ID: "m1", Voter: true}, {ID: "m2", Voter: true}}, false},
		"one that caught up":     {both, []consensus.Server{{ID: "m1", Voter: true}, {ID: "m2"}}, true},
		"one that was taken out": {both, []consensus.Server{{ID: "m1", Voter: true}}, true},
		"one that heard nothing": {both, nil, true},
		"the first one":          {[]swarm.Peer{{NodeID: "m2"}}, nil, false},
	} {
		if got := lacksVote("m2", tc.known, tc.servers); got != tc.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
