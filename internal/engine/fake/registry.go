package fake

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/api/types/system"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/engine/dockerfile"
	"shoal.dev/shoal/internal/engine/ledger"
)

// offered returns the ID of what a pull of n with the credentials would bring.
func (e *Engine) offered(n reference.Named, auth *registry.AuthConfig) (string, error) {
	if e.Door != nil {
		if err := e.Door(n, auth); err != nil {
			return "", err
		}
	}
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

// Pull implements engine.Registries.
func (e *Engine) Pull(ctx context.Context, ref string, o engine.PullOptions, report func(jsonstream.Message)) error {
	n, err := ledger.ParseImageName(ref)
	if err != nil {
		return err
	}
	if report == nil {
		report = func(jsonstream.Message) {}
	}
	if p := o.Platform; p != nil && (p.OS != platform.OS || p.Architecture != platform.Architecture) {
		return ledger.Errorf(errdefs.ErrNotFound, "no matching manifest for %s/%s in the manifest list entries", p.OS, p.Architecture)
	}
	if !o.AllTags {
		return e.pullOne(ctx, n, o.Auth, report)
	}
	e.mu.Lock()
	var tags []string
	for name := range e.remote {
		if r, err := reference.ParseNormalizedNamed(name); err == nil && r.Name() == n.Name() {
			tags = append(tags, name)
		}
	}
	e.mu.Unlock()
	slices.Sort(tags)
	for _, name := range tags {
		n, err := reference.ParseNormalizedNamed(name)
		if err != nil {
			return err
		}
		if err := e.pullOne(ctx, n, o.Auth, report); err != nil {
			return err
		}
	}
	return nil
}

func (e *Engine) pullOne(ctx context.Context, n reference.Named, auth *registry.AuthConfig, report func(jsonstream.Message)) error {
	familiar := reference.FamiliarString(n)
	_, pinned := n.(reference.Digested)
	if id, err := e.find(n.String()); err == nil && pinned {
		report(jsonstream.Message{Status: "Digest: " + id})
		report(jsonstream.Message{Status: "Status: Image is up to date for " + familiar})
		return nil
	}
	id, err := e.offered(n, auth)
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
		layer := layerOf(id)
		report(jsonstream.Message{ID: layer, Status: "Pulling fs layer"})
		report(jsonstream.Message{ID: layer, Status: "Downloading", Progress: &jsonstream.Progress{Current: 1, Total: 1}})
		if err := pause(ctx, e.PullTime); err != nil {
			return err
		}
		report(jsonstream.Message{ID: layer, Status: "Download complete"})
		report(jsonstream.Message{ID: layer, Status: "Pull complete"})
		e.mu.Lock()
		e.name(n.String(), id)
		e.mu.Unlock()
		status = "Downloaded newer image for "
	}
	e.ledger.ReportImage(familiar, reference.FamiliarName(n), "pull", nil)
	report(jsonstream.Message{Status: "Digest: " + id})
	report(jsonstream.Message{Status: "Status: " + status + familiar})
	return nil
}

func layerOf(id string) string { return digestOf("layer of " + id)[7:19] }

// Push implements engine.Registries: what is pushed can be pulled.
func (e *Engine) Push(_ context.Context, ref string, o engine.PushOptions, report func(jsonstream.Message)) error {
	n, err := ledger.ParseImageName(ref)
	if err != nil {
		return err
	}
	if report == nil {
		report = func(jsonstream.Message) {}
	}
	report(jsonstream.Message{Status: "The push refers to repository [" + n.Name() + "]"})
	e.mu.Lock()
	defer e.mu.Unlock()
	names := []string{n.String()}
	if o.AllTags {
		names = nil
		for name := range e.local {
			if r, err := reference.ParseNormalizedNamed(name); err == nil && r.Name() == n.Name() {
				names = append(names, name)
			}
		}
		if len(names) == 0 {
			return ledger.Errorf(errdefs.ErrNotFound, "An image does not exist locally with the tag: %s", reference.FamiliarName(n))
		}
	}
	for _, name := range names {
		id, ok := e.local[name]
		if !ok {
			return ledger.Errorf(errdefs.ErrNotFound, "tag does not exist: %s", ledger.FamiliarImage(name))
		}
		status := "Pushed"
		for _, other := range e.remote {
			if other == id {
				status = "Layer already exists"
			}
		}
		e.remote[name] = id
		report(jsonstream.Message{ID: layerOf(id), Status: status})
		r, err := reference.ParseNormalizedNamed(name)
		if err != nil {
			return err
		}
		if t, ok := r.(reference.Tagged); ok {
			report(jsonstream.Message{Status: fmt.Sprintf("%s: digest: %s size: 1", t.Tag(), id)})
		}
		e.ledger.ReportImage(reference.FamiliarString(r), reference.FamiliarName(r), "push", nil)
	}
	return nil
}

