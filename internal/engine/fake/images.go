package fake

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/image"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/engine/ledger"
)

// AddImage makes an image local.
func (e *Engine) AddImage(ref string) error { return e.add(e.local, ref) }

// Offer lets an image be pulled.
func (e *Engine) Offer(ref string) error { return e.add(e.remote, ref) }

// picture is what is known of an image beside its names.
type picture struct { // kept when the image goes: what has the same ID is the same
	config  container.Config
	created time.Time
	comment string
}

// imageSize is what every image takes, in bytes, and all of it is its own.
const imageSize = 1000

// platform is that of every image.
var platform = ocispec.Platform{OS: "linux", Architecture: "amd64"}

func (e *Engine) add(to map[string]string, ref string) error {
	n, err := ledger.ParseImageName(ref)
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	to[n.String()] = idOf(n)
	return nil
}

// idOf is an image's ID: the digest that its name pins, or one made of its name.
func idOf(n reference.Named) string {
	if d, ok := n.(reference.Digested); ok {
		return d.Digest().String()
	}
	return digestOf(n.String())
}

// picture gives what is known of an image. The caller holds the lock.
func (e *Engine) picture(id string) *picture {
	p := e.pictures[id]
	if p == nil {
		p = &picture{created: time.Unix(0, 0).UTC()}
		e.pictures[id] = p
	}
	return p
}

// find returns the ID of the local image that ref means.
func (e *Engine) find(ref string) (string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.findLocked(ref)
}

