package containerd

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"shoal.dev/shoal/internal/engine/ledger"
)

// imageInfo is one manifest of an image: what its content says, which never changes, and how much of it is here.
type imageInfo struct {
	desc     ocispec.Descriptor
	platform ocispec.Platform
	about    digest.Digest        // of the manifest that this one is an attestation of; "" for an image
	here     bool                 // all of its blobs are
	size     int64                // bytes of its blobs that are here
	blobs    []ocispec.Descriptor // that are here
	// What follows is of a manifest that is here.
	config   *container.Config // what containers inherit
	image    dockerspec.DockerOCIImage
	chain    string  // name of the snapshot that containers start from
	layers   []layer // lowest first
	unpacked int64   // bytes of its layers, unpacked; 0 if they are not
	ready    bool    // all layers are unpacked
}

// layer is one layer of an image.
type layer struct {
	ocispec.Descriptor
	chain string // the snapshot of this layer on those below it
	size  int64  // bytes, unpacked; 0 if it is not
}

// imageCache keeps what images consist of by the digest of their target. The zero value is ready.
type imageCache struct {
	mu   sync.Mutex
	by   map[digest.Digest][]*imageInfo
	turn int // counts what was forgotten, so that what was read before that is not kept after it
}

// forget is called when content of an image came or went.
func (c *imageCache) forget(d digest.Digest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.by, d)
	c.turn++
}

func (c *imageCache) get(d digest.Digest) ([]*imageInfo, int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.by[d], c.turn
}

func (c *imageCache) put(d digest.Digest, all []*imageInfo, turn int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.turn != turn {
		return
	}
	if c.by == nil {
		c.by = map[digest.Digest][]*imageInfo{}
	}
	c.by[d] = all
}

// Bounds of what an image may consist of, against images made to exhaust the daemon.
const (
	// maxManifest is how many bytes a manifest, an index or a configuration may have. Registries accept 4 MiB.
	maxManifest = 8 << 20
	// maxIndexDepth is how deep indexes may nest. The specification allows one in another; more has no use.
	maxIndexDepth = 3
)

// readJSON reads a small blob of the content store into v.
func (e *Engine) readJSON(ctx context.Context, d ocispec.Descriptor, v any) error {
	if d.Size > maxManifest {
		return ledger.Errorf(errdefs.ErrInvalidArgument, "%s has %d bytes, more than the %d that a manifest or configuration may have", d.Digest, d.Size, maxManifest)
	}
	b, err := content.ReadBlob(ctx, e.client.ContentStore(), d)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, v)
}

// variants gives all manifests of an image, also those that are not here, in the order of its index.
func (e *Engine) variants(ctx context.Context, target ocispec.Descriptor) ([]*imageInfo, error) {
	all, turn := e.known.get(target.Digest)
	if all != nil {
		return all, nil
	}
	all, err := e.readVariants(ctx, target, 0)
	if err != nil {
		return nil, err
	}
	if best := pick(all, nil); best != nil && best.ready {
		e.known.put(target.Digest, all, turn)
	}
	return all, nil
}

func (e *Engine) readVariants(ctx context.Context, d ocispec.Descriptor, depth int) ([]*imageInfo, error) {
	if !images.IsIndexType(d.MediaType) {
		i, err := e.readManifest(ctx, d)
		return []*imageInfo{i}, err
	}
	var index ocispec.Index
	if err := e.readJSON(ctx, d, &index); err != nil {
		if errdefs.IsNotFound(err) && depth > 0 {
			return nil, nil
		}
		return nil, fmt.Errorf("index %s: %w", d.Digest, err)
	}
	if depth == maxIndexDepth {
		return nil, nil
	}
	var all []*imageInfo
	for _, m := range index.Manifests {
		more, err := e.readVariants(ctx, m, depth+1)
		if err != nil {
			return nil, err
		}
		all = append(all, more...)
	}
	return all, nil
}

// attestationFor is the annotation with which BuildKit marks a manifest that is no image.
const attestationFor = "vnd.docker.reference.digest"

