package node

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/pki"
	"shoal.dev/shoal/internal/store"
)

const (
	// renewTimeout bounds one try to get a certificate.
	renewTimeout = 15 * time.Second
	// renewAgain is the wait after a try that failed, on average: the nodes of a swarm that could ask nobody do not all ask at once. A certificate is renewed weeks before it ends, so there is time.
	renewAgain = time.Minute
	// roleAgain is the wait after a change of role that failed, and before the leader looks again at managers to dismiss.
	roleAgain = time.Second
	// enlistTimeout bounds a promoted node's way into the consensus: it gets the whole state first.
	enlistTimeout = time.Minute
)

// renewRequest asks for a certificate in place of the one that the node has.
type renewRequest struct {
	NodeID string
	CSR    []byte
}

type renewResponse struct {
	Cert []byte
	Role swarm.NodeRole
	// Root is the root certificate that the node is to trust from now on; empty: the one that it trusts.
	Root []byte
}

// reissue signs a member's new certificate. It must run on the leader.
func (m *manager) reissue(req renewRequest) (renewResponse, error) {
	snap := m.store.Snapshot()
	s := snap.Swarm()
	ca, ok := store.Get[*cluster.Authority](snap, cluster.SingletonID)
	node, member := store.Get[*cluster.Node](snap, req.NodeID)
	if s == nil || !ok || !member {
		return renewResponse{}, errdefs.ErrPermissionDenied.WithMessage("node " + req.NodeID + " is not a member of this swarm")
	}
	// A manager that is demoted stays one until it is out of the consensus: if it stopped before, the others might lack
	// the majority to take it out.
	role := node.Spec.Role
	for _, peer := range m.managers() {
		if peer.NodeID == node.ID {
			role = swarm.NodeRoleManager
		}
	}
	cert, err := pki.Sign(ca, req.CSR, s.ID, node.ID, role, validity(s), time.Now())
	if err != nil {
		return renewResponse{}, errdefs.ErrInvalidArgument.WithMessage(err.Error())
	}
	return renewResponse{cert, role, ca.Cert}, nil
}

// renewAt is when to renew a certificate: at a random point between a half and four fifths of its life, as in Swarm, so
// that the nodes of a swarm do not all ask at once.
func renewAt(id *pki.Identity) time.Time {
	life := id.NotAfter().Sub(id.NotBefore())
	return id.NotBefore().Add(life/2 + rand.N(3*life/10+1))
}

// renewals renews the node's certificate until ctx ends.
func (m *member) renewals(ctx context.Context, n *Node) error {
	at := renewAt(m.identity.Get())
	for {
		select {
		case <-time.After(time.Until(at)):
		case <-m.reissue:
		case <-ctx.Done():
			return nil
		}
		role, err := m.renew(ctx, m.askAny)
		if err != nil && m.manager != nil && pki.ValidAt(m.identity.Get(), time.Now()) != nil {
			role, err = m.renewAlone()
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			n.log.Warn("the node's certificate was not renewed", "node", m.st.NodeID, "expires", m.identity.Get().NotAfter(), "error", err)
			at = time.Now().Add(renewAgain/2 + rand.N(renewAgain))
		default:
			n.log.Info("the node's certificate was renewed", "node", m.st.NodeID, "role", role, "expires", m.identity.Get().NotAfter())
			at = renewAt(m.identity.Get())
		}
	}
}

// renew gets a new certificate and uses it from the next connection on. It returns the role that it says.
func (m *member) renew(ctx context.Context, ask asker) (swarm.NodeRole, error) {
	ctx, cancel := context.WithTimeout(ctx, renewTimeout)
	defer cancel()
	m.renewing.Lock()
	defer m.renewing.Unlock()
	key, csr, err := pki.NewRequest()
	if err != nil {
		return "", err
	}
	var resp renewResponse
	if err := ask(ctx, pathRenew, renewRequest{CSR: csr}, &resp); err != nil {
		return "", err
	}
	return m.use(key, &resp)
}

