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
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/moby/moby/api/types/registry"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/engine/ledger"
)

// Pull implements engine.Registries.
func (e *Engine) Pull(ctx context.Context, ref string, o engine.PullOptions, report func(jsonstream.Message)) error {
	ctx = e.scope(ctx)
	name, err := ledger.ParseImageName(ref)
	if err != nil {
		return err
	}
	if report == nil {
		report = func(jsonstream.Message) {}
	}
	if !o.AllTags {
		return e.pullOne(ctx, name, &o, report)
	}
	tags, err := e.registries.tags(ctx, name, o.Auth)
	if err != nil {
		return pullError(name, o.Platform, err)
	}
	for _, t := range tags {
		tagged, err := reference.WithTag(reference.TrimNamed(name), t)
		if err != nil {
			e.cfg.Log.Warn("a registry has a tag that is none", "repository", name.Name(), "tag", t)
			continue
		}
		if err := e.pullOne(ctx, tagged, &o, report); err != nil {
			return err
		}
	}
	return nil
}

func (e *Engine) pullOne(ctx context.Context, name reference.Named, o *engine.PullOptions, report func(jsonstream.Message)) error {
	familiar := reference.FamiliarString(name)
	if d, ok := name.(reference.Digested); ok {
		if img, err := e.lookUp(ctx, name.String()); err == nil && e.complete(ctx, img.Target, o.Platform) { // a digest means the same here and everywhere
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

	resolver := e.registries.resolver(o.Auth, nil)
	_, target, err := resolver.Resolve(ctx, name.String())
	if err == nil && !images.IsManifestType(target.MediaType) && !images.IsIndexType(target.MediaType) {
		err = fmt.Errorf("the registry sent %s instead of a manifest", target.MediaType)
	}
	if err != nil {
		return pullError(name, o.Platform, err)
	}
	tag := target.Digest.String()
	if t, ok := name.(reference.Tagged); ok {
		tag = t.Tag()
	}
	report(jsonstream.Message{ID: tag, Status: "Pulling from " + reference.Path(name)})
	old, err := e.images.Get(ctx, name.String())
	same := err == nil && old.Target.Digest == target.Digest
	if !same || !e.complete(ctx, target, o.Platform) {
		if err := e.fetch(ctx, name, target, o.Platform, resolver, report); err != nil {
			return pullError(name, o.Platform, err)
		}
	}
	status := "Image is up to date for "
	if !same {
		status = "Downloaded newer image for "
	}
	e.ledger.ReportImage(familiar, reference.FamiliarName(name), "pull", e.labels(ctx, target))
	report(jsonstream.Message{Status: "Digest: " + target.Digest.String()})
	report(jsonstream.Message{Status: "Status: " + status + familiar})
	return nil
}

// complete says whether all that a pull would bring is here and ready to be used.
func (e *Engine) complete(ctx context.Context, target ocispec.Descriptor, want *ocispec.Platform) bool {
	all, err := e.variants(ctx, target)
	if err != nil {
		return false
	}
	if want == nil && images.IsIndexType(target.MediaType) {
		host := platforms.DefaultSpec()
		want = &host
	}
	i := pick(all, want)
	return i != nil && i.ready
}

// Attempts of a transfer that was cut off, and the time before the second; it doubles. Docker tries five times.
const (
	pullAttempts = 4
	firstPause   = 500 * time.Millisecond
)

// fetch brings the image here and unpacks it, under its name. A transfer that is cut off goes on where it was.
func (e *Engine) fetch(ctx context.Context, name reference.Named, target ocispec.Descriptor, want *ocispec.Platform, resolver remotes.Resolver, report func(jsonstream.Message)) error {
	// One lease for all attempts: what the first one brought is there for the second.
	ctx, done, err := e.client.WithLease(ctx)
	if err != nil {
		return err
	}
	defer func() {
		if err := done(context.WithoutCancel(ctx)); err != nil {
			e.cfg.Log.Warn("cannot release what a pull held", "image", name.String(), "error", err)
		}
	}()
	defer e.known.forget(target.Digest)
	p := &progress{store: e.client.ContentStore(), report: report, layers: map[digest.Digest]*transfer{}}
	pause := firstPause
	for attempt := 1; ; attempt++ {
		err := e.fetchOnce(ctx, name, target, want, resolver, p)
		if err == nil {
			break
		}
		if attempt == pullAttempts || !isCut(err) || ctx.Err() != nil {
			e.dropRefused(ctx, err)
			return err
		}
		e.cfg.Log.Info("a pull was cut off and goes on", "image", name.String(), "error", err)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		pause *= 2
	}
	p.finish()
	e.using.mu.Lock()
	defer e.using.mu.Unlock()
	return e.name(ctx, name.String(), target, "")
}

func (e *Engine) fetchOnce(ctx context.Context, name reference.Named, target ocispec.Descriptor, want *ocispec.Platform, resolver remotes.Resolver, p *progress) error {
	match := platforms.Default()
	if want != nil {
		match = platforms.Only(*want)
	}
	pctx, stop := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() { defer close(watched); p.watch(pctx) }()
	defer func() { stop(); <-watched }()
	_, err := e.client.Pull(ctx, name.String(),
		client.WithResolver(pinned{resolver, name.String(), target}),
		client.WithPlatformMatcher(match),
		client.WithPullUnpack, client.WithPullSnapshotter(snapshotter),
		client.WithImageHandlerWrapper(p.wrap))
	return err
}

// isCut says whether a transfer failed in a way that another try may mend.
func isCut(err error) bool {
	return !errors.Is(err, errStalled) && (errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE))
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

// pinned resolves every name to what it was resolved to before: a tag that moves during a pull moves after it. The image
// that the pull makes has no name, so that its own can be moved with care for what had it before.
type pinned struct {
	remotes.Resolver
	name   string
	target ocispec.Descriptor
}

func (p pinned) Resolve(context.Context, string) (string, ocispec.Descriptor, error) {
	return ledger.Dangling + p.target.Digest.String(), p.target, nil
}

func (p pinned) Fetcher(ctx context.Context, _ string) (remotes.Fetcher, error) {
	return p.Resolver.Fetcher(ctx, p.name)
}

// progress tells how far a pull has come, layer by layer.
type progress struct {
	store  content.Store
	report func(jsonstream.Message)

	mu     sync.Mutex
	order  []digest.Digest
	layers map[digest.Digest]*transfer
}

type transfer struct {
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
		if desc.Size > maxManifest && !images.IsLayerType(desc.MediaType) {
			return nil, ledger.Errorf(errdefs.ErrInvalidArgument, "%s of type %s has %d bytes; more than %d are not read", desc.Digest, desc.MediaType, desc.Size, maxManifest)
		}
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
				l := &transfer{size: c.Size}
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

func (p *progress) downloaded(d digest.Digest, l *transfer) {
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

// Distribution implements engine.Registries.
func (e *Engine) Distribution(ctx context.Context, ref string, auth *registry.AuthConfig) (*registry.DistributionInspect, error) {
	name, err := ledger.ParseImageName(ref)
	if err != nil {
		return nil, err
	}
	resolver := e.registries.resolver(auth, nil)
	resolved, target, err := resolver.Resolve(ctx, name.String())
	if err != nil {
		return nil, pullError(name, nil, err)
	}
	fetcher, err := resolver.Fetcher(ctx, resolved)
	if err != nil {
		return nil, pullError(name, nil, err)
	}
	out := &registry.DistributionInspect{Descriptor: ocispec.Descriptor{MediaType: target.MediaType, Digest: target.Digest, Size: target.Size}}
	read := func(d ocispec.Descriptor, v any) error {
		// What is here by its digest need not be asked for again: registries are far, and some count what is fetched.
		if e.readJSON(e.scope(ctx), d, v) == nil {
			return nil
		}
		return fetchJSON(ctx, fetcher, d, v)
	}
	var m struct {
		Manifests []ocispec.Descriptor `json:"manifests"`
		Config    ocispec.Descriptor   `json:"config"`
	}
	if err := read(target, &m); err != nil {
		return nil, pullError(name, nil, err)
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
	if err := read(m.Config, &p); err != nil {
		return nil, pullError(name, nil, err)
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
