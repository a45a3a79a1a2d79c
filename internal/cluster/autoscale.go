package cluster

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/types/swarm"
)

// The labels of a service that let the swarm choose its number of replicas. Their meaning and their defaults are those
// of Kubernetes' HorizontalPodAutoscaler where it has them.
const (
	LabelAutoscale  = "shoal.autoscale."
	LabelScaleMin   = LabelAutoscale + "min"         // the fewest replicas, 1 or more; 1
	LabelScaleMax   = LabelAutoscale + "max"         // the most; what turns autoscaling on
	LabelScaleCPU   = LabelAutoscale + "cpu"         // percent of the CPUs that a task reserves or, if none, of its limit
	LabelScaleMem   = LabelAutoscale + "memory"      // percent of the memory, likewise
	LabelScaleConns = LabelAutoscale + "connections" // new connections a second and task, through the routing mesh
	LabelScaleUp    = LabelAutoscale + "up-window"   // how long more must be wanted before there are more; 0s
	LabelScaleDown  = LabelAutoscale + "down-window" // how long fewer must be wanted before there are fewer; 5m
	LabelScaleUpBy  = LabelAutoscale + "up-step"     // the most that are added at a time; 4, or as many as there are if that is more
	LabelScaleDowns = LabelAutoscale + "down-step"   // the most that are removed at a time; any number
	LabelTolerance  = LabelAutoscale + "tolerance"   // the part by which usage may be off its target; 0.1
)

const (
	maxReplicas       = 10_000
	maxScaleWindow    = time.Hour
	defaultScaleDown  = 5 * time.Minute
	defaultTolerance  = 0.1
	maxPercent        = 10_000
	maxConnections    = 1_000_000
	maxScalePoints    = 512 // a window of an hour has 240
	maxScaleDecisions = 10
)

// Autoscale is what a service's labels say of its number of replicas.
type Autoscale struct {
	Min, Max             uint64
	CPU, Memory          float64 // percent of PerCPU and PerMemory; 0: no target
	Connections          float64 // new ones a second and task; 0: no target
	PerCPU, PerMemory    int64   // billionths of a CPU, and bytes, that are 100 %
	UpWindow, DownWindow time.Duration
	UpStep, DownStep     uint64 // 0: the default
	Tolerance            float64
}

// AutoscaleOf returns how a specification is scaled; nil without an error: by hand.
func AutoscaleOf(spec *swarm.ServiceSpec) (*Autoscale, error) {
	if !Autoscales(spec) {
		for l := range spec.Labels {
			if strings.HasPrefix(l, LabelAutoscale) {
				return nil, invalid("label %s: the service has no label %s", l, LabelScaleMax)
			}
		}
		return nil, nil
	}
	if spec.Mode.Global != nil || spec.Mode.GlobalJob != nil || spec.Mode.ReplicatedJob != nil {
		return nil, invalid("label %s: only replicated services are scaled", LabelScaleMax)
	}
	a := &Autoscale{Min: 1, DownWindow: defaultScaleDown, Tolerance: defaultTolerance}
	for l, v := range spec.Labels {
		name, ok := strings.CutPrefix(l, LabelAutoscale)
		if !ok {
			continue
		}
		if err := a.set(l, name, v); err != nil {
			return nil, err
		}
	}
	if a.Min > a.Max {
		return nil, invalid("label %s: %d is more than %s, which is %d", LabelScaleMin, a.Min, LabelScaleMax, a.Max)
	}
	if a.CPU == 0 && a.Memory == 0 && a.Connections == 0 {
		return nil, invalid("label %s: there is no target: set %s, %s or %s", LabelScaleMax, LabelScaleCPU, LabelScaleMem, LabelScaleConns)
	}
	if a.Connections > 0 && !publishes(spec) {
		return nil, invalid("label %s: the service publishes no port on the routing mesh, where connections are counted", LabelScaleConns)
	}
	if r := spec.TaskTemplate.Resources; r != nil {
		if r.Limits != nil {
			a.PerCPU, a.PerMemory = r.Limits.NanoCPUs, r.Limits.MemoryBytes
		}
		if r.Reservations != nil && r.Reservations.NanoCPUs > 0 {
			a.PerCPU = r.Reservations.NanoCPUs
		}
		if r.Reservations != nil && r.Reservations.MemoryBytes > 0 {
			a.PerMemory = r.Reservations.MemoryBytes
		}
	}
	if a.CPU > 0 && a.PerCPU == 0 {
		return nil, invalid("label %s: percent of what? Set a CPU reservation or limit", LabelScaleCPU)
	}
	if a.Memory > 0 && a.PerMemory == 0 {
		return nil, invalid("label %s: percent of what? Set a memory reservation or limit", LabelScaleMem)
	}
	return a, nil
}

