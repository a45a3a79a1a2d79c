package agent

import (
	"slices"
	"testing"

	"github.com/moby/moby/api/types/swarm"
)

func TestGenericEnv(t *testing.T) {
	named := func(v string) swarm.GenericResource {
		return swarm.GenericResource{NamedResourceSpec: &swarm.NamedGenericResource{Kind: "gpu", Value: v}}
	}
	got := genericEnv([]swarm.GenericResource{named("U1"), {DiscreteResourceSpec: &swarm.DiscreteGenericResource{Kind: "fast-ssd", Value: 3}}, named("U2")})
	if want := []string{"DOCKER_RESOURCE_FAST-SSD=3", "DOCKER_RESOURCE_GPU=U1,U2"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if got := genericEnv(nil); got != nil {
		t.Errorf("%q", got)
	}
}
