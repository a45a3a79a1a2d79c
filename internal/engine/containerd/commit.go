package containerd

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/container"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/engine/dockerfile"
	"shoal.dev/shoal/internal/engine/ledger"
)

// Commit implements engine.Committer.
func (e *Engine) Commit(ctx context.Context, name string, o engine.CommitOptions) (string, error) {
	ctx = e.scope(ctx)
	c, err := e.ledger.Find(name)
	if err != nil {
		return "", err
	}
	cfg, err := committedConfig(c, o)
	if err != nil {
		return "", err
	}
	if o.Pause && c.State.Status == container.StateRunning {
		if err := e.Pause(ctx, c.ID); err == nil {
			defer func() {
				if err := e.Unpause(context.WithoutCancel(ctx), c.ID); err != nil && !errdefs.IsConflict(err) && !errdefs.IsNotFound(err) {
					e.cfg.Log.Warn("cannot unpause a container after its commit", "container", c.ID, "error", err)
				}
			}()
		} else if !errdefs.IsConflict(err) { // else it ended, or somebody paused it
			return "", err
		}
	}
	c, unlock, err := e.ledger.Lock(ctx, c.ID)
	if err != nil {
		return "", err
	}
	if c.Running() {
		unlock() // its files stay where they are, and whoever stops it need not wait
	} else {
		defer unlock()
	}
	_, parent, err := e.imageOf(ctx, c)
	if err != nil {
		return "", err
	}
	ctx, release, err := e.client.WithLease(ctx) // what nothing refers to yet is not collected
	if err != nil {
		return "", err
	}
	defer func() {
		if err := release(context.WithoutCancel(ctx)); err != nil {
			e.cfg.Log.Warn("cannot let go of a lease", "container", c.ID, "error", err)
		}
	}()
	target, err := e.commitContent(ctx, c, parent, cfg, o)
	if err != nil {
		return "", fmt.Errorf("commit container %s: %w", c.ID, err)
	}
	id := target.Digest.String()
	e.ledger.ReportCommit(c, id, o)
	return id, nil
}

// committedConfig is the settings of an image of c.
func committedConfig(c *ledger.Container, o engine.CommitOptions) (*container.Config, error) {
	from := o.Config
	if from == nil {
		from = c.Config
	}
	cfg, err := dockerfile.Apply(from, o.Changes)
	if err != nil {
		return nil, err
	}
	return ledger.Merged(cfg, c.Config)
}

// commitContent makes the image of c.
func (e *Engine) commitContent(ctx context.Context, c *ledger.Container, parent *imageInfo, cfg *container.Config, o engine.CommitOptions) (ocispec.Descriptor, error) {
	layer, diffID, err := e.commitLayer(ctx, c)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	now := time.Now().UTC()
	made := dockerspec.DockerOCIImage{
		Image: ocispec.Image{Created: &now, Author: o.Author, Platform: parent.image.Platform, RootFS: ocispec.RootFS{Type: "layers"}},
	}
	if made.Author == "" {
		made.Author = parent.image.Author
	}
	made.Config = ledger.ImageConfig(cfg)
	made.History = append(append(made.History, parent.image.History...), ocispec.History{Created: &now, CreatedBy: strings.Join(c.Config.Cmd, " "),
		Author: made.Author, Comment: o.Comment, EmptyLayer: layer == nil})
	made.RootFS.DiffIDs = append(made.RootFS.DiffIDs, parent.image.RootFS.DiffIDs...)
	n := newImage{image: made}
	if o.Ref != nil {
		n.name = o.Ref.String()
	}
	for _, l := range parent.layers {
		n.layers = append(n.layers, l.Descriptor)
	}
	if layer != nil {
		n.image.RootFS.DiffIDs = append(n.image.RootFS.DiffIDs, diffID)
		n.layers = append(n.layers, *layer)
	}
	return e.makeImage(ctx, n)
}

// commitLayer writes what a container has changed as a layer; nil if nothing.
func (e *Engine) commitLayer(ctx context.Context, c *ledger.Container) (_ *ocispec.Descriptor, diffID digest.Digest, err error) {
	l, err := e.layersOf(ctx, c)
	if err != nil {
		return nil, "", err
	}
	changes, err := l.Changes(ctx)
	if err != nil || len(changes) == 0 {
		return nil, "", err
	}
	d, diffID, err := e.writeLayer(ctx, func(w io.Writer) error { return l.Archive(ctx, w, changes) })
	return &d, diffID, err
}
