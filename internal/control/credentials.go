package control

import (
	"github.com/moby/moby/api/pkg/authconfig"
	"github.com/moby/moby/api/types/registry"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/store"
)

// maxAuth bounds an X-Registry-Auth header in bytes: a token with all its claims has a tenth of that.
const maxAuth = 64 << 10

// checkAuth refuses credentials that no node could use.
func checkAuth(encoded string) error {
	if len(encoded) > maxAuth {
		return invalid("invalid X-Registry-Auth header: it has %d bytes, at most %d", len(encoded), maxAuth)
	}
	if _, err := authconfig.Decode(encoded); err != nil {
		return invalid("invalid X-Registry-Auth header: %s", err)
	}
	return nil
}

// authOf are the credentials that an image of the service is pulled with: those that came with the request, or else
// those that the service has for the image's repository. It is never nil.
func authOf(snap *store.Snapshot, serviceID, image, encoded string) *registry.AuthConfig {
	if encoded == "" {
		if c, ok := store.Get[*cluster.Credentials](snap, serviceID); ok {
			encoded = c.Auth[cluster.Repository(image)]
		}
	}
	a, err := authconfig.Decode(encoded)
	if err != nil {
		return &registry.AuthConfig{}
	}
	return a
}

// keepAuth writes what the nodes pull the service's images with. Credentials that came with the request are those of the
// image; without any, an image of the same registry as the one before is pulled as that was. old is the service before,
// nil if it is new. What neither the service's specification nor the one before uses is forgotten.
func keepAuth(tx *store.Tx, s, old *cluster.Service, encoded string) {
	have, known := store.Get[*cluster.Credentials](tx.Snapshot, s.ID)
	if encoded == "" && !known {
		return
	}
	had := map[string]string{}
	if known {
		had = have.Auth
	}
	image := imageOf(s)
	next := map[string]string{}
	for _, i := range []string{image, previousImage(s)} {
		if auth := had[cluster.Repository(i)]; auth != "" {
			next[cluster.Repository(i)] = auth
		}
	}
	repository := cluster.Repository(image)
	switch {
	case encoded == emptyAuth:
		delete(next, repository)
	case encoded != "":
		next[repository] = encoded
	case next[repository] == "" && old != nil && cluster.Registry(imageOf(old)) == cluster.Registry(image):
		if auth := had[cluster.Repository(imageOf(old))]; auth != "" {
			next[repository] = auth
		}
	}
	switch {
	case known && len(next) == 0:
		tx.Write(store.Delete(have))
	case known:
		c := have.Clone().(*cluster.Credentials)
		c.Auth = next
		tx.Write(store.PutSpec(c))
	case len(next) > 0:
		tx.Write(store.Create(&cluster.Credentials{ID: s.ID, Auth: next}))
	}
}

func imageOf(s *cluster.Service) string {
	if c := s.Spec.TaskTemplate.ContainerSpec; c != nil {
		return c.Image
	}
	return ""
}

func previousImage(s *cluster.Service) string {
	if p := s.PreviousSpec; p != nil && p.TaskTemplate.ContainerSpec != nil {
		return p.TaskTemplate.ContainerSpec.Image
	}
	return ""
}
