package containerd

import (
	"context"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/image"
	"github.com/opencontainers/go-digest"

	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/engine/ledger"
)

// Images implements engine.Images.
func (e *Engine) Images(ctx context.Context, o engine.ImageListOptions) ([]image.Summary, error) {
	ctx = e.scope(ctx)
	for key := range o.Filters {
		if !slices.Contains([]string{"reference", "dangling", "label", "before", "since"}, key) {
			return nil, ledger.Errorf(errdefs.ErrInvalidArgument, "invalid filter '%s'", key)
		}
	}
	all, err := e.byID(ctx)
	if err != nil {
		return nil, err
	}
	users := e.users()
	list := []image.Summary{}
	for id, n := range all {
		info, err := e.info(ctx, n.target)
		if err != nil {
			e.cfg.Log.Warn("an image is not complete", "image", id.String(), "error", err)
			continue
		}
		ok, err := e.passes(ctx, n, info, o.Filters)
		if err != nil {
			return nil, err
		}
		if !ok {
			continue
		}
		labels := info.image.Config.Labels
		if labels == nil {
			labels = map[string]string{}
		}
		list = append(list, image.Summary{
			ID: id.String(), RepoTags: n.tags, RepoDigests: n.digests, Created: created(info, n).Unix(), Labels: labels,
			Size: info.size + info.unpacked, SharedSize: -1, Containers: int64(len(users[id])),
		})
	}
	slices.SortFunc(list, func(a, b image.Summary) int {
		if a.Created != b.Created {
			return int(b.Created - a.Created)
		}
		return strings.Compare(a.ID, b.ID)
	})
	return list, nil
}

// created is when an image was built, or came here if it does not say.
func created(info *imageInfo, n *named) time.Time {
	if t := info.image.Created; t != nil && !t.IsZero() {
		return *t
	}
	return n.created
}

// users are the containers of each image.
func (e *Engine) users() map[digest.Digest][]*ledger.Container {
	m := map[digest.Digest][]*ledger.Container{}
	for _, c := range e.ledger.All() {
		id := digest.Digest(c.ImageID)
		m[id] = append(m[id], c)
	}
	return m
}

func (e *Engine) passes(ctx context.Context, n *named, info *imageInfo, filters map[string][]string) (bool, error) {
	for key, values := range filters {
		passed := 0
		for _, v := range values {
			ok := false
			switch key {
			case "reference":
				ok = slices.ContainsFunc(slices.Concat(n.tags, n.digests), func(name string) bool { return matchReference(v, name) })
			case "dangling":
				want, err := strconv.ParseBool(v)
				if err != nil {
					return false, ledger.Errorf(errdefs.ErrInvalidArgument, "invalid filter 'dangling=[%s]'", v)
				}
				ok = want == (len(n.tags) == 0)
			case "label":
				ok = ledger.MatchLabel(info.image.Config.Labels, v)
			case "before", "since":
				img, other, err := e.findImage(ctx, v)
				if err != nil {
					return false, err
				}
				diff := created(info, n).Compare(created(other, &named{created: img.CreatedAt}))
				ok = key == "before" && diff < 0 || key == "since" && diff > 0
			}
			if ok {
				passed++
			}
		}
		if len(values) > 0 && (passed == 0 || key == "label" && passed < len(values)) {
			return false, nil
		}
	}
	return true, nil
}

// matchReference matches a familiar name against a pattern in which * stands for anything but a slash; the tag may be
// left out.
func matchReference(pattern, name string) bool {
	if ok, _ := path.Match(pattern, name); ok {
		return true
	}
	short, _, _ := strings.Cut(name, "@")
	if i := strings.LastIndexByte(short, ':'); i > strings.LastIndexByte(short, '/') {
		short = short[:i]
	}
	ok, _ := path.Match(pattern, short)
	return ok
}

