package stack

import (
	"context"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/docker/cli/cli/command"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"
)

// filesIn are the IDs of the secrets and configs that services use.
func filesIn(specs map[string]swarm.ServiceSpec) []string {
	var ids []string
	for _, s := range specs {
		c := s.TaskTemplate.ContainerSpec
		if c == nil {
			continue
		}
		for _, r := range c.Secrets {
			ids = append(ids, r.SecretID)
		}
		for _, r := range c.Configs {
			ids = append(ids, r.ConfigID)
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// resolved is a specification with the secrets and configs that there are: the very versions that it names or, where one
// was removed, what has its name now, which is said.
func resolved(ctx context.Context, cli command.Cli, s swarm.ServiceSpec) (swarm.ServiceSpec, error) {
	if s.TaskTemplate.ContainerSpec == nil {
		return s, nil
	}
	c := *s.TaskTemplate.ContainerSpec
	s.TaskTemplate.ContainerSpec = &c
	c.Secrets, c.Configs = slices.Clone(c.Secrets), slices.Clone(c.Configs)
	api := cli.Client()
	for i, ref := range c.Secrets {
		id, err := existing(cli, "secret", ref.SecretID, ref.SecretName, func(ref string) (string, error) {
			found, err := api.SecretInspect(ctx, ref, client.SecretInspectOptions{})
			return found.Secret.ID, err
		})
		if err != nil {
			return s, err
		}
		n := *ref
		n.SecretID = id
		c.Secrets[i] = &n
	}
	for i, ref := range c.Configs {
		id, err := existing(cli, "config", ref.ConfigID, ref.ConfigName, func(ref string) (string, error) {
			found, err := api.ConfigInspect(ctx, ref, client.ConfigInspectOptions{})
			return found.Config.ID, err
		})
		if err != nil {
			return s, err
		}
		n := *ref
		n.ConfigID = id
		c.Configs[i] = &n
	}
	return s, nil
}

// existing is the ID of what has the ID or else the name.
func existing(cli command.Cli, kind, id, name string, inspect func(ref string) (string, error)) (string, error) {
	found, err := inspect(id)
	if !errdefs.IsNotFound(err) {
		return found, err
	}
	if found, err = inspect(name); err == nil {
		fmt.Fprintf(cli.Err(), "WARNING: %s %s: the version that the revision had is gone, the present one is used\n", kind, name)
	}
	return found, err
}
