package cluster

import (
	"fmt"
	"path"
	"regexp"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"
)

// Limits of Swarm's, in bytes; a value must be smaller than its limit. The source is Swarm's control API.
const (
	MaxSecretSize = 500 * 1024
	MaxConfigSize = 1000 * 1024
)

// TemplateDriver is the one templating driver that there is: Go's text/template.
const TemplateDriver = "golang"

// Secret is what is known of a secret. Its bytes are not here but in the [SecretData] of the same ID, so that whoever
// lists, serves or logs secrets has none to give away. All of it is specification.
type Secret struct {
	swarm.Secret
	StateVersion uint64 `json:",omitempty"`
	Versioned
}

// SecretData is a secret's bytes. They never change.
type SecretData struct {
	ID string
	swarm.Meta
	StateVersion uint64 `json:",omitempty"`
	Data         []byte
}

// Config is a file that services share, with its bytes, which never change. All of it is specification.
type Config struct {
	swarm.Config
	StateVersion uint64 `json:",omitempty"`
	Versioned
}

func (*Secret) Kind() Kind     { return KindSecret }
func (*SecretData) Kind() Kind { return KindSecretData }
func (*Config) Kind() Kind     { return KindConfig }

func (s *Secret) Key() string     { return s.ID }
func (s *SecretData) Key() string { return s.ID }
func (c *Config) Key() string     { return c.ID }

func (s *Secret) GetMeta() *swarm.Meta     { return &s.Meta }
func (s *SecretData) GetMeta() *swarm.Meta { return &s.Meta }
func (c *Config) GetMeta() *swarm.Meta     { return &c.Meta }

func (s *Secret) GetStateVersion() *uint64     { return &s.StateVersion }
func (s *SecretData) GetStateVersion() *uint64 { return &s.StateVersion }
func (c *Config) GetStateVersion() *uint64     { return &c.StateVersion }

func (s *Secret) Clone() Object     { return deepCopy(s) }
func (s *SecretData) Clone() Object { return deepCopy(s) }
func (c *Config) Clone() Object     { return deepCopy(c) }

// MergeState does nothing: a secret is all specification.
func (*Secret) MergeState(Object) {}

// MergeState does nothing: the bytes are all specification.
func (*SecretData) MergeState(Object) {}

// MergeState does nothing: a config is all specification.
func (*Config) MergeState(Object) {}

// String keeps the bytes out of whatever prints the record.
func (s *SecretData) String() string {
	return fmt.Sprintf("secret-data %s (%d bytes)", s.ID, len(s.Data))
}

// GoString is String.
func (s *SecretData) GoString() string { return s.String() }

var fileObjectName = regexp.MustCompile(`^[a-zA-Z0-9]+(?:[a-zA-Z0-9-_.]*[a-zA-Z0-9])?$`)

// ValidateSecretSpec says what is wrong with a new secret, in Docker's words. The error is InvalidArgument, or
// NotImplemented for a secret that something outside of the swarm is to keep.
func ValidateSecretSpec(s swarm.SecretSpec) error {
	if err := validateObjectName(s.Name); err != nil {
		return err
	}
	if d := s.Driver; d != nil {
		if d.Name == "" {
			return invalid("secret driver must have a name")
		}
		return errdefs.ErrNotImplemented.WithMessage(fmt.Sprintf("secret drivers (%s) are not implemented by Shoal yet: create the secret with its value", d.Name))
	}
	if len(s.Data) < 1 || len(s.Data) >= MaxSecretSize {
		return invalid("secret data must be larger than 0 and less than %d bytes", MaxSecretSize)
	}
	return validateTemplating(s.Templating)
}

// ValidateConfigSpec says what is wrong with a new config, likewise.
func ValidateConfigSpec(c swarm.ConfigSpec) error {
	if err := validateObjectName(c.Name); err != nil {
		return err
	}
	if len(c.Data) < 1 || len(c.Data) >= MaxConfigSize {
		return invalid("config data must be larger than 0 and less than %d bytes", MaxConfigSize)
	}
	return validateTemplating(c.Templating)
}

func validateObjectName(name string) error {
	switch {
	case name == "":
		return invalid("name must be provided")
	case len(name) > 64 || !fileObjectName.MatchString(name):
		return invalid("invalid name, only 64 [a-zA-Z0-9-_.] characters allowed, and the start and end character must be [a-zA-Z0-9]")
	}
	return nil
}

func validateTemplating(d *swarm.Driver) error {
	if d == nil || d.Name == TemplateDriver {
		return nil
	}
	return invalid("unrecognized template type %q: the one that there is is %q", d.Name, TemplateDriver)
}

// SecretTarget is the path of a secret's file in a container: relative ones are below /run/secrets.
func SecretTarget(name string) string {
	if path.IsAbs(name) {
		return path.Clean(name)
	}
	return path.Join("/run/secrets", name)
}

// ConfigTarget is the path of a config's file in a container: relative ones are below the root.
func ConfigTarget(name string) string { return path.Join("/", name) }

// validateFiles looks at the references to secrets and configs. Whether the objects exist is not known here.
func validateFiles(s *swarm.ServiceSpec) error {
	c := s.TaskTemplate.ContainerSpec
	if c == nil {
		return nil
	}
	taken := map[string]string{} // name of what is placed there
	for _, r := range c.Secrets {
		switch {
		case r == nil || r.SecretID == "" || r.SecretName == "":
			return invalid("malformed secret reference")
		case r.File == nil:
			return invalid("malformed secret reference, no target provided")
		case strings.Trim(r.File.Name, "/.") == "":
			return invalid("malformed file secret reference, invalid target file name provided")
		}
		if err := validateFile("secret", r.SecretName, SecretTarget(r.File.Name), r.File.Name, r.File.UID, r.File.GID, taken); err != nil {
			return err
		}
	}
	for _, r := range c.Configs {
		switch {
		case r == nil || r.ConfigID == "" || r.ConfigName == "":
			return invalid("malformed config reference")
		case r.File == nil && r.Runtime == nil:
			return invalid("invalid Config: either File or Runtime should be set")
		case r.File != nil && r.Runtime != nil:
			return invalid("invalid Config: cannot specify both File and Runtime")
		case r.File == nil:
			continue // for the runtime, which is told by what else refers to it
		case strings.Trim(r.File.Name, "/.") == "":
			return invalid("malformed file config reference, invalid target file name provided")
		}
		if err := validateFile("config", r.ConfigName, ConfigTarget(r.File.Name), r.File.Name, r.File.UID, r.File.GID, taken); err != nil {
			return err
		}
	}
	return nil
}

func validateFile(kind, name, target, given, uid, gid string, taken map[string]string) error {
	if other, ok := taken[target]; ok {
		return invalid("%s references '%s' and '%s' have a conflicting target: '%s'", kind, other, name, given)
	}
	taken[target] = name
	for _, id := range []string{uid, gid} {
		if _, err := FileOwner(id); err != nil {
			return invalid("%s '%s': invalid owner %q of its file: a UID or GID must be a number", kind, name, id)
		}
	}
	return nil
}

// FileOwner reads the UID or GID of a reference to a secret or config; "" is 0.
func FileOwner(id string) (int, error) {
	if id == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(id, 10, 31)
	return int(n), err
}
