package control

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/store"
	"shoal.dev/shoal/internal/template"
)

// registryTimeout bounds the question for an image's digest; Docker's client waits as long.
const registryTimeout = 10 * time.Second

// Services lists the services. With status, ServiceStatus is filled in.
func (c *Control) Services(ctx context.Context, f map[string][]string, status bool) ([]swarm.Service, error) {
	_, snap, err := c.read(ctx)
	if err != nil {
		return nil, err
	}
	fl := filters(f)
	if err := fl.known("id", "name", "label", "mode", "runtime"); err != nil {
		return nil, err
	}
	out := []swarm.Service{}
	for s := range store.List[*cluster.Service](snap) {
		if !fl.any("id", prefixOf(s.ID)) || !fl.any("name", prefixOf(s.Spec.Name)) || !fl.labels("label", s.Spec.Labels) ||
			!fl.any("mode", func(v string) bool { return v == modeOf(s.Spec.Mode) }) ||
			!fl.any("runtime", func(v string) bool { return v == "container" }) {
			continue
		}
		api := s.Service // shares what its fields refer to: a list is only written out
		showReplicas(&api, s)
		if status {
			api.ServiceStatus = statusOf(snap, s)
		}
		out = append(out, api)
	}
	return out, nil
}

// Service returns a service; with insertDefaults, what the user left out is shown as what it means.
func (c *Control) Service(ctx context.Context, ref string, insertDefaults bool) (*swarm.Service, error) {
	_, snap, err := c.read(ctx)
	if err != nil {
		return nil, err
	}
	s, err := find(snap, "service", ref, serviceName)
	if err != nil {
		return nil, err
	}
	out := s.Clone().(*cluster.Service).Service
	showReplicas(&out, s)
	if insertDefaults {
		setDefaults(&out.Spec)
	}
	return &out, nil
}

// CreateService makes a service. The planners make its tasks.
func (c *Control) CreateService(ctx context.Context, spec swarm.ServiceSpec, auth string, queryRegistry bool) (*swarm.ServiceCreateResponse, error) {
	m, err := c.write()
	if err != nil {
		return nil, err
	}
	spec.Mode = wholeMode(spec.Mode)
	if err := checkSpec(spec, auth); err != nil {
		return nil, err
	}
	out := &swarm.ServiceCreateResponse{ID: cluster.NewID(), Warnings: []string{}}
	if queryRegistry {
		if err := c.pin(ctx, &spec, authOf(m.Store.Snapshot(), "", "", auth)); err != nil {
			out.Warnings = append(out.Warnings, err.Error())
		}
	}
	s := &cluster.Service{}
	s.ID, s.Spec = out.ID, spec
	s.Endpoint.Spec = endpointSpec(spec)
	if isJob(spec.Mode) {
		s.JobStatus = &swarm.JobStatus{LastExecution: m.Store.Now()}
		if cluster.Scheduled(&spec) { // it does not run before its time
			s.JobStatus.LastExecution = time.Time{}
		}
	}
	return out, m.update(ctx, func(tx *store.Tx) error {
		if have, ok := tx.ServiceByName(spec.Name); ok {
			return errdefs.ErrAlreadyExists.WithMessage("name conflicts with an existing object: service " + have.Spec.Name + " already exists")
		}
		if err := checkAccess(tx.Snapshot, s, nil); err != nil {
			return err
		}
		if err := checkDependencies(tx.Snapshot, s); err != nil {
			return err
		}
		if err := checkFiles(tx, &s.Spec); err != nil {
			return err
		}
		if err := resolveNetworks(tx.Snapshot, &s.Spec); err != nil {
			return err
		}
		tx.Write(store.Create(s.Clone()))
		tx.Write(store.Create(&cluster.Claim{ID: cluster.ClaimName(cluster.KindService, spec.Name), Owner: s.ID, OwnerName: spec.Name}))
		keepAuth(tx, s, nil, auth)
		return claimPorts(tx, s, nil)
	})
}

