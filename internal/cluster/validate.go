package cluster

import (
	"fmt"
	"math"
	"path"
	"regexp"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/swarm"
)

// Limits of Swarm's.
const (
	maxNameLength = 63      // of a service's name, which is a DNS name
	minNanoCPUs   = 1e6     // a thousandth of a CPU
	minMemory     = 4 << 20 // bytes
	maxPort       = 65535
)

var dnsName = regexp.MustCompile(`^[a-zA-Z0-9](?:[-_]*[A-Za-z0-9]+)*$`)

func invalid(format string, args ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...))
}

// ValidateServiceSpec says what is wrong with a service's specification, in Docker's words where it has words for it.
// The error is InvalidArgument. What is valid may still not be implemented, see [Unsupported].
func ValidateServiceSpec(spec swarm.ServiceSpec) error {
	for _, check := range []func(*swarm.ServiceSpec) error{
		validateName, validateRuntime, validateResources, validateRestartPolicy, validatePlacement,
		validateContainer, validateFiles, validateMode, validateUpdates, validateEndpoint, validateSchedule, validateRebalance, validateAutoscale, validateDependencies,
	} {
		if err := check(&spec); err != nil {
			return err
		}
	}
	return nil
}

func validateName(s *swarm.ServiceSpec) error {
	switch {
	case s.Name == "":
		return invalid("meta: name must be provided")
	case !dnsName.MatchString(s.Name):
		return invalid("name must be valid as a DNS name component")
	case len(s.Name) > maxNameLength:
		return invalid("name must be 63 characters or fewer")
	}
	return nil
}

func validateRuntime(s *swarm.ServiceSpec) error {
	t := &s.TaskTemplate
	switch t.Runtime {
	case "", swarm.RuntimeContainer:
		if t.ContainerSpec == nil {
			return invalid("mismatched Runtime and *Spec fields")
		}
	case swarm.RuntimePlugin:
		if t.PluginSpec == nil {
			return invalid("mismatched Runtime and *Spec fields")
		}
		if s.Mode.Replicated != nil {
			return invalid("plugins must not use replicated mode")
		}
	default:
		return invalid("unsupported runtime")
	}
	return nil
}

func validateResources(s *swarm.ServiceSpec) error {
	r := s.TaskTemplate.Resources
	if r == nil {
		return nil
	}
	var limit swarm.Limit
	if r.Limits != nil {
		limit = *r.Limits
		if err := validateAmounts(limit.NanoCPUs, limit.MemoryBytes); err != nil {
			return err
		}
		if limit.Pids < 0 {
			return invalid("invalid pids limit %d: must not be negative", limit.Pids)
		}
	}
	if r.SwapBytes != nil && limit.MemoryBytes == 0 && *r.SwapBytes != 0 {
		return invalid("You should always set the Memory limit when using Memoryswap limit, see usage")
	}
	if w := r.MemorySwappiness; w != nil && (*w < -1 || *w > 100) {
		return invalid("Invalid value: %d, valid memory swappiness range is 0-100", *w)
	}
	if r.Reservations == nil {
		return nil
	}
	if err := validateAmounts(r.Reservations.NanoCPUs, r.Reservations.MemoryBytes); err != nil {
		return err
	}
	for _, g := range r.Reservations.GenericResources {
		switch d, n := g.DiscreteResourceSpec, g.NamedResourceSpec; {
		case n != nil:
			return invalid("invalid argument for resource %s", n.Kind)
		case d == nil:
			return invalid("invalid argument for resource: it has no kind")
		case d.Value < 0 || d.Kind == "":
			return invalid("invalid argument for resource %s", d.Kind)
		}
	}
	if limit.MemoryBytes > 0 && r.Reservations.MemoryBytes > limit.MemoryBytes {
		return invalid("Minimum memory limit can not be less than memory reservation limit, see usage")
	}
	if limit.NanoCPUs > 0 && r.Reservations.NanoCPUs > limit.NanoCPUs {
		return invalid("invalid cpu reservation %g: it is more than the limit %g", float64(r.Reservations.NanoCPUs)/1e9, float64(limit.NanoCPUs)/1e9)
	}
	return nil
}

