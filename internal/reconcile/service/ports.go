package service

import (
	"slices"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/store"
)

// fitsBeside says whether the new task can start while the old one runs, as far as the ports go that it publishes on its
// node. If no node that is for it has them free, it never can, so that the old one has to stop first whatever the order.
func (pl *plan) fitsBeside(t, old *cluster.Task) bool {
	ports, held := cluster.FixedHostPorts(t.HostPorts), old.NodePorts()
	if !slices.ContainsFunc(ports, func(p cluster.HostPort) bool { return slices.Contains(held, p) }) {
		return true
	}
	if t.Global {
		return false
	}
	for n := range store.List[*cluster.Node](pl.snap) {
		if n.Status.State == swarm.NodeStateReady && n.Spec.Availability == swarm.NodeAvailabilityActive &&
			pl.meets(t.Spec.Placement, n) && pl.portsFree(n.ID, ports) {
			return true
		}
	}
	return false
}

func (pl *plan) portsFree(node string, ports []cluster.HostPort) bool {
	for t := range pl.snap.TasksByNode(node) {
		if t.Ended() {
			continue
		}
		if slices.ContainsFunc(t.NodePorts(), func(p cluster.HostPort) bool { return slices.Contains(ports, p) }) {
			return false
		}
	}
	return true
}
