package enginetest

import (
	"net/netip"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"shoal.dev/shoal/internal/engine"
)

// join is containers that use the namespaces of others.
func join(s *suite) {
	donor := s.create(engine.Spec{Name: "donor", HostConfig: &container.HostConfig{IpcMode: container.IPCModeShareable}}, "sleep")
	private := s.create(engine.Spec{Name: "private"}, "sleep")
	guest := func(h container.HostConfig) string { return s.create(engine.Spec{HostConfig: &h}, "sleep") }
	net := guest(container.HostConfig{NetworkMode: "container:donor"})
	pid := guest(container.HostConfig{PidMode: "container:donor"})
	ipc := guest(container.HostConfig{IpcMode: "container:donor"})
	closed := guest(container.HostConfig{IpcMode: "container:private"})
	h := s.inspect(net).HostConfig
	s.same("the mode names the ID", string(h.NetworkMode), "container:"+donor)
	s.refused(s.Engine.Start(s.ctx, net), errdefs.IsConflict, "cannot join network namespace of a non running container: container donor is created")
	s.refused(s.Engine.Start(s.ctx, pid), errdefs.IsConflict, "failed to join PID namespace: container "+donor+" is not running")
	s.refused(s.Engine.Start(s.ctx, ipc), errdefs.IsConflict, "failed to join IPC namespace: container "+donor+" is not running")
	s.start(donor)
	s.start(private)
	if err := s.Engine.Rename(s.ctx, donor, "renamed"); err != nil {
		s.Fatal(err)
	}
	for _, id := range []string{net, pid, ipc} {
		s.start(id)
	}
	s.same("networks of its own", len(s.inspect(net).NetworkSettings.Networks), 0)
	s.refused(s.Engine.Start(s.ctx, closed), errdefs.IsInvalidArgument, "non-shareable IPC (hint: use IpcMode:shareable for the donor container)")

	for _, h := range []container.HostConfig{{PidMode: "container:nobody"}, {IpcMode: "container:nobody"}} {
		h.NetworkMode = "none"
		_, _, err := s.Engine.Create(s.ctx, engine.Spec{Config: &container.Config{Image: s.Image}, HostConfig: &h})
		s.refused(err, errdefs.IsNotFound, "No such container: nobody")
	}
	orphan := guest(container.HostConfig{NetworkMode: "container:nobody"})
	s.refused(s.Engine.Start(s.ctx, orphan), errdefs.IsInternal, "joining network namespace of container: No such container: nobody")
}

// badOptions is what no host can give.
func badOptions(s *suite) {
	port := network.MustParsePort("80/tcp")
	joined := container.HostConfig{NetworkMode: "container:x"}
	for name, test := range map[string]struct {
		c     container.Config
		h     container.HostConfig
		words string
	}{
		"no container":       {h: container.HostConfig{NetworkMode: "container:"}, words: "invalid network mode: invalid container format container:<name|id>"},
		"joined hostname":    {c: container.Config{Hostname: "h"}, h: joined, words: "conflicting options: hostname and the network mode"},
		"joined links":       {h: container.HostConfig{NetworkMode: "container:x", Links: []string{"a"}}, words: "conflicting options: container type network can't be used with links"},
		"joined dns":         {h: container.HostConfig{NetworkMode: "container:x", DNS: []netip.Addr{netip.IPv6Loopback()}}, words: "conflicting options: dns and the network mode"},
		"joined hosts":       {h: container.HostConfig{NetworkMode: "container:x", ExtraHosts: []string{"a:1.2.3.4"}}, words: "conflicting options: custom host-to-IP mapping and the network mode"},
		"joined publishing":  {h: container.HostConfig{NetworkMode: "container:x", PublishAllPorts: true}, words: "conflicting options: port publishing and the container type network mode"},
		"joined exposing":    {c: container.Config{ExposedPorts: network.PortSet{port: {}}}, h: joined, words: "conflicting options: port exposing and the container type network mode"},
		"host name":          {c: container.Config{Hostname: "h"}, h: container.HostConfig{UTSMode: "host"}, words: "conflicting options: hostname and the UTS mode"},
		"long name":          {c: container.Config{Hostname: strings.Repeat("h", 65)}, words: "is too long (maximum 64 bytes)"},
		"ipc":                {h: container.HostConfig{IpcMode: "some"}, words: "invalid IPC mode: some"},
		"pid":                {h: container.HostConfig{PidMode: "some"}, words: "invalid PID mode: some"},
		"uts":                {h: container.HostConfig{UTSMode: "container:x"}, words: "invalid UTS mode: container:x"},
		"cgroupns":           {h: container.HostConfig{CgroupnsMode: "some"}, words: "invalid cgroup namespace mode: some"},
		"userns":             {h: container.HostConfig{UsernsMode: "some"}, words: "invalid user namespace mode: some"},
		"isolation":          {h: container.HostConfig{Isolation: "hyperv"}, words: "invalid isolation (hyperv): linux only supports 'default'"},
		"storage":            {h: container.HostConfig{StorageOpt: map[string]string{"size": "1G"}}, words: "--storage-opt is supported only for overlay over xfs with 'pquota' mount option"},
		"shares":             {h: container.HostConfig{Resources: container.Resources{CPUShares: -1}}, words: "invalid CPU shares (-1): value must be a positive integer"},
		"score":              {h: container.HostConfig{OomScoreAdj: 1001}, words: "Invalid value 1001, range for oom score adj is [-1000, 1000]"},
		"shm":                {h: container.HostConfig{ShmSize: -1}, words: "SHM size can not be less than 0"},
		"bandwidth":          {h: container.HostConfig{Resources: container.Resources{IOMaximumBandwidth: 1}}, words: "QoS maximum bandwidth configuration is not supported on linux"},
		"annotation":         {h: container.HostConfig{Annotations: map[string]string{"": "x"}}, words: "the empty string is not permitted as an annotation key"},
		"host without colon": {h: container.HostConfig{ExtraHosts: []string{"a"}}, words: `bad format for add-host: "a"`},
		"host without ip":    {h: container.HostConfig{ExtraHosts: []string{"a:b"}}, words: `invalid IP address in add-host: "b"`},
	} {
		test.c.Image = s.Image
		if test.h.NetworkMode == "" {
			test.h.NetworkMode = "none"
		}
		_, _, err := s.Engine.Create(s.ctx, engine.Spec{Config: &test.c, HostConfig: &test.h})
		if err == nil || !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), test.words) {
			s.Errorf("%s: %v; want %q", name, err, test.words)
		}
	}
}
