package control

import (
	"bytes"
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/store"
)

func secretName(s *cluster.Secret) string { return s.Spec.Name }
func configName(c *cluster.Config) string { return c.Spec.Name }

// Secrets lists the secrets, without their bytes.
func (c *Control) Secrets(ctx context.Context, f map[string][]string) ([]swarm.Secret, error) {
	_, snap, err := c.read(ctx)
	if err != nil {
		return nil, err
	}
	out := []swarm.Secret{}
	match, err := objectFilter(f)
	if err != nil {
		return nil, err
	}
	for s := range store.List[*cluster.Secret](snap) {
		if match(s.ID, s.Spec.Annotations) {
			out = append(out, s.Clone().(*cluster.Secret).Secret)
		}
	}
	return out, nil
}

// Configs lists the configs.
func (c *Control) Configs(ctx context.Context, f map[string][]string) ([]swarm.Config, error) {
	_, snap, err := c.read(ctx)
	if err != nil {
		return nil, err
	}
	match, err := objectFilter(f)
	if err != nil {
		return nil, err
	}
	out := []swarm.Config{}
	for o := range store.List[*cluster.Config](snap) {
		if match(o.ID, o.Spec.Annotations) {
			out = append(out, o.Clone().(*cluster.Config).Config)
		}
	}
	return out, nil
}

// objectFilter is the filters of secrets and configs.
func objectFilter(f map[string][]string) (func(id string, a swarm.Annotations) bool, error) {
	fl := filters(f)
	if err := fl.known("id", "name", "names", "label"); err != nil {
		return nil, err
	}
	return func(id string, a swarm.Annotations) bool {
		return fl.any("id", prefixOf(id)) && fl.any("name", prefixOf(a.Name)) &&
			fl.any("names", func(v string) bool { return v == a.Name }) && fl.labels("label", a.Labels)
	}, nil
}

// Secret returns a secret without its bytes.
func (c *Control) Secret(ctx context.Context, ref string) (*swarm.Secret, error) {
	_, snap, err := c.read(ctx)
	if err != nil {
		return nil, err
	}
	s, err := find(snap, "secret", ref, secretName)
	if err != nil {
		return nil, err
	}
	return &s.Clone().(*cluster.Secret).Secret, nil
}

// Config returns a config.
func (c *Control) Config(ctx context.Context, ref string) (*swarm.Config, error) {
	_, snap, err := c.read(ctx)
	if err != nil {
		return nil, err
	}
	o, err := find(snap, "config", ref, configName)
	if err != nil {
		return nil, err
	}
	return &o.Clone().(*cluster.Config).Config, nil
}

// CreateSecret makes a secret and returns its ID.
func (c *Control) CreateSecret(ctx context.Context, spec swarm.SecretSpec) (string, error) {
	m, err := c.write()
	if err != nil {
		return "", err
	}
	if err := cluster.ValidateSecretSpec(spec); err != nil {
		return "", err
	}
	s := &cluster.Secret{}
	s.ID, s.Spec = cluster.NewID(), spec
	data := &cluster.SecretData{ID: s.ID, Data: spec.Data}
	s.Spec.Data = nil
	return s.ID, m.update(ctx, func(tx *store.Tx) error {
		if _, ok := tx.SecretByName(spec.Name); ok {
			return errdefs.ErrAlreadyExists.WithMessage("secret " + spec.Name + " already exists")
		}
		tx.Write(store.Create(s.Clone()))
		tx.Write(store.Create(data.Clone()))
		tx.Write(store.Create(&cluster.Claim{ID: cluster.ClaimName(cluster.KindSecret, spec.Name), Owner: s.ID, OwnerName: spec.Name}))
		return nil
	})
}

