package cluster

import (
	"cmp"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/moby/moby/api/types/swarm"
)

// LabelKeeps is a label of a config with the IDs, separated by commas, of secrets and configs that are kept although
// newer versions of them have taken their names: those that a stack's revision goes back to.
const LabelKeeps = "shoal.keeps"

// LabelStack is Docker's label of everything that a stack has, with its name.
const LabelStack = "com.docker.stack.namespace"

// Versioned is which version of its name a secret or a config is; see docs/adr/0007.
type Versioned struct {
	// Number counts the versions that the name has had; 0 is 1.
	Number uint64 `json:",omitempty"`
	// VersionOf is the name that this one had until a newer version took it; "": it has its own.
	VersionOf string `json:",omitempty"`
	// UnusedAt is since when nothing has used an older version, in swarm time; zero: it is used.
	UnusedAt time.Time `json:"UnusedAt,omitzero"`
}

// NumberOf is the version's number.
func (v Versioned) NumberOf() uint64 { return max(v.Number, 1) }

// Answers says whether a reference by the name can mean the version, which is called own now: references that were made
// before a newer one took the name still have that.
func (v Versioned) Answers(name, own string) bool {
	return name == own || v.VersionOf != "" && name == v.VersionOf
}

// NameOf is the name that the newest version has, of one that is called own now.
func (v Versioned) NameOf(own string) string { return cmp.Or(v.VersionOf, own) }

// OlderName is what a version is called once a newer one has its name.
func OlderName(name string, number uint64) string { return fmt.Sprintf("%s.v%d", name, number) }

// FileIDs are the secrets and configs that tasks of the template use.
func FileIDs(t *swarm.TaskSpec) iter.Seq[string] {
	return func(yield func(string) bool) {
		if t.ContainerSpec == nil {
			return
		}
		for _, r := range t.ContainerSpec.Secrets {
			if !yield(r.SecretID) {
				return
			}
		}
		for _, r := range t.ContainerSpec.Configs {
			if !yield(r.ConfigID) {
				return
			}
		}
	}
}

// Kept are the secrets and configs that a config's labels keep.
func (c *Config) Kept() iter.Seq[string] {
	return func(yield func(string) bool) {
		for id := range strings.SplitSeq(c.Spec.Labels[LabelKeeps], ",") {
			if id != "" && !yield(id) {
				return
			}
		}
	}
}
