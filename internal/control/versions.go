package control

import (
	"bytes"
	"context"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/store"
)

// Rotation is what became of a secret or a config that was given other bytes.
type Rotation struct {
	// ID and Version are those of the version that has the name now.
	ID      string
	Version uint64
	// Updated says whether it is new; it is not where the bytes are those that it had.
	Updated bool
	// Services are the IDs of the services that were updated to it.
	Services []string
}

// FileVersion is a version of a secret or a config.
type FileVersion struct {
	ID, Name string
	Version  uint64
	// Current says that it is the one that has the name.
	Current bool
	swarm.Meta
	// Services are the names of the services whose specifications have it.
	Services []string
}

// RotateSecret makes a new version of a secret: it takes the name, the labels and the templating of the one before, and
// every service that uses any version by that name is updated to it, by its own update configuration, all in one write.
// The same bytes change nothing.
func (c *Control) RotateSecret(ctx context.Context, ref string, data []byte) (*Rotation, error) {
	return c.rotate(ctx, func(tx *store.Tx, id string) (*Rotation, error) {
		old, err := find(tx.Snapshot, "secret", ref, secretName)
		if err != nil {
			return nil, err
		}
		if old.VersionOf != "" {
			return nil, superseded("secret", old.Spec.Name, old.VersionOf)
		}
		if had, ok := store.Get[*cluster.SecretData](tx.Snapshot, old.ID); ok && bytes.Equal(had.Data, data) {
			return &Rotation{ID: old.ID, Version: old.NumberOf()}, nil
		}
		spec := old.Clone().(*cluster.Secret).Spec
		spec.Data = data
		if err := newSecret(tx, old, spec, id); err != nil {
			return nil, err
		}
		next, _ := store.Get[*cluster.Secret](tx.Snapshot, id)
		return &Rotation{ID: id, Version: next.Number, Updated: true, Services: updateUsers(tx, func(cs *swarm.ContainerSpec) (uses bool) {
			for _, r := range cs.Secrets {
				if r.SecretName == spec.Name {
					r.SecretID, uses = id, true
				}
			}
			return uses
		})}, nil
	})
}

// RotateConfig is [Control.RotateSecret] for configs.
func (c *Control) RotateConfig(ctx context.Context, ref string, data []byte) (*Rotation, error) {
	return c.rotate(ctx, func(tx *store.Tx, id string) (*Rotation, error) {
		old, err := find(tx.Snapshot, "config", ref, configName)
		if err != nil {
			return nil, err
		}
		if old.VersionOf != "" {
			return nil, superseded("config", old.Spec.Name, old.VersionOf)
		}
		if bytes.Equal(old.Spec.Data, data) {
			return &Rotation{ID: old.ID, Version: old.NumberOf()}, nil
		}
		spec := old.Clone().(*cluster.Config).Spec
		spec.Data = data
		if err := newConfig(tx, old, spec, id); err != nil {
			return nil, err
		}
		next, _ := store.Get[*cluster.Config](tx.Snapshot, id)
		return &Rotation{ID: id, Version: next.Number, Updated: true, Services: updateUsers(tx, func(cs *swarm.ContainerSpec) (uses bool) {
			for _, r := range cs.Configs {
				if r.ConfigName == spec.Name {
					r.ConfigID, uses = id, true
				}
			}
			return uses
		})}, nil
	})
}

// rotate runs fn as a write that may make a record of the ID.
func (c *Control) rotate(ctx context.Context, fn func(tx *store.Tx, id string) (*Rotation, error)) (out *Rotation, err error) {
	m, err := c.write()
	if err != nil {
		return nil, err
	}
	id := cluster.NewID()
	err = m.update(ctx, func(tx *store.Tx) (err error) {
		out, err = fn(tx, id)
		return err
	})
	return out, err
}

func superseded(kind, name, by string) error {
	return errdefs.ErrFailedPrecondition.WithMessage(kind + " " + name + " is an older version of " + kind + " " + by + ": rotate that")
}

// redeployed says whether an update is the deploy of the stack that the object is of.
func redeployed(had, now map[string]string, v cluster.Versioned) bool {
	stack := had[cluster.LabelStack]
	return stack != "" && now[cluster.LabelStack] == stack && v.VersionOf == ""
}

// newSecret makes a secret that takes the name of an older version.
func newSecret(tx *store.Tx, old *cluster.Secret, spec swarm.SecretSpec, id string) error {
	if err := cluster.ValidateSecretSpec(spec); err != nil {
		return err
	}
	prior, next := old.Clone().(*cluster.Secret), &cluster.Secret{}
	prior.Versioned, prior.Spec.Name = older(old.Versioned, spec.Name, func(name string) bool {
		_, taken := tx.SecretByName(name)
		return taken
	})
	next.ID, next.Spec, next.Number = id, spec, prior.Number+1
	next.Spec.Data = nil
	tx.Write(store.PutSpec(prior))
	tx.Write(store.Create(next))
	tx.Write(store.Create(&cluster.SecretData{ID: id, Data: spec.Data}))
	moveName(tx, cluster.KindSecret, spec.Name, id, prior.Spec.Name, old.ID)
	return nil
}