// Distribution implements engine.Registries.
func (e *Engine) Distribution(_ context.Context, ref string, auth *registry.AuthConfig) (*registry.DistributionInspect, error) {
	n, err := ledger.ParseImageName(ref)
	if err != nil {
		return nil, err
	}
	id, err := e.offered(n, auth)
	if err != nil {
		return nil, err
	}
	return &registry.DistributionInspect{
		Descriptor: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.Digest(id), Size: 1},
		Platforms:  []ocispec.Platform{platform},
	}, nil
}

// Login implements engine.Registries: every password but "wrong" is right.
func (e *Engine) Login(_ context.Context, auth *registry.AuthConfig) (string, error) {
	if auth.Password == "wrong" {
		return "", ledger.Errorf(errdefs.ErrUnauthenticated, "login attempt to https://%s/v2/ failed with status: 401 Unauthorized", auth.ServerAddress)
	}
	return "", nil
}

// Load implements engine.ImageArchives: the stream holds canonical names of images, one a line, each with its ID unless
// that is the one made of its name.
func (e *Engine) Load(_ context.Context, r io.Reader) ([]string, error) {
	b, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	names := []string{}
	for line := range strings.Lines(string(b)) {
		name, id, _ := strings.Cut(strings.TrimSpace(line), " ")
		n, err := ledger.ParseImageName(name)
		if err != nil {
			return names, ledger.Errorf(errdefs.ErrInvalidArgument, "invalid archive: %s", err)
		}
		if id == "" {
			id = idOf(n)
		}
		e.mu.Lock()
		e.name(n.String(), id)
		e.mu.Unlock()
		names = append(names, reference.FamiliarString(n))
		e.ledger.ReportImage(id, id, "load", nil)
	}
	return names, nil
}

// Save implements engine.ImageArchives.
func (e *Engine) Save(_ context.Context, refs []string, _ []ocispec.Platform, w io.Writer) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	var ids []string
	for _, ref := range refs {
		id, err := e.findLocked(ref)
		if err != nil {
			return err
		}
		ids = append(ids, id)
	}
	for i, id := range ids {
		if _, err := fmt.Fprintf(w, "%s %s\n", refs[i], id); err != nil {
			return err
		}
		e.ledger.ReportImage(id, id, "save", nil)
	}
	return nil
}

// Import implements engine.ImageArchives. An empty stream is no archive.
func (e *Engine) Import(_ context.Context, r io.Reader, o engine.ImportOptions) (string, error) {
	config, err := dockerfile.Apply(&container.Config{}, o.Changes)
	if err != nil {
		return "", err
	}
	name := ""
	if o.Name != "" {
		n, err := ledger.ParseImageTag(o.Name)
		if err != nil {
			return "", err
		}
		name = n.String()
	}
	b, err := io.ReadAll(r)
	if err != nil {
		return "", err
	}
	id := fmt.Sprintf("sha256:%x", sha256.Sum256(fmt.Append(b, o.Changes, o.Message)))
	if name == "" {
		name = ledger.Dangling + id
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	p := e.picture(id)
	p.config, p.created, p.comment = *config, time.Now(), o.Message
	e.name(name, id)
	if shown := ledger.FamiliarImage(name); shown != "" {
		e.ledger.ReportImage(id, shown, "tag", config.Labels)
	}
	e.ledger.ReportImage(id, id, "import", config.Labels)
	return id, nil
}

// DiskUsage implements engine.Disk. Containers take nothing.
func (e *Engine) DiskUsage(ctx context.Context, o engine.DiskUsageOptions) (*system.DiskUsage, error) {
	u := &system.DiskUsage{}
	if o.Containers {
		list, err := e.List(ctx, engine.ListOptions{All: true, Size: true})
		if err != nil {
			return nil, err
		}
		u.ContainerUsage = ledger.ContainerUsage(list)
	}
	if o.Images {
		list, err := e.Images(ctx, engine.ImageListOptions{SharedSize: true})
		if err != nil {
			return nil, err
		}
		u.ImageUsage = ledger.ImageUsage(list, int64(len(list))*imageSize)
	}
	if o.Volumes {
		u.VolumeUsage = e.volumes.Usage(ctx)
	}
	return u, ctx.Err()
}
