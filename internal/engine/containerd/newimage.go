package containerd

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/errdefs"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"shoal.dev/shoal/internal/engine/ledger"
)

// newImage is an image that is made here rather than pulled.
type newImage struct {
	image  dockerspec.DockerOCIImage // with the DiffIDs of layers
	layers []ocispec.Descriptor
	name   string // canonical; "" for none
	action string // the event of the naming; "" for none
}

// writeLayer stores the uncompressed tar stream that fill writes as a layer. ctx must have a lease, which keeps it from the collector.
func (e *Engine) writeLayer(ctx context.Context, fill func(io.Writer) error) (d ocispec.Descriptor, diffID digest.Digest, err error) {
	w, err := content.OpenWriter(ctx, e.client.ContentStore(), content.WithRef("shoal-layer-"+ledger.NewID()))
	if err != nil {
		return d, "", err
	}
	defer w.Close()
	plain := digest.Canonical.Digester()
	z, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
	if err != nil {
		return d, "", err
	}
	if err := fill(io.MultiWriter(z, plain.Hash())); err != nil {
		return d, "", err
	}
	if err := z.Close(); err != nil {
		return d, "", err
	}
	st, err := w.Status()
	if err != nil {
		return d, "", err
	}
	d = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: w.Digest(), Size: st.Offset}
	err = w.Commit(ctx, d.Size, d.Digest, content.WithLabels(map[string]string{labels.LabelUncompressed: plain.Digest().String()}))
	if errdefs.IsAlreadyExists(err) {
		err = nil
	}
	return d, plain.Digest(), err
}

// makeImage stores an image of layers that are here, unpacks it and gives it its name. ctx must have a lease.
func (e *Engine) makeImage(ctx context.Context, n newImage) (ocispec.Descriptor, error) {
	config, err := e.writeJSON(ctx, ocispec.MediaTypeImageConfig, n.image, nil)
	if err != nil {
		return config, err
	}
	refs := map[string]string{"containerd.io/gc.ref.content.config": config.Digest.String()}
	for i, l := range n.layers {
		refs[fmt.Sprintf("containerd.io/gc.ref.content.l.%d", i)] = l.Digest.String()
	}
	target, err := e.writeJSON(ctx, ocispec.MediaTypeImageManifest, ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest, Config: config, Layers: n.layers}, refs)
	if err != nil {
		return target, err
	}
	info, err := e.info(ctx, target)
	if err != nil {
		return target, err
	}
	name := n.name
	if name == "" {
		name = ledger.Dangling + target.Digest.String()
	}
	if err := e.unpack(ctx, images.Image{Name: name, Target: target}, info); err != nil {
		return target, err
	}
	e.using.mu.Lock()
	defer e.using.mu.Unlock()
	return target, e.name(ctx, name, target, n.action)
}

func (e *Engine) writeJSON(ctx context.Context, mediaType string, v any, refs map[string]string) (ocispec.Descriptor, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	return d, content.WriteBlob(ctx, e.client.ContentStore(), "shoal-"+d.Digest.String(), bytes.NewReader(b), d, content.WithLabels(refs))
}

// now is the time of an image that is made here; configurations hold no monotonic clock.
func now() *time.Time {
	t := time.Now().UTC()
	return &t
}
