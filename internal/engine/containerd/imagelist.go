package containerd

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/moby/moby/api/types/image"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/engine/ledger"
)

// named groups images by what they are: all names of one target.
type named struct {
	target  ocispec.Descriptor
	names   []string // containerd's, sorted
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
			n = &named{target: i.Target}
			all[i.Target.Digest] = n
		}
		n.names = append(n.names, i.Name)
		if i.CreatedAt.After(n.created) {
			n.created = i.CreatedAt
		}
	}
	for _, n := range all {
		slices.Sort(n.names)
	}
	return all, nil
}

func (n *named) facts(info *imageInfo) ledger.ImageFacts {
	return ledger.ImageFacts{Names: n.names, Labels: info.image.Config.Labels, Created: created(info, n.created), Came: n.created}
}

// created is when an image was built, or came here if it does not say.
func created(info *imageInfo, came time.Time) time.Time {
	if t := info.image.Created; t != nil && !t.IsZero() {
		return *t
	}
	return came
}

// Images implements engine.LocalImages.
func (e *Engine) Images(ctx context.Context, o engine.ImageListOptions) ([]image.Summary, error) {
	ctx = e.scope(ctx)
	filter, err := ledger.ImageFilter(o, time.Now(), func(ref string) (time.Time, error) {
		img, info, err := e.findImage(ctx, ref)
		if err != nil {
			return time.Time{}, err
		}
		return created(info, img.CreatedAt), nil
	})
	if err != nil {
		return nil, err
	}
	all, err := e.byID(ctx)
	if err != nil {
		return nil, err
	}
	users := e.users()
	list := []image.Summary{}
	layers := layerCount{}
	consists := map[string][]*imageInfo{}
	for id, n := range all {
		variants, err := e.variants(ctx, n.target)
		info := pick(variants, nil)
		if err != nil || info == nil {
			e.cfg.Log.Warn("an image is not complete", "image", id.String(), "error", err)
			info = &imageInfo{}
		}
		layers.add(variants)
		names := filter(n.facts(info))
		if len(names) == 0 {
			continue
		}
		labels := info.image.Config.Labels
		if labels == nil {
			labels = map[string]string{}
		}
		s := image.Summary{ID: id.String(), Created: created(info, n.created).Unix(), Labels: labels,
			SharedSize: -1, Containers: int64(len(users[id.String()])), Descriptor: &n.target}
		s.RepoTags, s.RepoDigests = ledger.ImageTags(s.ID, names)
		s.Manifests, s.Size = manifests(variants, users[s.ID])
		consists[s.ID] = variants
		list = append(list, s)
	}
	for i := range list {
		if o.SharedSize {
			list[i].SharedSize = layers.shared(consists[list[i].ID])
		}
	}
	slices.SortFunc(list, func(a, b image.Summary) int {
		if a.Created != b.Created {
			return int(b.Created - a.Created)
		}
		return strings.Compare(a.ID, b.ID)
	})
	return list, nil
}

// layerCount counts the images that have a layer, by the name of its snapshot.
type layerCount map[string]int

// add counts the layers of one image, each once.
func (c layerCount) add(variants []*imageInfo) {
	for chain := range chains(variants) {
		c[chain]++
	}
}

// shared is how many bytes of an image's unpacked layers belong to other images, too.
func (c layerCount) shared(variants []*imageInfo) (sum int64) {
	for chain, size := range chains(variants) {
		if c[chain] > 1 {
			sum += size
		}
	}
	return sum
}

// chains are the sizes of an image's layers, unpacked, by the name of the snapshot.
func chains(variants []*imageInfo) map[string]int64 {
	m := map[string]int64{}
	for _, i := range variants {
		for _, l := range i.layers {
			m[l.chain] = l.size
		}
	}
	return m
}

