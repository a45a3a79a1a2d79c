package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/consensus"
	"shoal.dev/shoal/internal/httpapi"
	"shoal.dev/shoal/internal/pki"
	"shoal.dev/shoal/internal/store"
)

// Backup writes all records of the swarm, see [store.Snapshot.Backup].
func (n *Node) Backup(ctx context.Context, w io.Writer) error {
	snap, err := n.control.Snapshot(ctx)
	if err != nil {
		return err
	}
	return snap.Backup(w)
}

// Restore makes a swarm of this node alone that has every record of a backup, the authority and the tokens included: the
// nodes of the old swarm that know this address, or are told of it by a new join, go on as its members.
func (n *Node) Restore(ctx context.Context, r httpapi.RestoreRequest, backup io.Reader) (string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.inNoSwarm(); err != nil {
		return "", err
	}
	st, err := n.initState(&swarm.InitRequest{ListenAddr: r.ListenAddr, AdvertiseAddr: r.AdvertiseAddr, DataPathAddr: r.DataPathAddr})
	if err != nil {
		return "", err
	}
	records, err := store.ReadBackup(backup)
	if errors.Is(err, store.ErrNoBackup) {
		return "", errdefs.ErrInvalidArgument.WithMessage(err.Error())
	} else if err != nil {
		return "", fmt.Errorf("reading the backup: %w", err)
	}
	id, err := restored(ctx, st, records, n.describe(ctx))
	if err != nil {
		return "", err
	}
	m, err := n.begin(st, id, func() error {
		return consensus.Seed(consensus.Config{
			Dir: filepath.Join(n.swarmDir(), "raft"), NodeID: st.NodeID, Addr: st.AdvertiseAddr, Key: st.RaftKey, Log: n.log,
		}, records)
	})
	if err != nil {
		return "", err
	}
	err = m.manager.waitToLead(ctx)
	if err == nil {
		err = m.manager.catchUp(ctx)
	}
	if err != nil {
		return "", errors.Join(fmt.Errorf("becoming the leader of the restored swarm: %w", err), n.abandon(m))
	}
	n.log.Warn("the swarm was restored from a backup", "node", st.NodeID, "version", records.Index())
	return st.NodeID, nil
}

// restored makes the records those of a swarm whose only manager is the node of st, a new one, and gives it a certificate
// of the swarm's authority.
func restored(ctx context.Context, st *state, records *store.Store, d swarm.NodeDescription) (*pki.Identity, error) {
	old := records.Snapshot()
	s := old.Swarm()
	ca, ok := store.Get[*cluster.Authority](old, cluster.SingletonID)
	if s == nil || !ok {
		return nil, errdefs.ErrInvalidArgument.WithMessage("the backup has no swarm: its settings or its certificate authority are missing")
	}
	st.SwarmID, st.Bootstrap = s.ID, false
	if k, ok := store.Get[*cluster.UnlockKey](old, cluster.SingletonID); ok {
		st.UnlockKey, st.LockVersion = k.Bytes, k.Version.Index
	}
	if s.DataPathPort != 0 {
		st.DataPathPort = uint16(s.DataPathPort)
	}
	key, csr, err := pki.NewRequest()
	if err != nil {
		return nil, err
	}
	cert, err := pki.Sign(ca, csr, st.SwarmID, st.NodeID, st.Role, validity(s), time.Now())
	if err != nil {
		return nil, fmt.Errorf("the backup's certificate authority: %w", err)
	}
	id, err := pki.NewIdentity(key, cert, ca.Cert)
	if err != nil {
		return nil, fmt.Errorf("the backup's certificate authority: %w", err)
	}
	d.TLSInfo = id.TLSInfo()
	self, err := newNode(st.NodeID, st.Role, &joinRequest{AdvertiseAddr: st.AdvertiseAddr, DataPathAddr: st.DataPathAddr, Description: d})
	if err != nil {
		return nil, err
	}
	self.Status.State = swarm.NodeStateReady
	store.NewLocal(records)
	_, err = records.Update(ctx, func(tx *store.Tx) error {
		if err := beginEpoch(tx, st.NodeID); err != nil {
			return err
		}
		tx.Write(store.Create(self))
		return nil
	})
	return id, err
}
