package cluster

import (
	"fmt"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/swarm"
)

// Credentials are what a service's nodes pull its images with. Its ID is the service's. It has no route, and leaves a
// manager only for nodes with a task of the service. All of it is specification.
type Credentials struct {
	ID string
	swarm.Meta
	StateVersion uint64 `json:",omitempty"`
	// Auth is the X-Registry-Auth header that came with an image, by [Repository]: those of the service's image and of
	// the one before it, so that a rollback can pull too, and none goes to a registry that it is not for.
	Auth map[string]string `json:",omitempty"`
}

func (*Credentials) Kind() Kind                 { return KindCredentials }
func (c *Credentials) Key() string              { return c.ID }
func (c *Credentials) GetMeta() *swarm.Meta     { return &c.Meta }
func (c *Credentials) GetStateVersion() *uint64 { return &c.StateVersion }
func (c *Credentials) Clone() Object            { return deepCopy(c) }

// MergeState does nothing: credentials are all specification.
func (*Credentials) MergeState(Object) {}

// String keeps the credentials out of whatever prints the record.
func (c *Credentials) String() string {
	return fmt.Sprintf("credentials of service %s for %d repositories", c.ID, len(c.Auth))
}

// GoString is String.
func (c *Credentials) GoString() string { return c.String() }

// Repository is the repository of an image as its registry knows it, without tag and digest: docker.io/library/hello.
// It is "" for what is no reference.
func Repository(image string) string {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return ""
	}
	return named.Name()
}

// Registry is the host of [Repository].
func Registry(image string) string {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return ""
	}
	return reference.Domain(named)
}
