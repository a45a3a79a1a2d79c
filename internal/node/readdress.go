package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"
	"golang.org/x/sys/unix"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/control"
	"shoal.dev/shoal/internal/link"
	"shoal.dev/shoal/internal/store"
)

const (
	// pathAddress is where managers say under which address they are found now: POST addressRequest.
	pathAddress = "/manager/v1/address"

	// tellTimeout bounds one try to tell the swarm a new address, tellAgain is the wait for the next.
	tellTimeout = 5 * time.Second
	tellAgain   = time.Second
	// moveTimeout bounds the wait for a manager's first word from the swarm at its new address.
	moveTimeout = 15 * time.Second
	// passOn is how long the nodes that are connected get to hear of the new address: managers tell them once a second.
	passOn = 2 * time.Second
)

type addressRequest struct{ NodeID, Addr string }

// Readdress has a manager be found at another address, and the swarm know it, without leaving. The running membership tells
// the swarm if it can; then it is ended and begun again at the new address, and that one tells it for as long as it takes.
// No task notices.
func (n *Node) Readdress(ctx context.Context, addr string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	m := n.member.Load()
	switch {
	case n.locked.Load() != nil:
		return errdefs.ErrUnavailable.WithMessage(control.Locked)
	case m == nil:
		return errdefs.ErrUnavailable.WithMessage(control.NotInSwarm)
	case m.manager == nil:
		return errdefs.ErrUnavailable.WithMessage(control.NotManager)
	case addr == "":
		return badAddress(badAdvertise, addr)
	}
	m.mu.Lock()
	next := m.st
	m.mu.Unlock()
	advertise, err := resolveAdvertise(addr, next.ListenAddr)
	if err != nil || advertise == next.AdvertiseAddr {
		return err
	}
	stays := next.ListenAddr
	next.move(advertise, assigned)
	if next.ListenAddr == stays {
		err := m.manager.tell(ctx, addressRequest{next.NodeID, advertise})
		switch {
		case errdefs.IsInvalidArgument(err):
			return err // the swarm says that it does not find this manager there
		case err != nil:
			n.log.Info("the swarm is told this manager's new address later", "node", next.NodeID, "addr", advertise, "error", err)
		default:
			select {
			case <-time.After(passOn):
			case <-ctx.Done():
			}
		}
	}
	m.cancel()
	<-m.done
	m.mu.Lock()
	next.Lock = m.st.Lock
	m.mu.Unlock()
	if err := next.save(m.dir); err != nil {
		next = m.st // as before
		n.log.Error("keeping this manager's new address", "node", next.NodeID, "error", err)
	}
	began, err := n.start(&next, m.identity.Get())
	if err != nil {
		// There is no membership now that could be ended or repaired: the daemon starts anew.
		n.run(func(context.Context) error { return fmt.Errorf("taking up the membership in the swarm: %w", err) })
		return err
	}
	if next.AdvertiseAddr != advertise {
		return errors.New("the new address could not be kept on the disk, and is not used")
	}
	n.log.Info("this manager has another address", "node", next.NodeID, "addr", advertise)
	return began.manager.settled(ctx)
}

// move changes the addresses of a manager that is found elsewhere. One that listens on one address only listens on the new
// one where that is the host's, and on all where it is not.
func (s *state) move(advertise string, onHost func(netip.Addr) bool) {
	oldHost, _, _ := net.SplitHostPort(s.AdvertiseAddr)
	host, _, _ := net.SplitHostPort(advertise)
	listen, port, _ := net.SplitHostPort(s.ListenAddr)
	if a, err := netip.ParseAddr(listen); err == nil && !a.IsUnspecified() && (listen == oldHost || !onHost(a)) {
		to := netip.IPv4Unspecified()
		if a, err := netip.ParseAddr(host); err == nil && onHost(a) {
			to = a
		}
		s.ListenAddr = net.JoinHostPort(to.String(), port)
	}
	if a, err := netip.ParseAddr(host); err == nil && s.DataPathAddr.IsValid() && s.DataPathAddr.String() == oldHost {
		s.DataPathAddr = a
	}
	s.AdvertiseAddr = advertise
	s.Managers = slices.Clone(s.Managers)
	for i := range s.Managers {
		if s.Managers[i].NodeID == s.NodeID {
			s.Managers[i].Addr = advertise
		}
	}
}

// assigned says whether an interface of the host has the address.
func assigned(a netip.Addr) bool {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	return slices.ContainsFunc(addrs, func(have net.Addr) bool {
		p, err := netip.ParsePrefix(have.String())
		return err == nil && p.Addr().Unmap() == a.Unmap()
	})
}

