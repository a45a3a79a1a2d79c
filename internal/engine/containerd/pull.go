package containerd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/moby/moby/api/types/registry"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"shoal.dev/shoal/internal/engine/ledger"
)

// dangling begins the names of images that have none.
const dangling = "shoal-dangling@"

// Pull implements engine.Images.
func (e *Engine) Pull(ctx context.Context, ref string, auth *registry.AuthConfig, report func(jsonstream.Message)) error {
	ctx = e.scope(ctx)
	name, err := parseRef(ref)
	if err != nil {
		return err
	}
	if report == nil {
		report = func(jsonstream.Message) {}
	}
	familiar := reference.FamiliarString(name)
	if d, ok := name.(reference.Digested); ok {
		if _, _, err := e.findImage(ctx, name.String()); err == nil { // a digest means the same here and everywhere
			report(jsonstream.Message{Status: "Digest: " + d.Digest().String()})
			report(jsonstream.Message{Status: "Status: Image is up to date for " + familiar})
			return nil
		}
	}
	// Tasks of one service start together; the first one pulls.
	release, ok := e.pulls.lock(name.String(), ctx.Done())
	if !ok {
		return context.Cause(ctx)
	}
	defer release()

	resolver := e.registries.resolver(auth)
	_, target, err := resolver.Resolve(ctx, name.String())
	if err != nil {
		return pullError(familiar, err)
	}
	tag := target.Digest.String()
	if t, ok := name.(reference.Tagged); ok {
		tag = t.Tag()
	}
	report(jsonstream.Message{ID: tag, Status: "Pulling from " + reference.Path(name)})
	status := "Image is up to date for "
	if old, err := e.images.Get(ctx, name.String()); err != nil || old.Target.Digest != target.Digest || !e.complete(ctx, old) {
		if err := e.fetch(ctx, name, target, resolver, report); err != nil {
			return pullError(familiar, err)
		}
		status = "Downloaded newer image for "
		e.ledger.ReportImage(familiar, familiar, "pull")
	}
	report(jsonstream.Message{Status: "Digest: " + target.Digest.String()})
	report(jsonstream.Message{Status: "Status: " + status + familiar})
	return nil
}

func (e *Engine) complete(ctx context.Context, img images.Image) bool {
	info, err := e.info(ctx, img.Target)
	if err != nil {
		return false
	}
	_, err = e.snapshots.Stat(ctx, info.chain)
	return err == nil
}

// fetch brings the image here and unpacks it, under its name.
func (e *Engine) fetch(ctx context.Context, name reference.Named, target ocispec.Descriptor, resolver remotes.Resolver, report func(jsonstream.Message)) error {
	p := &progress{store: e.client.ContentStore(), report: report, layers: map[digest.Digest]*layer{}}
	pctx, stop := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() { defer close(watched); p.watch(pctx) }()
	_, err := e.client.Pull(ctx, name.String(),
		client.WithResolver(pinned{resolver, target}),
		client.WithPlatformMatcher(platforms.Default()),
		client.WithPullUnpack, client.WithPullSnapshotter(snapshotter),
		client.WithImageHandlerWrapper(p.wrap))
	stop()
	<-watched
	if err != nil {
		e.dropRefused(ctx, err)
		return err
	}
	p.finish()
	return nil
}

// dropRefused removes what was fetched and is not what its digest says. The next pull would go on behind it otherwise,
// and never come to another end; what a pull that was merely cut off has fetched stays for it.
func (e *Engine) dropRefused(ctx context.Context, refused error) {
	const words = "failed commit on ref " // containerd's, with the name of what was fetched in quotes
	_, rest, ok := strings.Cut(refused.Error(), words)
	if !ok {
		return
	}
	ref, err := strconv.QuotedPrefix(rest)
	if err == nil {
		ref, err = strconv.Unquote(ref)
	}
	if err == nil {
		err = e.client.ContentStore().Abort(context.WithoutCancel(ctx), ref)
	}
	if err != nil && !errdefs.IsNotFound(err) {
		e.cfg.Log.Warn("cannot drop what a registry sent", "error", err)
	}
}