func (e *Engine) readManifest(ctx context.Context, d ocispec.Descriptor) (*imageInfo, error) {
	i := &imageInfo{desc: d, about: digest.Digest(d.Annotations[attestationFor])}
	if d.Platform != nil {
		i.platform = platforms.Normalize(*d.Platform)
	}
	var m ocispec.Manifest
	if err := e.readJSON(ctx, d, &m); errdefs.IsNotFound(err) {
		return i, nil
	} else if err != nil {
		return nil, fmt.Errorf("manifest %s: %w", d.Digest, err)
	}
	i.size, i.here = d.Size, true
	i.blobs = []ocispec.Descriptor{d}
	for _, b := range append([]ocispec.Descriptor{m.Config}, m.Layers...) {
		if _, err := e.client.ContentStore().Info(ctx, b.Digest); errdefs.IsNotFound(err) {
			i.here = false
		} else if err != nil {
			return nil, err
		} else {
			i.size += b.Size
			i.blobs = append(i.blobs, b)
		}
	}
	if !i.here || i.about != "" {
		return i, nil
	}
	if err := e.readJSON(ctx, m.Config, &i.image); err != nil {
		return nil, fmt.Errorf("configuration of image %s: %w", d.Digest, err)
	}
	if d.Platform == nil {
		i.platform = platforms.Normalize(i.image.Platform)
	}
	i.config = inherited(&i.image)
	ids := i.image.RootFS.DiffIDs
	i.chain, i.ready = identity.ChainID(ids).String(), true
	for n := range ids {
		l := layer{chain: identity.ChainID(ids[:n+1]).String()}
		if n < len(m.Layers) {
			l.Descriptor = m.Layers[n]
		}
		if u, err := e.snapshots.Usage(ctx, l.chain); err == nil {
			l.size = u.Size
		} else {
			i.ready = false
		}
		i.unpacked += l.size
		i.layers = append(i.layers, l)
	}
	return i, nil
}

// pick chooses the manifest for a platform, nil if none of that is here. Without a platform that is this host's, or else
// the first that is here.
func pick(all []*imageInfo, want *ocispec.Platform) *imageInfo {
	match := platforms.Default()
	if want != nil {
		match = platforms.OnlyStrict(*want)
	}
	var best, first *imageInfo
	for _, i := range all {
		if !i.here || i.about != "" {
			continue
		}
		if first == nil {
			first = i
		}
		if match.Match(i.platform) && (best == nil || match.Less(i.platform, best.platform)) {
			best = i
		}
	}
	if best == nil && want == nil {
		return first
	}
	return best
}

// info reads what an image's content says, for this host's platform if it has that.
func (e *Engine) info(ctx context.Context, target ocispec.Descriptor) (*imageInfo, error) {
	return e.infoFor(ctx, target.Digest.String(), target, nil)
}

// infoFor reads what an image's content says for a platform. ref is for the error.
func (e *Engine) infoFor(ctx context.Context, ref string, target ocispec.Descriptor, want *ocispec.Platform) (*imageInfo, error) {
	all, err := e.variants(ctx, target)
	if err != nil {
		return nil, err
	}
	if i := pick(all, want); i != nil {
		return i, nil
	}
	what := "any platform"
	if want != nil {
		what = "the specified platform (" + platforms.FormatAll(*want) + ")"
	}
	return nil, ledger.Errorf(errdefs.ErrNotFound, "image with reference %s was found but does not provide %s", ref, what)
}

func inherited(i *dockerspec.DockerOCIImage) *container.Config {
	c := i.Config
	out := &container.Config{User: c.User, Env: c.Env, Cmd: c.Cmd, Entrypoint: c.Entrypoint, WorkingDir: c.WorkingDir,
		Labels: c.Labels, StopSignal: c.StopSignal, Healthcheck: c.Healthcheck, ExposedPorts: network.PortSet{}, Volumes: c.Volumes}
	for p := range c.ExposedPorts {
		if port, err := network.ParsePort(p); err == nil {
			out.ExposedPorts[port] = struct{}{}
		}
	}
	return out
}

var hexID = regexp.MustCompile(`^(sha256:)?[0-9a-f]{1,64}$`)

// findImage finds a local image by a name, a name with a digest, its ID or a prefix of that.
func (e *Engine) findImage(ctx context.Context, ref string) (images.Image, *imageInfo, error) {
	return e.findImageFor(ctx, ref, nil)
}

// findImageFor is findImage for a platform.
func (e *Engine) findImageFor(ctx context.Context, ref string, want *ocispec.Platform) (images.Image, *imageInfo, error) {
	img, err := e.lookUp(ctx, ref)
	if err != nil {
		return img, nil, err
	}
	info, err := e.infoFor(ctx, shownName(img, ref), img.Target, want)
	return img, info, err
}

// imageUse makes finding an image for a new container and removing it exclude each other. The zero value is ready.
type imageUse struct {
	mu     sync.Mutex            // held while names are looked at and then change
	making map[digest.Digest]int // containers that are being created
}

