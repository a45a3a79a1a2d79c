package cluster

import (
	"slices"

	"github.com/moby/moby/api/types/swarm"
)

// RunsOn says whether a node of the platform runs one of the image's. An image that names none runs anywhere,
// and an empty part of a name is any.
func RunsOn(image []swarm.Platform, node swarm.Platform) bool {
	if len(image) == 0 {
		return true
	}
	return slices.ContainsFunc(image, func(p swarm.Platform) bool {
		return (p.OS == "" || p.OS == node.OS) && (p.Architecture == "" || machine(p.Architecture) == machine(node.Architecture))
	})
}

// machine is the Go name of an architecture that nodes and images call by either name.
func machine(arch string) string {
	switch arch {
	case "x86_64":
		return "amd64"
	case "aarch64":
		return "arm64"
	}
	return arch
}