// pinned resolves every name to what it was resolved to before: a tag that moves during a pull moves after it.
type pinned struct {
	remotes.Resolver
	target ocispec.Descriptor
}

func (p pinned) Resolve(_ context.Context, ref string) (string, ocispec.Descriptor, error) {
	return ref, p.target, nil
}

// pullError puts a registry's refusal into Docker's words.
func pullError(ref string, err error) error {
	text := err.Error()
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errdefs.IsNotFound(err):
		return ledger.Errorf(errdefs.ErrNotFound, "manifest for %s not found: manifest unknown", ref)
	case errdefs.IsUnauthorized(err), errdefs.IsPermissionDenied(err), strings.Contains(text, "401 Unauthorized"), strings.Contains(text, "authorization failed"):
		repo, _, _ := strings.Cut(ref, "@")
		return ledger.Errorf(errdefs.ErrNotFound, "pull access denied for %s, repository does not exist or may require 'docker login': %s", repo, text)
	default:
		return ledger.Errorf(errdefs.ErrUnavailable, "cannot pull %s: %s", ref, text)
	}
}

// progress tells how far a pull has come, layer by layer.
type progress struct {
	store  content.Store
	report func(jsonstream.Message)

	mu     sync.Mutex
	order  []digest.Digest
	layers map[digest.Digest]*layer
}

type layer struct {
	size, got     int64
	here, started bool
	done          bool
}

func (p *progress) say(d digest.Digest, status string, of *jsonstream.Progress) {
	p.report(jsonstream.Message{ID: d.Encoded()[:12], Status: status, Progress: of})
}

// wrap learns the layers from the manifest that the pull reads.
func (p *progress) wrap(h images.Handler) images.Handler {
	return images.HandlerFunc(func(ctx context.Context, desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		children, err := h.Handle(ctx, desc)
		if err == nil && images.IsManifestType(desc.MediaType) {
			p.mu.Lock()
			defer p.mu.Unlock()
			m, merr := images.Manifest(ctx, p.store, desc, platforms.All)
			if merr != nil {
				return children, err
			}
			for _, c := range m.Layers {
				if p.layers[c.Digest] != nil {
					continue
				}
				l := &layer{size: c.Size}
				_, serr := p.store.Info(ctx, c.Digest)
				l.here = serr == nil
				p.layers[c.Digest] = l
				p.order = append(p.order, c.Digest)
				if l.here {
					p.say(c.Digest, "Already exists", nil)
				} else {
					p.say(c.Digest, "Pulling fs layer", nil)
				}
			}
		}
		return children, err
	})
}

// watch reports downloads until ctx ends.
func (p *progress) watch(ctx context.Context) {
	t := time.NewTicker(100 * time.Millisecond)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
		running, err := p.store.ListStatuses(ctx)
		if err != nil {
			continue
		}
		p.mu.Lock()
		for _, d := range p.order {
			l := p.layers[d]
			if l.here || l.done {
				continue
			}
			i := slices.IndexFunc(running, func(s content.Status) bool { return strings.Contains(s.Ref, d.String()) })
			if i >= 0 && running[i].Offset != l.got {
				l.started, l.got = true, running[i].Offset
				p.say(d, "Downloading", &jsonstream.Progress{Current: l.got, Total: l.size})
			} else if i < 0 {
				if _, err := p.store.Info(ctx, d); err == nil {
					p.downloaded(d, l)
				}
			}
		}
		p.mu.Unlock()
	}
}

func (p *progress) downloaded(d digest.Digest, l *layer) {
	l.done = true
	if !l.started {
		p.say(d, "Downloading", &jsonstream.Progress{Current: l.size, Total: l.size})
	}
	p.say(d, "Download complete", nil)
}

// finish reports what the pull had done before watch saw it.
func (p *progress) finish() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, d := range p.order {
		l := p.layers[d]
		if l.here {
			continue
		}
		if !l.done {
			p.downloaded(d, l)
		}
		p.say(d, "Pull complete", nil)
	}
}