// set reads one label.
func (a *Autoscale) set(label, name, value string) error {
	count := func(to *uint64) error {
		n, err := strconv.ParseUint(value, 10, 64)
		if err != nil || n < 1 || n > maxReplicas {
			return invalid("label %s: %q: must be a number from 1 to %d", label, value, maxReplicas)
		}
		*to = n
		return nil
	}
	percent := func(to *float64) error {
		n, err := strconv.ParseFloat(strings.TrimSuffix(value, "%"), 64)
		if err != nil || !(n >= 1 && n <= maxPercent) {
			return invalid("label %s: %q: must be percent, from 1 to %d", label, value, maxPercent)
		}
		*to = n
		return nil
	}
	window := func(to *time.Duration) error {
		d, err := time.ParseDuration(value)
		if err != nil || d < 0 || d > maxScaleWindow {
			return invalid("label %s: %q: must be a duration from 0s to %s", label, value, maxScaleWindow)
		}
		*to = d
		return nil
	}
	switch name {
	case "min":
		return count(&a.Min)
	case "max":
		return count(&a.Max)
	case "cpu":
		return percent(&a.CPU)
	case "memory":
		return percent(&a.Memory)
	case "connections":
		n, err := strconv.ParseFloat(value, 64)
		if err != nil || !(n > 0 && n <= maxConnections) {
			return invalid("label %s: %q: must be connections a second, more than 0 and at most %d", label, value, maxConnections)
		}
		a.Connections = n
		return nil
	case "up-window":
		return window(&a.UpWindow)
	case "down-window":
		return window(&a.DownWindow)
	case "up-step":
		return count(&a.UpStep)
	case "down-step":
		return count(&a.DownStep)
	case "tolerance":
		t, err := strconv.ParseFloat(value, 64)
		if err != nil || !(t >= 0 && t < 1) {
			return invalid("label %s: %q: must be a number from 0 to less than 1", label, value)
		}
		a.Tolerance = t
		return nil
	}
	return invalid("label %s: it is not known", label)
}

// publishes says whether the specification publishes a port on the routing mesh.
func publishes(spec *swarm.ServiceSpec) bool {
	return spec.EndpointSpec != nil && slices.ContainsFunc(spec.EndpointSpec.Ports, func(p swarm.PortConfig) bool {
		return p.PublishMode != swarm.PortConfigPublishModeHost
	})
}

// Autoscales says whether a specification is scaled by the swarm, validly or not.
func Autoscales(spec *swarm.ServiceSpec) bool {
	_, ok := spec.Labels[LabelScaleMax]
	return ok
}

func validateAutoscale(s *swarm.ServiceSpec) error {
	_, err := AutoscaleOf(s)
	return err
}

// Replicas is how many replicas a replicated service has: its specification's number, or, where the swarm scales it, the
// one that was chosen, within the bounds. A service that is scaled to 0 stays there until somebody scales it up.
func (s *Service) Replicas() uint64 {
	n := uint64(1)
	if m := s.Spec.Mode.Replicated; m != nil && m.Replicas != nil {
		n = *m.Replicas
	}
	if n == 0 || !Autoscales(&s.Spec) {
		return n
	}
	a, err := AutoscaleOf(&s.Spec)
	if err != nil {
		return n
	}
	if s.Scale != nil {
		n = s.Scale.Replicas
	}
	return min(max(n, a.Min), a.Max)
}

// ScaleStatus is what autoscaling made of a service's replicas.
type ScaleStatus struct {
	// Replicas is how many it has.
	Replicas uint64
	// ChangedAt is when that last changed.
	ChangedAt time.Time `json:"ChangedAt,omitzero"`
	// Wanted is what the usage asked for, oldest first; each holds until the next. It reaches back as far as the windows.
	Wanted []ScalePoint `json:",omitempty"`
	// Decisions are the last changes, oldest first.
	Decisions []ScaleDecision `json:",omitempty"`
}

// ScalePoint is how many replicas were wanted from a time on.
type ScalePoint struct {
	At       time.Time
	Replicas uint64
}

// ScaleDecision is a change of the number of replicas.
type ScaleDecision struct {
	At       time.Time
	From, To uint64
	Reason   string
}

// Want notes what is wanted from now on and forgets what was before the longer of the windows. It says whether that is
// news.
func (s *ScaleStatus) Want(n uint64, now time.Time, window time.Duration) bool {
	if l := len(s.Wanted); l > 0 && s.Wanted[l-1].Replicas == n {
		return false
	}
	s.Wanted = append(s.Wanted, ScalePoint{At: now, Replicas: n})
	for len(s.Wanted) > 1 && (!s.Wanted[1].At.After(now.Add(-window)) || len(s.Wanted) > maxScalePoints) {
		s.Wanted = s.Wanted[1:]
	}
	return true
}

// Extremes are the least and the most that was wanted since a time.
func (s *ScaleStatus) Extremes(since time.Time) (least, most uint64) {
	least = math.MaxUint64
	for i, p := range s.Wanted {
		if i+1 < len(s.Wanted) && !s.Wanted[i+1].At.After(since) {
			continue // it ended before
		}
		least, most = min(least, p.Replicas), max(most, p.Replicas)
	}
	return least, most
}

// Decide changes the number of replicas.
func (s *ScaleStatus) Decide(n uint64, now time.Time, why string) {
	s.Decisions = append(s.Decisions, ScaleDecision{At: now, From: s.Replicas, To: n, Reason: why})
	if over := len(s.Decisions) - maxScaleDecisions; over > 0 {
		s.Decisions = s.Decisions[over:]
	}
	s.Replicas, s.ChangedAt = n, now
}

// Usage is what a task used lately. It is volatile: it never goes through Raft.
type Usage struct {
	// At is when it was measured.
	At time.Time
	// NanoCPUs is in billionths of a CPU, on average since the measurement before.
	NanoCPUs int64
	// MemoryBytes is without what the kernel can take back at once.
	MemoryBytes int64
	// Connections is how many were begun through the routing mesh, a second on average since the measurement before.
	Connections float64
}
