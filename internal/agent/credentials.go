package agent

import (
	"github.com/moby/moby/api/pkg/authconfig"
	"github.com/moby/moby/api/types/registry"

	"shoal.dev/shoal/internal/cluster"
)

// credentials are what the task's image is pulled with at the moment, nil for nothing, and a text that is the same for
// the same ones.
func (v *vault) credentials(t *cluster.Task) (auth *registry.AuthConfig, mark string) {
	f, ok := v.get(t.ServiceID)
	if !ok || t.Spec.ContainerSpec == nil {
		return nil, ""
	}
	// What cannot be read counts as none: the registry says that it wants some.
	all, err := f.Credentials()
	if err != nil {
		return nil, ""
	}
	mark = all[cluster.Repository(t.Spec.ContainerSpec.Image)]
	if mark == "" {
		return nil, ""
	}
	if auth, err = authconfig.Decode(mark); err != nil {
		return nil, ""
	}
	return auth, mark
}
