package containerd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/images/archive"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/go-archive/compression"
	"github.com/moby/moby/api/types/container"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/engine/dockerfile"
	"shoal.dev/shoal/internal/engine/ledger"
)

// Load implements engine.ImageArchives.
func (e *Engine) Load(ctx context.Context, r io.Reader) ([]string, error) {
	ctx, done, err := e.client.WithLease(e.scope(ctx))
	if err != nil {
		return nil, err
	}
	defer func() { _ = done(context.WithoutCancel(ctx)) }() // it expires by itself
	tar, err := compression.DecompressStream(r)
	if err != nil {
		return nil, ledger.Errorf(errdefs.ErrInvalidArgument, "invalid archive: %s", err)
	}
	defer tar.Close()
	store := e.client.ContentStore()
	index, err := archive.ImportIndex(ctx, store, tar)
	if err != nil {
		if cerr := ctx.Err(); cerr != nil {
			return nil, cerr
		}
		return nil, ledger.Errorf(errdefs.ErrInvalidArgument, "invalid archive: %s", err)
	}
	// Content of other platforms may be missing; labels are set on what is there.
	keep := images.SetChildrenLabels(store, func(ctx context.Context, d ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		if d.Size > maxManifest && !images.IsLayerType(d.MediaType) {
			return nil, ledger.Errorf(errdefs.ErrInvalidArgument, "invalid archive: %s of type %s has %d bytes", d.Digest, d.MediaType, d.Size)
		}
		children, err := images.Children(ctx, store, d)
		if errdefs.IsNotFound(err) {
			return nil, images.ErrSkipDesc
		}
		return children, err
	})
	if err := images.Walk(ctx, keep, index); err != nil {
		return nil, ledger.Errorf(errdefs.ErrInvalidArgument, "invalid archive: %s", err)
	}
	var idx ocispec.Index
	if err := e.readJSON(ctx, index, &idx); err != nil {
		return nil, ledger.Errorf(errdefs.ErrInvalidArgument, "invalid archive: %s", err)
	}
	names := []string{}
	for _, m := range idx.Manifests {
		if _, ok := m.Annotations[images.AnnotationManifestSubject]; ok {
			continue // about another, not an image
		}
		shown, err := e.loadOne(ctx, m)
		if err != nil {
			return names, err
		}
		names = append(names, shown)
	}
	return names, nil
}

// loadOne names and unpacks one image of an archive, whose content is here if the archive has it.
func (e *Engine) loadOne(ctx context.Context, d ocispec.Descriptor) (shown string, err error) {
	target := ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}
	e.known.forget(target.Digest)
	info, err := e.info(ctx, target)
	if err != nil {
		return "", ledger.Errorf(errdefs.ErrInvalidArgument, "invalid archive: %s is not complete: %s", target.Digest, err)
	}
	name, id := archiveName(d.Annotations), target.Digest.String()
	if name == "" {
		name = ledger.Dangling + id
	}
	if !info.ready && (info.platform.OS == "" || platforms.Default().Match(info.platform)) {
		if err := e.unpack(ctx, images.Image{Name: name, Target: target}, info); err != nil {
			return "", ledger.Errorf(errdefs.ErrInvalidArgument, "invalid archive: unpack %s: %s", target.Digest, err)
		}
	}
	e.using.mu.Lock()
	defer e.using.mu.Unlock()
	if err := e.name(ctx, name, target, ""); err != nil {
		return "", err
	}
	e.ledger.ReportImage(id, id, "load", info.image.Config.Labels)
	if shown = ledger.FamiliarImage(name); shown == "" {
		shown = id
	}
	return shown, nil
}

// archiveName is the canonical name that an archive gives an image, "" for none. A bare tag, as OCI layouts have them,
// names no repository, and a name with a digest would be a claim that nobody made.
func archiveName(annotations map[string]string) string {
	name := annotations[images.AnnotationImageName]
	if name == "" {
		if name = annotations[ocispec.AnnotationRefName]; !strings.ContainsAny(name, ":/") {
			return ""
		}
	}
	n, err := ledger.ParseImageTag(name)
	if err != nil {
		return ""
	}
	return n.String()
}

