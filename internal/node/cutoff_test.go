package node

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/consensus"
)

// Two of three managers are lost, the third is made a swarm of its own, and the two come back together: they are a majority
// of what they know.
func TestAMajorityOfAPastThatWasCutTakesNoChanges(t *testing.T) {
	ms := foundGroup(t)
	until(t, "all know the swarm", func() bool { return ms[1].epoch() == 1 && ms[2].epoch() == 1 })
	for _, m := range ms {
		m.stop()
	}
	alone, err := aloneState(*ms[0].st, &swarm.InitRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if err := consensus.Recover(t.Context(), consensus.Config{
		Dir: filepath.Join(ms[0].dir, "raft"), NodeID: alone.NodeID, Addr: alone.AdvertiseAddr, Key: alone.RaftKey, Log: ms[0].n.log,
	}, cutTo(&alone)); err != nil {
		t.Fatal(err)
	}
	survivor := openTestManager(t, ms[0].dir, &alone, ms[0].id)
	if err := survivor.waitToLead(t.Context()); err != nil {
		t.Fatal(err)
	}
	var past []*testManager
	for _, m := range ms[1:] {
		past = append(past, openTestManager(t, m.dir, m.st, m.id))
	}
	until(t, "one of the past is told", func() bool { return past[0].cut.by() != nil || past[1].cut.by() != nil })
	for _, m := range past {
		if s := m.cut.by(); s != nil {
			if s.addr != alone.AdvertiseAddr || !strings.Contains(s.reason, "is of epoch 1 of the swarm, which goes on in epoch 2-") {
				t.Errorf("it was told %+v", s)
			}
			if err := m.mayChange(); err == nil || !strings.Contains(err.Error(), "goes on at "+alone.AdvertiseAddr) {
				t.Errorf("it takes changes: %v", err)
			}
		}
	}
	if err := survivor.mayChange(); err != nil {
		t.Errorf("the survivor takes none: %v", err)
	}
	// Asked there, the way back is a worker's certificate.
	for _, id := range []string{"m2", "m3"} {
		r, err := survivor.reissue(renewRequest{NodeID: id, CSR: request(t)})
		if id == "m2" && (err != nil || r.Role != swarm.NodeRoleWorker) {
			t.Errorf("%s asks for a certificate: %s, %v", id, r.Role, err)
		}
	}
}
