package containerd

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

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

// imageInfo is what an image's content says; content never changes, so it is read once.
type imageInfo struct {
	config   *container.Config // what containers inherit
	image    dockerspec.DockerOCIImage
	chain    string // name of the snapshot that containers start from
	size     int64  // bytes of its blobs
	unpacked int64  // bytes of its layers, unpacked
	layers   []ocispec.Descriptor
}

// imageCache keeps imageInfo by the digest of the image's target. The zero value is ready.
type imageCache struct {
	mu sync.Mutex
	by map[digest.Digest]*imageInfo
}

// info reads what an image's content says, for this host's platform.
func (e *Engine) info(ctx context.Context, target ocispec.Descriptor) (*imageInfo, error) {
	e.known.mu.Lock()
	info := e.known.by[target.Digest]
	e.known.mu.Unlock()
	if info != nil {
		return info, nil
	}
	store := e.client.ContentStore()
	m, err := images.Manifest(ctx, store, target, platforms.Default())
	if err != nil {
		return nil, fmt.Errorf("manifest of image %s: %w", target.Digest, err)
	}
	b, err := content.ReadBlob(ctx, store, m.Config)
	if err != nil {
		return nil, fmt.Errorf("configuration of image %s: %w", target.Digest, err)
	}
	info = &imageInfo{layers: m.Layers, size: m.Config.Size}
	if err := json.Unmarshal(b, &info.image); err != nil {
		return nil, fmt.Errorf("configuration of image %s: %w", target.Digest, err)
	}
	info.chain = identity.ChainID(info.image.RootFS.DiffIDs).String()
	info.config = inherited(&info.image)
	for _, l := range m.Layers {
		info.size += l.Size
	}
	for i := range info.image.RootFS.DiffIDs {
		u, err := e.snapshots.Usage(ctx, identity.ChainID(info.image.RootFS.DiffIDs[:i+1]).String())
		if err != nil {
			return info, nil // not unpacked yet: good, but not to be kept
		}
		info.unpacked += u.Size
	}
	e.known.mu.Lock()
	defer e.known.mu.Unlock()
	if e.known.by == nil {
		e.known.by = map[digest.Digest]*imageInfo{}
	}
	e.known.by[target.Digest] = info
	return info, nil
}

func (c *imageCache) forget(d digest.Digest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.by, d)
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

// parseRef reads a reference as a user writes it: "latest" if it has neither tag nor digest, and without the tag if
// it has both.
func parseRef(ref string) (reference.Named, error) {
	n, err := reference.ParseDockerRef(ref)
	if err != nil {
		return nil, ledger.Errorf(errdefs.ErrInvalidArgument, "invalid reference format: %q: %s", ref, err)
	}
	return n, nil
}

var hexID = regexp.MustCompile(`^(sha256:)?[0-9a-f]{1,64}$`)

// findImage finds a local image by a name, a name with a digest, its ID or a prefix of that.
func (e *Engine) findImage(ctx context.Context, ref string) (images.Image, *imageInfo, error) {
	img, err := e.lookUp(ctx, ref)
	if err != nil {
		return img, nil, err
	}
	info, err := e.info(ctx, img.Target)
	return img, info, err
}

func (e *Engine) lookUp(ctx context.Context, ref string) (images.Image, error) {
	if ref == "" {
		return images.Image{}, ledger.Errorf(errdefs.ErrInvalidArgument, "no image specified")
	}
	shown := ref
	if named, err := parseRef(ref); err == nil && !strings.HasPrefix(ref, "sha256:") {
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
	if errdefs.IsNotFound(err) { // a pull was cut short, or the collector was there first
		if err = client.NewImage(e.client, img).Unpack(ctx, snapshotter); err == nil {
			_, err = e.snapshots.Prepare(ctx, id, info.chain)
		}
	}
	if err != nil && !errdefs.IsAlreadyExists(err) {
		return fmt.Errorf("root file system of container %s: %w", id[:12], err)
	}
	return nil
}

// named groups images by what they are: all names of one target.
type named struct {
	target  ocispec.Descriptor
	names   []string // containerd's, sorted
	tags    []string // familiar, NAME:TAG
	digests []string // familiar, NAME@DIGEST
	created time.Time
}

func (e *Engine) byID(ctx context.Context) (map[digest.Digest]*named, error) {
	list, err := e.images.List(ctx)
	if err != nil {
		return nil, err
	}
	all := map[digest.Digest]*named{}
	for _, i := range list {
		n := all[i.Target.Digest]
		if n == nil {
			n = &named{target: i.Target, tags: []string{}, digests: []string{}}
			all[i.Target.Digest] = n
		}
		n.add(i)
	}
	return all, nil
}

func (n *named) add(i images.Image) {
	n.names = append(n.names, i.Name)
	if i.CreatedAt.After(n.created) {
		n.created = i.CreatedAt
	}
	ref, err := reference.ParseNormalizedNamed(i.Name)
	if err != nil || strings.HasPrefix(i.Name, dangling) {
		return
	}
	if t, ok := ref.(reference.NamedTagged); ok {
		n.tags = append(n.tags, reference.FamiliarString(t))
	}
	d := reference.FamiliarName(ref) + "@" + i.Target.Digest.String()
	if !slices.Contains(n.digests, d) {
		n.digests = append(n.digests, d)
	}
	slices.Sort(n.names)
	slices.Sort(n.tags)
	slices.Sort(n.digests)
}
