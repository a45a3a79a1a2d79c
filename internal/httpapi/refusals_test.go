package httpapi_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/control"
	"shoal.dev/shoal/internal/httpapi"
	"shoal.dev/shoal/internal/httpapi/apitest"
	"shoal.dev/shoal/internal/store"
)

// TestServiceRefusals sends every kind of service that Docker refuses to /services/create and /services/{id}/update of
// the daemon's own control: each is refused in Docker's words, and nothing changes.
func TestServiceRefusals(t *testing.T) {
	type S = swarm.ServiceSpec
	of := func(f func(*swarm.ContainerSpec)) func(*S) { return func(s *S) { f(s.TaskTemplate.ContainerSpec) } }
	mounts := func(m ...mount.Mount) func(*S) { return of(func(c *swarm.ContainerSpec) { c.Mounts = m }) }
	ports := func(p ...swarm.PortConfig) func(*S) {
		return func(s *S) { s.EndpointSpec = &swarm.EndpointSpec{Ports: p} }
	}
	limits := func(cpu, memory int64) func(*S) {
		return func(s *S) {
			s.TaskTemplate.Resources = &swarm.ResourceRequirements{Limits: &swarm.Limit{NanoCPUs: cpu, MemoryBytes: memory}}
		}
	}
	reserve := func(r swarm.Resources) func(*S) {
		return func(s *S) { s.TaskTemplate.Resources = &swarm.ResourceRequirements{Reservations: &r} }
	}
	restart := func(p swarm.RestartPolicy) func(*S) { return func(s *S) { s.TaskTemplate.RestartPolicy = &p } }
	constraint := func(e string) func(*S) {
		return func(s *S) { s.TaskTemplate.Placement = &swarm.Placement{Constraints: []string{e}} }
	}
	updates := func(u swarm.UpdateConfig) func(*S) { return func(s *S) { s.UpdateConfig = &u } }
	health := func(h container.HealthConfig) func(*S) {
		return of(func(c *swarm.ContainerSpec) { c.Healthcheck = &h })
	}
	secrets := func(r ...*swarm.SecretReference) func(*S) {
		return of(func(c *swarm.ContainerSpec) { c.Secrets = r })
	}
	configs := func(r ...*swarm.ConfigReference) func(*S) {
		return of(func(c *swarm.ContainerSpec) { c.Configs = r })
	}
	at := func(name string) *swarm.SecretReferenceFileTarget {
		return &swarm.SecretReferenceFileTarget{Name: name}
	}
	in := func(name string) *swarm.ConfigReferenceFileTarget {
		return &swarm.ConfigReferenceFileTarget{Name: name}
	}
	mode := func(m swarm.ServiceMode) func(*S) { return func(s *S) { s.Mode = m } }
	network := func(names ...string) func(*S) {
		return func(s *S) {
			for _, n := range names {
				s.TaskTemplate.Networks = append(s.TaskTemplate.Networks, swarm.NetworkAttachmentConfig{Target: n})
			}
		}
	}
	negative, minus := ^uint64(0), -time.Second

	cases := []struct {
		name   string
		change func(*S)
		status int
		want   string
	}{
		{"an invalid reference", of(func(c *swarm.ContainerSpec) { c.Image = "Hello World" }), 400, `ContainerSpec: "Hello World" is not a valid repository/tag`},
		{"no image", of(func(c *swarm.ContainerSpec) { c.Image = "" }), 400, "ContainerSpec: image reference must be provided"},
		{"no container", func(s *S) { s.TaskTemplate.ContainerSpec = nil }, 400, "mismatched Runtime and *Spec fields"},
		{"an unknown runtime", func(s *S) { s.TaskTemplate.Runtime = "vm" }, 400, "unsupported runtime"},
		{"little cpu", limits(1, 0), 400, "invalid cpu value 1e-09: Must be at least 0.001"},
		{"negative cpu", reserve(swarm.Resources{NanoCPUs: -1e9}), 400, "invalid cpu value -1: Must be at least 0.001"},
		{"little memory", limits(0, 1000), 400, "invalid memory value 1000: Must be at least 4MiB"},
		{"negative memory", reserve(swarm.Resources{MemoryBytes: -1}), 400, "invalid memory value -1: Must be at least 4MiB"},
		{"memory reserved over the limit", func(s *S) {
			limits(0, 8<<20)(s)
			s.TaskTemplate.Resources.Reservations = &swarm.Resources{MemoryBytes: 16 << 20}
		}, 400, "Minimum memory limit can not be less than memory reservation limit, see usage"},
		{"cpu reserved over the limit", func(s *S) {
			limits(1e9, 0)(s)
			s.TaskTemplate.Resources.Reservations = &swarm.Resources{NanoCPUs: 2e9}
		}, 400, "invalid cpu reservation 2: it is more than the limit 1"},
		{"swap without a limit", func(s *S) {
			n := int64(1 << 20)
			s.TaskTemplate.Resources = &swarm.ResourceRequirements{SwapBytes: &n}
		}, 400, "You should always set the Memory limit when using Memoryswap limit, see usage"},
		{"swappiness", func(s *S) {
			n := int64(101)
			s.TaskTemplate.Resources = &swarm.ResourceRequirements{MemorySwappiness: &n}
		}, 400, "Invalid value: 101, valid memory swappiness range is 0-100"},
		{"negative pids", func(s *S) {
			s.TaskTemplate.Resources = &swarm.ResourceRequirements{Limits: &swarm.Limit{Pids: -1}}
		}, 400, "invalid pids limit -1: must not be negative"},
		{"a named generic resource", reserve(swarm.Resources{GenericResources: []swarm.GenericResource{{NamedResourceSpec: &swarm.NamedGenericResource{Kind: "GPU", Value: "a"}}}}), 400, "invalid argument for resource GPU"},
		{"a negative generic resource", reserve(swarm.Resources{GenericResources: []swarm.GenericResource{{DiscreteResourceSpec: &swarm.DiscreteGenericResource{Kind: "GPU", Value: -1}}}}), 400, "invalid argument for resource GPU"},
		{"a restart condition", restart(swarm.RestartPolicy{Condition: "sometimes"}), 400, `invalid RestartCondition: "sometimes"`},
		{"a negative restart delay", restart(swarm.RestartPolicy{Delay: &minus}), 400, "TaskSpec: restart-delay cannot be negative"},
		{"a negative restart window", restart(swarm.RestartPolicy{Window: &minus}), 400, "TaskSpec: restart-window cannot be negative"},
		{"a constraint without an operator", constraint("node.role>manager"), 400, "constraint expected one operator from ==, !="},
		{"a constraint's key", constraint("1a==b"), 400, "key '1a' is invalid"},
		{"a constraint's value", constraint("node.role=="), 400, "value '' is invalid"},
		{"a duplicated target", mounts(mount.Mount{Type: "tmpfs", Target: "/a"}, mount.Mount{Type: "bind", Source: "/b", Target: "/a"}), 400, "ContainerSpec: duplicate mount point: /a"},
		{"an unknown mount", mounts(mount.Mount{Type: "floppy", Target: "/a"}), 400, `invalid MountType: "floppy"`},
		{"an unknown propagation", mounts(mount.Mount{Type: "bind", Source: "/b", Target: "/a", BindOptions: &mount.BindOptions{Propagation: "wide"}}), 400, `invalid MountPropagation: "wide"`},
		{"a mount without a target", mounts(mount.Mount{Type: "tmpfs"}), 400, `invalid mount config for type "tmpfs": field Target must not be empty`},
		{"a relative bind", mounts(mount.Mount{Type: "bind", Source: "b", Target: "/a"}), 400, "invalid mount source, must be an absolute path: b"},
		{"a short health interval", health(container.HealthConfig{Interval: 1}), 400, "ContainerSpec: Interval in HealthConfig cannot be less than 1ms"},
		{"a short health timeout", health(container.HealthConfig{Timeout: 1}), 400, "ContainerSpec: Timeout in HealthConfig cannot be less than 1ms"},
		{"a short start period", health(container.HealthConfig{StartPeriod: 1}), 400, "ContainerSpec: StartPeriod in HealthConfig cannot be less than 1ms"},
		{"a short start interval", health(container.HealthConfig{StartInterval: 1}), 400, "ContainerSpec: StartInterval in HealthConfig cannot be less than 1ms"},
		{"negative health retries", health(container.HealthConfig{Retries: -1}), 400, "ContainerSpec: Retries in HealthConfig cannot be negative"},
		{"a negative grace period", of(func(c *swarm.ContainerSpec) { c.StopGracePeriod = &minus }), 400, "ContainerSpec: stop-grace-period cannot be negative"},
		{"a template", of(func(c *swarm.ContainerSpec) { c.Hostname = "{{.Nothing}}" }), 400, "expanding hostname failed: "},
		{"two modes", mode(swarm.ServiceMode{Replicated: &swarm.ReplicatedService{}, Global: &swarm.GlobalService{}}), 400, "must specify only one service mode"},
		{"negative replicas", mode(swarm.ServiceMode{Replicated: &swarm.ReplicatedService{Replicas: &negative}}), 400, "Number of replicas must be non-negative"},
		{"negative concurrency", mode(swarm.ServiceMode{ReplicatedJob: &swarm.ReplicatedJob{MaxConcurrent: &negative}}), 400, "Maximum concurrent jobs must not be negative"},
		{"negative completions", mode(swarm.ServiceMode{ReplicatedJob: &swarm.ReplicatedJob{TotalCompletions: &negative}}), 400, "Total completed jobs must not be negative"},
		{"a job with updates", func(s *S) {
			s.Mode, s.UpdateConfig = swarm.ServiceMode{GlobalJob: &swarm.GlobalJob{}}, &swarm.UpdateConfig{}
		}, 400, "Jobs may not have an update config"},
		{"a negative update delay", updates(swarm.UpdateConfig{Delay: -1}), 400, "TaskSpec: update-delay cannot be negative"},
		{"a negative monitor", updates(swarm.UpdateConfig{Monitor: -1}), 400, "TaskSpec: update-monitor cannot be negative"},
		{"a failure ratio", updates(swarm.UpdateConfig{MaxFailureRatio: 1.5}), 400, "TaskSpec: update-maxfailureratio cannot be less than 0 or bigger than 1"},
		{"a failure action", updates(swarm.UpdateConfig{FailureAction: "cry"}), 400, "unrecognized update failure action cry"},
		{"an update order", updates(swarm.UpdateConfig{Order: "random"}), 400, "unrecognized update order random"},
		{"a rollback's failure action", func(s *S) { s.RollbackConfig = &swarm.UpdateConfig{FailureAction: "cry"} }, 400, "unrecognized update failure action cry"},
		{"dnsrr with the routing mesh", func(s *S) {
			s.EndpointSpec = &swarm.EndpointSpec{Mode: "dnsrr", Ports: []swarm.PortConfig{{TargetPort: 80, PublishedPort: 81}}}
		}, 400, "EndpointSpec: port published with ingress mode can't be used with dnsrr mode"},
		{"a port published twice", ports(swarm.PortConfig{TargetPort: 1, PublishedPort: 2}, swarm.PortConfig{TargetPort: 3, PublishedPort: 2}), 400, "EndpointSpec: duplicate published ports provided"},
		{"a port that is taken", ports(swarm.PortConfig{TargetPort: 80, PublishedPort: 8080}), 400, "port '8080' is already in use by service 'other' (OTHER) as an ingress port"},
		{"a host's port that is taken", ports(swarm.PortConfig{TargetPort: 80, PublishedPort: 8080, PublishMode: "host"}), 400, "port '8080' is already in use by service 'other' (OTHER) as an ingress port"},
		{"a port of hosts", ports(swarm.PortConfig{TargetPort: 80, PublishedPort: 9090}), 400, "port '9090' is already in use by service 'other' (OTHER) as a host-published port"},
		{"a port out of range", ports(swarm.PortConfig{TargetPort: 80, PublishedPort: 65536}), 400, "invalid published port 65536: must be between 1 and 65535"},
		{"a malformed secret", secrets(&swarm.SecretReference{File: at("a")}), 400, "malformed secret reference"},
		{"a secret without a target", secrets(&swarm.SecretReference{SecretID: "s1", SecretName: "one"}), 400, "malformed secret reference, no target provided"},
		{"a secret without a name", secrets(&swarm.SecretReference{SecretID: "s1", SecretName: "one", File: at("")}), 400, "malformed file secret reference, invalid target file name provided"},
		{"two secrets in one place", secrets(&swarm.SecretReference{SecretID: "s1", SecretName: "one", File: at("x")}, &swarm.SecretReference{SecretID: "s2", SecretName: "two", File: at("x")}), 400,
			"secret references 'one' and 'two' have a conflicting target: 'x'"},
		{"an unknown secret", secrets(&swarm.SecretReference{SecretID: "s1", SecretName: "one", File: at("x")}), 400, "secret not found: one"},
		{"unknown secrets", secrets(&swarm.SecretReference{SecretID: "s1", SecretName: "one", File: at("x")}, &swarm.SecretReference{SecretID: "s2", SecretName: "two", File: at("y")}), 400, "secrets not found: one, two"},
		{"a malformed config", configs(&swarm.ConfigReference{File: in("a")}), 400, "malformed config reference"},
		{"a config without a target", configs(&swarm.ConfigReference{ConfigID: "c1", ConfigName: "one"}), 400, "invalid Config: either File or Runtime should be set"},
		{"a config with two targets", configs(&swarm.ConfigReference{ConfigID: "c1", ConfigName: "one", File: in("a"), Runtime: &swarm.ConfigReferenceRuntimeTarget{}}), 400, "invalid Config: cannot specify both File and Runtime"},
		{"two configs in one place", configs(&swarm.ConfigReference{ConfigID: "c1", ConfigName: "one", File: in("x")}, &swarm.ConfigReference{ConfigID: "c2", ConfigName: "two", File: in("x")}), 400,
			"config references 'one' and 'two' have a conflicting target: 'x'"},
		{"an unknown config", configs(&swarm.ConfigReference{ConfigID: "c1", ConfigName: "one", File: in("x")}), 400, "config not found: one"},
		{"an unknown network", network("nowhere"), 404, "network nowhere not found"},
		{"the routing mesh's network", network("ingress"), 400, `Service cannot be explicitly attached to the ingress network "ing"`},
		{"what Windows has", of(func(c *swarm.ContainerSpec) { c.Isolation = "hyperv" }), 501, "isolation modes (ContainerSpec.Isolation) are not implemented by Shoal yet"},
		{"what is not allowed", func(s *S) { s.Labels = map[string]string{"shoal.privileged": "true"} }, 403, "service "},
	}

	s := store.New()
	store.NewLocal(s)
	if _, err := s.Update(t.Context(), func(tx *store.Tx) error {
		n := &cluster.Network{}
		n.ID, n.Spec.Name, n.Spec.Ingress = "ing", "ingress", true
		tx.Write(store.Create(n))
		tx.Write(store.Create(&cluster.Swarm{}))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	c := control.New(nil)
	c.Activate(&control.Manager{
		NodeID: "m1", Store: s, ReadBarrier: func(context.Context) error { return nil }, Leader: func() string { return "m1" },
		MayDemote: func(string) error { return errdefs.ErrUnavailable },
	})
	eng := apitest.NewEngine()
	h := httpapi.New(httpapi.Config{Containers: eng, Images: eng, Control: c, Version: "0.1.0"})
	spec := func(name string, change func(*S)) string {
		sp := S{Annotations: swarm.Annotations{Name: name}, TaskTemplate: swarm.TaskSpec{ContainerSpec: &swarm.ContainerSpec{Image: "hello:1"}}}
		change(&sp)
		b, err := json.Marshal(sp)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	create := func(name string, change func(*S)) *cluster.Service {
		t.Helper()
		if w := ask(t, h, "POST", "/services/create", js, spec(name, change)); w.Code != 201 {
			t.Fatalf("%s: %d %s", name, w.Code, w.Body)
		}
		svc, ok := s.Snapshot().ServiceByName(name)
		if !ok {
			t.Fatal(name)
		}
		return svc
	}
	other := create("other", ports(swarm.PortConfig{TargetPort: 80, PublishedPort: 8080}, swarm.PortConfig{TargetPort: 80, PublishedPort: 9090, PublishMode: "host"}))
	web := create("web", func(*S) {})
	global := create("everywhere", mode(swarm.ServiceMode{Global: &swarm.GlobalService{}}))
	before := s.Index()
	refused := func(name, path, body string, status int, want string) {
		t.Helper()
		w := ask(t, h, "POST", path, js, body)
		want = strings.ReplaceAll(want, "OTHER", other.ID)
		if got := messageOf(t, w); w.Code != status || got != want && !(strings.HasSuffix(want, " ") && strings.HasPrefix(got, want)) {
			t.Errorf("%s: POST %s: %d %q, want %d %q", name, path, w.Code, got, status, want)
		}
		if now := s.Index(); now != before {
			t.Errorf("%s: the refusal wrote something", name)
			before = now
		}
	}
	update := func(svc *cluster.Service, version uint64) string {
		return fmt.Sprintf("/services/%s/update?version=%d", svc.ID, version)
	}
	for _, tc := range cases {
		refused(tc.name, "/services/create", spec("new", tc.change), tc.status, tc.want)
		refused(tc.name, update(web, web.Version.Index), spec("web", tc.change), tc.status, tc.want)
	}

	// What only one of the two can be refused for.
	plain := func(*S) {}
	for name, want := range map[string]string{
		"": "meta: name must be provided", "a b": "name must be valid as a DNS name component", "-a": "name must be valid as a DNS name component",
		"a.b": "name must be valid as a DNS name component", strings.Repeat("a", 64): "name must be 63 characters or fewer",
	} {
		refused("the name "+name, "/services/create", spec(name, plain), 400, want)
	}
	refused("a name that is taken", "/services/create", spec("web", plain), 409, "name conflicts with an existing object: service web already exists")
	refused("an old version", update(web, web.Version.Index-1), spec("web", plain), 500, "update out of sequence")
	refused("no version", "/services/"+web.ID+"/update", spec("web", plain), 400, "invalid service version '': strconv.ParseUint: parsing \"\": invalid syntax")
	refused("another name", update(web, web.Version.Index), spec("webb", plain), 501, "renaming services is not supported")
	refused("the scale of a global service", update(global, global.Version.Index), spec("everywhere", mode(swarm.ServiceMode{Replicated: &swarm.ReplicatedService{}})), 501, "service mode change is not allowed")
	refused("no way back", update(web, web.Version.Index)+"&rollback=previous", spec("web", plain), 400, "service "+web.ID+" does not have a previous spec")
	refused("an unknown way back", update(web, web.Version.Index)+"&rollback=next", spec("web", plain), 400, "unrecognized rollback option next")
	refused("credentials from nowhere", update(web, web.Version.Index)+"&registryAuthFrom=heaven", spec("web", plain), 400, "unsupported registryAuthFrom value: heaven")
	refused("credentials of no specification", update(web, web.Version.Index)+"&registryAuthFrom=previous-spec", spec("web", plain), 400, "service does not have a previous spec")
	refused("an unknown service", "/services/nope/update?version=1", spec("web", plain), 404, "service nope not found")
}
