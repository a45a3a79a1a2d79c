package consensus

import (
	"log/slog"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"shoal.dev/shoal/internal/store"
)

// A manager votes once a term, also if it crashed in between: two leaders of one term would both be believed. The
// simulator hardly ever gets two candidates into one term around a crash, so this asks for the votes itself.
func TestAVoteSurvivesACrash(t *testing.T) {
	dir := t.TempDir()
	ask := func(candidate string) bool {
		t.Helper()
		_, tr := raft.NewInmemTransport("voter")
		c, err := Open(Config{
			Dir: dir, NodeID: "voter", Addr: "voter", Transport: tr, Store: store.New(), Key: testKey(), Log: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		addr, from := raft.NewInmemTransportWithTimeout(raft.ServerAddress(candidate), 10*time.Second)
		from.Connect("voter", tr)
		var resp raft.RequestVoteResponse
		err = from.RequestVote("voter", "voter", &raft.RequestVoteRequest{
			RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(candidate), Addr: []byte(addr)},
			Term:      5, LastLogIndex: 10, LastLogTerm: 4,
		}, &resp)
		if err != nil {
			t.Fatal(err)
		}
		return resp.Granted
	}
	if !ask("a") {
		t.Fatal("the first candidate of the term does not get the vote")
	}
	if ask("b") {
		t.Error("another candidate of the same term got the vote after a restart")
	}
	if !ask("a") {
		t.Error("the vote was forgotten")
	}
}