func validateAmounts(nanoCPUs, memory int64) error {
	if nanoCPUs != 0 && nanoCPUs < minNanoCPUs {
		return invalid("invalid cpu value %g: Must be at least %g", float64(nanoCPUs)/1e9, minNanoCPUs/1e9)
	}
	if memory != 0 && memory < minMemory {
		return invalid("invalid memory value %d: Must be at least 4MiB", memory)
	}
	return nil
}

func validateRestartPolicy(s *swarm.ServiceSpec) error {
	p := s.TaskTemplate.RestartPolicy
	if p == nil {
		return nil
	}
	switch p.Condition {
	case "", swarm.RestartPolicyConditionNone, swarm.RestartPolicyConditionOnFailure, swarm.RestartPolicyConditionAny:
	default:
		return invalid("invalid RestartCondition: %q", string(p.Condition))
	}
	if p.Delay != nil && *p.Delay < 0 {
		return invalid("TaskSpec: restart-delay cannot be negative")
	}
	if p.Window != nil && *p.Window < 0 {
		return invalid("TaskSpec: restart-window cannot be negative")
	}
	return nil
}

func validatePlacement(s *swarm.ServiceSpec) error {
	p := s.TaskTemplate.Placement
	if p == nil {
		return nil
	}
	for _, e := range p.Constraints {
		if _, err := ParseConstraint(e); err != nil {
			return invalid("%s", err)
		}
	}
	if p.MaxReplicas > math.MaxInt64 {
		return invalid("max replicas per node must be non-negative")
	}
	return nil
}

func validateContainer(s *swarm.ServiceSpec) error {
	c := s.TaskTemplate.ContainerSpec
	if c == nil {
		return nil
	}
	if c.Image == "" {
		return invalid("ContainerSpec: image reference must be provided")
	}
	if _, err := reference.ParseNormalizedNamed(c.Image); err != nil {
		return invalid("ContainerSpec: %q is not a valid repository/tag", c.Image)
	}
	if d := c.StopGracePeriod; d != nil && *d < 0 {
		return invalid("ContainerSpec: stop-grace-period cannot be negative")
	}
	targets := map[string]bool{}
	for _, m := range c.Mounts {
		if err := validateMount(m); err != nil {
			return err
		}
		if targets[m.Target] {
			return invalid("ContainerSpec: duplicate mount point: %s", m.Target)
		}
		targets[m.Target] = true
	}
	h := c.Healthcheck
	if h == nil {
		return nil
	}
	for _, f := range []struct {
		name  string
		value time.Duration
	}{{"Interval", h.Interval}, {"Timeout", h.Timeout}, {"StartPeriod", h.StartPeriod}, {"StartInterval", h.StartInterval}} {
		if f.value != 0 && f.value < time.Millisecond {
			return invalid("ContainerSpec: %s in HealthConfig cannot be less than 1ms", f.name)
		}
	}
	if h.Retries < 0 {
		return invalid("ContainerSpec: Retries in HealthConfig cannot be negative")
	}
	return nil
}

func validateMount(m mount.Mount) error {
	switch m.Type {
	case mount.TypeBind, mount.TypeVolume, mount.TypeTmpfs, mount.TypeNamedPipe, mount.TypeCluster, mount.TypeImage:
	default:
		return invalid("invalid MountType: %q", string(m.Type))
	}
	if b := m.BindOptions; b != nil && b.Propagation != "" && !slices.Contains(mount.Propagations, b.Propagation) {
		return invalid("invalid MountPropagation: %q", string(b.Propagation))
	}
	switch {
	case m.Target == "":
		return invalid("invalid mount config for type %q: field Target must not be empty", string(m.Type))
	case m.Type != mount.TypeNamedPipe && !path.IsAbs(m.Target):
		return invalid("invalid mount target, must be an absolute path: %s", m.Target)
	case m.Type != mount.TypeNamedPipe && path.Clean(m.Target) == "/":
		return invalid("invalid mount config for type %q: invalid specification: destination can't be '/'", string(m.Type))
	case m.Type == mount.TypeBind && m.Source == "":
		return invalid("invalid mount config for type %q: field Source must not be empty", string(m.Type))
	case m.Type == mount.TypeBind && !path.IsAbs(m.Source):
		return invalid("invalid mount source, must be an absolute path: %s", m.Source)
	case m.Type == mount.TypeTmpfs && m.Source != "":
		return invalid("invalid tmpfs source, source must be empty")
	}
	return nil
}