// CreateConfig makes a config and returns its ID.
func (c *Control) CreateConfig(ctx context.Context, spec swarm.ConfigSpec) (string, error) {
	m, err := c.write()
	if err != nil {
		return "", err
	}
	if err := cluster.ValidateConfigSpec(spec); err != nil {
		return "", err
	}
	o := &cluster.Config{}
	o.ID, o.Spec = cluster.NewID(), spec
	return o.ID, m.update(ctx, func(tx *store.Tx) error {
		if _, ok := tx.ConfigByName(spec.Name); ok {
			return errdefs.ErrAlreadyExists.WithMessage("config " + spec.Name + " already exists")
		}
		tx.Write(store.Create(o.Clone()))
		tx.Write(store.Create(&cluster.Claim{ID: cluster.ClaimName(cluster.KindConfig, spec.Name), Owner: o.ID, OwnerName: spec.Name}))
		return nil
	})
}

func onlyLabels() error { return invalid("only updates to Labels are allowed") }

// UpdateSecret replaces a secret's labels if it is still at the version. A specification without bytes leaves them. Other
// bytes are refused as in Docker, except from the deploy of the stack that the secret is of: that makes a new version,
// and updates the services itself.
func (c *Control) UpdateSecret(ctx context.Context, ref string, version uint64, spec swarm.SecretSpec) error {
	m, err := c.write()
	if err != nil {
		return err
	}
	next := cluster.NewID() // should there be a new version
	return m.update(ctx, func(tx *store.Tx) error {
		old, err := find(tx.Snapshot, "secret", ref, secretName)
		if err != nil {
			return err
		}
		data, _ := store.Get[*cluster.SecretData](tx.Snapshot, old.ID)
		switch {
		case old.Version.Index != version:
			return outOfSequence()
		case spec.Name != old.Spec.Name:
			return onlyLabels()
		case spec.Data != nil && (data == nil || !bytes.Equal(spec.Data, data.Data)):
			if !redeployed(old.Spec.Labels, spec.Labels, old.Versioned) {
				return onlyLabels()
			}
			return newSecret(tx, old, spec, next)
		}
		s := old.Clone().(*cluster.Secret)
		s.Spec.Labels = spec.Labels
		tx.Write(store.PutSpec(s))
		return nil
	})
}

// UpdateConfig is [Control.UpdateSecret] for configs.
func (c *Control) UpdateConfig(ctx context.Context, ref string, version uint64, spec swarm.ConfigSpec) error {
	m, err := c.write()
	if err != nil {
		return err
	}
	next := cluster.NewID()
	return m.update(ctx, func(tx *store.Tx) error {
		old, err := find(tx.Snapshot, "config", ref, configName)
		if err != nil {
			return err
		}
		switch {
		case old.Version.Index != version:
			return outOfSequence()
		case spec.Name != old.Spec.Name:
			return onlyLabels()
		case spec.Data != nil && !bytes.Equal(spec.Data, old.Spec.Data):
			if !redeployed(old.Spec.Labels, spec.Labels, old.Versioned) {
				return onlyLabels()
			}
			return newConfig(tx, old, spec, next)
		}
		n := old.Clone().(*cluster.Config)
		n.Spec.Labels = spec.Labels
		tx.Write(store.PutSpec(n))
		return nil
	})
}

// RemoveSecret removes a secret that no service uses, and its bytes.
func (c *Control) RemoveSecret(ctx context.Context, ref string) error {
	m, err := c.write()
	if err != nil {
		return err
	}
	return m.update(ctx, func(tx *store.Tx) error {
		s, err := find(tx.Snapshot, "secret", ref, secretName)
		if err != nil {
			return err
		}
		if err := inUse(tx.Snapshot, "secret", s.Spec.Name, func(c *swarm.ContainerSpec) bool {
			return slices.ContainsFunc(c.Secrets, func(r *swarm.SecretReference) bool { return r.SecretID == s.ID })
		}); err != nil {
			return err
		}
		tx.Write(store.Delete(s))
		if data, ok := store.Get[*cluster.SecretData](tx.Snapshot, s.ID); ok {
			tx.Write(store.Delete(data))
		}
		release(tx, cluster.ClaimName(cluster.KindSecret, s.Spec.Name), s.ID)
		return nil
	})
}

