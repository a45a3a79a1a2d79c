package node

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/consensus"
	"shoal.dev/shoal/internal/link"
	"shoal.dev/shoal/internal/pki"
	"shoal.dev/shoal/internal/store"
)

// expired are Docker's words (moby cluster.errSwarmCertificatesExpired).
const expired = "Swarm certificates have expired. To replace them, leave the swarm and join again."

// refusal is why the managers that were asked last take this node no more; nil if one does, or none was reached.
type refusal struct{ atomic.Pointer[string] }

// judge takes in how the last try to reach a manager ended: err is nil if one took this node.
func (m *member) judge(n *Node, err error) {
	why := ""
	var refused *link.RefusedError
	var unknown x509.UnknownAuthorityError
	switch {
	case err == nil:
		m.refusal.Store(nil)
		return
	case errors.As(err, &refused):
		why = refused.Reason
	case errors.As(err, &unknown):
		why = "the managers have certificates of another root than this node knows: the swarm's authority was rotated (ca --rotate) while this node was away, or another swarm is at their addresses"
	default:
		return // not reached: that says nothing
	}
	if old := m.refusal.Swap(&why); old == nil || *old != why {
		n.log.Error("the swarm does not take this node any more", "node", m.st.NodeID, "reason", m.trouble())
	}
}

// trouble says why this node has no place in its swarm any more, and the way back; "" while it has.
func (m *member) trouble() string {
	why := ""
	if p := m.refusal.Load(); p != nil {
		why = *p
	}
	id := m.identity.Get()
	switch now := time.Now(); {
	case m.manager != nil && why == "":
		return "" // it certifies itself
	case now.After(id.NotAfter().Add(pki.Leeway)):
		why = fmt.Sprintf("%s This node's ended at %s.", expired, id.NotAfter().UTC().Format(time.RFC3339))
	case why == "":
		return ""
	default:
		why = strings.ToUpper(why[:1]) + why[1:] + "."
	}
	leave := "docker swarm leave"
	if m.manager != nil {
		leave += " --force"
	}
	role := "worker"
	if m.st.Role == swarm.NodeRoleManager {
		role = "manager"
	}
	return fmt.Sprintf("%s Here: \"%s\"; on a manager: \"docker swarm join-token %s\"; then here: \"docker swarm join --token TOKEN MANAGER:%s\"", why, leave, role, DefaultPort)
}

// renewAlone makes this manager a certificate of its own replica's authority. It is for when no manager can be asked,
// because without certificates that are good none can reach another: see docs/adr.
func (m *member) renewAlone() (swarm.NodeRole, error) {
	m.renewing.Lock()
	defer m.renewing.Unlock()
	key, resp, err := certify(m.manager.store.Snapshot(), &m.st)
	if err != nil {
		return "", err
	}
	return m.use(key, resp)
}

// certifyAlone is renewAlone for a manager that starts: what it knows is in its log. A manager that cannot starts anyway.
func (n *Node) certifyAlone(dir string, st *state, holder *pki.Holder) {
	why := pki.ValidAt(holder.Get(), time.Now())
	if why == nil {
		return
	}
	id, err := n.certifyFromLog(dir, st)
	if err != nil {
		n.log.Error("this manager's certificate is of no use, and it could not make itself another", "node", st.NodeID, "because", why, "error", err)
		return
	}
	holder.Set(id)
	n.log.Warn("this manager made itself a certificate with the authority's key in its log", "node", st.NodeID, "because", why, "expires", id.NotAfter())
}

func (n *Node) certifyFromLog(dir string, st *state) (*pki.Identity, error) {
	ctx, cancel := context.WithTimeout(context.Background(), recoverTimeout)
	defer cancel()
	records, err := consensus.Records(ctx, consensus.Config{
		Dir: filepath.Join(dir, "raft"), NodeID: st.NodeID, Addr: st.AdvertiseAddr, Key: st.RaftKey, Log: n.log,
	})
	if err != nil {
		return nil, err
	}
	key, resp, err := certify(records.Snapshot(), st)
	if err != nil {
		return nil, err
	}
	id, err := pki.NewIdentity(key, resp.Cert, resp.Root)
	if err != nil {
		return nil, err
	}
	return id, pki.SaveIdentity(dir, id, st.identitySeal())
}

// certify makes a manager's certificate.
func certify(snap *store.Snapshot, st *state) (key []byte, resp *renewResponse, err error) {
	s := snap.Swarm()
	ca, ok := store.Get[*cluster.Authority](snap, cluster.SingletonID)
	if s == nil || !ok {
		return nil, nil, errdefs.ErrNotFound.WithMessage("this manager has no certificate authority")
	}
	if n, ok := store.Get[*cluster.Node](snap, st.NodeID); !ok || n.Spec.Role != swarm.NodeRoleManager {
		return nil, nil, errdefs.ErrNotFound.WithMessage("node " + st.NodeID + " is no manager of this swarm")
	}
	key, csr, err := pki.NewRequest()
	if err != nil {
		return nil, nil, err
	}
	cert, err := pki.Sign(ca, csr, st.SwarmID, st.NodeID, swarm.NodeRoleManager, validity(s), time.Now())
	return key, &renewResponse{Cert: cert, Role: swarm.NodeRoleManager, Root: ca.Cert}, err
}
