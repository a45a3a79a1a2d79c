package containerd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/image"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"shoal.dev/shoal/internal/engine/ledger"
)

// TagImage implements engine.LocalImages.
func (e *Engine) TagImage(ctx context.Context, ref, name string) error {
	ctx = e.scope(ctx)
	tag, err := ledger.ParseImageTag(name)
	if err != nil {
		return err
	}
	e.using.mu.Lock()
	defer e.using.mu.Unlock()
	img, err := e.lookUp(ctx, ref)
	if err != nil {
		return err
	}
	return e.name(ctx, tag.String(), img.Target, "tag")
}

// name gives a target a name, which may be that of one without a name, and reports it as an event if action is not
// empty. What had that name before stays, without it. The caller holds using.mu.
func (e *Engine) name(ctx context.Context, name string, target ocispec.Descriptor, action string) error {
	old, err := e.images.Get(ctx, name)
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	if err == nil && old.Target.Digest != target.Digest {
		if err := e.keep(ctx, old); err != nil {
			return err
		}
	}
	if old.Target.Digest != target.Digest {
		if err := e.putImage(ctx, name, target); err != nil {
			return fmt.Errorf("name image %s: %w", target.Digest, err)
		}
	}
	if strings.HasPrefix(name, ledger.Dangling) {
		return nil
	}
	id := target.Digest.String()
	if action != "" {
		e.ledger.ReportImage(id, ledger.FamiliarImage(name), action, e.labels(ctx, target))
	}
	return e.dropName(ctx, ledger.Dangling+id)
}

func (e *Engine) putImage(ctx context.Context, name string, target ocispec.Descriptor) error {
	img := images.Image{Name: name, Target: target, CreatedAt: time.Now().UTC()}
	_, err := e.images.Create(ctx, img)
	if errdefs.IsAlreadyExists(err) {
		_, err = e.images.Update(ctx, img, "target")
	}
	return err
}

// keep names an image that is about to lose its last name by its ID.
func (e *Engine) keep(ctx context.Context, img images.Image) error {
	n, err := e.namesOf(ctx, img)
	if err != nil || len(n.names) > 1 || strings.HasPrefix(img.Name, ledger.Dangling) {
		if errdefs.IsNotFound(err) {
			return nil
		}
		return err
	}
	return e.putImage(ctx, ledger.Dangling+img.Target.Digest.String(), img.Target)
}

func (e *Engine) dropName(ctx context.Context, name string) error {
	if err := e.images.Delete(ctx, name); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	return nil
}

// labels are those of an image's configuration, for events; none if it cannot be read.
func (e *Engine) labels(ctx context.Context, target ocispec.Descriptor) map[string]string {
	info, err := e.info(ctx, target)
	if err != nil {
		return nil
	}
	return info.image.Config.Labels
}

// RemoveImage implements engine.LocalImages.
func (e *Engine) RemoveImage(ctx context.Context, ref string, force bool) ([]image.DeleteResponse, error) {
	ctx = e.scope(ctx)
	out, last, err := e.removeNames(ctx, ref, force)
	if err == nil && last {
		err = e.collect(ctx)
	}
	return out, err
}

// removeNames does all of a removal but freeing the bytes. last says whether there are any to be freed.
func (e *Engine) removeNames(ctx context.Context, ref string, force bool) (out []image.DeleteResponse, last bool, err error) {
	e.using.mu.Lock()
	defer e.using.mu.Unlock()
	img, err := e.lookUp(ctx, ref)
	if err != nil {
		return nil, false, err
	}
	n, err := e.namesOf(ctx, img)
	if err != nil {
		return nil, false, err
	}
	id := img.Target.Digest
	plan, err := ledger.PlanRemoval(ref, id.String(), !isID(id, ref), n.names, e.users()[id.String()], force)
	if err != nil {
		return nil, false, err
	}
	if plan.Last && e.using.making[id] > 0 {
		return nil, false, ledger.Errorf(errdefs.ErrConflict,
			"conflict: unable to delete %s (cannot be forced) - image is being used by a container that is being created", id.Encoded()[:12])
	}
	ctx = context.WithoutCancel(ctx) // half of it would be neither
	if plan.Keep {
		if err := e.putImage(ctx, ledger.Dangling+id.String(), n.target); err != nil {
			return nil, false, err
		}
	}
	out = []image.DeleteResponse{}
	for _, name := range plan.Drop {
		if plan.Keep && strings.HasPrefix(name, ledger.Dangling) {
			continue
		}
		if err := e.untag(ctx, images.Image{Name: name, Target: img.Target}, &out); err != nil {
			return out, false, err
		}
	}
	if !plan.Last || plan.Keep {
		return out, false, nil
	}
	e.known.forget(id)
	e.ledger.ReportImage(id.String(), id.String(), "delete", nil)
	return append(out, image.DeleteResponse{Deleted: id.String()}), true, nil
}