// Save implements engine.ImageArchives.
func (e *Engine) Save(ctx context.Context, refs []string, want []ocispec.Platform, w io.Writer) error {
	ctx, done, err := e.client.WithLease(e.scope(ctx))
	if err != nil {
		return err
	}
	defer func() { _ = done(context.WithoutCancel(ctx)) }() // it expires by itself
	opts := []archive.ExportOpt{archive.WithSkipNonDistributableBlobs(), archive.WithSkipMissing(e.client.ContentStore())}
	first := hereFirst{platforms.Default(), map[string]bool{}}
	var saved [][]*imageInfo
	ids := map[string]map[string]string{} // labels of what is saved
	for _, ref := range refs {
		found, err := e.toSave(ctx, ref)
		if err != nil {
			return err
		}
		for _, img := range found {
			target, err := e.saveTarget(ctx, img, want)
			if err != nil {
				return err
			}
			if err := e.holdContent(ctx, img.Target); err != nil {
				return err
			}
			all, err := e.variants(ctx, img.Target)
			if err != nil {
				return err
			}
			if images.IsIndexType(target.MediaType) { // there is something to choose
				saved = append(saved, all)
				first.learn(all)
			}
			opts = append(opts, archive.WithManifest(target, exportNames(img.Name)...))
			ids[img.Target.Digest.String()] = e.labels(ctx, img.Target)
		}
	}
	if len(want) > 0 {
		opts = append(opts, archive.WithPlatform(platforms.Ordered(want...)))
	} else {
		opts = append(opts, archive.WithPlatform(first))
		if !first.serves(saved) {
			opts = append(opts, archive.WithSkipDockerManifest())
		}
	}
	if err := e.client.Export(ctx, w, opts...); err != nil {
		if cerr := ctx.Err(); cerr != nil {
			return cerr
		}
		return fmt.Errorf("save %s: %w", strings.Join(refs, ", "), err)
	}
	for id, labels := range ids {
		e.ledger.ReportImage(id, id, "save", labels)
	}
	return nil
}

func exportNames(name string) []string {
	if name == "" || strings.HasPrefix(name, ledger.Dangling) {
		return nil
	}
	return []string{name}
}

// toSave finds the images that a reference means: all of a repository if it has no tag. One that is meant by its ID or a
// digest has no name.
func (e *Engine) toSave(ctx context.Context, ref string) ([]images.Image, error) {
	img, err := e.lookUp(ctx, ref)
	named, nerr := reference.ParseNormalizedNamed(ref)
	byID := err == nil && isID(img.Target.Digest, ref)
	if nerr == nil && reference.IsNameOnly(named) && !byID {
		list, lerr := e.images.List(ctx)
		if lerr != nil {
			return nil, lerr
		}
		var found []images.Image
		for _, i := range list {
			n, perr := reference.ParseNormalizedNamed(i.Name)
			if perr != nil || strings.HasPrefix(i.Name, ledger.Dangling) || n.Name() != named.Name() {
				continue
			}
			if _, ok := n.(reference.Tagged); ok {
				found = append(found, i)
			}
		}
		if len(found) == 0 {
			return nil, noSuchImage(reference.FamiliarString(reference.TagNameOnly(named)))
		}
		return found, nil
	}
	if err != nil {
		return nil, err
	}
	if _, ok := named.(reference.Digested); ok || byID {
		img.Name = ""
	}
	return []images.Image{img}, nil
}

