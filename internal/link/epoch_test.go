package link

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// TestRaftOfAnEpochThatIsOverIsRefused opens Raft connections from managers that know an older, the same and a later epoch.
func TestRaftOfAnEpochThatIsOverIsRefused(t *testing.T) {
	s := newSwarm(t, "sw1")
	var mine, theirs atomic.Uint64
	srv := serve(t, ServerConfig{Identity: s.manager("m1"), Handler: who, Epoch: mine.Load})
	layer := srv.RaftLayer()
	other := serve(t, ServerConfig{Identity: s.manager("m2"), Handler: who, Epoch: theirs.Load}).RaftLayer()
	for _, tc := range []struct {
		mine, theirs uint64
		ok           bool
	}{{0, 0, true}, {1, 0, true}, {0, 1, true}, {1, 1, true}, {2, 2, true}, {2, 3, true}, {2, 1, false}, {2, 0, false}, {3, 2, false}} {
		mine.Store(tc.mine)
		theirs.Store(tc.theirs)
		accepted := make(chan struct{})
		go func() {
			defer close(accepted)
			if tc.ok {
				if c, err := layer.Accept(); err == nil {
					c.Close()
				}
			}
		}()
		c, err := other.Dial(raft.ServerAddress(srv.Addr().String()), 5*time.Second)
		if err == nil {
			c.Close()
		}
		if (err == nil) != tc.ok {
			t.Errorf("a manager of epoch %d with one of epoch %d: %v", tc.theirs, tc.mine, err)
		}
		if !tc.ok && (err == nil || !strings.Contains(err.Error(), "manager m2 is of epoch")) {
			t.Errorf("the refusal says %v", err)
		}
		<-accepted
	}
	for protos, want := range map[string]uint64{"": 0, "shoal-raft/1": 0, "shoal-epoch/7": 7, "shoal-epoch/x": 0, "shoal-epoch/99999999999999999999": 0} {
		if got := epochIn([]string{"shoal-raft/1", protos}); got != want {
			t.Errorf("%q says epoch %d", protos, got)
		}
	}
}
