package local

import (
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"
)

// Pick finds the network that a user means: by ID, by name, by a prefix of the ID that only one has. scope is "",
// "swarm", "local" or "global".
func Pick(all []network.Inspect, ref, scope string) (*network.Inspect, error) {
	var named, found []*network.Inspect
	for i := range all {
		x := &all[i]
		switch {
		case scope != "" && x.Scope != scope:
		case x.ID == ref:
			return x, nil
		case x.Name == ref:
			named = append(named, x)
		case ref != "" && strings.HasPrefix(x.ID, ref):
			found = append(found, x)
		}
	}
	by := "name"
	if len(named) == 0 {
		named, by = found, "ID prefix"
	}
	switch len(named) {
	case 1:
		return named[0], nil
	case 0:
		return nil, errdefs.ErrNotFound.WithMessage(fmt.Sprintf("network %s not found", ref))
	}
	return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("network %s is ambiguous (%d matches found based on %s)", ref, len(named), by))
}
