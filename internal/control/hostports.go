package control

import (
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/store"
)

// checkHostPorts refuses a port that one service publishes on the routing mesh, thus on every node, and another one in
// host mode. Several services may publish one port in host mode: placement keeps their tasks apart. Like Swarm's this
// check is no claim: of two services that come at the same instant both may be let in, and their nodes refuse the port
// to the tasks of one.
func checkHostPorts(snap *store.Snapshot, s *cluster.Service) error {
	mesh := map[cluster.HostPort]bool{}
	for _, p := range endpointSpec(s.Spec).Ports {
		k := cluster.HostPort{Protocol: protocol(p), Port: p.PublishedPort}
		if p.PublishedPort == 0 {
			continue
		}
		if p.PublishMode != swarm.PortConfigPublishModeHost {
			mesh[k] = true
			continue
		}
		cl, ok := store.Get[*cluster.Claim](snap, cluster.ClaimPort(k.Protocol, k.Port))
		if ok && cl.Owner != s.ID {
			return invalid("port '%d' is already in use by service '%s' (%s) as an ingress port", k.Port, cl.OwnerName, cl.Owner)
		}
	}
	if len(mesh) == 0 {
		return nil
	}
	for o := range store.List[*cluster.Service](snap) {
		if o.ID == s.ID {
			continue
		}
		for _, k := range cluster.FixedHostPorts(endpointSpec(o.Spec).Ports) {
			if mesh[k] {
				return invalid("port '%d' is already in use by service '%s' (%s) as a host-published port", k.Port, o.Spec.Name, o.ID)
			}
		}
	}
	return nil
}