// Load implements engine.Images.
func (e *Engine) Load(ctx context.Context, r io.Reader) ([]string, error) {
	ctx = e.scope(ctx)
	tar, err := compression.DecompressStream(r)
	if err != nil {
		return nil, ledger.Errorf(errdefs.ErrInvalidArgument, "invalid archive: %s", err)
	}
	defer tar.Close()
	list, err := e.client.Import(ctx, tar,
		client.WithImageRefTranslator(func(name string) string {
			if ref, err := reference.ParseNormalizedNamed(name); err == nil && strings.ContainsAny(name, ":@") {
				return reference.TagNameOnly(ref).String()
			}
			return "" // a bare tag, as OCI layouts have them, names no repository
		}),
		client.WithDigestRef(func(d digest.Digest) string { return dangling + d.String() }),
		client.WithSkipDigestRef(func(name string) bool { return name != "" }))
	if err != nil {
		return nil, ledger.Errorf(errdefs.ErrInvalidArgument, "invalid archive: %s", err)
	}
	names := []string{}
	for _, i := range list {
		if err := client.NewImage(e.client, i).Unpack(ctx, snapshotter); err != nil {
			// Its layers are not what it says: no container can be made of it.
			return names, errors.Join(fmt.Errorf("unpack %s: %w", i.Name, err), e.images.Delete(context.WithoutCancel(ctx), i.Name))
		}
		shown := i.Target.Digest.String()
		if ref, err := reference.ParseNormalizedNamed(i.Name); err == nil && !strings.HasPrefix(i.Name, dangling) {
			shown = reference.FamiliarString(ref)
		}
		names = append(names, shown)
		e.ledger.ReportImage(i.Target.Digest.String(), shown, "load")
	}
	return names, nil
}

// Distribution implements engine.Images.
func (e *Engine) Distribution(ctx context.Context, ref string, auth *registry.AuthConfig) (*registry.DistributionInspect, error) {
	name, err := parseRef(ref)
	if err != nil {
		return nil, err
	}
	familiar := reference.FamiliarString(name)
	resolver := e.registries.resolver(auth)
	resolved, target, err := resolver.Resolve(ctx, name.String())
	if err != nil {
		return nil, pullError(familiar, err)
	}
	fetcher, err := resolver.Fetcher(ctx, resolved)
	if err != nil {
		return nil, pullError(familiar, err)
	}
	out := &registry.DistributionInspect{Descriptor: ocispec.Descriptor{MediaType: target.MediaType, Digest: target.Digest, Size: target.Size}}
	var m struct {
		Manifests []ocispec.Descriptor `json:"manifests"`
		Config    ocispec.Descriptor   `json:"config"`
	}
	if err := fetchJSON(ctx, fetcher, target, &m); err != nil {
		return nil, pullError(familiar, err)
	}
	if images.IsIndexType(target.MediaType) {
		for _, d := range m.Manifests {
			if d.Platform != nil {
				out.Platforms = append(out.Platforms, *d.Platform)
			}
		}
		return out, nil
	}
	var p ocispec.Platform
	if err := fetchJSON(ctx, fetcher, m.Config, &p); err != nil {
		return nil, pullError(familiar, err)
	}
	out.Platforms = []ocispec.Platform{p}
	return out, nil
}

// fetchJSON reads a small blob of a registry into v and checks its digest.
func fetchJSON(ctx context.Context, f remotes.Fetcher, d ocispec.Descriptor, v any) error {
	r, err := f.Fetch(ctx, d)
	if err != nil {
		return err
	}
	defer r.Close()
	const limit = 8 << 20 // the largest manifest that registries accept is half of that
	b, err := io.ReadAll(io.LimitReader(r, limit))
	if err != nil {
		return err
	}
	if got := d.Digest.Algorithm().FromBytes(b); got != d.Digest {
		return fmt.Errorf("the registry sent %s instead of %s", got, d.Digest)
	}
	return json.Unmarshal(b, v)
}
