package agent

import (
	"context"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/engine"
)

func TestContainerSpec(t *testing.T) {
	grace, pids, swap, yes, swappiness := 1500*time.Millisecond, int64(9), int64(1<<20), true, int64(10)
	unlimited := int64(-1)
	bind := mount.Mount{Type: mount.TypeBind, Source: "/srv", Target: "/data", ReadOnly: true}
	tmp := mount.Mount{Type: mount.TypeTmpfs, Target: "/tmp", TmpfsOptions: &mount.TmpfsOptions{SizeBytes: 1 << 20}}
	for _, tc := range []struct {
		name string
		edit func(*cluster.Task, *swarm.ContainerSpec)
		want func(*engine.Spec)
	}{
		{"plain", func(*cluster.Task, *swarm.ContainerSpec) {}, func(*engine.Spec) {}},
		{"global", func(t *cluster.Task, _ *swarm.ContainerSpec) { t.Slot = 0 }, func(s *engine.Spec) {
			s.Name = "web.n1.t1"
			s.Config.Labels["com.docker.swarm.task.name"] = "web.n1.t1"
		}},
		{"what to run", func(_ *cluster.Task, c *swarm.ContainerSpec) {
			c.Command, c.Args, c.Env, c.Dir, c.User, c.Groups = []string{"/hello"}, []string{"-v"}, []string{"A=1"}, "/d", "1:2", []string{"3"}
			c.Hostname, c.TTY, c.OpenStdin, c.StopSignal, c.Init = "h", true, true, "SIGINT", &yes
		}, func(s *engine.Spec) {
			s.Config.Entrypoint, s.Config.Cmd, s.Config.Env = []string{"/hello"}, []string{"-v"}, []string{"A=1"}
			s.Config.WorkingDir, s.Config.User, s.HostConfig.GroupAdd = "/d", "1:2", []string{"3"}
			s.Config.Hostname, s.Config.Tty, s.Config.OpenStdin, s.Config.StopSignal, s.HostConfig.Init = "h", true, true, "SIGINT", &yes
		}},
		{"a user's label never hides ours", func(_ *cluster.Task, c *swarm.ContainerSpec) {
			c.Labels = map[string]string{"x": "y", "com.docker.swarm.task.id": "other"}
		}, func(s *engine.Spec) { s.Config.Labels["x"] = "y" }},
		{"the host's network", func(t *cluster.Task, _ *swarm.ContainerSpec) {
			t.Spec.Networks = []swarm.NetworkAttachmentConfig{{Target: cluster.HostNetwork}}
		}, func(s *engine.Spec) { s.HostConfig.NetworkMode = "host" }},
		{"grace period", func(_ *cluster.Task, c *swarm.ContainerSpec) { c.StopGracePeriod = &grace }, func(s *engine.Spec) {
			two := 2
			s.Config.StopTimeout = &two
		}},
		{"limits", func(t *cluster.Task, _ *swarm.ContainerSpec) {
			t.Spec.Resources = &swarm.ResourceRequirements{
				Limits:       &swarm.Limit{NanoCPUs: 5e8, MemoryBytes: 1 << 26, Pids: 9},
				Reservations: &swarm.Resources{MemoryBytes: 1 << 25},
				SwapBytes:    &swap, MemorySwappiness: &swappiness,
			}
		}, func(s *engine.Spec) {
			s.HostConfig.NanoCPUs, s.HostConfig.Memory, s.HostConfig.PidsLimit = 5e8, 1<<26, &pids
			s.HostConfig.MemorySwap, s.HostConfig.MemorySwappiness = 1<<26+1<<20, &swappiness
		}},
		{"swap without end", func(t *cluster.Task, _ *swarm.ContainerSpec) {
			t.Spec.Resources = &swarm.ResourceRequirements{Limits: &swarm.Limit{MemoryBytes: 1 << 26}, SwapBytes: &unlimited}
		}, func(s *engine.Spec) { s.HostConfig.Memory, s.HostConfig.MemorySwap = 1<<26, -1 }},
		{"mounts", func(_ *cluster.Task, c *swarm.ContainerSpec) { c.Mounts, c.ReadOnly = []mount.Mount{bind, tmp}, true },
			func(s *engine.Spec) {
				s.HostConfig.Mounts, s.HostConfig.ReadonlyRootfs = []mount.Mount{bind, tmp}, true
			}},
		{"security", func(_ *cluster.Task, c *swarm.ContainerSpec) {
			c.CapabilityAdd, c.CapabilityDrop = []string{"NET_ADMIN"}, []string{"ALL"}
			c.Sysctls = map[string]string{"net.core.somaxconn": "9"}
			c.Ulimits = []*container.Ulimit{{Name: "nofile", Soft: 1, Hard: 2}}
			c.OomScoreAdj = 5
			c.Privileges = &swarm.Privileges{
				NoNewPrivileges: true, Seccomp: &swarm.SeccompOpts{Mode: swarm.SeccompModeUnconfined},
				AppArmor:       &swarm.AppArmorOpts{Mode: swarm.AppArmorModeDisabled},
				SELinuxContext: &swarm.SELinuxContext{User: "u", Level: "l"},
			}
		}, func(s *engine.Spec) {
			s.HostConfig.CapAdd, s.HostConfig.CapDrop = []string{"NET_ADMIN"}, []string{"ALL"}
			s.HostConfig.Sysctls = map[string]string{"net.core.somaxconn": "9"}
			s.HostConfig.Ulimits = []*container.Ulimit{{Name: "nofile", Soft: 1, Hard: 2}}
			s.HostConfig.OomScoreAdj = 5
			s.HostConfig.SecurityOpt = []string{"no-new-privileges=true", "seccomp=unconfined", "apparmor=unconfined", "label=user:u", "label=level:l"}
		}},
		{"names", func(_ *cluster.Task, c *swarm.ContainerSpec) {
			c.Hosts = []string{"10.1.1.1 db db.local", "::1 six"}
			c.DNSConfig = &swarm.DNSConfig{Nameservers: []netip.Addr{netip.MustParseAddr("9.9.9.9")}, Search: []string{"x"}, Options: []string{"ndots:1"}}
		}, func(s *engine.Spec) {
			s.HostConfig.ExtraHosts = []string{"db:10.1.1.1", "db.local:10.1.1.1", "six:::1"}
			s.HostConfig.DNS, s.HostConfig.DNSSearch, s.HostConfig.DNSOptions = []netip.Addr{netip.MustParseAddr("9.9.9.9")}, []string{"x"}, []string{"ndots:1"}
		}},
		{"on the mesh", func(t *cluster.Task, _ *swarm.ContainerSpec) {
			t.NetworksAttachments = []swarm.NetworkAttachment{{}, {Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.7/24")}}}
		}, func(s *engine.Spec) { s.Ingress = netip.MustParseAddr("10.0.0.7") }},
		{"log driver", func(t *cluster.Task, _ *swarm.ContainerSpec) {
			t.Spec.LogDriver = &swarm.Driver{Name: "json-file", Options: map[string]string{"max-size": "1m"}}
		}, func(s *engine.Spec) {
			s.HostConfig.LogConfig = container.LogConfig{Type: "json-file", Config: map[string]string{"max-size": "1m"}}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			task := &cluster.Task{ServiceName: "web"}
			task.ID, task.ServiceID, task.Slot, task.NodeID = "t1", "svc", 3, "n1"
			task.Spec.ContainerSpec = &swarm.ContainerSpec{Image: "hello:1"}
			tc.edit(task, task.Spec.ContainerSpec)
			want := engine.Spec{
				Name: "web.3.t1",
				Config: &container.Config{Image: "hello:1", Labels: map[string]string{
					"com.docker.swarm.task": "", "com.docker.swarm.task.id": "t1", "com.docker.swarm.task.name": "web.3.t1",
					"com.docker.swarm.service.id": "svc", "com.docker.swarm.service.name": "web", "com.docker.swarm.node.id": "n1",
				}},
				HostConfig: &container.HostConfig{},
			}
			tc.want(&want)
			got, err := containerSpec(task, "n1")
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSlots(1)
		if err := s.acquire(t.Context(), false); err != nil {
			t.Fatal(err)
		}
		var order []string
		wait := func(ctx context.Context, name string, urgent bool) {
			go func() {
				if err := s.acquire(ctx, urgent); err != nil {
					return
				}
				order = append(order, name)
				s.release()
			}()
			synctest.Wait()
		}
		gone, cancel := context.WithCancel(t.Context())
		wait(t.Context(), "create 1", false)
		wait(gone, "create 2", false)
		wait(t.Context(), "start 1", true)
		wait(t.Context(), "start 2", true)
		cancel()
		synctest.Wait()
		s.release()
		synctest.Wait()
		if d := cmp.Diff([]string{"start 1", "start 2", "create 1"}, order); d != "" {
			t.Error(d)
		}
		if s.free != 1 {
			t.Errorf("%d slots are free at the end", s.free)
		}
	})
}

func TestReportNeverGoesBack(t *testing.T) {
	task := &cluster.Task{}
	task.ID = "a"
	later := time.Now().Add(time.Hour)
	task.Status = swarm.TaskStatus{State: swarm.TaskStateReady, Timestamp: later}
	a := New(Config{})
	r := newRunner(a, task, 1, "")
	r.report(swarm.TaskStatePreparing, "preparing", "", nil)
	if r.status.State != swarm.TaskStateReady || len(a.out.batch()) != 0 {
		t.Errorf("the state went back: %+v", r.status)
	}
	// A manager takes news of the same state only with a later time, also from a clock that was set back.
	r.report(swarm.TaskStateReady, "prepared", "", nil)
	if r.status.Message != "prepared" || !r.status.Timestamp.After(later) {
		t.Errorf("the time went back: %+v", r.status)
	}
	r.discard()
	r.report(swarm.TaskStateRunning, "started", "", nil)
	if r.status.State != swarm.TaskStateReady {
		t.Errorf("a task without a record was reported: %+v", r.status)
	}
}
