package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/control"
	"shoal.dev/shoal/internal/dispatch/protocol"
	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/link"
	"shoal.dev/shoal/internal/pki"
	"shoal.dev/shoal/internal/store"
)

const (
	// joinTimeout bounds a whole join. Docker gives up after 20 s.
	joinTimeout = 20 * time.Second
	// joinDialTimeout bounds the wait for one remote address.
	joinDialTimeout = 8 * time.Second
	// initTimeout bounds the making of a swarm, which needs no other node.
	initTimeout = 20 * time.Second
)

var listTasks = engine.ListOptions{All: true, Filters: map[string][]string{"label": {labelTask}}}

const alreadyInSwarm = `This node is already part of a swarm. Use "docker swarm leave" to leave this swarm and join another one.`

// Init makes a swarm of this node alone.
func (n *Node) Init(ctx context.Context, r swarm.InitRequest) (string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if m := n.member.Load(); m != nil && r.ForceNewCluster {
		return n.forceNewCluster(ctx, m, r)
	} else if n.locked.Load() != nil && r.ForceNewCluster {
		return "", errdefs.ErrUnavailable.WithMessage(control.Locked)
	}
	ctx, cancel := context.WithTimeout(ctx, initTimeout)
	defer cancel()
	if err := n.inNoSwarm(); err != nil {
		return "", err
	}
	st, err := n.initState(&r)
	if err != nil {
		return "", err
	}
	ca, err := pki.NewAuthority(time.Now())
	if err != nil {
		return "", err
	}
	key, csr, err := pki.NewRequest()
	if err != nil {
		return "", err
	}
	validity := r.Spec.CAConfig.NodeCertExpiry
	if validity == 0 {
		validity = pki.DefaultValidity
	}
	cert, err := pki.Sign(ca, csr, st.SwarmID, st.NodeID, st.Role, validity, time.Now())
	if err != nil {
		return "", err
	}
	id, err := pki.NewIdentity(key, cert, ca.Cert)
	if err != nil {
		return "", err
	}
	m, err := n.begin(st, id, nil)
	if err != nil {
		return "", err
	}
	if err := m.manager.found(ctx, &r, st, ca, id.TLSInfo(), n.describe(ctx)); err != nil {
		return "", errors.Join(err, n.abandon(m))
	}
	return st.NodeID, nil
}

// initState checks the request and says what the node will remember.
func (n *Node) initState(r *swarm.InitRequest) (*state, error) {
	dataPort, err := control.DataPathPort(r.DataPathPort)
	if err == nil {
		_, _, _, err = control.AddressPools(r.DefaultAddrPool, r.SubnetSize)
	}
	if err == nil {
		err = control.CheckSwarmSpec(r.Spec)
	}
	if err == nil {
		r.Availability, err = control.NodeAvailability(r.Availability)
	}
	if err != nil {
		return nil, err
	}
	listen, err := resolveListen(r.ListenAddr)
	if err != nil {
		return nil, err
	}
	advertise, err := resolveAdvertise(r.AdvertiseAddr, listen)
	if err != nil {
		return nil, err
	}
	dataPath, err := resolveDataPath(r.DataPathAddr)
	if err != nil {
		return nil, err
	}
	st := &state{
		SwarmID: cluster.NewID(), NodeID: cluster.NewID(), Role: swarm.NodeRoleManager, ListenAddr: listen, AdvertiseAddr: advertise,
		DataPathAddr: dataPath, DataPathPort: dataPort, RaftKey: newRaftKey(), Bootstrap: true,
	}
	if r.AutoLockManagers || r.Spec.EncryptionConfig.AutoLockManagers {
		st.UnlockKey = pki.NewUnlockKey()
	}
	st.Managers = []swarm.Peer{{NodeID: st.NodeID, Addr: st.AdvertiseAddr}}
	return st, nil
}

