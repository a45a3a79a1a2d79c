package node

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/consensus"
	"shoal.dev/shoal/internal/control"
	"shoal.dev/shoal/internal/httpapi"
	"shoal.dev/shoal/internal/pki"
	"shoal.dev/shoal/internal/store"
)

const (
	// healthTimeout bounds the asking of one manager.
	healthTimeout = 2 * time.Second
	// maxLag is how many entries a manager may lack before it is said: two seconds of writing as fast as it goes. Whoever
	// asks during a burst sees some at any time.
	maxLag = 5000
	// diskLow is the part of the disk that must be free; a node with less takes no more tasks.
	diskLow = 0.1
	// maxClockOffset is how far clocks may be apart before it is said. Certificates and the order of logs suffer first.
	maxClockOffset = 30 * time.Second
)

// pathHealth is where a manager says how it is: POST, answered with a selfReport.
const pathHealth = "/manager/v1/health"

// selfReport is what a manager says of itself.
type selfReport struct {
	LastIndex   uint64
	Leader      string
	LastContact time.Duration // negative: never
	NotBefore   time.Time
	NotAfter    time.Time
	DiskFree    uint64
	DiskTotal   uint64
	Now         time.Time
}

// report is this manager's. dir is on the disk that is looked at.
func (m *manager) report(id *pki.Identity, dir string) selfReport {
	stats := m.cons.Stats()
	r := selfReport{LastIndex: stats.LastIndex, LastContact: -1, NotBefore: id.NotBefore(), NotAfter: id.NotAfter(), Now: time.Now()}
	r.Leader, _, _ = m.cons.Leader()
	if !stats.LastContact.IsZero() {
		r.LastContact = max(0, time.Since(stats.LastContact))
	}
	var fs unix.Statfs_t
	if unix.Statfs(dir, &fs) == nil {
		r.DiskFree, r.DiskTotal = fs.Bavail*uint64(fs.Bsize), fs.Blocks*uint64(fs.Bsize)
	}
	return r
}

func (m *manager) healthRoute(n *Node) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		answer(w, m.report(m.peers.identity.Get(), filepath.Join(n.cfg.DataRoot, "swarm")), nil)
	}
}

// Health asks every manager how it is.
func (n *Node) Health(ctx context.Context) (*httpapi.SwarmHealth, error) {
	m := n.member.Load()
	switch {
	case n.locked.Load() != nil:
		return nil, errdefs.ErrUnavailable.WithMessage(control.Locked)
	case m == nil:
		return nil, errdefs.ErrUnavailable.WithMessage(control.NotInSwarm)
	case m.manager == nil:
		return nil, errdefs.ErrUnavailable.WithMessage(control.NotManager)
	}
	servers, err := m.manager.cons.Servers()
	if err != nil {
		return nil, err
	}
	self := m.manager.report(m.identity.Get(), m.dir)
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	reports := make([]*selfReport, len(servers))
	var asked sync.WaitGroup
	for i, s := range servers {
		if s.ID == m.st.NodeID {
			reports[i] = &self
			continue
		}
		asked.Go(func() {
			var r selfReport
			l, err := m.manager.peers.to(ctx, s.Addr)
			if err == nil {
				err = post(ctx, l.Client(), pathHealth, struct{}{}, &r)
			}
			if err == nil {
				reports[i] = &r
			}
		})
	}
	asked.Wait()
	return judge(m.manager.store.Snapshot(), servers, reports, time.Now()), nil
}

