package control

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/store"
)

// detachTimeout is how long the removal of a network waits for its containers: of one that has just ended the node gives
// the place back a second later; see package attach.
const detachTimeout = 3 * time.Second

// giveUpTimeout bounds the taking back of an attachment that got no address.
const giveUpTimeout = 5 * time.Second

// Attach gives a container of a node a place on a network that allows it, and waits for its address. Others that it had on
// the network are given back. It must run on the leader.
func (c *Control) Attach(ctx context.Context, nodeID string, r cluster.AttachRequest) (*cluster.Attachment, error) {
	m, err := c.write()
	if err != nil {
		return nil, err
	}
	if r.TaskID == "" || r.ContainerID == "" || len(r.Names) == 0 {
		return nil, invalid("an attachment needs an ID, a container and its name")
	}
	id := ""
	if err := m.update(ctx, func(tx *store.Tx) (err error) {
		id, err = attach(tx, nodeID, r, m.Store.Now())
		return err
	}); err != nil {
		return nil, err
	}
	a, err := m.attached(ctx, id)
	if err != nil {
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), giveUpTimeout)
		defer cancel()
		_ = c.Detach(undo, nodeID, []string{id}) // else the node does, which finds that nobody uses it
	}
	return a, err
}

// attach finds or writes the record, and gives its ID.
func attach(tx *store.Tx, nodeID string, r cluster.AttachRequest, now time.Time) (id string, err error) {
	n, err := find(tx.Snapshot, "network", r.Network, networkName)
	if err != nil {
		return "", err
	}
	if !n.Spec.Attachable || n.Spec.Ingress {
		return "", errdefs.ErrPermissionDenied.WithMessage(fmt.Sprintf("network %s not manually attachable", r.Network))
	}
	if _, ok := store.Get[*cluster.Node](tx.Snapshot, nodeID); !ok {
		return "", notFound("node", nodeID)
	}
	for t := range tx.TasksByNode(nodeID) {
		switch {
		case !t.Attaches() || t.Spec.NetworkAttachmentSpec.ContainerID != r.ContainerID || !slices.Contains(cluster.Targets(&t.Spec), n.ID):
		case id == "" && (t.ID == r.TaskID || !r.Anew && (!r.Addr.IsValid() || r.Addr == t.Address(n.ID))):
			id = t.ID
			if !slices.Equal(t.Spec.Networks[0].Aliases, r.Names) {
				c := t.Clone().(*cluster.Task)
				c.ServiceName, c.Spec.Networks[0].Aliases = r.Names[0], r.Names
				tx.Write(store.PutSpec(c))
			}
		default:
			tx.Write(store.Delete(t))
		}
	}
	if id != "" {
		return id, nil
	}
	t := &cluster.Task{ServiceName: r.Names[0], Asked: r.Addr}
	t.ID, t.NodeID, t.DesiredState = r.TaskID, nodeID, swarm.TaskStateRunning
	t.Status = swarm.TaskStatus{State: swarm.TaskStateNew, Message: "created", Timestamp: now}
	t.Spec.Runtime = swarm.RuntimeNetworkAttachment
	t.Spec.NetworkAttachmentSpec = &swarm.NetworkAttachmentSpec{ContainerID: r.ContainerID}
	t.Spec.Networks = []swarm.NetworkAttachmentConfig{{Target: n.ID, Aliases: r.Names}}
	tx.Write(store.Create(t))
	return t.ID, nil
}

// attached waits until the attachment has its address, or says why it gets none.
func (m *Manager) attached(ctx context.Context, taskID string) (*cluster.Attachment, error) {
	ctx, cancel := context.WithTimeout(ctx, updateTimeout)
	defer cancel()
	for {
		snap := m.Store.Snapshot()
		t, ok := store.Get[*cluster.Task](snap, taskID)
		switch {
		case !ok:
			return nil, errdefs.ErrUnavailable.WithMessage("the attachment was given back at the same time")
		case t.Status.State == swarm.TaskStateRunning:
			a, _ := t.Attachment()
			return &a, nil
		case t.Status.Err != "":
			return nil, invalid("%s", t.Status.Err)
		}
		if err := m.Store.WaitIndex(ctx, snap.Index()+1); err != nil {
			return nil, errdefs.ErrUnavailable.WithMessage("the swarm gave no address in time: " + NoLeader)
		}
	}
}

// Detach takes back attachments of a node's containers. Those that are not there are no error. It must run on the leader.
func (c *Control) Detach(ctx context.Context, nodeID string, taskIDs []string) error {
	m, err := c.write()
	if err != nil {
		return err
	}
	return m.update(ctx, func(tx *store.Tx) error {
		for _, id := range taskIDs {
			if t, ok := store.Get[*cluster.Task](tx.Snapshot, id); ok && t.Attaches() && t.NodeID == nodeID {
				tx.Write(store.Delete(t))
			}
		}
		return nil
	})
}

// awaitDetached waits for a while until no attachment is on a network.
func (m *Manager) awaitDetached(ctx context.Context, ref string) {
	ctx, cancel := context.WithTimeout(ctx, detachTimeout)
	defer cancel()
	for {
		snap := m.Store.Snapshot()
		n, err := find(snap, "network", ref, networkName)
		if err != nil || !n.Spec.Attachable || !attachedTo(snap, n.ID) || m.Store.WaitIndex(ctx, snap.Index()+1) != nil {
			return
		}
	}
}

func attachedTo(snap *store.Snapshot, network string) bool {
	for t := range snap.AttachedTasks() {
		if t.Attaches() && t.Address(network).IsValid() {
			return true
		}
	}
	return false
}
