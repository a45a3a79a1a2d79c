package fake

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/moby/moby/api/types/registry"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/engine/ledger"
)

// AddImage makes an image local.
func (e *Engine) AddImage(ref string) error { return e.add(e.local, ref) }

// Offer lets an image be pulled.
func (e *Engine) Offer(ref string) error { return e.add(e.remote, ref) }

func (e *Engine) add(to map[string]string, ref string) error {
	n, err := parse(ref)
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	to[n.String()] = idOf(n)
	return nil
}

func parse(ref string) (reference.Named, error) {
	n, err := reference.ParseDockerRef(ref)
	if err != nil {
		return nil, ledger.Errorf(errdefs.ErrInvalidArgument, "invalid reference format: %q: %s", ref, err)
	}
	return n, nil
}

// idOf is an image's ID: the digest that its name pins, or one made of its name.
func idOf(n reference.Named) string {
	if d, ok := n.(reference.Digested); ok {
		return d.Digest().String()
	}
	return digestOf(n.String())
}

// find returns the ID of the local image that ref means.
func (e *Engine) find(ref string) (string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.findLocked(ref)
}

func (e *Engine) findLocked(ref string) (string, error) {
	shown := ref
	n, err := parse(ref)
	if err == nil {
		if id, ok := e.local[n.String()]; ok {
			return id, nil
		}
		shown = reference.FamiliarString(n)
	}
	hex := strings.TrimPrefix(ref, "sha256:")
	for name, id := range e.local {
		if hex != "" && strings.HasPrefix(id, "sha256:"+hex) {
			return id, nil
		}
		if n != nil && id == idOf(n) && strings.HasPrefix(name, n.Name()) {
			return id, nil
		}
	}
	if err != nil && !strings.HasPrefix(ref, "sha256:") {
		return "", err
	}
	return "", ledger.Errorf(errdefs.ErrNotFound, "No such image: %s", shown)
}

// offered returns the ID of what a pull of n would bring.
func (e *Engine) offered(n reference.Named) (string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.failPulls != nil {
		return "", e.failPulls
	}
	if id, ok := e.remote[n.String()]; ok {
		return id, nil
	}
	for name, id := range e.remote {
		if id == idOf(n) && strings.HasPrefix(name, n.Name()) {
			return id, nil
		}
	}
	if e.AnyImage {
		return idOf(n), nil
	}
	return "", ledger.Errorf(errdefs.ErrNotFound, "manifest for %s not found: manifest unknown", reference.FamiliarString(n))
}

// Pull implements engine.Images.
func (e *Engine) Pull(ctx context.Context, ref string, _ *registry.AuthConfig, report func(jsonstream.Message)) error {
	n, err := parse(ref)
	if err != nil {
		return err
	}
	if report == nil {
		report = func(jsonstream.Message) {}
	}
	familiar := reference.FamiliarString(n)
	_, pinned := n.(reference.Digested)
	if id, err := e.find(ref); err == nil && pinned {
		report(jsonstream.Message{Status: "Digest: " + id})
		report(jsonstream.Message{Status: "Status: Image is up to date for " + familiar})
		return nil
	}
	id, err := e.offered(n)
	if err != nil {
		return err
	}
	tag := id
	if t, ok := n.(reference.Tagged); ok {
		tag = t.Tag()
	}
	report(jsonstream.Message{ID: tag, Status: "Pulling from " + reference.Path(n)})
	e.mu.Lock()
	same := e.local[n.String()] == id
	e.mu.Unlock()
	status := "Image is up to date for "
	if !same {
		layer := digestOf("layer of " + id)[7:19]
		report(jsonstream.Message{ID: layer, Status: "Pulling fs layer"})
		report(jsonstream.Message{ID: layer, Status: "Downloading", Progress: &jsonstream.Progress{Current: 1, Total: 1}})
		if err := pause(ctx, e.PullTime); err != nil {
			return err
		}
		report(jsonstream.Message{ID: layer, Status: "Download complete"})
		report(jsonstream.Message{ID: layer, Status: "Pull complete"})
		e.mu.Lock()
		e.local[n.String()] = id
		e.mu.Unlock()
		e.ledger.ReportImage(familiar, familiar, "pull")
		status = "Downloaded newer image for "
	}
	report(jsonstream.Message{Status: "Digest: " + id})
	report(jsonstream.Message{Status: "Status: " + status + familiar})
	return nil
}