// manifests shows what an image consists of, and how many bytes that is.
func manifests(variants []*imageInfo, users []*ledger.Container) (list []image.ManifestSummary, size int64) {
	for _, i := range variants {
		m := image.ManifestSummary{ID: i.desc.Digest.String(), Descriptor: i.desc, Available: i.here, Kind: image.ManifestKindImage}
		m.Size.Content, m.Size.Total = i.size, i.size+i.unpacked
		if i.about != "" {
			m.Kind, m.AttestationData = image.ManifestKindAttestation, &image.AttestationProperties{For: i.about}
		} else {
			m.ImageData = &image.ImageProperties{Platform: i.platform, Containers: []string{}}
			m.ImageData.Size.Unpacked = i.unpacked
			for _, c := range users {
				if c.Manifest != nil && c.Manifest.Digest == i.desc.Digest {
					m.ImageData.Containers = append(m.ImageData.Containers, c.ID)
				}
			}
		}
		size += m.Size.Total
		list = append(list, m)
	}
	return list, size
}

// users are the containers of each image, by its ID.
func (e *Engine) users() map[string][]*ledger.Container {
	m := map[string][]*ledger.Container{}
	for _, c := range e.ledger.All() {
		m[c.ImageID] = append(m[c.ImageID], c)
	}
	return m
}

// InspectImage implements engine.LocalImages.
func (e *Engine) InspectImage(ctx context.Context, ref string, platform *ocispec.Platform) (*image.InspectResponse, error) {
	ctx = e.scope(ctx)
	img, info, err := e.findImageFor(ctx, ref, platform)
	if err != nil {
		return nil, err
	}
	n, err := e.namesOf(ctx, img)
	if err != nil {
		return nil, err
	}
	variants, err := e.variants(ctx, img.Target)
	if err != nil {
		return nil, err
	}
	id := img.Target.Digest.String()
	r := &image.InspectResponse{
		ID: id, Created: created(info, n.created).UTC().Format(time.RFC3339Nano), Author: info.image.Author,
		Config: &info.image.Config, Architecture: info.image.Architecture, Variant: info.image.Variant,
		Os: info.image.OS, OsVersion: info.image.OSVersion,
		RootFS: image.RootFS{Type: info.image.RootFS.Type}, Metadata: image.Metadata{LastTagTime: n.created},
		Descriptor: &n.target,
	}
	r.RepoTags, r.RepoDigests = ledger.ImageTags(id, n.names)
	r.Manifests, r.Size = manifests(variants, e.users()[id])
	if platform != nil {
		r.Size = info.size + info.unpacked
	}
	for _, d := range info.image.RootFS.DiffIDs {
		r.RootFS.Layers = append(r.RootFS.Layers, d.String())
	}
	if h := info.image.History; len(h) > 0 {
		r.Comment = h[len(h)-1].Comment
	}
	return r, nil
}

// namesOf gives all names of an image; NotFound if it has lost the last meanwhile.
func (e *Engine) namesOf(ctx context.Context, img images.Image) (*named, error) {
	all, err := e.byID(ctx)
	if err != nil {
		return nil, err
	}
	if n := all[img.Target.Digest]; n != nil {
		return n, nil
	}
	return nil, noSuchImage(shownName(img, img.Target.Digest.String()))
}

// ImageHistory implements engine.LocalImages.
func (e *Engine) ImageHistory(ctx context.Context, ref string, platform *ocispec.Platform) ([]image.HistoryResponseItem, error) {
	ctx = e.scope(ctx)
	img, info, err := e.findImageFor(ctx, ref, platform)
	if err != nil {
		return nil, err
	}
	n, err := e.namesOf(ctx, img)
	if err != nil {
		return nil, err
	}
	list := []image.HistoryResponseItem{}
	layers := info.layers
	for _, h := range info.image.History {
		i := image.HistoryResponseItem{ID: "<missing>", Comment: h.Comment, CreatedBy: h.CreatedBy}
		if h.Created != nil {
			i.Created = h.Created.Unix()
		}
		if !h.EmptyLayer && len(layers) > 0 {
			i.Size, layers = layers[0].size, layers[1:]
		}
		list = append(list, i)
	}
	slices.Reverse(list)
	if len(list) > 0 {
		list[0].ID = img.Target.Digest.String()
		list[0].Tags, _ = ledger.ImageTags(list[0].ID, n.names)
	}
	return list, nil
}