// RemoveConfig removes a config that no service uses.
func (c *Control) RemoveConfig(ctx context.Context, ref string) error {
	m, err := c.write()
	if err != nil {
		return err
	}
	return m.update(ctx, func(tx *store.Tx) error {
		o, err := find(tx.Snapshot, "config", ref, configName)
		if err != nil {
			return err
		}
		if err := inUse(tx.Snapshot, "config", o.Spec.Name, func(c *swarm.ContainerSpec) bool {
			return slices.ContainsFunc(c.Configs, func(r *swarm.ConfigReference) bool { return r.ConfigID == o.ID })
		}); err != nil {
			return err
		}
		tx.Write(store.Delete(o))
		release(tx, cluster.ClaimName(cluster.KindConfig, o.Spec.Name), o.ID)
		return nil
	})
}

// release gives a claim back.
func release(tx *store.Tx, id, owner string) {
	if cl, ok := store.Get[*cluster.Claim](tx.Snapshot, id); ok && cl.Owner == owner {
		tx.Write(store.Delete(cl))
	}
}

// inUse refuses the removal of what services use, in Docker's words.
func inUse(snap *store.Snapshot, kind, name string, uses func(*swarm.ContainerSpec) bool) error {
	var users []string
	for s := range store.List[*cluster.Service](snap) {
		if c := s.Spec.TaskTemplate.ContainerSpec; c != nil && uses(c) {
			users = append(users, s.Spec.Name)
		}
	}
	if len(users) == 0 {
		return nil
	}
	slices.Sort(users)
	return invalid("%s '%s' is in use by the following %s: %s", kind, name, plural("service", len(users)), strings.Join(users, ", "))
}

func plural(word string, n int) string {
	if n == 1 {
		return word
	}
	return word + "s"
}

// checkFiles refuses a specification whose secrets or configs are not there, or never had the name that it says. It
// rewrites the claims on their names, so that nobody removes them at the same time: a removal deletes the claim as it
// has seen it.
func checkFiles(tx *store.Tx, spec *swarm.ServiceSpec) error {
	c := spec.TaskTemplate.ContainerSpec
	if c == nil {
		return nil
	}
	secrets, configs := map[string]string{}, map[string]string{} // names by ID
	var missing []string
	for _, r := range c.Secrets {
		if s, ok := store.Get[*cluster.Secret](tx.Snapshot, r.SecretID); ok && s.Answers(r.SecretName, s.Spec.Name) {
			secrets[s.ID] = s.Spec.Name
		} else {
			missing = append(missing, r.SecretName)
		}
	}
	if len(missing) > 0 {
		return invalid("%s not found: %s", plural("secret", len(missing)), strings.Join(missing, ", "))
	}
	for _, r := range c.Configs {
		if o, ok := store.Get[*cluster.Config](tx.Snapshot, r.ConfigID); ok && o.Answers(r.ConfigName, o.Spec.Name) {
			configs[o.ID] = o.Spec.Name
		} else {
			missing = append(missing, r.ConfigName)
		}
	}
	if len(missing) > 0 {
		return invalid("%s not found: %s", plural("config", len(missing)), strings.Join(missing, ", "))
	}
	hold(tx, cluster.KindSecret, secrets)
	hold(tx, cluster.KindConfig, configs)
	return nil
}

func hold(tx *store.Tx, kind cluster.Kind, names map[string]string) {
	for _, id := range slices.Sorted(maps.Keys(names)) {
		if cl, ok := store.Get[*cluster.Claim](tx.Snapshot, cluster.ClaimName(kind, names[id])); ok && cl.Owner == id {
			tx.Write(store.PutSpec(cl.Clone()))
		}
	}
}
