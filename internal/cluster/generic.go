package cluster

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/swarm"
)

// ParseGenericResources reads what a node has of things that only its owner knows, as KIND=NUMBER or, a term for each,
// KIND=NAME. The result is sorted by kind. Grammar and words are Swarm's.
func ParseGenericResources(terms []string) ([]swarm.GenericResource, error) {
	values := map[string][]string{}
	for _, term := range terms {
		kind, value, ok := strings.Cut(term, "=")
		kind, value = strings.TrimSpace(kind), strings.TrimSpace(value)
		if !ok || kind == "" || value == "" || strings.Contains(value, "=") {
			return nil, fmt.Errorf("could not parse GenericResource: incorrect term %s, missing '=' or malformed expression", term)
		}
		values[kind] = append(values[kind], value)
	}
	var out []swarm.GenericResource
	for _, kind := range slices.Sorted(maps.Keys(values)) {
		list := values[kind]
		if n, err := strconv.ParseInt(list[0], 10, 64); err == nil && len(list) == 1 {
			if n < 0 {
				return nil, fmt.Errorf("could not parse GenericResource: cannot ask for negative resource %s", kind)
			}
			out = append(out, swarm.GenericResource{DiscreteResourceSpec: &swarm.DiscreteGenericResource{Kind: kind, Value: n}})
			continue
		}
		for _, name := range list {
			if _, err := strconv.ParseInt(name, 10, 64); err == nil {
				return nil, fmt.Errorf("could not parse GenericResource: malformed expression '%s=%s'", kind, list)
			}
			out = append(out, swarm.GenericResource{NamedResourceSpec: &swarm.NamedGenericResource{Kind: kind, Value: name}})
		}
	}
	return out, nil
}
