package node

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"
	"golang.org/x/sync/errgroup"

	"shoal.dev/shoal/internal/agent"
	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/control"
	"shoal.dev/shoal/internal/link"
	"shoal.dev/shoal/internal/network"
	"shoal.dev/shoal/internal/pki"
	"shoal.dev/shoal/internal/store"
)

// labelTask marks the containers that are a task's; see package agent.
const labelTask = "com.docker.swarm.task.id"

// member is this node's membership in a swarm, from its start to its end or the daemon's.
type member struct {
	st       state // guarded by mu after start, as far as it changes: Managers, Lock
	mu       sync.Mutex
	dir      string
	identity *pki.Holder
	manager  *manager // nil on a worker
	nextAddr atomic.Uint32
	link     atomic.Pointer[link.Link] // the agent's, nil while there is none
	agent    atomic.Pointer[agent.Agent]
	changing atomic.Bool // the role is being changed
	want     atomic.Pointer[swarm.NodeRole]
	renewing sync.Mutex    // held while a certificate is asked for
	reissue  chan struct{} // capacity 1: the certificate is to be renewed before its time
	certs    certificates
	refusal  refusal
	cancel   context.CancelFunc
	done     chan struct{}
	err      error // why it ended; read after done
	// ahead is how far this host's clock was ahead of its manager's at the last heartbeat.
	ahead atomic.Pointer[time.Duration]
}

func (n *Node) swarmDir() string { return filepath.Join(n.cfg.DataRoot, "swarm") }

// manager returns the manager's part, nil if this node has none.
func (n *Node) manager() *manager {
	if m := n.member.Load(); m != nil {
		return m.manager
	}
	return nil
}

// resume takes up the membership of the daemon's last life.
func (n *Node) resume(context.Context) error {
	st, err := loadState(n.swarmDir())
	if err != nil || st == nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if st.isLocked() {
		n.comeUpLocked(st)
		return nil
	}
	id, err := pki.LoadIdentity(n.swarmDir(), st.RaftKey)
	if err != nil {
		return err
	}
	m, err := n.start(st, id)
	if err == nil {
		m.resumeVote(n)
	}
	return err
}

// start begins a membership whose state and identity are on disk. n.mu is held.
func (n *Node) start(st *state, id *pki.Identity) (*member, error) {
	m := &member{st: *st, dir: n.swarmDir(), identity: pki.NewHolder(id), reissue: make(chan struct{}, 1), done: make(chan struct{})}
	if st.Role == swarm.NodeRoleManager {
		var err error
		if m.manager, err = n.openManager(m.dir, st, m.identity); err != nil {
			return nil, err
		}
	}
	n.member.Store(m)
	if m.manager == nil {
		n.control.Deactivate(control.NotManager)
	} else {
		n.control.Activate(&control.Manager{
			NodeID: st.NodeID, Store: m.manager.store, ReadBarrier: m.manager.readBarrier, Leader: func() string {
				id, _, _ := m.manager.cons.Leader()
				return id
			},
			MayDemote: m.manager.mayDemote,
		})
	}
	ctx, cancel := context.WithCancel(context.Background())
	m.cancel = cancel
	go func() {
		defer close(m.done)
		m.err = m.run(ctx, n)
	}()
	// The membership ends with the daemon, and a membership that fails ends the daemon: systemd starts it anew, and
	// no container notices.
	n.run(func(daemon context.Context) error {
		select {
		case <-daemon.Done():
			if m.manager != nil {
				m.manager.handOver(ctx)
			}
			cancel()
			<-m.done
			return nil
		case <-m.done:
		}
		if m.err != nil && ctx.Err() == nil {
			return fmt.Errorf("the membership in the swarm failed: %w", m.err)
		}
		return nil
	})
	return m, nil
}

// run runs the manager and the agent until ctx ends.
func (m *member) run(ctx context.Context, n *Node) error {
	group, ctx := errgroup.WithContext(ctx)
	if m.manager != nil {
		group.Go(func() error { return m.manager.run(ctx) })
		group.Go(func() error { return m.manager.announce(ctx, n.engine.Announce) })
		group.Go(func() error { return m.lookForSuccessor(ctx, n) })
		group.Go(func() error { return m.keepLocked(ctx, n) })
		group.Go(func() error { return m.noteLog(ctx, n) })
	}
	host, _, _ := net.SplitHostPort(m.st.AdvertiseAddr)
	room := newRoom(n)
	group.Go(func() error { return room.run(ctx) })
	a := agent.New(agent.Config{
		NodeID: m.st.NodeID, Addr: host, Engine: n.engine, Network: n.kernel, Describe: m.describe(n),
		Connect: m.connect(n), OnManagers: m.saveManagers(n), OnRole: m.onRole(n), OnCertificate: m.onCertificate(n), OnAttachments: n.machine.onAttachments(), StateDir: m.dir, Log: n.log,
		DiskFull: room.diskFull, Connections: n.kernel.Connections, Obstacle: n.firewall.Complaint, Listens: n.machine.Listens,
		OnClock: func(ahead time.Duration) { m.ahead.Store(&ahead) },
	})
	m.agent.Store(a)
	group.Go(func() error { return a.Run(ctx) })
	group.Go(func() error { return m.renewals(ctx, n) })
	return group.Wait()
}