// InspectImage implements engine.Images.
func (e *Engine) InspectImage(ctx context.Context, ref string) (*image.InspectResponse, error) {
	ctx = e.scope(ctx)
	img, info, err := e.findImage(ctx, ref)
	if err != nil {
		return nil, err
	}
	all, err := e.byID(ctx)
	if err != nil {
		return nil, err
	}
	n := all[img.Target.Digest]
	if n == nil {
		return nil, noSuchImage(ref)
	}
	r := &image.InspectResponse{
		ID: img.Target.Digest.String(), RepoTags: n.tags, RepoDigests: n.digests,
		Created: created(info, n).UTC().Format(time.RFC3339Nano), Author: info.image.Author,
		Config: &info.image.Config, Architecture: info.image.Architecture, Variant: info.image.Variant,
		Os: info.image.OS, OsVersion: info.image.OSVersion, Size: info.size + info.unpacked,
		RootFS: image.RootFS{Type: info.image.RootFS.Type}, Metadata: image.Metadata{LastTagTime: n.created},
		Descriptor: &n.target,
	}
	for _, d := range info.image.RootFS.DiffIDs {
		r.RootFS.Layers = append(r.RootFS.Layers, d.String())
	}
	if h := info.image.History; len(h) > 0 {
		r.Comment = h[len(h)-1].Comment
	}
	return r, nil
}

// RemoveImage implements engine.Images.
func (e *Engine) RemoveImage(ctx context.Context, ref string, force bool) ([]image.DeleteResponse, error) {
	ctx = e.scope(ctx)
	img, err := e.lookUp(ctx, ref)
	if err != nil {
		return nil, err
	}
	all, err := e.byID(ctx)
	if err != nil {
		return nil, err
	}
	id := img.Target.Digest
	n := all[id]
	if n == nil {
		return nil, noSuchImage(ref)
	}
	short := id.Encoded()[:12]
	byID := hexID.MatchString(ref) && !isName(n, ref)
	if byID && len(n.tags) > 1 && !force {
		return nil, ledger.Errorf(errdefs.ErrConflict,
			"conflict: unable to delete %s (must be forced) - image is referenced in multiple repositories", short)
	}
	if !byID && len(n.names) > 1 && len(n.tags) > 1 { // the image stays under another name
		return e.untag(ctx, img, nil)
	}
	for _, c := range e.users()[id] {
		switch {
		case c.Running():
			return nil, ledger.Errorf(errdefs.ErrConflict,
				"conflict: unable to delete %s (cannot be forced) - image is being used by running container %s", short, c.ID[:12])
		case !force && byID:
			return nil, ledger.Errorf(errdefs.ErrConflict,
				"conflict: unable to delete %s (must be forced) - image is being used by stopped container %s", short, c.ID[:12])
		case !force:
			return nil, ledger.Errorf(errdefs.ErrConflict,
				"conflict: unable to remove repository reference %q (must force) - container %s is using its referenced image %s", ref, c.ID[:12], short)
		}
	}
	var out []image.DeleteResponse
	for _, name := range n.names {
		if out, err = e.untag(ctx, images.Image{Name: name, Target: img.Target}, out); err != nil {
			return out, err
		}
	}
	for _, d := range n.digests {
		out = append(out, image.DeleteResponse{Untagged: d})
	}
	e.known.forget(id)
	e.ledger.ReportImage(id.String(), id.String(), "delete")
	return append(out, image.DeleteResponse{Deleted: id.String()}), nil
}

func isName(n *named, ref string) bool {
	r, err := parseRef(ref)
	return err == nil && slices.Contains(n.names, r.String())
}

// untag removes one name and adds the line for it. The content goes when nothing names it any more.
func (e *Engine) untag(ctx context.Context, img images.Image, out []image.DeleteResponse) ([]image.DeleteResponse, error) {
	if err := e.images.Delete(ctx, img.Name); err != nil && !errdefs.IsNotFound(err) {
		return out, err
	}
	ref, err := reference.ParseNormalizedNamed(img.Name)
	if err != nil || strings.HasPrefix(img.Name, dangling) {
		return out, nil
	}
	if _, ok := ref.(reference.NamedTagged); !ok {
		return out, nil // its line is that of the digest
	}
	name := reference.FamiliarString(ref)
	e.ledger.ReportImage(img.Target.Digest.String(), name, "untag")
	return append(out, image.DeleteResponse{Untagged: name}), nil
}