func (e *Engine) findLocked(ref string) (string, error) {
	shown := ref
	n, err := ledger.ParseImageName(ref)
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

// findFor is findLocked for a platform.
func (e *Engine) findFor(ref string, want *ocispec.Platform) (string, error) {
	id, err := e.findLocked(ref)
	if err == nil && want != nil && (want.OS != platform.OS || want.Architecture != platform.Architecture) {
		return "", ledger.Errorf(errdefs.ErrNotFound, "image with reference %s was found but does not provide the specified platform (%s/%s)", ref, want.OS, want.Architecture)
	}
	return id, err
}

// names are the canonical names of a local image, sorted. The caller holds the lock.
func (e *Engine) names(id string) []string {
	var names []string
	for name, other := range e.local {
		if other == id {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// name gives an image a name. What had that name before stays, without it. The caller holds the lock.
func (e *Engine) name(name, id string) {
	if old, ok := e.local[name]; ok && old != id && len(e.names(old)) == 1 {
		e.local[ledger.Dangling+old] = old
	}
	e.local[name] = id
	if !strings.HasPrefix(name, ledger.Dangling) {
		delete(e.local, ledger.Dangling+id)
	}
}

func (e *Engine) facts(id string) ledger.ImageFacts {
	p := e.picture(id)
	return ledger.ImageFacts{Names: e.names(id), Labels: p.config.Labels, Created: p.created, Came: p.created}
}

// users are the containers of each image.
func (e *Engine) users() map[string][]*ledger.Container {
	m := map[string][]*ledger.Container{}
	for _, c := range e.ledger.All() {
		m[c.ImageID] = append(m[c.ImageID], c)
	}
	return m
}

// Images implements engine.LocalImages.
func (e *Engine) Images(_ context.Context, o engine.ImageListOptions) ([]image.Summary, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	filter, err := ledger.ImageFilter(o, time.Now(), func(ref string) (time.Time, error) {
		id, err := e.findLocked(ref)
		if err != nil {
			return time.Time{}, err
		}
		return e.picture(id).created, nil
	})
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	users := e.users()
	list := []image.Summary{}
	for _, id := range e.local {
		if seen[id] {
			continue
		}
		seen[id] = true
		names := filter(e.facts(id))
		if len(names) == 0 {
			continue
		}
		p := e.picture(id)
		s := image.Summary{ID: id, Labels: map[string]string{}, Created: p.created.Unix(), Size: imageSize, SharedSize: -1, Containers: int64(len(users[id]))}
		maps.Copy(s.Labels, p.config.Labels)
		if o.SharedSize {
			s.SharedSize = 0
		}
		s.RepoTags, s.RepoDigests = ledger.ImageTags(id, names)
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b image.Summary) int {
		if a.Created != b.Created {
			return int(b.Created - a.Created)
		}
		return strings.Compare(a.ID, b.ID)
	})
	return list, nil
}

// InspectImage implements engine.LocalImages.
func (e *Engine) InspectImage(_ context.Context, ref string, want *ocispec.Platform) (*image.InspectResponse, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	id, err := e.findFor(ref, want)
	if err != nil {
		return nil, err
	}
	p := e.picture(id)
	r := &image.InspectResponse{ID: id, Os: platform.OS, Architecture: platform.Architecture, Size: imageSize, Comment: p.comment,
		Config: &dockerspec.DockerOCIImageConfig{}, Created: p.created.Format(time.RFC3339)}
	*r.Config = ledger.ImageConfig(&p.config)
	r.RootFS = image.RootFS{Type: "layers", Layers: e.layersOf(id)}
	if m := e.made[id]; m != nil {
		r.Author = m.author
	}
	r.RepoTags, r.RepoDigests = ledger.ImageTags(id, e.names(id))
	m := image.ManifestSummary{ID: id, Available: true, Kind: image.ManifestKindImage, ImageData: &image.ImageProperties{Platform: platform, Containers: []string{}}}
	r.Manifests = []image.ManifestSummary{m}
	return r, nil
}

// ImageHistory implements engine.LocalImages.
func (e *Engine) ImageHistory(_ context.Context, ref string, want *ocispec.Platform) ([]image.HistoryResponseItem, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	id, err := e.findFor(ref, want)
	if err != nil {
		return nil, err
	}
	p := e.picture(id)
	h := image.HistoryResponseItem{ID: id, Comment: p.comment, Created: p.created.Unix(), Size: imageSize}
	h.Tags, _ = ledger.ImageTags(id, e.names(id))
	return []image.HistoryResponseItem{h}, nil
}

// TagImage implements engine.LocalImages.
func (e *Engine) TagImage(_ context.Context, ref, name string) error {
	tag, err := ledger.ParseImageTag(name)
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	id, err := e.findLocked(ref)
	if err != nil {
		return err
	}
	e.name(tag.String(), id)
	e.ledger.ReportImage(id, reference.FamiliarString(tag), "tag", e.picture(id).config.Labels)
	return nil
}

// RemoveImage implements engine.LocalImages.
func (e *Engine) RemoveImage(_ context.Context, ref string, force bool) ([]image.DeleteResponse, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	id, err := e.findLocked(ref)
	if err != nil {
		return nil, err
	}
	byID := strings.HasPrefix(strings.TrimPrefix(id, "sha256:"), strings.TrimPrefix(ref, "sha256:"))
	plan, err := ledger.PlanRemoval(ref, id, !byID, e.names(id), e.users()[id], force)
	if err != nil {
		return nil, err
	}
	if plan.Keep {
		e.local[ledger.Dangling+id] = id
	}
	out := []image.DeleteResponse{}
	for _, name := range plan.Drop {
		e.dropName(name, id, &out)
	}
	if !plan.Last || plan.Keep {
		return out, nil
	}
	return append(out, e.deleted(id)), nil
}

// dropName takes a name away and adds the line for it. The caller holds the lock.
func (e *Engine) dropName(name, id string, out *[]image.DeleteResponse) {
	if shown := ledger.FamiliarImage(name); shown != "" {
		e.ledger.ReportImage(id, shown, "untag", nil)
		*out = append(*out, image.DeleteResponse{Untagged: shown})
	} else if len(e.names(id)) > 1 {
		return
	}
	delete(e.local, name)
}

func (e *Engine) deleted(id string) image.DeleteResponse {
	e.ledger.ReportImage(id, id, "delete", nil)
	return image.DeleteResponse{Deleted: id}
}

// PruneImages implements engine.LocalImages.
func (e *Engine) PruneImages(_ context.Context, filters map[string][]string) (*image.PruneReport, error) {
	danglingOnly, pass, err := ledger.ImagePruneFilter(filters, time.Now())
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	var all []ledger.ImageName
	for name, id := range e.local {
		all = append(all, ledger.ImageName{Name: name, ID: id})
	}
	r := &image.PruneReport{ImagesDeleted: []image.DeleteResponse{}}
	drop := ledger.PlanPrune(all, e.users(), danglingOnly, func(n ledger.ImageName) bool { return pass(e.facts(n.ID)) })
	for _, n := range drop {
		e.dropName(n.Name, n.ID, &r.ImagesDeleted)
		if len(e.names(n.ID)) == 0 {
			r.SpaceReclaimed += imageSize
			r.ImagesDeleted = append(r.ImagesDeleted, e.deleted(n.ID))
		}
	}
	e.ledger.ReportImagePrune(r.SpaceReclaimed)
	return r, nil
}
