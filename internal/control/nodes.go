package control

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/store"
)

// Nodes lists the members.
func (c *Control) Nodes(ctx context.Context, f map[string][]string) ([]swarm.Node, error) {
	m, snap, err := c.read(ctx)
	if err != nil {
		return nil, err
	}
	fl := filters(f)
	if err := fl.known("id", "name", "label", "node.label", "membership", "role"); err != nil {
		return nil, err
	}
	roles, err := fl.words("role", "worker", "manager")
	if err != nil {
		return nil, err
	}
	memberships, err := fl.words("membership", "accepted", "pending")
	if err != nil {
		return nil, err
	}
	out := []swarm.Node{}
	for n := range store.List[*cluster.Node](snap) {
		if fl.any("id", prefixOf(n.ID)) && fl.any("name", prefixOf(nodeName(n))) && fl.labels("node.label", n.Spec.Labels) &&
			fl.labels("label", n.Description.Engine.Labels) && oneOf(roles, string(n.Spec.Role)) &&
			oneOf(memberships, "accepted") {
			out = append(out, m.node(n))
		}
	}
	return out, nil
}

// words are a key's values, which are some of the known ones in any case; empty ones do not count.
func (f filters) words(key string, known ...string) ([]string, error) {
	var out []string
	for _, v := range f[key] {
		w := strings.ToLower(v)
		switch {
		case w == "":
		case slices.Contains(known, w):
			out = append(out, w)
		default:
			return nil, invalid("Invalid %s filter: '%s'", key, v)
		}
	}
	return out, nil
}

// oneOf says whether the word is one of those that are wanted, or none is.
func oneOf(wanted []string, have string) bool {
	return len(wanted) == 0 || slices.Contains(wanted, have)
}

// Node returns a member; "self" is this one.
func (c *Control) Node(ctx context.Context, ref string) (*swarm.Node, error) {
	m, snap, err := c.read(ctx)
	if err != nil {
		return nil, err
	}
	if ref == "self" {
		ref = m.NodeID
	}
	n, err := find(snap, "node", ref, nodeName)
	if err != nil {
		return nil, err
	}
	out := m.node(n)
	return &out, nil
}

// node adds what only the consensus knows: who leads, and whether a manager is reachable.
func (m *Manager) node(n *cluster.Node) swarm.Node {
	out := n.Clone().(*cluster.Node).Node
	if n.DiskFull > 0 && out.Status.Message == "" {
		out.Status.Message = fmt.Sprintf("the disk was found %d%% full: the node takes no new tasks", n.DiskFull)
	}
	if out.ManagerStatus != nil {
		out.ManagerStatus.Leader = m.Leader() == n.ID
		out.ManagerStatus.Reachability = swarm.ReachabilityReachable
		if n.Status.State != swarm.NodeStateReady {
			out.ManagerStatus.Reachability = swarm.ReachabilityUnreachable
		}
	}
	return out
}

// UpdateNode replaces a node's labels, availability and role if it is still at the version. The node changes its role
// within seconds, see package node.
func (c *Control) UpdateNode(ctx context.Context, ref string, version uint64, spec swarm.NodeSpec) error {
	m, err := c.write()
	if err != nil {
		return err
	}
	spec.Role, spec.Availability = swarm.NodeRole(strings.ToLower(string(spec.Role))), swarm.NodeAvailability(strings.ToLower(string(spec.Availability)))
	if err := checkAvailability(spec.Availability); err != nil {
		return err
	}
	return m.update(ctx, func(tx *store.Tx) error {
		old, err := find(tx.Snapshot, "node", ref, nodeName)
		if err != nil {
			return err
		}
		if old.Version.Index != version {
			return outOfSequence()
		}
		switch {
		case spec.Role != swarm.NodeRoleManager && spec.Role != swarm.NodeRoleWorker:
			return invalid("invalid Role: %q", string(spec.Role))
		case spec.Role == swarm.NodeRoleWorker && old.Spec.Role == swarm.NodeRoleManager:
			if err := m.MayDemote(old.ID); err != nil {
				return err
			}
		case spec.Role == swarm.NodeRoleManager && old.Spec.Role == swarm.NodeRoleWorker:
			if s := tx.Swarm(); s != nil && old.LevelOf() < s.LevelOf() {
				return errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf("node %s cannot become a manager: its version of Shoal knows feature level %d and the swarm's records are of level %d; "+
					"install a newer version on it", old.ID, old.LevelOf(), s.LevelOf()))
			}
		}
		n := old.Clone().(*cluster.Node)
		n.Spec = spec
		tx.Write(store.PutSpec(n))
		return nil
	})
}

// RemoveNode removes a member that is down, or any with force. Its certificate is refused from then on.
func (c *Control) RemoveNode(ctx context.Context, ref string, force bool) error {
	m, err := c.write()
	if err != nil {
		return err
	}
	return m.update(ctx, func(tx *store.Tx) error {
		n, err := find(tx.Snapshot, "node", ref, nodeName)
		if err != nil {
			return err
		}
		if n.Spec.Role == swarm.NodeRoleManager {
			return errdefs.ErrFailedPrecondition.WithMessage("node " + n.ID + " is a cluster manager and is a member of the raft cluster. It must be demoted to worker before removal")
		}
		if !force && n.Status.State == swarm.NodeStateReady {
			return errdefs.ErrFailedPrecondition.WithMessage("node " + n.ID + " is not down and can't be removed")
		}
		tx.Write(store.Delete(n))
		tx.Write(store.Create(&cluster.Claim{ID: cluster.ClaimRemoved(n.ID), Owner: n.ID, OwnerName: nodeName(n)}))
		if cl, ok := store.Get[*cluster.Claim](tx.Snapshot, cluster.ClaimNodeIndex(n.Index)); ok && cl.Owner == n.ID {
			tx.Write(store.Delete(cl))
		}
		return nil
	})
}
