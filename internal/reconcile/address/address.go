// Package address gives out what the swarm's addresses and ports are made of: a task's address on the routing mesh and
// on each of its networks, a node's small number and its own address on the mesh, a service's virtual address on each of
// its networks, and its published ports that the user left open.
//
// It decides when something that was in use may be used again: an address or a node's number only after every node
// that is ready has let go of it. It owns the claims of addresses, node numbers and dynamic ports, the first step of the life
// of a task that needs an address (new to pending) and the endpoint of a service. It never touches a kernel and never picks a node.
package address

import (
	"slices"
	"strings"
	"time"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/reconcile"
	"shoal.dev/shoal/internal/store"
)

// The keys. Allocations are one key each, so that one plan sees what it has given out itself.
const (
	keyTasks    reconcile.Key = "tasks"    // all tasks that are new
	keyNodes    reconcile.Key = "nodes"    // all nodes without a number or an address
	keyReleased reconcile.Key = "released" // all claims that wait for nodes to let go
	// KeyHeld is all tasks that wait for nodes to let go, so that they can be stopped. It is to be planned whenever a
	// node's kernel holds a newer version, which nothing in the store says.
	KeyHeld reconcile.Key = "held"

	serviceKey reconcile.Key = "service/" // + ID: the endpoint
	claimKey   reconcile.Key = "claim/"   // + ID: is the claim still in use?
)

// pollReleased is how often the nodes are asked whether they have let go; nothing in the store says when they did.
const pollReleased = 500 * time.Millisecond

// Planner plans addresses and ports.
type Planner struct{}

var _ reconcile.Planner = Planner{}

// Name is "address".
func (Planner) Name() string { return "address" }

// Keys says what a change asks for and what it may have freed.
func (Planner) Keys(_ *store.Snapshot, e store.Event) []reconcile.Key {
	switch e.Kind {
	case cluster.KindTask:
		return taskKeys(e)
	case cluster.KindNode:
		return nodeKeys(e)
	case cluster.KindService:
		return serviceKeys(e)
	case cluster.KindNetwork:
		if e.New == nil {
			return []reconcile.Key{keyReleased}
		}
		return []reconcile.Key{keyNodes, keyTasks}
	case cluster.KindClaim:
		if !releasable(e.ID) {
			return nil
		}
		c, ok := e.New.(*cluster.Claim)
		switch {
		case !ok: // somebody may have waited for it
			return []reconcile.Key{keyNodes, keyTasks}
		case c.ReleasedAt != 0:
			return []reconcile.Key{keyReleased}
		}
		return []reconcile.Key{claimKey + reconcile.Key(e.ID)} // its owner may have gone at the same time
	}
	return nil
}

func serviceKeys(e store.Event) []reconcile.Key {
	old, _ := e.Old.(*cluster.Service)
	s, _ := e.New.(*cluster.Service)
	var keys []reconcile.Key
	if s != nil {
		keys = append(keys, serviceKey+reconcile.Key(e.ID))
	}
	if old == nil {
		return keys
	}
	for _, v := range old.Endpoint.VirtualIPs {
		if s == nil || !slices.Contains(s.Endpoint.VirtualIPs, v) {
			keys = append(keys, claimKey+reconcile.Key(cluster.ClaimAddr(v.NetworkID, v.Addr.Addr())))
		}
	}
	if s == nil {
		for _, p := range old.Endpoint.Ports {
			keys = append(keys, claimKey+reconcile.Key(cluster.ClaimPort(string(p.Protocol), p.PublishedPort)))
		}
	}
	return keys
}

func taskKeys(e store.Event) []reconcile.Key {
	old, _ := e.Old.(*cluster.Task)
	t, _ := e.New.(*cluster.Task)
	var keys []reconcile.Key
	if t != nil && waiting(t) && (old == nil || !waiting(old)) {
		keys = append(keys, keyTasks)
	}
	if t != nil && t.Held() && (old == nil || !old.Held()) {
		keys = append(keys, KeyHeld)
	}
	if old != nil && (t == nil || t.Ended() && !old.Ended()) {
		for _, a := range old.NetworksAttachments {
			for _, p := range a.Addresses {
				keys = append(keys, claimKey+reconcile.Key(cluster.ClaimAddr(a.Network.ID, p.Addr())))
			}
		}
	}
	return keys
}

func nodeKeys(e store.Event) []reconcile.Key {
	if n, ok := e.New.(*cluster.Node); ok {
		if n.Index == 0 || !n.IngressAddr.IsValid() {
			return []reconcile.Key{keyNodes}
		}
		return nil
	}
	old := e.Old.(*cluster.Node)
	keys := []reconcile.Key{claimKey + reconcile.Key(cluster.ClaimNodeIndex(old.Index))}
	// The claim's ID has the network's, which the node does not know; there is one per node, so look at all.
	return append(keys, keyReleased)
}

// releasable says whether a claim is given back only when nodes have let go of it.
func releasable(id string) bool {
	return strings.HasPrefix(id, "addr/") || strings.HasPrefix(id, "index/")
}

// AllKeys is everything: a new leader does not know what the old one had begun.
func (Planner) AllKeys(snap *store.Snapshot) []reconcile.Key {
	keys := []reconcile.Key{keyNodes, keyTasks, keyReleased, KeyHeld}
	for s := range store.List[*cluster.Service](snap) {
		keys = append(keys, serviceKey+reconcile.Key(s.ID))
	}
	for _, prefix := range []string{"addr/", "index/", "port/"} {
		for c := range store.Prefix[*cluster.Claim](snap, prefix) {
			keys = append(keys, claimKey+reconcile.Key(c.ID))
		}
	}
	return keys
}

// Plan plans one key.
func (Planner) Plan(snap *store.Snapshot, key reconcile.Key, env reconcile.Env) reconcile.Plan {
	switch key {
	case keyTasks:
		return planTasks(snap, env)
	case keyNodes:
		return planNodes(snap)
	case keyReleased:
		return planReleased(snap, env)
	case KeyHeld:
		return planHeld(snap, env)
	}
	if id, ok := strings.CutPrefix(string(key), string(serviceKey)); ok {
		return planService(snap, id)
	}
	if id, ok := strings.CutPrefix(string(key), string(claimKey)); ok {
		return planClaim(snap, id)
	}
	return reconcile.Plan{}
}