func validateMode(s *swarm.ServiceSpec) error {
	modes := 0
	for _, set := range []bool{s.Mode.Global != nil, s.Mode.Replicated != nil, s.Mode.ReplicatedJob != nil, s.Mode.GlobalJob != nil} {
		if set {
			modes++
		}
	}
	if modes > 1 {
		return invalid("must specify only one service mode")
	}
	tooMany := func(n *uint64) bool { return n != nil && *n > math.MaxInt64 } // a negative number, cast
	switch {
	case s.Mode.Replicated != nil && tooMany(s.Mode.Replicated.Replicas):
		return invalid("Number of replicas must be non-negative")
	case s.Mode.ReplicatedJob != nil && tooMany(s.Mode.ReplicatedJob.MaxConcurrent):
		return invalid("Maximum concurrent jobs must not be negative")
	case s.Mode.ReplicatedJob != nil && tooMany(s.Mode.ReplicatedJob.TotalCompletions):
		return invalid("Total completed jobs must not be negative")
	case (s.Mode.ReplicatedJob != nil || s.Mode.GlobalJob != nil) && s.UpdateConfig != nil:
		return invalid("Jobs may not have an update config")
	}
	return nil
}

func validateUpdates(s *swarm.ServiceSpec) error {
	for _, u := range []*swarm.UpdateConfig{s.UpdateConfig, s.RollbackConfig} {
		if u == nil {
			continue
		}
		switch u.FailureAction {
		case "", swarm.UpdateFailureActionPause, swarm.UpdateFailureActionContinue, swarm.UpdateFailureActionRollback:
		default:
			return invalid("unrecognized update failure action %s", u.FailureAction)
		}
		switch u.Order {
		case "", swarm.UpdateOrderStopFirst, swarm.UpdateOrderStartFirst:
		default:
			return invalid("unrecognized update order %s", u.Order)
		}
		switch {
		case u.Delay < 0:
			return invalid("TaskSpec: update-delay cannot be negative")
		case u.Monitor < 0:
			return invalid("TaskSpec: update-monitor cannot be negative")
		case !(u.MaxFailureRatio >= 0 && u.MaxFailureRatio <= 1): // also what is not a number
			return invalid("TaskSpec: update-maxfailureratio cannot be less than 0 or bigger than 1")
		}
	}
	return nil
}

func validateEndpoint(s *swarm.ServiceSpec) error {
	e := s.EndpointSpec
	if e == nil {
		return nil
	}
	switch e.Mode {
	case "", swarm.ResolutionModeVIP, swarm.ResolutionModeDNSRR:
	default:
		return invalid("invalid resolution mode: %q", string(e.Mode))
	}
	type port struct {
		protocol  network.IPProtocol
		published uint32
	}
	seen := map[port]bool{}
	for _, p := range e.Ports {
		switch p.Protocol {
		case "", network.TCP, network.UDP, network.SCTP:
		default:
			return invalid("invalid protocol: %q (must be tcp, udp or sctp)", string(p.Protocol))
		}
		switch p.PublishMode {
		case "", swarm.PortConfigPublishModeIngress, swarm.PortConfigPublishModeHost:
		default:
			return invalid("invalid publish mode: %q (must be ingress or host)", string(p.PublishMode))
		}
		if p.TargetPort == 0 || p.TargetPort > maxPort {
			return invalid("invalid target port %d: must be between 1 and %d", p.TargetPort, maxPort)
		}
		if p.PublishedPort > maxPort {
			return invalid("invalid published port %d: must be between 1 and %d", p.PublishedPort, maxPort)
		}
		if e.Mode == swarm.ResolutionModeDNSRR && p.PublishMode != swarm.PortConfigPublishModeHost {
			return invalid("EndpointSpec: port published with ingress mode can't be used with dnsrr mode")
		}
		if p.PublishedPort == 0 {
			continue
		}
		k := port{p.Protocol, p.PublishedPort}
		if k.protocol == "" {
			k.protocol = network.TCP
		}
		if seen[k] {
			return invalid("EndpointSpec: duplicate published ports provided")
		}
		seen[k] = true
	}
	return nil
}
