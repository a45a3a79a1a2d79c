package consensus

import (
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// Raft stops reading a pipeline's answers at the first that is no success, and looks for that before it sends again. What
// it sends meanwhile must not wait for a reader that does not come: the member would get nothing any more, and the
// manager could not be stopped. Found by the simulator (internal/sim/swarm, seed 6).
func TestAPipelineThatNobodyReadsHoldsUpNobody(t *testing.T) {
	there := raft.NewNetworkTransport(listen(t, "127.0.0.1:0"), 1, time.Second, nil)
	defer there.Close()
	done := make(chan struct{})
	defer close(done)
	go func() {
		for {
			select {
			case rpc := <-there.Consumer():
				rpc.Respond(&raft.AppendEntriesResponse{}, nil)
			case <-done:
				return
			}
		}
	}()
	here := newTransport(raft.NewNetworkTransport(listen(t, "127.0.0.1:0"), 1, time.Second, nil))
	defer here.Close()
	p, err := here.AppendEntriesPipeline("there", there.LocalAddr())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	sent := make(chan error, 1)
	go func() {
		for range 5 {
			if _, err := p.AppendEntries(&raft.AppendEntriesRequest{}, &raft.AppendEntriesResponse{}); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	select {
	case err := <-sent:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Error("a message waits for a reader that does not come")
	}
}
