package cluster

import (
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/swarm"
)

// Unsupported names the first thing that a valid specification asks for and that nothing here does yet, so that it is
// refused instead of ignored. The error is NotImplemented; nil means that everything asked for is done.
func Unsupported(spec swarm.ServiceSpec) error {
	for _, list := range [][]missing{missingTask(&spec.TaskTemplate), missingContainer(spec.TaskTemplate.ContainerSpec)} {
		if err := refuse(list); err != nil {
			return err
		}
	}
	return nil
}

// refuse names the first that is asked for.
func refuse(list []missing) error {
	for _, m := range list {
		if m.asked {
			return errdefs.ErrNotImplemented.WithMessage(fmt.Sprintf("%s (%s) are not implemented by Shoal yet", m.what, m.field))
		}
	}
	return nil
}

// missing is something that is not there yet: what it is in the plural, and the field that asks for it.
type missing struct {
	asked       bool
	what, field string
}

func missingTask(t *swarm.TaskSpec) []missing {
	out := []missing{
		{t.Runtime == swarm.RuntimePlugin || t.PluginSpec != nil, "plugin services", "TaskTemplate.PluginSpec"},
		{t.NetworkAttachmentSpec != nil, "network attachments", "TaskTemplate.NetworkAttachmentSpec"},
	}
	if d := t.LogDriver; d != nil {
		out = append(out, missing{
			d.Name != "" && d.Name != "json-file" && d.Name != "local" && d.Name != "none",
			"log drivers other than json-file, local and none", "TaskTemplate.LogDriver",
		})
	}
	return out
}

func missingContainer(c *swarm.ContainerSpec) []missing {
	if c == nil {
		return nil
	}
	out := []missing{
		{c.Privileges != nil && !simple(*c.Privileges), "credential specs and SELinux labels", "ContainerSpec.Privileges"},
		{c.Isolation != "" && c.Isolation != container.IsolationDefault, "isolation modes", "ContainerSpec.Isolation"},
	}
	for _, m := range c.Mounts {
		out = append(out, missing{
			m.Type != mount.TypeBind && m.Type != mount.TypeTmpfs && m.Type != mount.TypeVolume,
			fmt.Sprintf("mounts of type %q", string(m.Type)), "ContainerSpec.Mounts",
		})
	}
	return out
}

// simple says whether the security options are of those that the engine honours.
func simple(p swarm.Privileges) bool {
	label := p.SELinuxContext
	return p.CredentialSpec == nil && (label == nil || label.User+label.Role+label.Type+label.Level == "")
}