// newConfig makes a config that takes the name of an older version.
func newConfig(tx *store.Tx, old *cluster.Config, spec swarm.ConfigSpec, id string) error {
	if err := cluster.ValidateConfigSpec(spec); err != nil {
		return err
	}
	prior, next := old.Clone().(*cluster.Config), &cluster.Config{}
	prior.Versioned, prior.Spec.Name = older(old.Versioned, spec.Name, func(name string) bool {
		_, taken := tx.ConfigByName(name)
		return taken
	})
	next.ID, next.Spec, next.Number = id, spec, prior.Number+1
	tx.Write(store.PutSpec(prior))
	tx.Write(store.Create(next))
	moveName(tx, cluster.KindConfig, spec.Name, id, prior.Spec.Name, old.ID)
	return nil
}

// older is what a version is called, and counted as, when a newer one takes its name. A number whose name somebody has
// given to something else is passed over.
func older(v cluster.Versioned, name string, taken func(string) bool) (cluster.Versioned, string) {
	n := v.NumberOf()
	for taken(cluster.OlderName(name, n)) {
		n++
	}
	return cluster.Versioned{Number: n, VersionOf: name}, cluster.OlderName(name, n)
}

// moveName gives a name to another record, and the one that had it another name.
func moveName(tx *store.Tx, kind cluster.Kind, name, to, olderName, old string) {
	cl, ok := store.Get[*cluster.Claim](tx.Snapshot, cluster.ClaimName(kind, name))
	if ok {
		cl = cl.Clone().(*cluster.Claim)
		cl.Owner = to
		tx.Write(store.PutSpec(cl))
	} else {
		tx.Write(store.Create(&cluster.Claim{ID: cluster.ClaimName(kind, name), Owner: to, OwnerName: name}))
	}
	tx.Write(store.Create(&cluster.Claim{ID: cluster.ClaimName(kind, olderName), Owner: old, OwnerName: olderName}))
}

// updateUsers updates the services whose container use changes, and returns their IDs. A job has what is new in its next
// run: it is not run again for it.
func updateUsers(tx *store.Tx, use func(*swarm.ContainerSpec) bool) []string {
	var ids []string
	for old := range store.List[*cluster.Service](tx.Snapshot) {
		s := old.Clone().(*cluster.Service)
		if c := s.Spec.TaskTemplate.ContainerSpec; c == nil || !use(c) {
			continue
		}
		prev := old.Clone().(*cluster.Service).Spec
		s.PreviousSpec, s.UpdateStatus = &prev, nil // the planner begins the update
		tx.Write(store.PutBoth(s))
		ids = append(ids, s.ID)
	}
	return ids
}

// SecretVersions lists the versions of a secret that there are, the newest first.
func (c *Control) SecretVersions(ctx context.Context, ref string) ([]FileVersion, error) {
	_, snap, err := c.read(ctx)
	if err != nil {
		return nil, err
	}
	of, err := find(snap, "secret", ref, secretName)
	if err != nil {
		return nil, err
	}
	var out []FileVersion
	for s := range store.List[*cluster.Secret](snap) {
		if s.Answers(of.NameOf(of.Spec.Name), s.Spec.Name) {
			out = append(out, FileVersion{ID: s.ID, Name: s.Spec.Name, Version: s.NumberOf(), Current: s.VersionOf == "", Meta: s.Meta})
		}
	}
	return versions(snap, out), nil
}

// ConfigVersions is [Control.SecretVersions] for configs.
func (c *Control) ConfigVersions(ctx context.Context, ref string) ([]FileVersion, error) {
	_, snap, err := c.read(ctx)
	if err != nil {
		return nil, err
	}
	of, err := find(snap, "config", ref, configName)
	if err != nil {
		return nil, err
	}
	var out []FileVersion
	for o := range store.List[*cluster.Config](snap) {
		if o.Answers(of.NameOf(of.Spec.Name), o.Spec.Name) {
			out = append(out, FileVersion{ID: o.ID, Name: o.Spec.Name, Version: o.NumberOf(), Current: o.VersionOf == "", Meta: o.Meta})
		}
	}
	return versions(snap, out), nil
}

// versions sorts them and says who uses them.
func versions(snap *store.Snapshot, list []FileVersion) []FileVersion {
	slices.SortFunc(list, func(a, b FileVersion) int { return int(b.Version) - int(a.Version) })
	for i := range list {
		list[i].Services = []string{}
		for s := range store.List[*cluster.Service](snap) {
			for id := range cluster.FileIDs(&s.Spec.TaskTemplate) {
				if id == list[i].ID {
					list[i].Services = append(list[i].Services, s.Spec.Name)
					break
				}
			}
		}
		slices.Sort(list[i].Services)
	}
	return list
}
