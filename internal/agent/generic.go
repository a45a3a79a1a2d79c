package agent

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/swarm"
)

// genericEnv is how a container learns which generic resources it was given, in Docker's form:
// DOCKER_RESOURCE_KIND=NUMBER or the names.
func genericEnv(given []swarm.GenericResource) []string {
	values := map[string][]string{}
	for _, r := range given {
		if d := r.DiscreteResourceSpec; d != nil {
			values[d.Kind] = append(values[d.Kind], strconv.FormatInt(d.Value, 10))
		}
		if n := r.NamedResourceSpec; n != nil {
			values[n.Kind] = append(values[n.Kind], n.Value)
		}
	}
	var env []string
	for _, kind := range slices.Sorted(maps.Keys(values)) {
		env = append(env, strings.ToUpper("DOCKER_RESOURCE_"+kind)+"="+strings.Join(values[kind], ","))
	}
	return env
}