// use makes a certificate that was granted the node's.
func (m *member) use(key []byte, resp *renewResponse) (swarm.NodeRole, error) {
	if len(resp.Root) == 0 {
		resp.Root = m.identity.Get().RootPEM
	}
	id, err := pki.NewIdentity(key, resp.Cert, resp.Root)
	if err != nil {
		return "", fmt.Errorf("the manager's answer: %w", err)
	}
	if id.NodeID != m.st.NodeID || id.SwarmID != m.st.SwarmID {
		return "", fmt.Errorf("the manager's answer is a certificate of node %s of swarm %s", id.NodeID, id.SwarmID)
	}
	if err := m.keepIdentity(id); err != nil {
		return "", err
	}
	return id.Role, nil
}

// asker asks some manager.
type asker func(ctx context.Context, path string, in, out any) error

// askAt asks the manager at an address.
func (m *member) askAt(addr string) asker {
	return func(ctx context.Context, path string, in, out any) error {
		l, err := m.manager.peers.to(ctx, addr)
		if err != nil {
			return err
		}
		return post(ctx, l.Client(), path, in, out)
	}
}

// askAny asks the managers one after the other: a worker the one that its agent is connected to, a manager the others
// first, because a manager that was demoted may not know who leads any more.
func (m *member) askAny(ctx context.Context, path string, in, out any) error {
	if m.manager == nil {
		l := m.link.Load()
		if l == nil {
			return errors.New("there is no connection to a manager")
		}
		return post(ctx, l.Client(), path, in, out)
	}
	m.mu.Lock()
	peers := m.st.Managers
	m.mu.Unlock()
	var errs []error
	for _, p := range peers {
		if p.NodeID == m.st.NodeID {
			continue
		}
		l, err := m.manager.peers.to(ctx, p.Addr)
		if err == nil {
			err = post(ctx, l.Client(), path, in, out)
		}
		if err == nil {
			return nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", p.Addr, err))
	}
	l, err := m.manager.peers.to(ctx, loopback(m.manager.server.Addr().String()))
	if err == nil {
		err = post(ctx, l.Client(), path, in, out)
	}
	if err == nil {
		return nil
	}
	return errors.Join(append(errs, err)...)
}

// onRole starts a change of role when the swarm wants another one than the node has. It goes on trying without being
// told again: a manager that was taken out of the consensus may hear nothing more from the swarm.
func (m *member) onRole(n *Node) func(swarm.NodeRole) {
	return func(want swarm.NodeRole) {
		if want == "" {
			return
		}
		m.want.Store(&want)
		if want == m.st.Role || !m.changing.CompareAndSwap(false, true) {
			return
		}
		n.run(func(ctx context.Context) error {
			defer m.changing.Store(false)
			for *m.want.Load() != m.st.Role {
				err := n.changeRole(ctx, m, *m.want.Load(), m.askAny)
				if err == nil || ctx.Err() != nil {
					return nil
				}
				n.log.Info("the node's role is not changed yet", "node", m.st.NodeID, "again", roleAgain, "error", err)
				m.voteAgain(ctx, n, err)
				select {
				case <-time.After(roleAgain):
				case <-m.done:
					return nil
				case <-ctx.Done():
					return nil
				}
			}
			return nil
		})
	}
}

// errCountedOn is a swarm's answer to a node that asks for another role than it shall have.
var errCountedOn = errors.New("the swarm still counts on this node")

// changeRole makes a worker a manager, or the reverse, without stopping a task: the membership is ended and begun again
// with a certificate of the new role.
func (n *Node) changeRole(ctx context.Context, m *member, want swarm.NodeRole, ask asker) error {
	role, err := m.renew(ctx, ask)
	if err != nil {
		return fmt.Errorf("getting a certificate: %w", err)
	}
	if role != want {
		return fmt.Errorf("%w as a %s", errCountedOn, role)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.member.Load() != m {
		return nil // it left meanwhile
	}
	m.cancel()
	<-m.done
	m.mu.Lock()
	st := m.st
	m.mu.Unlock()
	if err := st.becomes(want, m.dir, m.identity.Get()); err != nil {
		return err
	}
	next, err := n.start(&st, m.identity.Get())
	if err != nil {
		return err
	}
	n.log.Info("the node changed its role", "node", st.NodeID, "role", want)
	if next.manager != nil {
		n.run(func(ctx context.Context) error {
			next.enlistLater(ctx, n)
			return nil
		})
	}
	return nil
}

// enlistLater takes a promoted node into the consensus, however often it has to ask.
func (m *member) enlistLater(ctx context.Context, n *Node) {
	for {
		try, cancel := context.WithTimeout(ctx, enlistTimeout)
		m.mu.Lock()
		st := m.st
		m.mu.Unlock()
		err := m.manager.enlist(try, &st)
		cancel()
		if err == nil {
			return
		}
		n.log.Warn("joining the swarm's managers", "node", m.st.NodeID, "error", err, "again", roleAgain)
		select {
		case <-time.After(roleAgain):
		case <-m.done:
			return
		case <-ctx.Done():
			return
		}
	}
}

// mayDemote says why the swarm cannot do without the manager. It must run on the leader.
func (m *manager) mayDemote(id string) error {
	servers, err := m.cons.Servers()
	if err != nil {
		return err
	}
	rest, reachable := 0, 0
	for _, s := range servers {
		if s.ID == id || !s.Voter {
			continue
		}
		rest++
		if m.cons.Reachable(s.ID) {
			reachable++
		}
	}
	if rest == 0 {
		return errdefs.ErrFailedPrecondition.WithMessage("attempting to demote the last manager of the swarm")
	}
	if need := rest/2 + 1; reachable < need {
		return errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf("can't remove manager %s from the swarm: of the %d managers that would be left %d can be reached, and a majority of %d is needed: "+
			"bring managers back first", id, rest, reachable, need))
	}
	return nil
}

// dismiss takes managers out of the consensus that are to be workers, while this manager leads. One that is to be
// dismissed itself hands over first, and its successor does the rest.
func (m *manager) dismiss(ctx context.Context) {
	w, _ := m.store.Watch()
	defer w.Close()
	for {
		again := m.dismissOnce(ctx)
		var retry <-chan time.Time
		if again {
			retry = time.After(roleAgain)
		}
		select {
		case <-w.Ready():
			w.Take()
		case <-retry:
		case <-ctx.Done():
			return
		}
	}
}

// dismissOnce says whether something is left to do.
func (m *manager) dismissOnce(ctx context.Context) (again bool) {
	snap := m.store.Snapshot()
	servers, err := m.cons.Servers()
	if err != nil {
		return true
	}
	for _, s := range servers {
		node, ok := store.Get[*cluster.Node](snap, s.ID)
		if !ok || node.Spec.Role == swarm.NodeRoleManager {
			continue
		}
		if s.ID == m.st.NodeID {
			err = m.cons.Transfer(ctx)
		} else if err = m.cons.Remove(ctx, s.ID); err == nil {
			err = m.setManagerStatus(ctx, s.ID, nil)
		}
		if err != nil && ctx.Err() == nil {
			m.log.Warn("dismissing a manager", "node", s.ID, "error", err, "again", roleAgain)
			again = true
		}
	}
	return again
}

func (m *manager) setManagerStatus(ctx context.Context, id string, status *swarm.ManagerStatus) error {
	_, err := m.store.Update(ctx, func(tx *store.Tx) error {
		old, ok := store.Get[*cluster.Node](tx.Snapshot, id)
		if !ok || old.ManagerStatus == nil && status == nil {
			return nil
		}
		n := old.Clone().(*cluster.Node)
		n.ManagerStatus = status
		tx.Write(store.PutState(n))
		return nil
	})
	return err
}
