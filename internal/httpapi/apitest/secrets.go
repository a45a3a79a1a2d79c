package apitest

import (
	"context"
	"sync"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/control"
	"shoal.dev/shoal/internal/httpapi"
	"shoal.dev/shoal/internal/store"
)

// files keeps secrets and configs by the rules of the managers, in memory.
type files struct {
	once sync.Once
	real *control.Control
}

// files returns the managers' rules, if the node is a manager.
func (f *Swarm) files() (*control.Control, error) {
	if err := f.manager(); err != nil {
		return nil, err
	}
	f.kept.once.Do(func() {
		s := store.New()
		store.NewLocal(s)
		// The swarm's record is there, so that nothing takes the store for empty.
		_, err := s.Update(context.Background(), func(tx *store.Tx) error {
			tx.Write(store.Create(&cluster.Swarm{}))
			return nil
		})
		if err != nil {
			panic(err) // a store without a log fails at nothing
		}
		f.kept.real = control.New(nil)
		f.kept.real.Activate(&control.Manager{NodeID: "node1id", Store: s, ReadBarrier: func(context.Context) error { return nil }, Leader: func() string { return "node1id" }})
	})
	return f.kept.real, nil
}

func (f *Swarm) Secrets(ctx context.Context, filters map[string][]string) ([]swarm.Secret, error) {
	c, err := f.files()
	if err != nil {
		return nil, err
	}
	return c.Secrets(ctx, filters)
}

func (f *Swarm) Secret(ctx context.Context, id string) (*swarm.Secret, error) {
	c, err := f.files()
	if err != nil {
		return nil, err
	}
	return c.Secret(ctx, id)
}

func (f *Swarm) CreateSecret(ctx context.Context, spec swarm.SecretSpec) (string, error) {
	c, err := f.files()
	if err != nil {
		return "", err
	}
	return c.CreateSecret(ctx, spec)
}

func (f *Swarm) UpdateSecret(ctx context.Context, id string, version uint64, spec swarm.SecretSpec) error {
	c, err := f.files()
	if err != nil {
		return err
	}
	return c.UpdateSecret(ctx, id, version, spec)
}

func (f *Swarm) RemoveSecret(ctx context.Context, id string) error {
	c, err := f.files()
	if err != nil {
		return err
	}
	return c.RemoveSecret(ctx, id)
}

func (f *Swarm) Configs(ctx context.Context, filters map[string][]string) ([]swarm.Config, error) {
	c, err := f.files()
	if err != nil {
		return nil, err
	}
	return c.Configs(ctx, filters)
}

func (f *Swarm) Config(ctx context.Context, id string) (*swarm.Config, error) {
	c, err := f.files()
	if err != nil {
		return nil, err
	}
	return c.Config(ctx, id)
}

func (f *Swarm) CreateConfig(ctx context.Context, spec swarm.ConfigSpec) (string, error) {
	c, err := f.files()
	if err != nil {
		return "", err
	}
	return c.CreateConfig(ctx, spec)
}

func (f *Swarm) UpdateConfig(ctx context.Context, id string, version uint64, spec swarm.ConfigSpec) error {
	c, err := f.files()
	if err != nil {
		return err
	}
	return c.UpdateConfig(ctx, id, version, spec)
}

func (f *Swarm) RemoveConfig(ctx context.Context, id string) error {
	c, err := f.files()
	if err != nil {
		return err
	}
	return c.RemoveConfig(ctx, id)
}

func (f *Swarm) RotateSecret(ctx context.Context, id string, data []byte) (*httpapi.Rotation, error) {
	c, err := f.files()
	if err != nil {
		return nil, err
	}
	return c.RotateSecret(ctx, id, data)
}

func (f *Swarm) SecretVersions(ctx context.Context, id string) ([]httpapi.FileVersion, error) {
	c, err := f.files()
	if err != nil {
		return nil, err
	}
	return c.SecretVersions(ctx, id)
}

func (f *Swarm) RotateConfig(ctx context.Context, id string, data []byte) (*httpapi.Rotation, error) {
	c, err := f.files()
	if err != nil {
		return nil, err
	}
	return c.RotateConfig(ctx, id, data)
}

func (f *Swarm) ConfigVersions(ctx context.Context, id string) ([]httpapi.FileVersion, error) {
	c, err := f.files()
	if err != nil {
		return nil, err
	}
	return c.ConfigVersions(ctx, id)
}