// describe adds the certificate's facts to the machine's.
func (m *member) describe(n *Node) func(context.Context) swarm.NodeDescription {
	return func(ctx context.Context) swarm.NodeDescription {
		d := n.describe(ctx)
		d.TLSInfo = m.identity.Get().TLSInfo()
		return d
	}
}

// loopback is how a node reaches its own listener.
func loopback(listen string) string {
	host, port, _ := net.SplitHostPort(listen)
	if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
		return net.JoinHostPort("127.0.0.1", port)
	}
	return listen
}

// saveManagers keeps the list of managers for the next connection and the next start. Each node has its own order, so
// that agents spread over the managers.
func (m *member) saveManagers(n *Node) func([]swarm.Peer) {
	return func(managers []swarm.Peer) {
		if len(managers) == 0 {
			return
		}
		managers = slices.Clone(managers)
		rand.Shuffle(len(managers), func(i, j int) { managers[i], managers[j] = managers[j], managers[i] })
		m.mu.Lock()
		defer m.mu.Unlock()
		m.st.Managers = managers
		if err := m.st.save(m.dir); err != nil {
			n.log.Warn("keeping the list of managers", "error", err)
		}
	}
}

// Leave ends the membership: the node's tasks are stopped, and what it knew of the swarm is deleted.
func (n *Node) Leave(ctx context.Context, force bool) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	m := n.member.Load()
	if locked := n.locked.Load(); locked != nil {
		return n.leaveLocked(ctx, force)
	}
	if m == nil {
		return errdefs.ErrUnavailable.WithMessage("This node is not part of a swarm")
	}
	if m.manager != nil && !force {
		return errdefs.ErrUnavailable.WithMessage(leaveWarning(m.manager))
	}
	n.leaveNetworks(ctx)
	n.control.Deactivate(control.NotInSwarm)
	m.cancel()
	select {
	case <-m.done:
	case <-ctx.Done():
		return errdefs.ErrUnavailable.WithMessage("leaving the swarm takes longer than this request may: it goes on")
	}
	n.member.Store(nil)
	return n.forgetSwarm(ctx)
}

// forgetSwarm removes what a membership left.
func (n *Node) forgetSwarm(ctx context.Context) error {
	return errors.Join(n.removeTasks(ctx), n.kernel.Apply(ctx, network.Desired{}), emptyDir(n.swarmDir()))
}

func leaveWarning(m *manager) string {
	text := "You are attempting to leave the swarm on a node that is participating as a manager. "
	servers, err := m.cons.Servers()
	switch {
	case err == nil && len(servers) == 1:
		text += "Removing the last manager erases all current state of the swarm. Use `--force` to ignore this message. "
	case m.cons.IsLeader():
		text += "Removing this node leaves the swarm without its leader until another is elected. Use `--force` to ignore this message. "
	default:
		text += "Leaving makes the swarm one manager poorer, which it goes on counting towards its quorum. Use `--force` to ignore this message. "
	}
	return text
}

// removeTasks removes the containers that tasks left.
func (n *Node) removeTasks(ctx context.Context) error {
	list, err := n.engine.List(ctx, listTasks)
	if err != nil {
		return err
	}
	var errs []error
	for _, c := range list {
		if err := n.engine.Purge(ctx, c.ID, true); err != nil && !errdefs.IsNotFound(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func emptyDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		errs = append(errs, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return errors.Join(errs...)
}

// swarmInfo is this node's view of the swarm. It never waits.
func (n *Node) swarmInfo() swarm.Info {
	if st := n.locked.Load(); st != nil {
		return lockedInfo(st)
	}
	m := n.member.Load()
	if m == nil {
		return swarm.Info{LocalNodeState: swarm.LocalNodeStateInactive, RemoteManagers: []swarm.Peer{}}
	}
	m.mu.Lock()
	host, _, _ := net.SplitHostPort(m.st.AdvertiseAddr)
	info := swarm.Info{
		NodeID: m.st.NodeID, NodeAddr: host, LocalNodeState: swarm.LocalNodeStateActive,
		ControlAvailable: m.manager != nil, RemoteManagers: slices.Clone(m.st.Managers),
	}
	m.mu.Unlock()
	if info.Error = m.trouble(); info.Error != "" {
		info.LocalNodeState = swarm.LocalNodeStateError
	}
	if m.manager == nil {
		return info
	}
	snap := m.manager.store.Snapshot()
	if s := snap.Swarm(); s != nil {
		c := s.Clone().(*cluster.Swarm).ClusterInfo
		c.Spec.CAConfig.SigningCAKey = ""
		info.Cluster = &c
	}
	for node := range store.List[*cluster.Node](snap) {
		info.Nodes++
		if node.Spec.Role == swarm.NodeRoleManager {
			info.Managers++
		}
	}
	info.RemoteManagers = m.manager.managers()
	if _, _, ok := m.manager.cons.Leader(); !ok && info.Error == "" {
		info.Error = control.NoLeader
	}
	if err := m.manager.mayChange(); err != nil {
		info.Error = err.Error()
	}
	return info
}
