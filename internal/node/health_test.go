package node

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/consensus"
	"shoal.dev/shoal/internal/httpapi"
	"shoal.dev/shoal/internal/store"
)

func TestHowASwarmIsJudged(t *testing.T) {
	s := store.New()
	store.NewLocal(s)
	if _, err := s.Update(t.Context(), func(tx *store.Tx) error {
		tx.Write(store.Create(&cluster.Swarm{Epoch: 4}))
		for _, id := range []string{"a", "b", "c"} {
			n := &cluster.Node{}
			n.ID, n.Description.Hostname = id, "host-"+id
			tx.Write(store.Create(n))
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	good := func() *selfReport {
		return &selfReport{LastIndex: 10_000, Leader: "a", NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), DiskFree: 50, DiskTotal: 100, Now: now}
	}
	three := []consensus.Server{{ID: "c", Addr: "3:1", Voter: true}, {ID: "a", Addr: "1:1", Voter: true}, {ID: "b", Addr: "2:1", Voter: true}}
	for name, c := range map[string]struct {
		servers   []consensus.Server
		change    func(r []*selfReport)
		status    string
		tolerance int
		reasons   []string // their parts, in turn
	}{
		"all well":             {three, func([]*selfReport) {}, httpapi.StatusOK, 1, nil},
		"one manager":          {three[1:2], func([]*selfReport) {}, httpapi.StatusOK, 0, nil},
		"one lost":             {three, func(r []*selfReport) { r[2] = nil }, httpapi.StatusDegraded, 0, []string{"manager host-b at 2:1 cannot be reached"}},
		"two lost":             {three, func(r []*selfReport) { r[0], r[2] = nil, nil }, httpapi.StatusNoQuorum, 0, []string{"1 of 3 managers can be reached and 2 are needed", "host-c", "host-b"}},
		"nobody leads":         {three, func(r []*selfReport) { r[0].Leader, r[1].Leader, r[2].Leader = "", "", "" }, httpapi.StatusNoQuorum, 1, []string{"no manager is the leader"}},
		"one hears no leader":  {three, func(r []*selfReport) { r[0].Leader = "" }, httpapi.StatusOK, 1, nil},
		"they do not agree":    {three, func(r []*selfReport) { r[0].Leader, r[2].Leader = "c", "" }, httpapi.StatusNoQuorum, 1, []string{"no manager is the leader"}},
		"one is behind":        {three, func(r []*selfReport) { r[0].LastIndex = 10 }, httpapi.StatusDegraded, 1, []string{"manager host-c lacks 9990 entries"}},
		"a little behind":      {three, func(r []*selfReport) { r[0].LastIndex = 9000 }, httpapi.StatusOK, 1, nil},
		"a late certificate":   {three, func(r []*selfReport) { r[1].NotAfter = now.Add(time.Minute) }, httpapi.StatusDegraded, 1, []string{"manager host-a has not renewed its certificate"}},
		"a full disk":          {three, func(r []*selfReport) { r[1].DiskFree = 9 }, httpapi.StatusDegraded, 1, []string{"manager host-a has 9 % of its disk free"}},
		"a clock that is off":  {three, func(r []*selfReport) { r[2].Now = now.Add(-10 * time.Minute) }, httpapi.StatusDegraded, 1, []string{"manager host-b has a clock that is -10m0s off"}},
		"one that catches up":  {append(three[:3:3], consensus.Server{ID: "d", Addr: "4:1"}), func([]*selfReport) {}, httpapi.StatusDegraded, 1, []string{"manager d has no vote yet"}},
		"its vote counts none": {append(three[:3:3], consensus.Server{ID: "d", Addr: "4:1"}), func(r []*selfReport) { r[0], r[2] = nil, nil }, httpapi.StatusNoQuorum, 0, []string{"1 of 3", "host-c", "host-b", "manager d"}},
	} {
		t.Run(name, func(t *testing.T) {
			var reports []*selfReport
			for range c.servers {
				reports = append(reports, good())
			}
			c.change(reports)
			h := judge(s.Snapshot(), c.servers, reports, now)
			if h.Status != c.status || h.Tolerance != c.tolerance || h.Epoch != 4 || len(h.Managers) != len(c.servers) {
				t.Errorf("%s, %d may be lost: %+v", h.Status, h.Tolerance, h)
			}
			if len(h.Reasons) != len(c.reasons) {
				t.Fatalf("reasons %q", h.Reasons)
			}
			for i, want := range c.reasons {
				if !strings.Contains(h.Reasons[i], want) {
					t.Errorf("reason %q, want %q", h.Reasons[i], want)
				}
			}
		})
	}
	h := judge(s.Snapshot(), three, []*selfReport{good(), good(), good()}, now)
	var order []string
	for _, m := range h.Managers {
		order = append(order, m.Hostname)
		if m.Leader != (m.ID == "a") {
			t.Errorf("%s leads: %v", m.ID, m.Leader)
		}
	}
	if d := cmp.Diff([]string{"host-a", "host-b", "host-c"}, order); d != "" {
		t.Error(d)
	}
}

func TestAManagerReportsItself(t *testing.T) {
	m := foundSwarm(t)
	r := m.report(m.id, m.dir)
	if r.Leader != "m1" || r.LastIndex == 0 || r.LastContact < 0 || r.NotAfter != m.id.NotAfter() || r.DiskTotal == 0 || r.DiskFree > r.DiskTotal {
		t.Errorf("%+v", r)
	}
}