// begin writes a new membership to disk, with the log that seed makes, and starts it. What fails leaves nothing, and of
// one that a crash cut off nothing is taken.
func (n *Node) begin(st *state, id *pki.Identity, seed func() error) (*member, error) {
	err := emptyDir(n.swarmDir())
	if err == nil && seed != nil {
		err = seed()
	}
	if err == nil {
		err = errors.Join(pki.SaveIdentity(n.swarmDir(), id, st.identitySeal()), st.save(n.swarmDir()))
	}
	if err == nil {
		var m *member
		if m, err = n.start(st, id); err == nil {
			return m, nil
		}
	}
	return nil, errors.Join(err, emptyDir(n.swarmDir()))
}

// abandon takes a membership back that could not be completed.
func (n *Node) abandon(m *member) error {
	n.control.Deactivate(control.NotInSwarm)
	m.cancel()
	<-m.done
	n.member.Store(nil)
	return emptyDir(n.swarmDir())
}

// found writes the first records of a swarm.
func (m *manager) found(ctx context.Context, r *swarm.InitRequest, st *state, ca *cluster.Authority, tls swarm.TLSInfo, d swarm.NodeDescription) error {
	if err := m.cons.Bootstrap(); err != nil {
		return fmt.Errorf("starting the swarm's log: %w", err)
	}
	if err := m.waitToLead(ctx); err != nil {
		return fmt.Errorf("becoming the leader of the new swarm: %w", err)
	}
	s := &cluster.Swarm{}
	s.ID, s.Epoch, s.Level, s.TLSInfo = st.SwarmID, 1, cluster.Level, tls
	s.Spec = r.Spec
	s.Spec.EncryptionConfig.AutoLockManagers = len(st.UnlockKey) > 0
	control.SetSwarmDefaults(&s.Spec)
	pools, bits, ingressSubnet, err := control.AddressPools(r.DefaultAddrPool, r.SubnetSize)
	if err != nil {
		return err
	}
	s.DefaultAddrPool, s.SubnetSize, s.DataPathPort = pools, bits, uint32(st.DataPathPort)
	s.JoinTokens = swarm.JoinTokens{Worker: pki.NewToken(ca.Cert), Manager: pki.NewToken(ca.Cert)}
	d.TLSInfo = tls
	self, err := newNode(st.NodeID, st.Role, &joinRequest{
		Availability: r.Availability, AdvertiseAddr: st.AdvertiseAddr, DataPathAddr: st.DataPathAddr, Description: d, Level: cluster.Level,
	})
	if err != nil {
		return err
	}
	self.Status.State = swarm.NodeStateReady
	ingress := control.NewIngress(ingressSubnet)
	_, err = m.store.Update(ctx, func(tx *store.Tx) error {
		for _, o := range []cluster.Object{
			s, ca, self, ingress,
			&cluster.Claim{ID: cluster.ClaimName(cluster.KindNetwork, "ingress"), Owner: ingress.ID, OwnerName: "ingress"},
			&cluster.Claim{ID: cluster.ClaimVNI(4096), Owner: ingress.ID, OwnerName: "ingress"},
		} {
			tx.Write(store.Create(o.Clone()))
		}
		if len(st.UnlockKey) > 0 {
			tx.Write(store.Create(&cluster.UnlockKey{ID: cluster.SingletonID, Bytes: st.UnlockKey}))
		}
		return nil
	})
	return err
}

func (m *manager) waitToLead(ctx context.Context) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !m.cons.IsLeader() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// Join makes this node a member of the swarm that one of the remote addresses belongs to.
func (n *Node) Join(ctx context.Context, r swarm.JoinRequest) error {
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.inNoSwarm(); err != nil {
		return err
	}
	token, err := pki.ParseToken(r.JoinToken)
	if err != nil {
		return errdefs.ErrInvalidArgument.WithMessage(err.Error())
	}
	if len(r.RemoteAddrs) == 0 {
		return errdefs.ErrInvalidArgument.WithMessage("at least 1 RemoteAddr is required to join")
	}
	req, listen, err := n.joinRequest(r)
	if err != nil {
		return err
	}
	key, csr, err := pki.NewRequest()
	if err != nil {
		return err
	}
	req.CSR = csr
	var refused []string
	for _, remote := range r.RemoteAddrs {
		host, port := splitPort(remote)
		resp, root, err := n.askToJoin(ctx, net.JoinHostPort(host, port), token, req)
		if err == nil {
			return n.becomeMember(ctx, key, root, listen, req, resp)
		}
		// Another manager of the same swarm would say the same.
		if errdefs.IsInvalidArgument(err) || errdefs.IsPermissionDenied(err) {
			return err
		}
		refused = append(refused, err.Error())
	}
	return errdefs.ErrUnavailable.WithMessage(strings.Join(refused, "; "))
}

