package agent

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
)

// hostPorts are the ports that the task's container publishes on the node, in the engine's terms.
func hostPorts(t *cluster.Task) (network.PortSet, network.PortMap, error) {
	if len(t.HostPorts) == 0 {
		return nil, nil, nil
	}
	exposed, bindings := network.PortSet{}, network.PortMap{}
	for _, p := range t.HostPorts {
		port, err := network.ParsePort(fmt.Sprintf("%d/%s", p.TargetPort, p.Protocol))
		if err != nil {
			return nil, nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid target port %d/%s: %s", p.TargetPort, p.Protocol, err))
		}
		b := network.PortBinding{}
		if p.PublishedPort != 0 {
			b.HostPort = strconv.FormatUint(uint64(p.PublishedPort), 10)
		}
		exposed[port] = struct{}{}
		bindings[port] = append(bindings[port], b)
	}
	return exposed, bindings, nil
}

// portStatus is what the node's ports are that lead to the task's container, in the order of their numbers.
func portStatus(t *cluster.Task, in *container.InspectResponse) swarm.PortStatus {
	var st swarm.PortStatus
	if len(t.HostPorts) == 0 || in.NetworkSettings == nil {
		return st
	}
	for port, bindings := range in.NetworkSettings.Ports {
		for _, b := range bindings {
			n, err := strconv.ParseUint(b.HostPort, 10, 16)
			if err != nil {
				continue
			}
			p := swarm.PortConfig{
				Protocol: port.Proto(), TargetPort: uint32(port.Num()), PublishedPort: uint32(n), PublishMode: swarm.PortConfigPublishModeHost,
			}
			if !slices.Contains(st.Ports, p) {
				st.Ports = append(st.Ports, p)
			}
		}
	}
	slices.SortFunc(st.Ports, swarm.PortConfig.Compare)
	return st
}