// isID says whether ref is an image's ID or a prefix of it, rather than a name.
func isID(id digest.Digest, ref string) bool {
	return hexID.MatchString(ref) && strings.HasPrefix(id.Encoded(), strings.TrimPrefix(ref, "sha256:"))
}

// untag removes one name and adds the line for it.
func (e *Engine) untag(ctx context.Context, img images.Image, out *[]image.DeleteResponse) error {
	if err := e.dropName(ctx, img.Name); err != nil {
		return err
	}
	if shown := ledger.FamiliarImage(img.Name); shown != "" {
		e.ledger.ReportImage(img.Target.Digest.String(), shown, "untag", nil)
		*out = append(*out, image.DeleteResponse{Untagged: shown})
	}
	return nil
}

// PruneImages implements engine.LocalImages.
func (e *Engine) PruneImages(ctx context.Context, filters map[string][]string) (*image.PruneReport, error) {
	ctx = e.scope(ctx)
	danglingOnly, pass, err := ledger.ImagePruneFilter(filters, time.Now())
	if err != nil {
		return nil, err
	}
	if !e.pruning.TryLock() {
		return nil, ledger.Errorf(errdefs.ErrConflict, "a prune operation is already running")
	}
	defer e.pruning.Unlock()
	r := &image.PruneReport{ImagesDeleted: []image.DeleteResponse{}}
	was := holdings{}
	if err := e.pruneNames(ctx, danglingOnly, pass, r, was); err != nil {
		return r, err
	}
	if err := e.collect(ctx); err != nil {
		return r, err
	}
	if r.SpaceReclaimed, err = e.freed(ctx, was); err != nil {
		return r, err
	}
	e.ledger.ReportImagePrune(r.SpaceReclaimed)
	return r, nil
}

func (e *Engine) pruneNames(ctx context.Context, danglingOnly bool, pass func(ledger.ImageFacts) bool, r *image.PruneReport, was holdings) error {
	e.using.mu.Lock()
	defer e.using.mu.Unlock()
	all, err := e.byID(ctx)
	if err != nil {
		return err
	}
	var names []ledger.ImageName
	passes := map[string]bool{}
	for id, n := range all {
		info, err := e.info(ctx, n.target)
		if err != nil {
			info = &imageInfo{}
		}
		passes[id.String()] = e.using.making[id] == 0 && pass(n.facts(info))
		for _, name := range n.names {
			names = append(names, ledger.ImageName{Name: name, ID: id.String()})
		}
	}
	drop := ledger.PlanPrune(names, e.users(), danglingOnly, func(n ledger.ImageName) bool { return passes[n.ID] })
	left := map[digest.Digest]int{}
	for id, n := range all {
		left[id] = len(n.names)
	}
	for _, d := range drop {
		if err := ctx.Err(); err != nil {
			return err
		}
		id := digest.Digest(d.ID)
		variants, err := e.variants(ctx, all[id].target)
		if err != nil && !errdefs.IsNotFound(err) {
			return err
		}
		was.add(all[id].target, variants)
		if err := e.untag(ctx, images.Image{Name: d.Name, Target: all[id].target}, &r.ImagesDeleted); err != nil {
			return err
		}
		if left[id]--; left[id] == 0 {
			e.known.forget(id)
			e.ledger.ReportImage(d.ID, d.ID, "delete", nil)
			r.ImagesDeleted = append(r.ImagesDeleted, image.DeleteResponse{Deleted: d.ID})
		}
	}
	return nil
}

// holdings are blobs and snapshots with their sizes in bytes, by digest and name.
type holdings map[string]int64

func (h holdings) add(target ocispec.Descriptor, variants []*imageInfo) {
	h[target.Digest.String()] = target.Size
	for _, i := range variants {
		for _, b := range i.blobs {
			h[b.Digest.String()] = b.Size
		}
	}
	for chain, size := range chains(variants) {
		h["/"+chain] = size
	}
}

// freed counts the bytes of what is not here any more.
func (e *Engine) freed(ctx context.Context, was holdings) (sum uint64, err error) {
	for key := range maps.Keys(was) {
		var err error
		if chain, ok := strings.CutPrefix(key, "/"); ok {
			_, err = e.snapshots.Stat(ctx, chain)
		} else {
			_, err = e.client.ContentStore().Info(ctx, digest.Digest(key))
		}
		if errdefs.IsNotFound(err) {
			sum += uint64(was[key])
		} else if err != nil {
			return sum, errors.Join(fmt.Errorf("disk space that was freed: %w", err))
		}
	}
	return sum, nil
}