func (n *Node) joinRequest(r swarm.JoinRequest) (*joinRequest, string, error) {
	listen, err := resolveListen(r.ListenAddr)
	if err != nil {
		return nil, "", err
	}
	dataPath, err := resolveDataPath(r.DataPathAddr)
	if err != nil {
		return nil, "", err
	}
	availability, err := control.NodeAvailability(r.Availability)
	if err != nil {
		return nil, "", err
	}
	_, port := splitPort(listen)
	advertise := net.JoinHostPort("", port) // the manager fills in the address that it sees
	if r.AdvertiseAddr != "" {
		if advertise, err = resolveAdvertise(r.AdvertiseAddr, listen); err != nil {
			return nil, "", err
		}
	}
	return &joinRequest{
		Token: r.JoinToken, Availability: availability, AdvertiseAddr: advertise, DataPathAddr: dataPath,
		Description: n.describe(context.Background()), Level: cluster.Level,
	}, listen, nil
}

// askToJoin asks one manager. Nothing is kept of an attempt that fails.
func (n *Node) askToJoin(ctx context.Context, addr string, token pki.Token, req *joinRequest) (*joinResponse, []byte, error) {
	dial, cancel := context.WithTimeout(ctx, joinDialTimeout)
	defer cancel()
	c, err := link.JoinDial(dial, n.machine.Dial, addr, token)
	if err != nil {
		return nil, nil, err
	}
	defer c.Close()
	var resp joinResponse
	if err := post(ctx, c.Client, pathJoin, req, &resp); err != nil {
		return nil, nil, err
	}
	return &resp, c.RootPEM, nil
}

// becomeMember starts the membership that a manager granted.
func (n *Node) becomeMember(ctx context.Context, key, root []byte, listen string, req *joinRequest, resp *joinResponse) error {
	id, err := pki.NewIdentity(key, resp.Cert, root)
	if err != nil {
		return fmt.Errorf("the manager's answer: %w", err)
	}
	st := &state{
		SwarmID: resp.SwarmID, NodeID: resp.NodeID, Role: resp.Role, ListenAddr: listen, AdvertiseAddr: resp.AdvertiseAddr,
		DataPathAddr: req.DataPathAddr, DataPathPort: resp.DataPathPort, Managers: resp.Managers,
	}
	if st.Role == swarm.NodeRoleManager {
		st.RaftKey, st.UnlockKey, st.LockVersion = newRaftKey(), resp.UnlockKey, resp.LockVersion
	}
	if off := time.Since(resp.Clock); !resp.Clock.IsZero() && off.Abs() > protocol.MaxClockOffset {
		n.log.Warn("the clock of this node differs from the manager's: set both by NTP", "node", st.NodeID, "ahead", off.Round(time.Second))
	}
	m, err := n.begin(st, id, nil)
	if err != nil {
		return err
	}
	if m.manager == nil {
		return nil
	}
	if err := m.manager.enlist(ctx, st); err != nil {
		return errors.Join(fmt.Errorf("joining the swarm's managers: %w", err), n.abandon(m))
	}
	return nil
}

// enlist asks for a vote and waits until this manager has the swarm's state.
func (m *manager) enlist(ctx context.Context, st *state) error {
	var errs []error
	for _, peer := range st.Managers {
		l, err := m.peers.to(ctx, peer.Addr)
		if err == nil {
			err = post(ctx, l.Client(), pathVoter, voterRequest{st.NodeID, st.AdvertiseAddr}, nil)
		}
		if err == nil {
			return m.readBarrier(ctx)
		}
		errs = append(errs, fmt.Errorf("%s: %w", peer.Addr, err))
	}
	return errors.Join(errs...)
}
