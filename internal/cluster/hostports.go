package cluster

import (
	"cmp"
	"reflect"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/swarm"
)

// HostPort is a port of a node, whichever of its addresses.
type HostPort struct {
	Protocol string // "tcp", "udp" or "sctp"
	Port     uint32
}

// HostPorts are the ports that an endpoint publishes in host mode: on the node of each task. A published port of 0 is
// left to the node.
func HostPorts(e *swarm.EndpointSpec) []swarm.PortConfig {
	if e == nil {
		return nil
	}
	var out []swarm.PortConfig
	for _, p := range e.Ports {
		if p.PublishMode == swarm.PortConfigPublishModeHost {
			p.Protocol = network.IPProtocol(protocolOf(p))
			out = append(out, p)
		}
	}
	return out
}

// FixedHostPorts are those of the ports that name the node's.
func FixedHostPorts(ports []swarm.PortConfig) []HostPort {
	var out []HostPort
	for _, p := range ports {
		if p.PublishMode == swarm.PortConfigPublishModeHost && p.PublishedPort != 0 {
			out = append(out, HostPort{protocolOf(p), p.PublishedPort})
		}
	}
	return out
}

// NodePorts are the ports that the task takes of its node, as far as they are known: those that it asks for and those
// that the node chose.
func (t *Task) NodePorts() []HostPort {
	fixed := FixedHostPorts(t.HostPorts)
	for _, p := range FixedHostPorts(t.Status.PortStatus.Ports) {
		if !slices.Contains(fixed, p) {
			fixed = append(fixed, p)
		}
	}
	return fixed
}

// Follows says whether the task is what the service says: of its template, with the ports that it publishes in host mode
// and what it is given of its node.
func (t *Task) Follows(s *Service) bool {
	return t.SpecVersion == s.Version.Index ||
		reflect.DeepEqual(t.Spec, s.Spec.TaskTemplate) && slices.Equal(t.HostPorts, HostPorts(s.Spec.EndpointSpec)) &&
			reflect.DeepEqual(t.Access, AccessOf(s))
}

// protocolOf is the port's protocol; the API's default is TCP.
func protocolOf(p swarm.PortConfig) string { return cmp.Or(strings.ToLower(string(p.Protocol)), "tcp") }