func checkSpec(spec swarm.ServiceSpec, auth string) error {
	if err := cluster.ValidateServiceSpec(spec); err != nil {
		return err
	}
	if err := template.Check(&spec); err != nil {
		return invalid("%s", err)
	}
	if auth != "" {
		if err := checkAuth(auth); err != nil {
			return err
		}
	}
	return cluster.Unsupported(spec)
}

// emptyAuth is what the client sends for no credentials: base64 of {}.
const emptyAuth = "e30="

func endpointSpec(spec swarm.ServiceSpec) swarm.EndpointSpec {
	if spec.EndpointSpec == nil {
		return swarm.EndpointSpec{Mode: swarm.ResolutionModeVIP}
	}
	e := *spec.EndpointSpec
	if e.Mode == "" {
		e.Mode = swarm.ResolutionModeVIP
	}
	return e
}

// claimPorts claims what s publishes and frees what old published but s does not. Ports that the user left to us are
// the address planner's.
func claimPorts(tx *store.Tx, s, old *cluster.Service) error {
	if err := checkHostPorts(tx.Snapshot, s); err != nil {
		return err
	}
	want := map[string]swarm.PortConfig{}
	for _, p := range endpointSpec(s.Spec).Ports {
		if p.PublishedPort != 0 && p.PublishMode != swarm.PortConfigPublishModeHost {
			want[cluster.ClaimPort(protocol(p), p.PublishedPort)] = p
		}
	}
	if old != nil {
		for _, p := range endpointSpec(old.Spec).Ports { // not those that we chose: the service keeps them, or the planner frees them
			id := cluster.ClaimPort(protocol(p), p.PublishedPort)
			if _, keep := want[id]; keep {
				continue
			}
			if cl, ok := store.Get[*cluster.Claim](tx.Snapshot, id); ok && cl.Owner == s.ID {
				tx.Write(store.Delete(cl))
			}
		}
	}
	for id, p := range want {
		cl, ok := store.Get[*cluster.Claim](tx.Snapshot, id)
		if ok && cl.Owner == s.ID {
			continue
		}
		if ok {
			return invalid("port '%d' is already in use by service '%s' (%s) as an ingress port", p.PublishedPort, cl.OwnerName, cl.Owner)
		}
		tx.Write(store.Create(&cluster.Claim{ID: id, Owner: s.ID, OwnerName: s.Spec.Name}))
	}
	return nil
}

func protocol(p swarm.PortConfig) string {
	if p.Protocol == "" {
		return "tcp"
	}
	return string(p.Protocol)
}

// pin replaces the image's tag by tag and digest, as the registry says to whom auth lets in. The error is the warning
// that Docker gives where it cannot.
func (c *Control) pin(ctx context.Context, spec *swarm.ServiceSpec, auth *registry.AuthConfig) error {
	image := spec.TaskTemplate.ContainerSpec.Image
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return fmt.Errorf("image %s could not be parsed: %w", image, err)
	}
	if _, ok := named.(reference.Digested); ok {
		return nil
	}
	tagged := reference.TagNameOnly(named)
	ctx, cancel := context.WithTimeout(ctx, registryTimeout)
	defer cancel()
	di, err := c.images.Distribution(ctx, tagged.String(), auth)
	if err != nil {
		return fmt.Errorf("image %s could not be accessed on a registry to record its digest. Each node will access %s independently, possibly leading to different nodes running different versions of the image", image, image)
	}
	pinned, err := reference.WithDigest(tagged, di.Descriptor.Digest)
	if err != nil {
		return err
	}
	cs := *spec.TaskTemplate.ContainerSpec
	cs.Image = reference.FamiliarString(pinned)
	spec.TaskTemplate.ContainerSpec = &cs
	return nil
}

// UpdateOptions is what an update takes beside the specification.
type UpdateOptions struct {
	EncodedAuth string // the X-Registry-Auth header
	// RegistryAuthFrom is which specification's credentials are kept if EncodedAuth is ""; "" is "spec". Since they are
	// kept by repository, both are: it only has to make sense.
	RegistryAuthFrom swarm.RegistryAuthSource
	Rollback         string // "previous" ignores the spec and goes back to PreviousSpec; "" or "none"
	QueryRegistry    bool
}