// names are the familiar tags and digests of a local image. The caller holds the lock.
func (e *Engine) names(id string) (tags, digests []string) {
	tags, digests = []string{}, []string{}
	for name, other := range e.local {
		if other != id {
			continue
		}
		n, err := reference.ParseNormalizedNamed(name)
		if err != nil {
			continue
		}
		if t, ok := n.(reference.NamedTagged); ok {
			tags = append(tags, reference.FamiliarString(t))
		}
		if d := reference.FamiliarName(n) + "@" + id; !slices.Contains(digests, d) {
			digests = append(digests, d)
		}
	}
	slices.Sort(tags)
	slices.Sort(digests)
	return tags, digests
}

// Images implements engine.Images. Of the filters it knows reference and dangling.
func (e *Engine) Images(_ context.Context, o engine.ImageListOptions) ([]image.Summary, error) {
	for key := range o.Filters {
		if key != "reference" && key != "dangling" {
			return nil, ledger.Errorf(errdefs.ErrInvalidArgument, "invalid filter '%s'", key)
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	seen := map[string]bool{}
	list := []image.Summary{}
	for _, id := range e.local {
		if seen[id] {
			continue
		}
		seen[id] = true
		tags, digests := e.names(id)
		if want := o.Filters["reference"]; len(want) > 0 && !slices.ContainsFunc(want, func(w string) bool { return slices.Contains(tags, w) }) {
			continue
		}
		if want := o.Filters["dangling"]; len(want) > 0 && (want[0] == "true") != (len(tags) == 0) {
			continue
		}
		list = append(list, image.Summary{ID: id, RepoTags: tags, RepoDigests: digests, Labels: map[string]string{}, SharedSize: -1})
	}
	slices.SortFunc(list, func(a, b image.Summary) int { return strings.Compare(a.ID, b.ID) })
	return list, nil
}

// InspectImage implements engine.Images.
func (e *Engine) InspectImage(_ context.Context, ref string) (*image.InspectResponse, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	id, err := e.findLocked(ref)
	if err != nil {
		return nil, err
	}
	tags, digests := e.names(id)
	r := &image.InspectResponse{ID: id, RepoTags: tags, RepoDigests: digests, Os: "linux", Architecture: "amd64",
		Config: &dockerspec.DockerOCIImageConfig{}, Created: time.Unix(0, 0).UTC().Format(time.RFC3339),
		RootFS: image.RootFS{Type: "layers", Layers: e.layersOf(id)}}
	if m := e.made[id]; m != nil {
		cfg := ledger.ImageConfig(m.config)
		r.Config, r.Author, r.Comment = &cfg, m.author, m.comment
	}
	return r, nil
}

// RemoveImage implements engine.Images.
func (e *Engine) RemoveImage(_ context.Context, ref string, force bool) ([]image.DeleteResponse, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	id, err := e.findLocked(ref)
	if err != nil {
		return nil, err
	}
	for _, c := range e.ledger.All() {
		if c.ImageID != id {
			continue
		}
		short := id[7:19]
		if c.Running() {
			return nil, ledger.Errorf(errdefs.ErrConflict,
				"conflict: unable to delete %s (cannot be forced) - image is being used by running container %s", short, c.ID[:12])
		}
		if !force {
			return nil, ledger.Errorf(errdefs.ErrConflict,
				"conflict: unable to remove repository reference %q (must force) - container %s is using its referenced image %s", ref, c.ID[:12], short)
		}
	}
	tags, digests := e.names(id)
	out := []image.DeleteResponse{}
	for _, t := range append(tags, digests...) {
		out = append(out, image.DeleteResponse{Untagged: t})
	}
	for name, other := range e.local {
		if other == id {
			delete(e.local, name)
		}
	}
	e.ledger.ReportImage(id, id, "delete")
	return append(out, image.DeleteResponse{Deleted: id}), nil
}

// Distribution implements engine.Images.
func (e *Engine) Distribution(_ context.Context, ref string, _ *registry.AuthConfig) (*registry.DistributionInspect, error) {
	n, err := parse(ref)
	if err != nil {
		return nil, err
	}
	id, err := e.offered(n)
	if err != nil {
		return nil, err
	}
	return &registry.DistributionInspect{
		Descriptor: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.Digest(id), Size: 1},
		Platforms:  []ocispec.Platform{{OS: "linux", Architecture: "amd64"}},
	}, nil
}
