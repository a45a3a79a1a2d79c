package placement

import (
	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/store"
)

// notAllowed is why no node takes a task that asks for more than the swarm gives services any more.
const notAllowed = "devices and privileges are not allowed in this swarm, see swarm update --allow-privileged"

// forbidden says whether the swarm gives the task what it asks for of its node.
func forbidden(snap *store.Snapshot, t *cluster.Task) bool {
	return t.Access != nil && !cluster.AllowsAccess(snap.Swarm())
}

// allows says whether an event of the swarm's settings lets tasks in that were forbidden.
func allows(e store.Event) bool {
	old, _ := e.Old.(*cluster.Swarm)
	s, _ := e.New.(*cluster.Swarm)
	return cluster.AllowsAccess(old) != cluster.AllowsAccess(s)
}
