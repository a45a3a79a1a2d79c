package ledger

import (
	"github.com/distribution/reference"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/container"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"shoal.dev/shoal/internal/engine"
)

// ImageConfig is the part of a container's settings that an image of it has.
func ImageConfig(c *container.Config) dockerspec.DockerOCIImageConfig {
	out := dockerspec.DockerOCIImageConfig{
		ImageConfig: ocispec.ImageConfig{User: c.User, Env: c.Env, Entrypoint: c.Entrypoint, Cmd: c.Cmd, Volumes: c.Volumes,
			WorkingDir: c.WorkingDir, Labels: c.Labels, StopSignal: c.StopSignal},
		DockerOCIImageConfigExt: dockerspec.DockerOCIImageConfigExt{Healthcheck: c.Healthcheck, OnBuild: c.OnBuild, Shell: c.Shell},
	}
	for p := range c.ExposedPorts {
		if out.ExposedPorts == nil {
			out.ExposedPorts = map[string]struct{}{}
		}
		out.ExposedPorts[p.String()] = struct{}{}
	}
	return out
}

// ReportCommit reports that an image was made of a container.
func (l *Ledger) ReportCommit(c *Container, id string, o engine.CommitOptions) {
	l.ReportImage(id, id, "create", nil)
	name := ""
	if o.Ref != nil {
		name = reference.FamiliarString(o.Ref)
		l.ReportImage(id, name, "tag", nil)
	}
	l.Report(c, "commit", map[string]string{"comment": o.Comment, "imageID": id, "imageRef": name})
}
