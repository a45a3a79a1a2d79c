package node

import (
	"context"
	"net/netip"

	"shoal.dev/shoal/internal/doctor"
	"shoal.dev/shoal/internal/network/firewall"
	"shoal.dev/shoal/internal/network/ruleset"
)

// manageFirewall is the value of "firewall" with which other programs' chains are opened.
const manageFirewall = "manage"

// newKeeper makes what looks at other programs' packet filters.
func (n *Node) newKeeper() *firewall.Keeper {
	return firewall.NewKeeper(firewall.Config{
		Nft: doctor.Nft, Generation: ruleset.Generation, Log: n.log,
		Question: func() firewall.Question {
			q := doctor.ThisHost().Question(&doctor.Facts{})
			q.Ports = nil // they are the doctor's: a task does not suffer by them alone
			return q
		},
	}, n.cfg.Firewall == manageFirewall)
}

// Examine examines this host.
func (n *Node) Examine(ctx context.Context, peers []string) *doctor.Report {
	f := doctor.DefaultFacts()
	f.Running, f.Runtime, f.DataRoot, f.Cleanup, f.Full, f.Relief = true, n.cfg.Runtime, n.cfg.DataRoot, n.cfg.DiskCleanup, n.cfg.DiskFull, diskRelief
	f.MaxOffset, f.Managed = maxClockOffset, n.current().Firewall == manageFirewall
	f.Peers = peers
	if m := n.member.Load(); m != nil {
		f.Member, f.Tunnels = true, m.st.DataPathPort
		if at, err := netip.ParseAddrPort(m.st.ListenAddr); err == nil {
			f.Port = at.Port()
		}
		f.Peers = append(f.Peers, m.others()...)
		f.Clocks = n.clocks(ctx, m)
	}
	report := doctor.ThisHost().Examine(ctx, f)
	report.Findings = append([]doctor.Finding{n.self()}, report.Findings...)
	return report
}

// others are the addresses of the other managers that this node knows.
func (m *member) others() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []string
	for _, p := range m.st.Managers {
		if p.NodeID != m.st.NodeID {
			all = append(all, p.Addr)
		}
	}
	return all
}

// self is what the daemon says of itself.
func (n *Node) self() doctor.Finding {
	found := doctor.Finding{Check: "daemon", Level: doctor.OK, Found: "shoald " + n.version + " runs"}
	switch m := n.member.Load(); {
	case n.locked.Load() != nil:
		found.Level, found.Found, found.Remedy = doctor.Failure, found.Found+", and is locked: nothing of the swarm works here", "shoal swarm unlock"
	case m == nil:
		found.Found += ", in no swarm"
	case m.manager == nil:
		found.Found += ", a worker"
	default:
		found.Found += ", a manager"
		if err := m.manager.mayChange(); err != nil {
			found.Level, found.Found, found.Remedy = doctor.Failure, found.Found+": "+err.Error(), "shoal swarm health"
		}
	}
	return found
}

// clocks compares this host's clock with those of managers.
func (n *Node) clocks(ctx context.Context, m *member) []doctor.Clock {
	if m.manager == nil {
		if ahead := m.ahead.Load(); ahead != nil {
			return []doctor.Clock{{Of: "the manager that this node is connected to", Offset: -*ahead}}
		}
		return nil
	}
	h, err := n.Health(ctx)
	if err != nil {
		return nil // the daemon's own line says it
	}
	var all []doctor.Clock
	for _, o := range h.Managers {
		if o.Reachable && o.ID != m.st.NodeID {
			all = append(all, doctor.Clock{Of: "manager " + o.Hostname, Offset: o.ClockOffset})
		}
	}
	return all
}
