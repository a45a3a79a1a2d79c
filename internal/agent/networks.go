package agent

import (
	"net/netip"
	"slices"

	"github.com/moby/moby/api/types/container"
	apinetwork "github.com/moby/moby/api/types/network"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/network"
)

// meshAddr is the task's address on the routing mesh: the one on no network that its specification names.
func meshAddr(t *cluster.Task) netip.Addr {
	targets := cluster.Targets(&t.Spec)
	for _, a := range t.NetworksAttachments {
		if len(a.Addresses) > 0 && !slices.Contains(targets, a.Network.ID) {
			return a.Addresses[0].Addr()
		}
	}
	return netip.Addr{}
}

// join puts a task's container on its networks, with the addresses that the swarm gave it. Beside them it is on the
// host's network bridge, which is its way out, unless all of them lead nowhere else.
func join(t *cluster.Task, s *engine.Spec, overlays []*network.Overlay) {
	internal := !s.Ingress.IsValid()
	first := ""
	for _, id := range cluster.Targets(&t.Spec) {
		addr := t.Address(id)
		if !addr.IsValid() {
			continue
		}
		if s.Networks == nil {
			s.Networks = map[string]*apinetwork.EndpointSettings{}
		}
		e := &apinetwork.EndpointSettings{IPAMConfig: &apinetwork.EndpointIPAMConfig{IPv4Address: addr}}
		for _, n := range t.Spec.Networks {
			if n.Target == id {
				e.Aliases = slices.Clone(n.Aliases)
			}
		}
		s.Networks[id] = e
		i := slices.IndexFunc(overlays, func(o *network.Overlay) bool { return o.ID == id })
		internal = internal && i >= 0 && overlays[i].Internal
		if first == "" {
			first = id
		}
	}
	if first != "" && internal {
		s.HostConfig.NetworkMode = container.NetworkMode(first)
	}
}

// networks are those that the node knows at the moment.
func (a *Agent) networks() []*network.Overlay {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.overlays
}

// Network is what the node's network is to be, and why the kernel does not hold it; nil if it does or is about to.
func (a *Agent) Network() (network.Desired, error) {
	a.net.mu.Lock()
	defer a.net.mu.Unlock()
	return a.net.want, a.net.state.err
}
