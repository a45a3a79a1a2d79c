package cluster

import (
	"slices"
	"strings"

	"github.com/moby/moby/api/types/swarm"
)

// LabelDependsOn is a label of a service: SERVICE[:CONDITION], separated by commas. A service of the same stack is named as
// in the stack's file. The conditions are Compose's; without one it is service_started.
const LabelDependsOn = "shoal.depends-on"

// The conditions of a dependency.
const (
	ServiceStarted   = "service_started"                // its tasks have been started
	ServiceHealthy   = "service_healthy"                // its tasks run, which those with a health check do once they are healthy
	ServiceCompleted = "service_completed_successfully" // its tasks have ended with exit code 0
)

// Dependency is a service that another waits for before its first tasks are started.
type Dependency struct{ Service, Condition string }

// String is the dependency as an explanation names it.
func (d Dependency) String() string {
	c := strings.ReplaceAll(strings.TrimPrefix(d.Condition, "service_"), "_", " ")
	return d.Service + " (" + c + ")"
}

// ParseDependencies reads what a service's labels say; none is nil. The error is InvalidArgument.
func ParseDependencies(labels map[string]string) ([]Dependency, error) {
	var out []Dependency
	text := labels[LabelDependsOn]
	if text == "" {
		return nil, nil
	}
	for term := range strings.SplitSeq(text, ",") {
		name, condition, given := strings.Cut(strings.TrimSpace(term), ":")
		if !given {
			condition = ServiceStarted
		}
		switch {
		case name == "":
			return nil, invalid("invalid label %s=%s: a service has no name", LabelDependsOn, text)
		case condition != ServiceStarted && condition != ServiceHealthy && condition != ServiceCompleted:
			return nil, invalid("invalid label %s=%s: the condition %q of service %s is none of %s, %s, %s",
				LabelDependsOn, text, condition, name, ServiceStarted, ServiceHealthy, ServiceCompleted)
		case slices.ContainsFunc(out, func(d Dependency) bool { return d.Service == name }):
			return nil, invalid("invalid label %s=%s: service %s is named twice", LabelDependsOn, text, name)
		}
		out = append(out, Dependency{name, condition})
	}
	return out, nil
}

func validateDependencies(s *swarm.ServiceSpec) error {
	_, err := ParseDependencies(s.Labels)
	return err
}

// Unmet are the dependencies of which the condition has never been met. What cannot be read is none; control lets none of
// it in.
func (s *Service) Unmet() []Dependency {
	if s.Spec.Labels[LabelDependsOn] == "" {
		return nil
	}
	all, err := ParseDependencies(s.Spec.Labels)
	if err != nil {
		return nil
	}
	return slices.DeleteFunc(all, func(d Dependency) bool { return slices.Contains(s.Met, d.String()) })
}

// Waits says whether the service waits for one that is called name.
func (s *Service) Waits(name string) bool {
	return slices.ContainsFunc(s.Unmet(), func(d Dependency) bool { return slices.Contains(d.Names(s.Spec.Labels), name) })
}

// Names are what the service may be called that a dependency of a service with the labels means: the first that there is.
func (d Dependency) Names(labels map[string]string) []string {
	if stack := labels[LabelStack]; stack != "" {
		return []string{stack + "_" + d.Service, d.Service}
	}
	return []string{d.Service}
}
