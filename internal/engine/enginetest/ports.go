package enginetest

import (
	"fmt"
	"net/netip"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"shoal.dev/shoal/internal/engine"
)

func ports(s *suite) {
	web, dns, extra := network.MustParsePort("8080/tcp"), network.MustParsePort("53/udp"), network.MustParsePort("9999/tcp")
	bind := func(port string) []network.PortBinding { return []network.PortBinding{{HostPort: port}} }
	spec := func(name string, h container.HostConfig) engine.Spec {
		h.NetworkMode = "bridge"
		return engine.Spec{Name: name, Config: &container.Config{ExposedPorts: network.PortSet{extra: {}}}, HostConfig: &h}
	}
	published := func(id string) []container.PortSummary {
		s.Helper()
		list, err := s.Engine.List(s.ctx, engine.ListOptions{All: true, Filters: map[string][]string{"id": {id}}})
		if err != nil || len(list) != 1 {
			s.Fatalf("list: %+v, %v", list, err)
		}
		out := []container.PortSummary{}
		for _, p := range list[0].Ports {
			if p.PublicPort != 0 {
				out = append(out, p)
			}
		}
		return out
	}
	all := netip.IPv4Unspecified()
	id := s.create(spec("ports", container.HostConfig{PortBindings: network.PortMap{web: bind("28080"), dns: bind("28053")}}), "sleep")
	s.same("before the start", len(published(id)), 0)
	s.start(id)
	s.same("ps", fmt.Sprint(published(id)), fmt.Sprint([]container.PortSummary{
		{IP: all, PrivatePort: 53, PublicPort: 28053, Type: "udp"}, {IP: all, PrivatePort: 8080, PublicPort: 28080, Type: "tcp"}}))
	m := s.inspect(id).NetworkSettings.Ports
	if len(m[web]) != 1 || m[web][0].HostIP != all || m[web][0].HostPort != "28080" || len(m[dns]) != 1 {
		s.Errorf("inspect: %+v", m)
	}
	if b, shown := m[extra]; !shown || b != nil {
		s.Errorf("an exposed port: %v %v", b, shown)
	}
	if err := s.Engine.Kill(s.ctx, id, ""); err != nil {
		s.Fatal(err)
	}
	s.wait(id)
	s.same("after the end", len(published(id)), 0)

	id = s.create(spec("ports-all", container.HostConfig{PublishAllPorts: true}), "sleep")
	s.start(id)
	if len(s.inspect(id).NetworkSettings.Ports[extra]) != 1 {
		s.Errorf("all ports: %+v", s.inspect(id).NetworkSettings.Ports)
	}

	id = s.create(spec("ports-taken", container.HostConfig{PortBindings: network.PortMap{web: bind("666")}}), "sleep")
	s.refused(s.Engine.Start(s.ctx, id), errdefs.IsConflict, "port is already allocated")
	i := s.inspect(id)
	s.same("after a refused start", []any{i.State.Running, string(i.State.Status), i.State.ExitCode}, []any{false, "created", 128})

	id = s.create(spec("ports-gone", container.HostConfig{AutoRemove: true, PortBindings: network.PortMap{web: bind("666")}}), "sleep")
	removed, err := s.Engine.Wait(s.ctx, id, container.WaitConditionRemoved)
	if err != nil {
		s.Fatal(err)
	}
	s.refused(s.Engine.Start(s.ctx, id), errdefs.IsConflict, "port is already allocated")
	s.result(removed) // a client waits for this before it ends
	_, err = s.Engine.Inspect(s.ctx, id)
	s.refused(err, errdefs.IsNotFound, "No such container")

	h := container.HostConfig{NetworkMode: "none", PortBindings: network.PortMap{web: bind("666")}}
	s.start(s.create(engine.Spec{HostConfig: &h}, "sleep")) // no network, no ports
}