// UpdateService replaces a service's specification if it is still at the version.
func (c *Control) UpdateService(ctx context.Context, ref string, version uint64, spec swarm.ServiceSpec, o UpdateOptions) (*swarm.ServiceUpdateResponse, error) {
	m, err := c.write()
	if err != nil {
		return nil, err
	}
	back := o.Rollback == "previous"
	out := &swarm.ServiceUpdateResponse{Warnings: []string{}}
	if !back {
		spec.Mode = wholeMode(spec.Mode)
		if err := checkSpec(spec, o.EncodedAuth); err != nil {
			return nil, err
		}
		if err := c.pinChanged(ctx, m, ref, &spec, o); err != nil {
			out.Warnings = append(out.Warnings, err.Error())
		}
	}
	var warnings []string // of the last try
	defer func() { out.Warnings = append(out.Warnings, warnings...) }()
	return out, m.update(ctx, func(tx *store.Tx) error {
		warnings = nil
		old, err := find(tx.Snapshot, "service", ref, serviceName)
		if err != nil {
			return err
		}
		if o.EncodedAuth == "" && o.RegistryAuthFrom == swarm.RegistryAuthFromPreviousSpec && old.PreviousSpec == nil {
			return invalid("service does not have a previous spec")
		}
		if old.Version.Index != version {
			return outOfSequence()
		}
		s := old.Clone().(*cluster.Service)
		prev := s.Spec
		if back {
			if old.PreviousSpec == nil {
				return errdefs.ErrFailedPrecondition.WithMessage("service " + old.ID + " does not have a previous spec")
			}
			now := m.Store.Now()
			s.Spec = *s.PreviousSpec
			s.UpdateStatus = &swarm.UpdateStatus{State: swarm.UpdateStateRollbackStarted, Message: "manually requested rollback", StartedAt: &now}
		} else {
			s.Spec, s.UpdateStatus = spec, nil // the planner begins an update if there is something to do
		}
		if old.JobStatus != nil {
			s.UpdateStatus = nil
			if runsNow(&old.Spec, &s.Spec) {
				runAgain(s, m.Store.Now())
			}
		}
		if !back {
			if w := rescale(s, old, m.Store.Now()); w != "" {
				warnings = append(warnings, w)
			}
		}
		if s.Spec.Name != old.Spec.Name {
			return errdefs.ErrNotImplemented.WithMessage("renaming services is not supported")
		}
		if modeOf(s.Spec.Mode) != modeOf(old.Spec.Mode) {
			return errdefs.ErrNotImplemented.WithMessage("service mode change is not allowed")
		}
		if err := checkAccess(tx.Snapshot, s, old); err != nil {
			return err
		}
		if err := checkDependencies(tx.Snapshot, s); err != nil {
			return err
		}
		if err := checkFiles(tx, &s.Spec); err != nil {
			return err
		}
		s.PreviousSpec = &prev
		if err := resolveNetworks(tx.Snapshot, &s.Spec); err != nil {
			return err
		}
		if sameTemplate(s.Spec.TaskTemplate, old.Spec.TaskTemplate) {
			s.Spec.TaskTemplate = old.Spec.TaskTemplate // said in other words it is no reason to restart tasks
		}
		tx.Write(store.PutBoth(s.Clone()))
		keepAuth(tx, s, old, o.EncodedAuth)
		return claimPorts(tx, s, old)
	})
}

// pinChanged pins the specification's image as [Control.pin] does, if it is not the one that the service has: for who
// asks for it, and where an update would otherwise lose the digest. docker/cli 29 resolves a service's image when it
// creates it but, whatever its flags say, not when it updates it. A service that was created with --no-resolve-image has
// no digest to lose.
func (c *Control) pinChanged(ctx context.Context, m *Manager, ref string, spec *swarm.ServiceSpec, o UpdateOptions) error {
	snap := m.Store.Snapshot()
	old, err := find(snap, "service", ref, serviceName)
	if err != nil || imageOf(old) == spec.TaskTemplate.ContainerSpec.Image {
		return nil // what is wrong with the reference is said by the caller
	}
	if !o.QueryRegistry && !pinned(old) {
		return nil
	}
	return c.pin(ctx, spec, authOf(snap, old.ID, spec.TaskTemplate.ContainerSpec.Image, o.EncodedAuth))
}