// judge puts together what the managers said; who did not answer has nil.
func judge(snap *store.Snapshot, servers []consensus.Server, reports []*selfReport, now time.Time) *httpapi.SwarmHealth {
	h := &httpapi.SwarmHealth{Reasons: []string{}, Managers: []httpapi.ManagerHealth{}}
	if s := snap.Swarm(); s != nil {
		h.Epoch = s.Epoch
	}
	var newest uint64
	says := map[string]int{} // how many say who leads
	for i, r := range reports {
		if r == nil {
			continue
		}
		newest = max(newest, r.LastIndex)
		if r.Leader != "" && servers[i].Voter {
			says[r.Leader]++
		}
	}
	for i, s := range servers {
		m := httpapi.ManagerHealth{ID: s.ID, Addr: s.Addr, Voter: s.Voter, LastContact: -1}
		if n, ok := store.Get[*cluster.Node](snap, s.ID); ok {
			m.Hostname = n.Description.Hostname
		}
		if s.Voter {
			h.Voters++
		}
		if r := reports[i]; r != nil {
			m.Reachable = true
			if s.Voter {
				h.Reachable++
			}
			m.Lag, m.LastContact = newest-r.LastIndex, r.LastContact
			m.CertificateNotAfter, m.CertificateLate = r.NotAfter, late(r, now)
			m.DiskFree, m.DiskTotal, m.ClockOffset = r.DiskFree, r.DiskTotal, r.Now.Sub(now)
		}
		h.Managers = append(h.Managers, m)
	}
	h.Quorum = h.Voters/2 + 1
	h.Tolerance = max(0, h.Reachable-h.Quorum)
	for id, n := range says {
		if n >= h.Quorum {
			h.Leader = id
		}
	}
	for i := range h.Managers {
		m := &h.Managers[i]
		m.Leader = m.ID == h.Leader
		h.Reasons = append(h.Reasons, complaints(m)...)
	}
	slices.SortFunc(h.Managers, func(a, b httpapi.ManagerHealth) int {
		if a.Hostname != b.Hostname {
			return strings.Compare(a.Hostname, b.Hostname)
		}
		return strings.Compare(a.ID, b.ID)
	})
	h.Status = httpapi.StatusOK
	if len(h.Reasons) > 0 {
		h.Status = httpapi.StatusDegraded
	}
	switch {
	case h.Reachable < h.Quorum:
		h.Status = httpapi.StatusNoQuorum
		h.Reasons = slices.Insert(h.Reasons, 0, fmt.Sprintf("%d of %d managers can be reached and %d are needed: changes are refused", h.Reachable, h.Voters, h.Quorum))
	case h.Leader == "":
		h.Status = httpapi.StatusNoQuorum
		h.Reasons = slices.Insert(h.Reasons, 0, "no manager is the leader for a majority: an election may be under way")
	}
	return h
}

// late says whether a certificate should have been renewed: that is tried from half its life on, and by four fifths at the
// latest for the first time.
func late(r *selfReport, now time.Time) bool {
	return now.After(r.NotBefore.Add(r.NotAfter.Sub(r.NotBefore) / 10 * 9))
}

// complaints are what is wrong with one manager.
func complaints(m *httpapi.ManagerHealth) []string {
	name := m.Hostname
	if name == "" {
		name = m.ID
	}
	if !m.Reachable {
		return []string{fmt.Sprintf("manager %s at %s cannot be reached", name, m.Addr)}
	}
	var out []string
	say := func(bad bool, format string, args ...any) {
		if bad {
			out = append(out, fmt.Sprintf("manager %s "+format, append([]any{name}, args...)...))
		}
	}
	say(!m.Voter, "has no vote yet: it is catching up")
	say(m.Lag > maxLag, "lacks %d entries of the log", m.Lag)
	say(m.CertificateLate, "has not renewed its certificate, which ends at %s", m.CertificateNotAfter.UTC().Format(time.RFC3339))
	say(m.DiskTotal > 0 && float64(m.DiskFree) < diskLow*float64(m.DiskTotal), "has %.0f %% of its disk free", 100*float64(m.DiskFree)/float64(max(m.DiskTotal, 1)))
	say(m.ClockOffset.Abs() > maxClockOffset, "has a clock that is %s off this one's", m.ClockOffset.Round(time.Second))
	return out
}