// tell tells the leader an address, by way of another manager if this one hears of no leader: it may be the reason itself.
func (m *manager) tell(ctx context.Context, req addressRequest) error {
	ctx, cancel := context.WithTimeout(ctx, tellTimeout)
	defer cancel()
	if m.cons.IsLeader() {
		return m.setAddress(ctx, req)
	}
	errs := []error{errdefs.ErrUnavailable.WithMessage(control.NoLeader)}
	for _, p := range m.managers() {
		if p.NodeID == m.st.NodeID {
			continue
		}
		l, err := m.peers.to(ctx, p.Addr)
		if err == nil {
			err = post(ctx, l.Client(), pathAddress, req, nil)
		}
		if err == nil || errdefs.IsInvalidArgument(err) {
			return err
		}
		errs = append(errs, fmt.Errorf("%s: %w", p.Addr, err))
	}
	return errors.Join(errs...)
}

// setAddress takes up a manager's new address. It must run on the leader.
func (m *manager) setAddress(ctx context.Context, req addressRequest) error {
	host, _, err := net.SplitHostPort(req.Addr)
	if err != nil {
		return badAddress(badAdvertise, req.Addr)
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return badAddress(badAdvertise, req.Addr)
	}
	l, err := m.peers.to(ctx, req.Addr)
	if err != nil {
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("manager %s is not found at %s, so its address is not changed: %s", req.NodeID, req.Addr, err))
	}
	if id := l.Peer().NodeID; id != req.NodeID {
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("at %s is node %s, not manager %s", req.Addr, id, req.NodeID))
	}
	if err := m.cons.SetAddress(ctx, req.NodeID, req.Addr); err != nil {
		return err
	}
	_, err = m.store.Update(ctx, func(tx *store.Tx) error {
		old, ok := store.Get[*cluster.Node](tx.Snapshot, req.NodeID)
		if !ok {
			return errdefs.ErrNotFound.WithMessage("node " + req.NodeID + " not found")
		}
		if old.ManagerStatus != nil && old.ManagerStatus.Addr == req.Addr {
			return nil
		}
		node := old.Clone().(*cluster.Node)
		if node.ManagerStatus != nil {
			// Tunnels follow unless they have an address of their own.
			if was, _, _ := net.SplitHostPort(node.ManagerStatus.Addr); was == node.DataPathAddr.String() {
				node.DataPathAddr = addr.Unmap()
			}
		}
		node.ManagerStatus = &swarm.ManagerStatus{Addr: req.Addr}
		node.Status.Addr = addr.Unmap().String()
		tx.Write(store.PutBoth(node))
		return nil
	})
	return err
}

// ownAddr is where the others look for this manager, as far as it knows; ok is false before it is one of them.
func (m *manager) ownAddr() (addr string, ok bool) {
	for _, p := range m.managers() {
		if p.NodeID == m.st.NodeID {
			return p.Addr, true
		}
	}
	return "", false
}

// keepAddress tells the swarm where this manager is until it looks for it there, or ctx ends.
func (m *manager) keepAddress(ctx context.Context) error {
	for {
		addr, ok := m.ownAddr()
		if ok && addr == m.st.AdvertiseAddr {
			return nil
		}
		if ok {
			if err := m.tell(ctx, addressRequest{m.st.NodeID, m.st.AdvertiseAddr}); err != nil && ctx.Err() == nil {
				m.log.Warn("the swarm looks for this manager at its old address and could not be told the new one", "node", m.st.NodeID, "old", addr,
					"new", m.st.AdvertiseAddr, "error", err, "again", tellAgain)
			}
		}
		select {
		case <-time.After(tellAgain):
		case <-ctx.Done():
			return nil
		}
	}
}

// settled waits until the swarm knows this manager's address and this manager the swarm's state.
func (m *manager) settled(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, moveTimeout)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if addr, ok := m.ownAddr(); ok && addr == m.st.AdvertiseAddr && m.readBarrier(ctx) == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errdefs.ErrUnavailable.WithMessage(fmt.Sprintf("this manager uses the address %s now, and it has not reached a majority of the others yet: it goes on trying", m.st.AdvertiseAddr))
		}
	}
}

// openPort opens the swarm's port. A manager whose listen address is not the host's any more comes up without it, reached by
// nobody, so that it can be told another.
func (n *Node) openPort(dir string, c link.ServerConfig) (*link.Server, error) {
	s, err := link.NewServer(c)
	if !errors.Is(err, unix.EADDRNOTAVAIL) {
		return s, err
	}
	if _, noLog := os.Stat(filepath.Join(dir, "raft", "log.db")); noLog != nil {
		return nil, err // it has never been a manager there
	}
	_, port, _ := net.SplitHostPort(c.ListenAddr)
	n.log.Error(`this manager's listen address is not one of the host's any more, and no other node reaches it: give it another with "shoal swarm update --advertise-addr"`,
		"addr", c.ListenAddr)
	c.ListenAddr = net.JoinHostPort("127.0.0.1", port)
	return link.NewServer(c)
}