// pinned says whether the service's image has a digest, or had one before an update to an image that was not found.
func pinned(s *cluster.Service) bool {
	if p := s.PreviousSpec; p != nil && p.TaskTemplate.ContainerSpec != nil && digested(p.TaskTemplate.ContainerSpec.Image) {
		return true
	}
	return digested(imageOf(s))
}

func digested(image string) bool {
	named, err := reference.ParseNormalizedNamed(image)
	_, ok := named.(reference.Digested)
	return err == nil && ok
}

// sameTemplate compares as the user sees it: absent and empty are the same.
func sameTemplate(a, b swarm.TaskSpec) bool {
	x, errX := store.Marshal(normalized(a))
	y, errY := store.Marshal(normalized(b))
	return errX == nil && errY == nil && reflect.DeepEqual(x, y)
}

func normalized(t swarm.TaskSpec) swarm.TaskSpec {
	s := swarm.ServiceSpec{TaskTemplate: t}
	setDefaults(&s)
	return s.TaskTemplate
}

// RemoveService removes a service, its name and its ports. Its tasks are stopped by the planners.
func (c *Control) RemoveService(ctx context.Context, ref string) error {
	m, err := c.write()
	if err != nil {
		return err
	}
	return m.update(ctx, func(tx *store.Tx) error {
		s, err := find(tx.Snapshot, "service", ref, serviceName)
		if err != nil {
			return err
		}
		tx.Write(store.Delete(s))
		if auth, ok := store.Get[*cluster.Credentials](tx.Snapshot, s.ID); ok {
			tx.Write(store.Delete(auth))
		}
		ids := []string{cluster.ClaimName(cluster.KindService, s.Spec.Name)}
		for _, p := range slices.Concat(endpointSpec(s.Spec).Ports, s.Endpoint.Ports) {
			ids = append(ids, cluster.ClaimPort(protocol(p), p.PublishedPort))
		}
		for _, id := range ids {
			if cl, ok := store.Get[*cluster.Claim](tx.Snapshot, id); ok && cl.Owner == s.ID {
				tx.Write(store.Delete(cl))
			}
		}
		return nil
	})
}

// setDefaults fills in what Docker means by leaving a field out. The values are those of Swarm's API defaults.
func setDefaults(s *swarm.ServiceSpec) {
	t := &s.TaskTemplate
	if c := t.ContainerSpec; c != nil {
		cc := *c
		if cc.StopGracePeriod == nil {
			d := 10 * time.Second
			cc.StopGracePeriod = &d
		}
		if cc.DNSConfig == nil {
			cc.DNSConfig = &swarm.DNSConfig{}
		}
		if cc.Isolation == "" {
			cc.Isolation = "default"
		}
		t.ContainerSpec = &cc
	}
	if t.Resources == nil {
		t.Resources = &swarm.ResourceRequirements{}
	}
	r := swarm.RestartPolicy{}
	if t.RestartPolicy != nil {
		r = *t.RestartPolicy
	}
	if r.Condition == "" {
		r.Condition = swarm.RestartPolicyConditionAny
	}
	if r.Delay == nil {
		d := 5 * time.Second
		r.Delay = &d
	}
	if r.MaxAttempts == nil {
		r.MaxAttempts = new(uint64)
	}
	t.RestartPolicy = &r
	if t.Placement == nil {
		t.Placement = &swarm.Placement{}
	}
	if t.Runtime == "" {
		t.Runtime = swarm.RuntimeContainer
	}
	for _, u := range []**swarm.UpdateConfig{&s.UpdateConfig, &s.RollbackConfig} {
		if *u == nil && !isJob(s.Mode) { // a job may not have one, so that it must not be sent back with an update
			*u = &swarm.UpdateConfig{Parallelism: 1, FailureAction: "pause", Monitor: 5 * time.Second, Order: "stop-first"}
		}
	}
	e := endpointSpec(*s)
	s.EndpointSpec = &e
}