// useImage is findImageFor and keeps the image from being removed until done is called, when the container that needs it
// is in the ledger.
func (e *Engine) useImage(ctx context.Context, ref, platform string) (img images.Image, info *imageInfo, done func(), err error) {
	want, err := ledger.ParsePlatform(platform)
	if err != nil {
		return img, nil, nil, err
	}
	u := &e.using
	u.mu.Lock()
	defer u.mu.Unlock()
	if img, info, err = e.findImageFor(ctx, ref, want); err != nil {
		return img, nil, nil, err
	}
	id := img.Target.Digest
	if u.making == nil {
		u.making = map[digest.Digest]int{}
	}
	u.making[id]++
	return img, info, func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		if u.making[id]--; u.making[id] == 0 {
			delete(u.making, id)
		}
	}, nil
}

// imageOf finds the image that a container was made of.
func (e *Engine) imageOf(ctx context.Context, c *ledger.Container) (images.Image, *imageInfo, error) {
	img, err := e.lookUp(ctx, c.ImageID)
	if err != nil {
		return img, nil, err
	}
	all, err := e.variants(ctx, img.Target)
	if err != nil {
		return img, nil, err
	}
	for _, i := range all {
		if c.Manifest != nil && i.here && i.desc.Digest == c.Manifest.Digest {
			return img, i, nil
		}
	}
	info, err := e.infoFor(ctx, c.ImageID, img.Target, nil)
	return img, info, err
}

// shownName is the familiar name of an image, or ref if it has none.
func shownName(img images.Image, ref string) string {
	if n, err := reference.ParseNormalizedNamed(img.Name); err == nil && !strings.HasPrefix(img.Name, ledger.Dangling) {
		return reference.FamiliarString(n)
	}
	return ref
}

func (e *Engine) lookUp(ctx context.Context, ref string) (images.Image, error) {
	if ref == "" {
		return images.Image{}, ledger.Errorf(errdefs.ErrInvalidArgument, "no image specified")
	}
	shown := ref
	if named, err := ledger.ParseImageName(ref); err == nil && !strings.HasPrefix(ref, "sha256:") {
		if img, err := e.images.Get(ctx, named.String()); !errdefs.IsNotFound(err) {
			return img, err
		}
		shown = reference.FamiliarString(named)
		if d, ok := named.(reference.Digested); ok {
			// Another name of the same repository may have brought the content.
			return e.byTarget(ctx, shown, func(i images.Image) bool {
				n, err := reference.ParseNormalizedNamed(i.Name)
				return err == nil && n.Name() == named.Name() && i.Target.Digest == d.Digest()
			})
		}
	} else if err != nil && !hexID.MatchString(ref) {
		return images.Image{}, err
	}
	if hexID.MatchString(ref) {
		prefix := "sha256:" + strings.TrimPrefix(ref, "sha256:")
		return e.byTarget(ctx, shown, func(i images.Image) bool { return strings.HasPrefix(i.Target.Digest.String(), prefix) })
	}
	return images.Image{}, noSuchImage(shown)
}

func noSuchImage(ref string) error {
	return ledger.Errorf(errdefs.ErrNotFound, "No such image: %s", ref)
}

func (e *Engine) byTarget(ctx context.Context, ref string, is func(images.Image) bool) (images.Image, error) {
	list, err := e.images.List(ctx)
	if err != nil {
		return images.Image{}, err
	}
	var found *images.Image
	for i := range list {
		if !is(list[i]) {
			continue
		}
		if found != nil && found.Target.Digest != list[i].Target.Digest {
			return images.Image{}, ledger.Errorf(errdefs.ErrInvalidArgument, "image ID prefix %q is ambiguous", ref)
		}
		found = &list[i]
	}
	if found == nil {
		return images.Image{}, noSuchImage(ref)
	}
	return *found, nil
}

// prepare makes the root file system of container id, writable, on top of the image's layers.
func (e *Engine) prepare(ctx context.Context, id string, img images.Image, info *imageInfo) error {
	_, err := e.snapshots.Prepare(ctx, id, info.chain)
	if errdefs.IsNotFound(err) { // a pull was cut short, another platform's image, or the collector was there first
		if err = e.unpack(ctx, img, info); err == nil {
			_, err = e.snapshots.Prepare(ctx, id, info.chain)
		}
		if errdefs.IsNotFound(err) {
			return noSuchImage(shownName(img, img.Target.Digest.String()))
		}
	}
	if err != nil && !errdefs.IsAlreadyExists(err) {
		return fmt.Errorf("root file system of container %s: %w", id[:12], err)
	}
	return nil
}

// unpack makes the snapshots of an image's layers.
func (e *Engine) unpack(ctx context.Context, img images.Image, info *imageInfo) error {
	defer e.known.forget(img.Target.Digest)
	img.Target = info.desc
	return client.NewImageWithPlatform(e.client, img, platforms.All).Unpack(ctx, snapshotter)
}
