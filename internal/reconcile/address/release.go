package address

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/reconcile"
	"shoal.dev/shoal/internal/store"
)

// planClaim releases a claim that nobody uses any more.
func planClaim(snap *store.Snapshot, id string) reconcile.Plan {
	c, ok := store.Get[*cluster.Claim](snap, id)
	if !ok || c.ReleasedAt != 0 || inUse(snap, c) {
		return reconcile.Plan{}
	}
	return reconcile.Plan{Groups: []store.Group{release(snap, c)}}
}

// release lets go of a claim: at once if no node's kernel can hold what it claims.
func release(snap *store.Snapshot, c *cluster.Claim) store.Group {
	if !releasable(c.ID) {
		return store.Group{Why: "its owner is gone", Changes: []store.Change{store.Delete(c)}}
	}
	n := c.Clone().(*cluster.Claim)
	// The snapshot no longer has the use; nodes that have applied as much do not have it either. For a task that ended,
	// the version at which it did is enough.
	n.ReleasedAt = snap.Index()
	if t, ok := store.Get[*cluster.Task](snap, c.Owner); ok && t.Ended() {
		n.ReleasedAt = t.StateVersion
	}
	return store.Group{Why: "its owner has let go", Changes: []store.Change{store.PutSpec(n)}}
}

// inUse says whether what the claim claims is still its owner's.
func inUse(snap *store.Snapshot, c *cluster.Claim) bool {
	kind, rest, _ := strings.Cut(c.ID, "/")
	switch kind {
	case "port":
		_, ok := store.Get[*cluster.Service](snap, c.Owner)
		return ok
	case "index":
		n, ok := store.Get[*cluster.Node](snap, c.Owner)
		return ok && cluster.ClaimNodeIndex(n.Index) == c.ID
	case "addr":
		network, text, _ := strings.Cut(rest, "/")
		addr, err := netip.ParseAddr(text)
		if err != nil {
			return true // not ours
		}
		if _, ok := store.Get[*cluster.Network](snap, network); !ok {
			return false
		}
		if c.Owner == network { // reserved
			return true
		}
		if t, ok := store.Get[*cluster.Task](snap, c.Owner); ok {
			return !t.Ended() && t.Address(network) == addr
		}
		if s, ok := store.Get[*cluster.Service](snap, c.Owner); ok {
			return slices.ContainsFunc(s.Endpoint.VirtualIPs, func(v swarm.EndpointVirtualIP) bool {
				return v.NetworkID == network && v.Addr.Addr() == addr
			})
		}
		n, ok := store.Get[*cluster.Node](snap, c.Owner)
		return ok && n.IngressAddr == addr
	}
	return true
}

// planReleased deletes the released claims that every ready node has let go of, and releases those of nodes that are
// gone.
func planReleased(snap *store.Snapshot, env reconcile.Env) reconcile.Plan {
	var plan reconcile.Plan
	var applied uint64
	asked := false
	for _, prefix := range []string{"addr/", "index/"} {
		for c := range store.Prefix[*cluster.Claim](snap, prefix) {
			if c.ReleasedAt == 0 {
				if !inUse(snap, c) {
					plan.Groups = append(plan.Groups, release(snap, c))
				}
				continue
			}
			if !asked {
				asked, applied = true, appliedEverywhere(snap, env, true)
			}
			if applied >= c.ReleasedAt {
				plan.Groups = append(plan.Groups, store.Group{Why: "no node holds it any more", Changes: []store.Change{store.Delete(c)}})
			} else {
				plan.Again = env.Now.Add(pollReleased)
			}
		}
	}
	return plan
}

// returning is how long after it was last heard a node that is down is still waited for before an address is used
// again. It may be on its way back: connected, with routes from before it was cut off, and ready in a moment.
const returning = time.Minute

// appliedEverywhere is the version that the kernels of all nodes have at least: of those that are ready and, if asked
// for, of those that may be coming back. A node that was away for longer gets the whole state before it takes part.
func appliedEverywhere(snap *store.Snapshot, env reconcile.Env, andReturning bool) uint64 {
	least := snap.Index()
	for n := range store.List[*cluster.Node](snap) {
		wait := n.Status.State == swarm.NodeStateReady
		if at, ok := env.Observed.LastHeard(n.ID); andReturning && ok && env.Now.Sub(at) < returning {
			wait = true
		}
		if wait {
			least = min(least, env.Observed.Applied(n.ID))
		}
	}
	return least
}

// holdAtMost bounds how long a task goes on for the sake of connections that a node might still send it: a node that
// does not get its kernel to the newest state within that time must not keep a service from being stopped.
const holdAtMost = 3 * time.Second

// planHeld lets the tasks go that no ready node's kernel sends connections to any more.
func planHeld(snap *store.Snapshot, env reconcile.Env) reconcile.Plan {
	var plan reconcile.Plan
	var applied uint64
	asked := false
	for t := range snap.HeldTasks() {
		if !asked {
			asked, applied = true, appliedEverywhere(snap, env, false)
		}
		// The mesh lost the task when its desired state changed, which wrote its specification.
		latest := t.UpdatedAt.Add(holdAtMost)
		if applied < t.Version.Index && env.Now.Before(latest) {
			if plan.Again.IsZero() || latest.Before(plan.Again) {
				plan.Again = latest
			}
			continue
		}
		n := cluster.Fork(t)
		n.Released = true
		plan.Groups = append(plan.Groups, store.Group{Why: "no node sends it connections any more", Changes: []store.Change{store.PutSpec(n)}})
	}
	return plan
}
