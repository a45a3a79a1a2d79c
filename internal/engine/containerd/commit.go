package containerd

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/container"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
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
	_, parent, err := e.findImage(ctx, c.ImageID)
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
	img := images.Image{Name: dangling + target.Digest.String(), Target: target}
	if o.Ref != nil {
		img.Name = o.Ref.String()
	}
	if err := client.NewImage(e.client, img).Unpack(ctx, snapshotter); err != nil {
		return "", fmt.Errorf("commit container %s: %w", c.ID, err)
	}
	if err := e.rename(ctx, img); err != nil {
		return "", err
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

// rename gives an image its name. One that had it stays, without a name if it was its last.
func (e *Engine) rename(ctx context.Context, img images.Image) error {
	old, err := e.images.Get(ctx, img.Name)
	switch {
	case errdefs.IsNotFound(err):
		_, err = e.images.Create(ctx, img)
		return err
	case err != nil || old.Target.Digest == img.Target.Digest:
		return err
	}
	all, err := e.byID(ctx)
	if err != nil {
		return err
	}
	if n := all[old.Target.Digest]; n != nil && len(n.names) == 1 {
		_, err := e.images.Create(ctx, images.Image{Name: dangling + old.Target.Digest.String(), Target: old.Target})
		if err != nil && !errdefs.IsAlreadyExists(err) {
			return err
		}
	}
	_, err = e.images.Update(ctx, img, "target")
	return err
}

// commitContent writes the layer, the configuration and the manifest of an image of c.
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
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	m.Layers = append(m.Layers, parent.layers...)
	if layer != nil {
		made.RootFS.DiffIDs = append(made.RootFS.DiffIDs, diffID)
		m.Layers = append(m.Layers, *layer)
	}
	if m.Config, err = e.writeJSON(ctx, ocispec.MediaTypeImageConfig, made, nil); err != nil {
		return ocispec.Descriptor{}, err
	}
	// The labels keep the collector from what the manifest names.
	labels := map[string]string{"containerd.io/gc.ref.content.config": m.Config.Digest.String()}
	for i, l := range m.Layers {
		labels[fmt.Sprintf("containerd.io/gc.ref.content.l.%d", i)] = l.Digest.String()
	}
	return e.writeJSON(ctx, m.MediaType, m, labels)
}

func (e *Engine) writeJSON(ctx context.Context, mediaType string, v any, labels map[string]string) (ocispec.Descriptor, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	var opts []content.Opt
	if labels != nil {
		opts = append(opts, content.WithLabels(labels))
	}
	return d, content.WriteBlob(ctx, e.client.ContentStore(), "commit-"+d.Digest.String(), bytes.NewReader(b), d, opts...)
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
	store, ref := e.client.ContentStore(), "commit-"+ledger.NewID()
	w, err := content.OpenWriter(ctx, store, content.WithRef(ref))
	if err != nil {
		return nil, "", err
	}
	defer func() {
		_ = w.Close()
		if err != nil {
			_ = store.Abort(context.WithoutCancel(ctx), ref) // or the collector does it
		}
	}()
	plain, counted := digest.Canonical.Digester(), &counter{w: w}
	z := gzip.NewWriter(counted)
	if err := l.Archive(ctx, io.MultiWriter(z, plain.Hash()), changes); err != nil {
		return nil, "", err
	}
	if err := z.Close(); err != nil {
		return nil, "", err
	}
	diffID = plain.Digest()
	d := &ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: w.Digest(), Size: counted.n}
	err = w.Commit(ctx, d.Size, d.Digest, content.WithLabels(map[string]string{"containerd.io/uncompressed": diffID.String()}))
	if errdefs.IsAlreadyExists(err) {
		err = nil
	}
	return d, diffID, err
}

// counter counts what is written through it.
type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	return n, err
}
