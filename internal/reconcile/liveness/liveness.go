// Package liveness decides which nodes are ready and which are down.
//
// It owns the state and message of a node's status, from when each node was last heard. It never talks to a node and
// never touches tasks: package service moves those of a node that is down.
package liveness

import (
	"time"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/reconcile"
	"shoal.dev/shoal/internal/store"
)

const (
	// DefaultPeriod is the time between two heartbeats of a node in a swarm that does not say.
	DefaultPeriod = 2 * time.Second
	// Missed is after how many heartbeats that did not come a node is down.
	Missed = 3
	// poll is how often a node that is not ready is looked at: it is heard without a change in the store. Whoever
	// hears it may poke the runner, which is quicker.
	poll = 250 * time.Millisecond
)

// Planner plans one node a key; the key is the node's ID.
type Planner struct{}

var _ reconcile.Planner = Planner{}

// Name is "liveness".
func (Planner) Name() string { return "liveness" }

// Keys is the node whose status changed, and every node if the period did.
func (p Planner) Keys(snap *store.Snapshot, e store.Event) []reconcile.Key {
	switch e.Kind {
	case cluster.KindNode:
		old, _ := e.Old.(*cluster.Node)
		n, _ := e.New.(*cluster.Node)
		if n == nil || old != nil && old.Status == n.Status {
			return nil
		}
		return []reconcile.Key{reconcile.Key(e.ID)}
	case cluster.KindSwarm:
		old, _ := e.Old.(*cluster.Swarm)
		s, _ := e.New.(*cluster.Swarm)
		if old == nil || s == nil || old.Spec.Dispatcher != s.Spec.Dispatcher {
			return p.AllKeys(snap)
		}
	}
	return nil
}

// AllKeys is every node.
func (Planner) AllKeys(snap *store.Snapshot) []reconcile.Key {
	var keys []reconcile.Key
	for n := range store.List[*cluster.Node](snap) {
		keys = append(keys, reconcile.Key(n.ID))
	}
	return keys
}

// Period is the swarm's time between heartbeats.
func Period(s *cluster.Swarm) time.Duration {
	if s != nil && s.Spec.Dispatcher.HeartbeatPeriod > 0 {
		return s.Spec.Dispatcher.HeartbeatPeriod
	}
	return DefaultPeriod
}

// Silence is how long a node may be silent before it is down. Agents send their heartbeats a tenth earlier than the
// period, so that [Missed] of them are missing a little before so many periods are over: the rest is for finding out.
func Silence(period time.Duration) time.Duration { return Missed * period * 9 / 10 }

// Plan plans one node.
func (Planner) Plan(snap *store.Snapshot, key reconcile.Key, env reconcile.Env) reconcile.Plan {
	n, ok := store.Get[*cluster.Node](snap, string(key))
	if !ok {
		return reconcile.Plan{}
	}
	// A node that was not heard had as much time since this manager began to listen, or since it joined.
	since, heard := env.Observed.LastHeard(n.ID)
	if !heard {
		since = env.Observed.LeaderSince()
		if since.IsZero() { // it has not begun to listen: absence means nothing
			return reconcile.Plan{Again: env.Now.Add(poll)}
		}
		if n.CreatedAt.After(since) {
			since = n.CreatedAt
		}
	}
	deadline := since.Add(Silence(Period(snap.Swarm())))
	switch {
	case !env.Now.Before(deadline):
		plan := status(n, swarm.NodeStateDown, "heartbeat failure", "not heard in time")
		plan.Again = env.Now.Add(poll)
		return plan
	case heard:
		plan := status(n, swarm.NodeStateReady, clock(n, env.Observed), "heard")
		plan.Again = deadline
		return plan
	case n.Status.State == swarm.NodeStateReady:
		return reconcile.Plan{Again: deadline}
	}
	return reconcile.Plan{Again: env.Now.Add(poll)}
}

// status is the plan that gives the node a state.
func status(n *cluster.Node, s swarm.NodeState, message, why string) reconcile.Plan {
	if n.Status.State == s && (s != swarm.NodeStateReady || n.Status.Message == message) {
		return reconcile.Plan{}
	}
	c := n.Clone().(*cluster.Node)
	c.Status.State, c.Status.Message = s, message
	return reconcile.Plan{Groups: []store.Group{{Why: why, Changes: []store.Change{store.PutState(c)}}}}
}
