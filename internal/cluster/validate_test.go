package cluster_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
)

func ptr[T any](v T) *T { return &v }

// spec is a valid specification, changed.
func spec(change ...func(*swarm.ServiceSpec)) swarm.ServiceSpec {
	s := swarm.ServiceSpec{}
	s.Name = "web"
	s.TaskTemplate.ContainerSpec = &swarm.ContainerSpec{Image: "hello:1"}
	s.TaskTemplate.Resources = &swarm.ResourceRequirements{Limits: &swarm.Limit{}, Reservations: &swarm.Resources{}}
	s.TaskTemplate.RestartPolicy = &swarm.RestartPolicy{}
	s.TaskTemplate.Placement = &swarm.Placement{}
	s.Mode.Replicated = &swarm.ReplicatedService{Replicas: ptr(uint64(2))}
	s.UpdateConfig = &swarm.UpdateConfig{}
	s.EndpointSpec = &swarm.EndpointSpec{Ports: []swarm.PortConfig{{Protocol: "tcp", TargetPort: 80, PublishedPort: 8080}}}
	for _, f := range change {
		f(&s)
	}
	return s
}

func TestValidateServiceSpec(t *testing.T) {
	type S = swarm.ServiceSpec
	ports := func(p ...swarm.PortConfig) func(*S) { return func(s *S) { s.EndpointSpec.Ports = p } }
	mounts := func(m ...mount.Mount) func(*S) { return func(s *S) { s.TaskTemplate.ContainerSpec.Mounts = m } }
	tests := []struct {
		name   string
		change func(*S)
		want   string // "" is valid
	}{
		{"valid", func(*S) {}, ""},
		{"minimal", func(s *S) {
			*s = swarm.ServiceSpec{Annotations: swarm.Annotations{Name: "a"}, TaskTemplate: swarm.TaskSpec{ContainerSpec: &swarm.ContainerSpec{Image: "x"}}}
		}, ""},
		{"no name", func(s *S) { s.Name = "" }, "meta: name must be provided"},
		{"space in the name", func(s *S) { s.Name = "a b" }, "name must be valid as a DNS name component"},
		{"name ends with a dash", func(s *S) { s.Name = "a-" }, "name must be valid as a DNS name component"},
		{"long name", func(s *S) { s.Name = strings.Repeat("a", 64) }, "name must be 63 characters or fewer"},
		{"longest name", func(s *S) { s.Name = strings.Repeat("a", 63) }, ""},
		{"no container", func(s *S) { s.TaskTemplate.ContainerSpec = nil }, "mismatched Runtime and *Spec fields"},
		{"unknown runtime", func(s *S) { s.TaskTemplate.Runtime = "vm" }, "unsupported runtime"},
		{"no image", func(s *S) { s.TaskTemplate.ContainerSpec.Image = "" }, "ContainerSpec: image reference must be provided"},
		{"bad image", func(s *S) { s.TaskTemplate.ContainerSpec.Image = "Not A Name" }, `ContainerSpec: "Not A Name" is not a valid repository/tag`},
		{"digest", func(s *S) { s.TaskTemplate.ContainerSpec.Image = "hello:1@sha256:" + strings.Repeat("a", 64) }, ""},
		{"named generic resource", func(s *S) {
			s.TaskTemplate.Resources.Reservations.GenericResources = []swarm.GenericResource{{NamedResourceSpec: &swarm.NamedGenericResource{Kind: "gpu", Value: "UUID1"}}}
		}, "invalid argument for resource gpu"},
		{"negative generic resource", func(s *S) {
			s.TaskTemplate.Resources.Reservations.GenericResources = []swarm.GenericResource{{DiscreteResourceSpec: &swarm.DiscreteGenericResource{Kind: "gpu", Value: -1}}}
		}, "invalid argument for resource gpu"},
		{"empty generic resource", func(s *S) {
			s.TaskTemplate.Resources.Reservations.GenericResources = []swarm.GenericResource{{}}
		}, "invalid argument for resource: it has no kind"},
		{"generic resource", func(s *S) {
			s.TaskTemplate.Resources.Reservations.GenericResources = []swarm.GenericResource{{DiscreteResourceSpec: &swarm.DiscreteGenericResource{Kind: "gpu", Value: 1}}}
		}, ""},
		{"two modes", func(s *S) { s.Mode.Global = &swarm.GlobalService{} }, "must specify only one service mode"},
		{"negative replicas", func(s *S) { s.Mode.Replicated.Replicas = ptr(^uint64(0)) }, "Number of replicas must be non-negative"},
		{"zero replicas", func(s *S) { s.Mode.Replicated.Replicas = ptr(uint64(0)) }, ""},
		{"negative concurrency", func(s *S) {
			s.UpdateConfig, s.Mode = nil, swarm.ServiceMode{ReplicatedJob: &swarm.ReplicatedJob{MaxConcurrent: ptr(^uint64(0))}}
		}, "Maximum concurrent jobs must not be negative"},
		{"negative completions", func(s *S) {
			s.UpdateConfig, s.Mode = nil, swarm.ServiceMode{ReplicatedJob: &swarm.ReplicatedJob{TotalCompletions: ptr(^uint64(0))}}
		}, "Total completed jobs must not be negative"},
		{"replicated job with updates", func(s *S) { s.Mode = swarm.ServiceMode{ReplicatedJob: &swarm.ReplicatedJob{}} }, "Jobs may not have an update config"},
		{"job", func(s *S) { s.UpdateConfig, s.Mode = nil, swarm.ServiceMode{GlobalJob: &swarm.GlobalJob{}} }, ""},
		{"job with updates", func(s *S) { s.Mode = swarm.ServiceMode{GlobalJob: &swarm.GlobalJob{}} }, "Jobs may not have an update config"},
		{"little cpu", func(s *S) { s.TaskTemplate.Resources.Limits.NanoCPUs = 1 }, "invalid cpu value 1e-09: Must be at least 0.001"},
		{"negative cpu", func(s *S) { s.TaskTemplate.Resources.Reservations.NanoCPUs = -1e9 }, "invalid cpu value -1: Must be at least 0.001"},
		{"little memory", func(s *S) { s.TaskTemplate.Resources.Limits.MemoryBytes = 1000 }, "invalid memory value 1000: Must be at least 4MiB"},
		{"negative memory", func(s *S) { s.TaskTemplate.Resources.Reservations.MemoryBytes = -1 }, "invalid memory value -1: Must be at least 4MiB"},
		{"negative pids", func(s *S) { s.TaskTemplate.Resources.Limits.Pids = -1 }, "invalid pids limit -1: must not be negative"},
		{"memory reservation over the limit", func(s *S) {
			s.TaskTemplate.Resources.Limits.MemoryBytes, s.TaskTemplate.Resources.Reservations.MemoryBytes = 8<<20, 16<<20
		}, "Minimum memory limit can not be less than memory reservation limit, see usage"},
		{"cpu reservation over the limit", func(s *S) {
			s.TaskTemplate.Resources.Limits.NanoCPUs, s.TaskTemplate.Resources.Reservations.NanoCPUs = 1e9, 2e9
		}, "invalid cpu reservation 2: it is more than the limit 1"},
		{"restart condition", func(s *S) { s.TaskTemplate.RestartPolicy.Condition = "sometimes" }, `invalid RestartCondition: "sometimes"`},
		{"restart delay", func(s *S) { s.TaskTemplate.RestartPolicy.Delay = ptr(-time.Second) }, "TaskSpec: restart-delay cannot be negative"},
		{"restart window", func(s *S) { s.TaskTemplate.RestartPolicy.Window = ptr(-time.Second) }, "TaskSpec: restart-window cannot be negative"},
		{"constraint without operator", func(s *S) { s.TaskTemplate.Placement.Constraints = []string{"node.role=manager"} }, "constraint expected one operator from ==, !="},
		{"constraint with a bad key", func(s *S) { s.TaskTemplate.Placement.Constraints = []string{"1a==b"} }, "key '1a' is invalid"},
		{"constraint without a value", func(s *S) { s.TaskTemplate.Placement.Constraints = []string{"node.role=="} }, "value '' is invalid"},
		{"constraint", func(s *S) {
			s.TaskTemplate.Placement.Constraints = []string{"node.labels.disk != ssd", "node.ip==10.0.0.0/8"}
		}, ""},
		{"grace period", func(s *S) { s.TaskTemplate.ContainerSpec.StopGracePeriod = ptr(-time.Second) }, "ContainerSpec: stop-grace-period cannot be negative"},
		{"health check", func(s *S) { s.TaskTemplate.ContainerSpec.Healthcheck = &container.HealthConfig{Interval: 1} }, "ContainerSpec: Interval in HealthConfig cannot be less than 1ms"},
		{"health retries", func(s *S) { s.TaskTemplate.ContainerSpec.Healthcheck = &container.HealthConfig{Retries: -1} }, "ContainerSpec: Retries in HealthConfig cannot be negative"},
		{"bind without source", mounts(mount.Mount{Type: "bind", Target: "/a"}), `invalid mount config for type "bind": field Source must not be empty`},
		{"relative bind", mounts(mount.Mount{Type: "bind", Source: "b", Target: "/a"}), "invalid mount source, must be an absolute path: b"},
		{"relative target", mounts(mount.Mount{Type: "tmpfs", Target: "a"}), "invalid mount target, must be an absolute path: a"},
		{"mount on the root", mounts(mount.Mount{Type: "tmpfs", Target: "/a/.."}), `invalid mount config for type "tmpfs": invalid specification: destination can't be '/'`},
		{"two mounts in one place", mounts(mount.Mount{Type: "tmpfs", Target: "/a"}, mount.Mount{Type: "bind", Source: "/b", Target: "/a"}), "ContainerSpec: duplicate mount point: /a"},
		{"unknown mount", mounts(mount.Mount{Type: "floppy", Target: "/a"}), `invalid MountType: "floppy"`},
		{"update delay", func(s *S) { s.UpdateConfig.Delay = -1 }, "TaskSpec: update-delay cannot be negative"},
		{"update monitor", func(s *S) { s.UpdateConfig.Monitor = -1 }, "TaskSpec: update-monitor cannot be negative"},
		{"update ratio", func(s *S) { s.RollbackConfig = &swarm.UpdateConfig{MaxFailureRatio: 1.5} }, "TaskSpec: update-maxfailureratio cannot be less than 0 or bigger than 1"},
		{"update action", func(s *S) { s.UpdateConfig.FailureAction = "cry" }, "unrecognized update failure action cry"},
		{"update order", func(s *S) { s.UpdateConfig.Order = "random" }, "unrecognized update order random"},
		{"endpoint mode", func(s *S) { s.EndpointSpec.Mode = "x" }, `invalid resolution mode: "x"`},
		{"dnsrr with ingress", func(s *S) { s.EndpointSpec.Mode = "dnsrr" }, "EndpointSpec: port published with ingress mode can't be used with dnsrr mode"},
		{"protocol", ports(swarm.PortConfig{Protocol: "icmp", TargetPort: 1}), `invalid protocol: "icmp" (must be tcp, udp or sctp)`},
		{"publish mode", ports(swarm.PortConfig{PublishMode: "x", TargetPort: 1}), `invalid publish mode: "x" (must be ingress or host)`},
		{"no target port", ports(swarm.PortConfig{PublishedPort: 1}), "invalid target port 0: must be between 1 and 65535"},
		{"published port", ports(swarm.PortConfig{TargetPort: 1, PublishedPort: 65536}), "invalid published port 65536: must be between 1 and 65535"},
		{"published twice", ports(swarm.PortConfig{TargetPort: 1, PublishedPort: 2}, swarm.PortConfig{Protocol: "tcp", TargetPort: 3, PublishedPort: 2}), "EndpointSpec: duplicate published ports provided"},
		{"published for two protocols", ports(swarm.PortConfig{Protocol: "udp", TargetPort: 1, PublishedPort: 2}, swarm.PortConfig{Protocol: "tcp", TargetPort: 3, PublishedPort: 2}), ""},
		{"two open ports", ports(swarm.PortConfig{TargetPort: 1}, swarm.PortConfig{TargetPort: 2}), ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := cluster.ValidateServiceSpec(spec(tt.change))
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("refused: %v", err)
			case tt.want != "" && (err == nil || err.Error() != tt.want || !errdefs.IsInvalidArgument(err)):
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
}

func TestUnsupported(t *testing.T) {
	type S = swarm.ServiceSpec
	cs := func(f func(*swarm.ContainerSpec)) func(*S) {
		return func(s *S) { f(s.TaskTemplate.ContainerSpec) }
	}
	tests := []struct {
		name   string
		change func(*S)
		want   string // part of the message; "" is supported
	}{
		{"what works", func(*S) {}, ""},
		{"what the client sends without being asked", cs(func(c *swarm.ContainerSpec) {
			c.DNSConfig, c.Isolation, c.Privileges, c.Init = &swarm.DNSConfig{}, container.IsolationDefault, &swarm.Privileges{}, ptr(false)
		}), ""},
		{"bind and tmpfs", cs(func(c *swarm.ContainerSpec) {
			c.Mounts = []mount.Mount{{Type: "bind", Source: "/a", Target: "/a"}, {Type: "tmpfs", Target: "/t"}}
		}), ""},
		{"health check", cs(func(c *swarm.ContainerSpec) { c.Healthcheck = &container.HealthConfig{Test: []string{"CMD", "x"}} }), ""},
		{"init", cs(func(c *swarm.ContainerSpec) { c.Init = ptr(true) }), ""},
		{"health check switched off", cs(func(c *swarm.ContainerSpec) { c.Healthcheck = &container.HealthConfig{Test: []string{"NONE"}} }), ""},
		{"global", func(s *S) { s.Mode = swarm.ServiceMode{Global: &swarm.GlobalService{}} }, ""},
		{"replicated job", func(s *S) { s.Mode = swarm.ServiceMode{ReplicatedJob: &swarm.ReplicatedJob{}} }, ""},
		{"global job", func(s *S) { s.Mode = swarm.ServiceMode{GlobalJob: &swarm.GlobalJob{}} }, ""},
		{"image mount", cs(func(c *swarm.ContainerSpec) { c.Mounts = []mount.Mount{{Type: "image", Source: "a", Target: "/a"}} }), `mounts of type "image"`},
		{"cluster volume", cs(func(c *swarm.ContainerSpec) { c.Mounts = []mount.Mount{{Type: "cluster", Source: "a", Target: "/a"}} }), `mounts of type "cluster"`},
		{"seccomp profile", cs(func(c *swarm.ContainerSpec) {
			c.Privileges = &swarm.Privileges{Seccomp: &swarm.SeccompOpts{Mode: swarm.SeccompModeCustom, Profile: []byte("{}")}}
		}), ""},
		{"security switched off", cs(func(c *swarm.ContainerSpec) {
			c.Privileges = &swarm.Privileges{Seccomp: &swarm.SeccompOpts{Mode: swarm.SeccompModeUnconfined},
				AppArmor: &swarm.AppArmorOpts{Mode: swarm.AppArmorModeDisabled}, SELinuxContext: &swarm.SELinuxContext{Disable: true}}
		}), ""},
		{"SELinux label", cs(func(c *swarm.ContainerSpec) {
			c.Privileges = &swarm.Privileges{SELinuxContext: &swarm.SELinuxContext{Level: "s0"}}
		}), "ContainerSpec.Privileges"},
		{"credential spec", cs(func(c *swarm.ContainerSpec) {
			c.Privileges = &swarm.Privileges{CredentialSpec: &swarm.CredentialSpec{File: "x"}}
		}), "ContainerSpec.Privileges"},
		{"standard input", cs(func(c *swarm.ContainerSpec) { c.OpenStdin = true }), ""},
		{"local log", func(s *S) { s.TaskTemplate.LogDriver = &swarm.Driver{Name: "local"} }, ""},
		{"networks", func(s *S) { s.TaskTemplate.Networks = []swarm.NetworkAttachmentConfig{{Target: "n"}} }, ""},
		{"the host's network", func(s *S) { s.TaskTemplate.Networks = []swarm.NetworkAttachmentConfig{{Target: "host"}} }, ""},
		{"log driver", func(s *S) { s.TaskTemplate.LogDriver = &swarm.Driver{Name: "syslog"} }, "TaskTemplate.LogDriver"},
		{"host port", func(s *S) { s.EndpointSpec.Ports[0].PublishMode = swarm.PortConfigPublishModeHost }, ""},
		{"dnsrr", func(s *S) { s.EndpointSpec = &swarm.EndpointSpec{Mode: swarm.ResolutionModeDNSRR} }, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := cluster.Unsupported(spec(tt.change))
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("refused: %v", err)
			case tt.want != "" && (err == nil || !errdefs.IsNotImplemented(err) || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
}

func TestConstraints(t *testing.T) {
	n := &cluster.Node{}
	n.ID = "N1"
	n.Spec.Role = swarm.NodeRoleManager
	n.Spec.Labels = map[string]string{"zone": "eu"}
	n.Description.Hostname = "host1"
	n.Description.Platform = swarm.Platform{OS: "linux", Architecture: "x86_64"}
	n.Description.Engine.Labels = map[string]string{"disk": "ssd"}
	n.Status.Addr = "198.18.0.1"
	for expr, want := range map[string]bool{
		"node.id == n1": true, "node.id != N1": false, "node.hostname==HOST1": true, "node.role==manager": true,
		"node.role != worker": true, "node.labels.zone==eu": true, "node.labels.zone!=eu": false, "node.labels.none!=x": true,
		"node.labels.none==x": false, "node.labels.Zone==eu": false, "engine.labels.disk==SSD": true, "node.platform.os==linux": true,
		"node.platform.arch==arm": false, "node.ip==198.18.0.1": true, "node.ip!=198.18.0.0/24": false, "node.ip==198.18.0.0/24": true,
		"node.ip==foo": false, "node.ip!=foo": false, "unknown==x": false, "unknown!=x": false, "NODE.ROLE==manager": true,
	} {
		c, err := cluster.ParseConstraint(expr)
		if err != nil {
			t.Errorf("%s: %v", expr, err)
		} else if got := c.Match(n); got != want {
			t.Errorf("%s: %v, want %v", expr, got, want)
		}
	}
}

func FuzzParseConstraint(f *testing.F) {
	for _, s := range []string{"", "node.id==x", "a!=b==c", "node.ip == 10.0.0.0/8", "==", "a=="} {
		f.Add(s)
	}
	n := &cluster.Node{}
	f.Fuzz(func(t *testing.T, s string) {
		c, err := cluster.ParseConstraint(s)
		if err != nil {
			return
		}
		c.Match(n) // must not panic
		op := "=="
		if c.Not {
			op = "!="
		}
		again, err := cluster.ParseConstraint(c.Key + op + c.Value)
		if err != nil || again != c {
			t.Errorf("%q is %+v and then %+v, %v", s, c, again, err)
		}
	})
}

// FuzzServiceSpec feeds specifications as clients send them: whatever they are, they are judged and survive the copy.
func FuzzServiceSpec(f *testing.F) {
	seed, err := json.Marshal(spec())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add([]byte(`{"Name":"a","TaskTemplate":{"ContainerSpec":{"Image":"x","Mounts":[{}],"Privileges":{}}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var s swarm.ServiceSpec
		if json.Unmarshal(data, &s) != nil {
			return
		}
		errV, errU := cluster.ValidateServiceSpec(s), cluster.Unsupported(s)
		svc := &cluster.Service{}
		svc.Spec = s
		c := svc.Clone().(*cluster.Service)
		a, err := json.Marshal(svc)
		if err != nil {
			return
		}
		b, _ := json.Marshal(c)
		if string(a) != string(b) {
			t.Errorf("the copy differs:\n%s\n%s", a, b)
		}
		if e := cluster.ValidateServiceSpec(c.Spec); (e == nil) != (errV == nil) {
			t.Errorf("judged %v and then %v", errV, e)
		}
		if e := cluster.Unsupported(c.Spec); (e == nil) != (errU == nil) {
			t.Errorf("judged %v and then %v", errU, e)
		}
	})
}
