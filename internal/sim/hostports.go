package sim

import (
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/store"
)

// hostPort is a port that a service publishes on its tasks' nodes: few, so that services get into each other's way, and
// none that the routing mesh has.
func hostPort(n uint32) swarm.PortConfig {
	return swarm.PortConfig{Protocol: "tcp", TargetPort: 80, PublishedPort: 9000 + n, PublishMode: swarm.PortConfigPublishModeHost}
}

// hostPorts lets a new service publish a port on its tasks' nodes.
func (w *world) hostPorts(s *cluster.Service) {
	s.Spec.EndpointSpec = &swarm.EndpointSpec{Ports: []swarm.PortConfig{hostPort(uint32(w.rng.IntN(3)))}}
}

// samePorts says whether the task publishes what the service says; the services here have one port at most.
func samePorts(s *cluster.Service, t *cluster.Task) bool {
	var want, have uint32
	if e := s.Spec.EndpointSpec; e != nil && e.Ports[0].PublishMode == swarm.PortConfigPublishModeHost {
		want = e.Ports[0].PublishedPort
	}
	if len(t.HostPorts) > 0 {
		have = t.HostPorts[0].PublishedPort
	}
	return want == have
}

// sharePort says whether two tasks publish one port; written apart from package placement on purpose.
func sharePort(a, b *cluster.Task) bool {
	return len(a.HostPorts) > 0 && len(b.HostPorts) > 0 && a.HostPorts[0].PublishedPort == b.HostPorts[0].PublishedPort
}

// inTheWay says whether a task's successor may have had to wait for it because of the port that both publish: every node
// that could take the successor has a task with the port.
func inTheWay(snap *store.Snapshot, s *cluster.Service, t *cluster.Task) bool {
	if len(t.HostPorts) == 0 || !samePorts(s, t) {
		return false
	}
	if t.Global {
		return true
	}
	for n := range store.List[*cluster.Node](snap) {
		if !nodeReady(n) || n.Spec.Availability != swarm.NodeAvailabilityActive || !meets(n, s.Spec.TaskTemplate.Placement) {
			continue
		}
		free := true
		for o := range snap.TasksByNode(n.ID) {
			free = free && (o.Ended() || !sharePort(o, t))
		}
		if free {
			return false
		}
	}
	return true
}
