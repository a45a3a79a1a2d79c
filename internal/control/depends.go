package control

import (
	"slices"
	"strings"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/store"
)

// checkDependencies refuses a service that would wait for itself by way of others. One that waits for what is not there yet
// is let in: a stack's services are made in any order.
func checkDependencies(snap *store.Snapshot, s *cluster.Service) error {
	deps, err := cluster.ParseDependencies(s.Spec.Labels)
	if err != nil {
		return err
	}
	for _, d := range deps {
		if slices.Contains(d.Names(s.Spec.Labels), s.Spec.Name) {
			return cycle([]string{s.Spec.Name, s.Spec.Name})
		}
		if on, ok := snap.DependedOn(s, d); ok {
			if way := wayTo(snap, on, s.Spec.Name, map[string]bool{}); way != nil {
				return cycle(append([]string{s.Spec.Name}, way...))
			}
		}
	}
	return nil
}

func cycle(way []string) error {
	return invalid("dependency cycle: %s", strings.Join(way, " -> "))
}

// wayTo is a way along dependencies from a service to one by name; nil if there is none.
func wayTo(snap *store.Snapshot, from *cluster.Service, to string, seen map[string]bool) []string {
	if seen[from.ID] {
		return nil
	}
	seen[from.ID] = true
	deps, err := cluster.ParseDependencies(from.Spec.Labels)
	if err != nil {
		return nil // control lets none of these in
	}
	for _, d := range deps {
		if slices.Contains(d.Names(from.Spec.Labels), to) {
			return []string{from.Spec.Name, to}
		}
		if on, ok := snap.DependedOn(from, d); ok {
			if way := wayTo(snap, on, to, seen); way != nil {
				return append([]string{from.Spec.Name}, way...)
			}
		}
	}
	return nil
}
