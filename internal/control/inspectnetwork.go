package control

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"

	apinetwork "github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/store"
)

// Network returns a network of the swarm, by name or ID, with the nodes that have a part of it. With verbose, it has the
// services that are on it, with their virtual addresses and their tasks.
func (c *Control) Network(ctx context.Context, ref string, verbose bool) (*apinetwork.Inspect, error) {
	_, snap, err := c.read(ctx)
	if err != nil {
		return nil, err
	}
	n, err := find(snap, "network", ref, networkName)
	if err != nil {
		return nil, err
	}
	out := inspectNetwork(n)
	out.Peers = []apinetwork.PeerInfo{}
	if verbose {
		out.Services = map[string]apinetwork.ServiceInfo{}
		for s := range store.List[*cluster.Service](snap) {
			if i := serviceOn(s, n.ID); i != nil {
				out.Services[s.Spec.Name] = *i
			}
		}
	}
	for t := range snap.AttachedTasks() {
		addr := t.Address(n.ID)
		node, ok := store.Get[*cluster.Node](snap, t.NodeID)
		if !addr.IsValid() || !ok {
			continue
		}
		host, _ := netip.ParseAddr(node.Status.Addr)
		p := apinetwork.PeerInfo{Name: node.Description.Hostname + "-" + node.ID[:min(12, len(node.ID))], IP: host}
		if !slices.Contains(out.Peers, p) {
			out.Peers = append(out.Peers, p)
		}
		if i, ok := out.Services[t.ServiceName]; ok && t.Status.State == swarm.TaskStateRunning {
			i.Tasks = append(i.Tasks, apinetwork.Task{Name: taskName(t), EndpointID: t.ID, EndpointIP: addr, Info: map[string]string{"Host IP": node.Status.Addr}})
			out.Services[t.ServiceName] = i
		}
	}
	slices.SortFunc(out.Peers, func(a, b apinetwork.PeerInfo) int { return cmp.Compare(a.Name, b.Name) })
	return &out, nil
}

// serviceOn is what a service is on a network, without its tasks; nil if it is not on it.
func serviceOn(s *cluster.Service, networkID string) *apinetwork.ServiceInfo {
	if !slices.Contains(cluster.Targets(&s.Spec.TaskTemplate), networkID) {
		return nil
	}
	out := &apinetwork.ServiceInfo{Ports: []string{}, Tasks: []apinetwork.Task{}}
	for _, v := range s.Endpoint.VirtualIPs {
		if v.NetworkID == networkID {
			out.VIP = v.Addr.Addr()
		}
	}
	for _, p := range s.Endpoint.Ports {
		out.Ports = append(out.Ports, fmt.Sprintf("Target: %d, Publish: %d", p.TargetPort, p.PublishedPort))
	}
	return out
}
