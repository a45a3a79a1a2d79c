// Package level decides of which feature level the swarm's records may be: the lowest of what its managers' versions know.
//
// It owns Swarm.Level, which it only raises, and what a version writes once the swarm has its level. See package cluster
// for what a level is.
package level

import (
	"fmt"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/reconcile"
	"shoal.dev/shoal/internal/store"
)

const key reconcile.Key = "level"

// Planner plans the one level.
type Planner struct{}

var _ reconcile.Planner = Planner{}

// Name is "level".
func (Planner) Name() string { return "level" }

// Keys is the level, where the swarm's changed, or a node's level or role did.
func (p Planner) Keys(snap *store.Snapshot, e store.Event) []reconcile.Key {
	switch e.Kind {
	case cluster.KindSwarm:
		old, _ := e.Old.(*cluster.Swarm)
		s, _ := e.New.(*cluster.Swarm)
		if old == nil || s == nil || old.Level != s.Level {
			return p.AllKeys(snap)
		}
	case cluster.KindNode:
		old, _ := e.Old.(*cluster.Node)
		n, _ := e.New.(*cluster.Node)
		if old == nil || n == nil || old.Level != n.Level || old.Spec.Role != n.Spec.Role {
			return p.AllKeys(snap)
		}
	}
	return nil
}

// AllKeys is the level.
func (Planner) AllKeys(*store.Snapshot) []reconcile.Key { return []reconcile.Key{key} }

// Plan raises the swarm's level to the lowest of its managers', those that are down among them: one that comes back must
// be able to read what was written. Where a level is held back it says by whom.
func (Planner) Plan(snap *store.Snapshot, _ reconcile.Key, _ reconcile.Env) reconcile.Plan {
	s := snap.Swarm()
	if s == nil {
		return reconcile.Plan{}
	}
	lowest, highest, who := 0, 0, ""
	for n := range store.List[*cluster.Node](snap) {
		if n.Spec.Role != swarm.NodeRoleManager && n.ManagerStatus == nil { // one that is being demoted still is a manager
			continue
		}
		if l := n.LevelOf(); lowest == 0 || l < lowest {
			lowest, who = l, n.Description.Hostname
		}
		highest = max(highest, n.LevelOf())
	}
	var p reconcile.Plan
	if lowest < highest {
		p.Reasons = []string{fmt.Sprintf("the swarm stays at feature level %d until manager %s has a newer version; others know level %d", max(lowest, s.LevelOf()), who, highest)}
	}
	switch next := cluster.Adopt(s); {
	case lowest > s.LevelOf():
		c := s.Clone().(*cluster.Swarm)
		c.Level = lowest
		p.Groups = []store.Group{{Why: fmt.Sprintf("every manager knows feature level %d", lowest), Changes: []store.Change{store.PutState(c)}}}
	case next != nil:
		p.Groups = []store.Group{{Why: "the swarm has this version's level", Changes: []store.Change{store.PutState(next)}}}
	}
	return p
}
