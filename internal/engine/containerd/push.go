package containerd

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/jsonstream"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/engine/ledger"
)

// Push implements engine.Registries.
func (e *Engine) Push(ctx context.Context, ref string, o engine.PushOptions, report func(jsonstream.Message)) error {
	ctx = e.scope(ctx)
	name, err := ledger.ParseImageName(ref)
	if err != nil {
		return err
	}
	if report == nil {
		report = func(jsonstream.Message) {}
	}
	report(jsonstream.Message{Status: "The push refers to repository [" + name.Name() + "]"})
	if !o.AllTags {
		return e.pushOne(ctx, name, &o, report)
	}
	list, err := e.images.List(ctx)
	if err != nil {
		return err
	}
	any := false
	for _, i := range list {
		n, err := reference.ParseNormalizedNamed(i.Name)
		if err != nil || n.Name() != name.Name() || strings.HasPrefix(i.Name, ledger.Dangling) {
			continue
		}
		any = true
		if err := e.pushOne(ctx, n, &o, report); err != nil {
			return err
		}
	}
	if !any {
		return ledger.Errorf(errdefs.ErrNotFound, "An image does not exist locally with the tag: %s", reference.FamiliarName(name))
	}
	return nil
}

func (e *Engine) pushOne(ctx context.Context, name reference.Named, o *engine.PushOptions, report func(jsonstream.Message)) error {
	ctx, done, err := e.client.WithLease(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = done(context.WithoutCancel(ctx)) }() // it expires by itself
	img, err := e.images.Get(ctx, name.String())
	if errdefs.IsNotFound(err) {
		return ledger.Errorf(errdefs.ErrNotFound, "tag does not exist: %s", reference.FamiliarString(name))
	}
	if err != nil {
		return err
	}
	target, err := e.present(ctx, img, o.Platform)
	if err != nil {
		return err
	}
	if err := e.holdContent(ctx, target); err != nil {
		return err
	}
	tracker := docker.NewInMemoryTracker()
	resolver := e.registries.resolver(o.Auth, tracker)
	at := name.String() // with the digest, so that the tag is put on this manifest and on none below it
	if _, ok := name.(reference.Digested); !ok {
		at += "@" + target.Digest.String()
	}
	pusher, err := resolver.Pusher(ctx, at)
	if err != nil {
		return pushError(name, err)
	}
	p := &pushing{tracker: tracker, report: report}
	pctx, stop := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() { defer close(watched); p.watch(pctx) }()
	err = remotes.PushContent(ctx, pusher, target, e.client.ContentStore(), nil, platforms.All, p.wrap)
	stop()
	<-watched
	p.look(ctx)
	if err != nil {
		return pushError(name, err)
	}
	if target.Digest != img.Target.Digest && o.Platform == nil {
		report(jsonstream.Message{Aux: pushedInstead(img.Target, target)})
	}
	e.remember(ctx, name, target)
	if t, ok := name.(reference.Tagged); ok {
		report(jsonstream.Message{Status: fmt.Sprintf("%s: digest: %s size: %d", t.Tag(), target.Digest, target.Size)})
	}
	e.ledger.ReportImage(reference.FamiliarString(name), reference.FamiliarName(name), "push", e.labels(ctx, img.Target))
	return nil
}

// present chooses what of an image can leave: all of it if all is here, or else the manifest of a platform.
func (e *Engine) present(ctx context.Context, img images.Image, want *ocispec.Platform) (ocispec.Descriptor, error) {
	all, err := e.variants(ctx, img.Target)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	if want == nil && !slices.ContainsFunc(all, func(i *imageInfo) bool { return !i.here }) {
		return img.Target, nil
	}
	info, err := e.infoFor(ctx, shownName(img, img.Name), img.Target, want)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	here := 0
	for _, i := range all {
		if i.here && i.about == "" {
			here++
		}
	}
	if want == nil && here > 1 && !platforms.Default().Match(info.platform) {
		return ocispec.Descriptor{}, ledger.Errorf(errdefs.ErrConflict, "multiple matching manifests found but no specific platform requested")
	}
	return info.desc, nil
}

// holdContent keeps what a target refers to from the collector until the lease of ctx ends.
func (e *Engine) holdContent(ctx context.Context, target ocispec.Descriptor) error {
	id, ok := leases.FromContext(ctx)
	if !ok {
		return nil
	}
	return e.client.LeasesService().AddResource(ctx, leases.Lease{ID: id}, leases.Resource{ID: target.Digest.String(), Type: "content"})
}

// remember notes that a registry has content, so that a push to another of its repositories need not send it again.
func (e *Engine) remember(ctx context.Context, name reference.Named, target ocispec.Descriptor) {
	store := e.client.ContentStore()
	note, err := docker.AppendDistributionSourceLabel(store, name.String())
	if err == nil {
		err = images.Dispatch(ctx, images.Handlers(note, images.ChildrenHandler(store)), nil, target)
	}
	if err != nil {
		e.cfg.Log.Debug("cannot note where an image was pushed", "image", name.String(), "error", err)
	}
}

func pushedInstead(index, manifest ocispec.Descriptor) *json.RawMessage {
	b, err := json.Marshal(struct {
		Instead  bool               `json:"manifestPushedInsteadOfIndex"`
		Index    ocispec.Descriptor `json:"originalIndex"`
		Manifest ocispec.Descriptor `json:"selectedManifest"`
	}{true, index, manifest})
	if err != nil {
		return nil
	}
	raw := json.RawMessage(b)
	return &raw
}

// pushing tells how far a push has come, layer by layer.
type pushing struct {
	tracker docker.StatusTracker
	report  func(jsonstream.Message)

	mu    sync.Mutex
	order []ocispec.Descriptor
	said  map[string]string // the last thing, by layer
}

// wrap learns the layers that the push comes to.
func (p *pushing) wrap(h images.Handler) images.Handler {
	return images.HandlerFunc(func(ctx context.Context, d ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		if images.IsLayerType(d.MediaType) {
			p.mu.Lock()
			if !slices.ContainsFunc(p.order, func(o ocispec.Descriptor) bool { return o.Digest == d.Digest }) {
				p.order = append(p.order, d)
			}
			p.mu.Unlock()
		}
		return h.Handle(ctx, d)
	})
}

func (p *pushing) watch(ctx context.Context) {
	t := time.NewTicker(100 * time.Millisecond)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			p.look(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// look reports what has changed.
func (p *pushing) look(ctx context.Context) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, d := range p.order {
		m := jsonstream.Message{ID: d.Digest.Encoded()[:12], Status: "Waiting"}
		s, err := p.tracker.GetStatus(remotes.MakeRefKey(ctx, d))
		switch {
		case err != nil || s.Total > 0 && s.Offset == 0 && !s.Committed:
		case s.Committed && s.MountedFrom != "":
			m.Status = "Mounted from " + s.MountedFrom
			if n, err := reference.ParseNormalizedNamed(s.MountedFrom); err == nil {
				m.Status = "Mounted from " + reference.Path(n)
			}
		case s.Committed && s.Exists:
			m.Status = "Layer already exists"
		case s.Committed && s.Offset >= s.Total:
			m.Status = "Pushed"
		default:
			m.Status, m.Progress = "Pushing", &jsonstream.Progress{Current: s.Offset, Total: s.Total}
		}
		key := m.Status
		if m.Progress != nil {
			key = fmt.Sprint(m.Progress.Current)
		}
		if p.said == nil {
			p.said = map[string]string{}
		}
		if p.said[m.ID] != key {
			p.said[m.ID] = key
			p.report(m)
		}
	}
}