// saveTarget is what of an image to save: all that is here, or its manifest for one platform, or its index if several
// are wanted.
func (e *Engine) saveTarget(ctx context.Context, img images.Image, want []ocispec.Platform) (ocispec.Descriptor, error) {
	target := img.Target
	for i := range want {
		info, err := e.infoFor(ctx, shownName(img, img.Target.Digest.String()), img.Target, &want[i])
		if err != nil {
			return target, err
		}
		if len(want) == 1 {
			target = info.desc
		}
	}
	if _, err := e.info(ctx, img.Target); err != nil { // nothing of it is here
		return target, err
	}
	target.Annotations, target.Platform = nil, nil
	return target, nil
}

// hereFirst matches every platform. It prefers those of which all saved indexes have what they list, and then this host's:
// manifest.json, which has one platform for each image, must not name what is not here.
type hereFirst struct {
	platforms.MatchComparer
	lacking map[string]bool
}

// learn notes what of an image is not here.
func (h hereFirst) learn(all []*imageInfo) {
	for _, i := range all {
		if !i.here {
			h.lacking[platforms.FormatAll(i.platform)] = true
		}
	}
}

// serves says whether there is a platform to choose in each index. If there is not, manifest.json is left out.
func (h hereFirst) serves(saved [][]*imageInfo) bool {
	for _, all := range saved {
		if !slices.ContainsFunc(all, func(i *imageInfo) bool { return i.about == "" && !h.lacking[platforms.FormatAll(i.platform)] }) {
			return false
		}
	}
	return true
}

func (hereFirst) Match(ocispec.Platform) bool { return true }

func (h hereFirst) Less(a, b ocispec.Platform) bool {
	lacks := func(p ocispec.Platform) bool { return h.lacking[platforms.FormatAll(platforms.Normalize(p))] }
	if al, bl := lacks(a), lacks(b); al != bl {
		return bl
	}
	if am, bm := h.MatchComparer.Match(a), h.MatchComparer.Match(b); am != bm {
		return am
	}
	return h.MatchComparer.Less(a, b)
}

// Import implements engine.ImageArchives.
func (e *Engine) Import(ctx context.Context, r io.Reader, o engine.ImportOptions) (string, error) {
	var name string
	if o.Name != "" {
		n, err := ledger.ParseImageTag(o.Name)
		if err != nil {
			return "", err
		}
		name = n.String()
	}
	config, err := dockerfile.Apply(&container.Config{}, o.Changes)
	if err != nil {
		return "", err
	}
	platform := platforms.DefaultSpec()
	if o.Platform != nil {
		platform = *o.Platform
	}
	ctx, done, err := e.client.WithLease(e.scope(ctx))
	if err != nil {
		return "", err
	}
	defer func() { _ = done(context.WithoutCancel(ctx)) }() // it expires by itself
	tar, err := compression.DecompressStream(r)
	if err != nil {
		return "", ledger.Errorf(errdefs.ErrInvalidArgument, "invalid archive: %s", err)
	}
	defer tar.Close()
	layer, diffID, err := e.writeLayer(ctx, func(w io.Writer) error { _, err := io.Copy(w, tar); return err })
	if err != nil {
		return "", importError(ctx, err)
	}
	at := now()
	target, err := e.makeImage(ctx, newImage{name: name, action: "tag", layers: []ocispec.Descriptor{layer}, image: dockerspec.DockerOCIImage{
		Image: ocispec.Image{Created: at, Platform: platform, RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{diffID}},
			History: []ocispec.History{{Created: at, Comment: o.Message}}},
		Config: ledger.ImageConfig(config),
	}})
	if err != nil {
		return "", importError(ctx, err)
	}
	id := target.Digest.String()
	e.ledger.ReportImage(id, id, "import", config.Labels)
	return id, nil
}

// importError tells what is wrong with an archive from what is wrong with the host.
func importError(ctx context.Context, err error) error {
	if cerr := ctx.Err(); cerr != nil {
		return cerr
	}
	var class interface{ Unavailable() }
	if errors.As(err, &class) || errdefs.IsResourceExhausted(err) || errors.Is(err, content.ErrReset) {
		return err
	}
	return ledger.Errorf(errdefs.ErrInvalidArgument, "cannot import: %s", err)
}
