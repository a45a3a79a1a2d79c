package agent

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
)

func hostPort(protocol network.IPProtocol, target, published uint32) swarm.PortConfig {
	return swarm.PortConfig{Protocol: protocol, TargetPort: target, PublishedPort: published, PublishMode: swarm.PortConfigPublishModeHost}
}

func TestHostPorts(t *testing.T) {
	k := &cluster.Task{HostPorts: []swarm.PortConfig{hostPort("tcp", 80, 8080), hostPort("tcp", 80, 8081), hostPort("udp", 53, 0)}}
	k.Spec.ContainerSpec = &swarm.ContainerSpec{Image: "hello:1"}
	s, err := containerSpec(k, "n1")
	if err != nil {
		t.Fatal(err)
	}
	web, dns := network.MustParsePort("80/tcp"), network.MustParsePort("53/udp")
	want := map[string][]string{"80/tcp": {"8080", "8081"}, "53/udp": {""}}
	got := map[string][]string{}
	for p, bindings := range s.HostConfig.PortBindings {
		for _, b := range bindings {
			got[p.String()] = append(got[p.String()], b.HostPort)
		}
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if _, ok := s.Config.ExposedPorts[dns]; !ok || len(s.Config.ExposedPorts) != 2 {
		t.Errorf("exposed: %v", s.Config.ExposedPorts)
	}
	in := &container.InspectResponse{NetworkSettings: &container.NetworkSettings{Ports: network.PortMap{
		web: {{HostPort: "8081"}, {HostPort: "8080"}}, dns: {{HostPort: "32768"}}, network.MustParsePort("443/tcp"): nil,
	}}}
	ports := []swarm.PortConfig{hostPort("tcp", 80, 8080), hostPort("tcp", 80, 8081), hostPort("udp", 53, 32768)}
	if d := cmp.Diff(ports, portStatus(k, in).Ports); d != "" {
		t.Error(d)
	}
	k.HostPorts = nil
	if st := portStatus(k, in); st.Ports != nil {
		t.Errorf("a task that publishes nothing has %v", st)
	}
}

func TestAccess(t *testing.T) {
	k := &cluster.Task{}
	k.Spec.ContainerSpec = &swarm.ContainerSpec{Image: "hello:1"}
	s, err := containerSpec(k, "n1")
	if err != nil || s.HostConfig.Privileged || s.HostConfig.Devices != nil {
		t.Fatalf("without labels: %+v, %v", s.HostConfig, err)
	}
	k.Access = &cluster.Access{Privileged: true, Devices: []container.DeviceMapping{{PathOnHost: "/dev/a", PathInContainer: "/dev/b", CgroupPermissions: "r"}}}
	if s, err = containerSpec(k, "n1"); err != nil || !s.HostConfig.Privileged {
		t.Fatalf("privileged: %+v, %v", s.HostConfig, err)
	}
	if d := cmp.Diff(k.Access.Devices, s.HostConfig.Devices); d != "" {
		t.Error(d)
	}
}
