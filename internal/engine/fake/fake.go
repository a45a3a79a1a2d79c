// Package fake is an engine in memory. Its containers run no code: their command says what they do (see [Engine]), and
// a test may make them crash, starts fail and pulls be slow. It is for the tests of agents and for the simulator, so it
// is cheap (a container is a few hundred bytes and, unless it waits for a time, no goroutine and no timer) and uses time
// only through package time, so that it runs in a synctest bubble.
package fake

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/registry"

	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/engine/health"
	"shoal.dev/shoal/internal/engine/ledger"
	"shoal.dev/shoal/internal/engine/volume"
)

// Engine implements engine.Engine. What a container does is its command, joined by spaces and cut at semicolons:
//
//	print TEXT      writes a line to stdout
//	warn TEXT       writes a line to stderr
//	sleep           waits for a signal that ends it
//	sleep DURATION  waits so long
//	stubborn        ignores all signals but SIGKILL from there on
//	exit N          ends; the end of the command is exit 0
//	oom             ends as if the memory had run out
//	cat             writes to stdout what comes to its input, until that is over
//
// A command of which no step is known, such as that of a real image, waits like "sleep".
//
// The exported fields are set before the first call and not changed afterwards; the methods named after what they
// spoil may be called at any time.
type Engine struct {
	// AnyImage lets every well-formed reference be pulled, without [Engine.Offer].
	AnyImage bool
	// PullTime and StartTime are how long a pull and a start take.
	PullTime, StartTime time.Duration
	// Door, if set, says whom the registry of an image lets in; auth is nil for nobody.
	Door func(image reference.Named, auth *registry.AuthConfig) error
	// Sandboxes, if set, gives containers their network as in the real engine.
	Sandboxes engine.Sandboxes

	ledger  *ledger.Ledger
	execs   ledger.Execs
	watches health.Watches
	volumes *volume.Store

	mu         sync.Mutex
	runs       map[string]*run // by container ID, of containers that ran
	files      map[string][]engine.File
	local      map[string]string // canonical name -> image ID
	remote     map[string]string // likewise, what can be pulled
	pictures   map[string]*picture
	failPulls  error
	failStarts error
	nextPid    int
	trees      map[string]tree  // by container ID, of those that wrote
	made       map[string]*made // by image ID, of images that were made of containers
}

var _ engine.Engine = (*Engine)(nil)

// New returns an engine that holds no image.
func New() *Engine {
	l := ledger.New()
	return &Engine{ledger: l, volumes: volume.Memory(l.ReportVolume), runs: map[string]*run{}, files: map[string][]engine.File{}, local: map[string]string{}, remote: map[string]string{}, pictures: map[string]*picture{}, nextPid: 100,
		trees: map[string]tree{}, made: map[string]*made{}}
}

// Close ends all containers without a word, as a machine that loses power does. No timer is left.
func (e *Engine) Close() {
	e.watches.StopAll()
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, r := range e.runs {
		r.begin++
		if r.timer != nil {
			r.timer.Stop()
		}
	}
}

// FailPulls makes every pull fail with err from now on; nil lets them succeed.
func (e *Engine) FailPulls(err error) { e.mu.Lock(); defer e.mu.Unlock(); e.failPulls = err }

// FailStarts makes every start fail with err from now on; nil lets them succeed.
func (e *Engine) FailStarts(err error) { e.mu.Lock(); defer e.mu.Unlock(); e.failStarts = err }

// Crash ends a running container with an exit code, as if its program had.
func (e *Engine) Crash(name string, code int) error {
	c, err := e.ledger.Find(name)
	if err != nil {
		return err
	}
	if !c.Running() {
		return ledger.Errorf(errdefs.ErrConflict, "container %s is not running", name)
	}
	e.end(c.ID, code, false)
	return nil
}

// Events implements engine.Feed.
func (e *Engine) Events(ctx context.Context) <-chan engine.Event { return e.ledger.Events(ctx) }

// Recall implements engine.Feed.
func (e *Engine) Recall(ctx context.Context, since time.Time) ([]engine.Event, <-chan engine.Event) {
	return e.ledger.Recall(ctx, since)
}

// Announce implements engine.Feed.
func (e *Engine) Announce(ev engine.Event) { e.ledger.Announce(ev) }

// Usage implements engine.Engine.
func (e *Engine) Usage(context.Context) (engine.Usage, error) {
	u := e.ledger.Usage()
	e.mu.Lock()
	defer e.mu.Unlock()
	ids := map[string]bool{}
	for _, id := range e.local {
		ids[id] = true
	}
	u.Images = len(ids)
	return u, nil
}

// Create implements engine.Containers.
func (e *Engine) Create(ctx context.Context, s engine.Spec) (string, []string, error) {
	if s.Config == nil {
		return "", nil, ledger.Errorf(errdefs.ErrInvalidArgument, "config cannot be empty in order to create a container")
	}
	if s.HostConfig == nil {
		s.HostConfig = &container.HostConfig{}
	}
	if err := check(s.Config, s.HostConfig); err != nil {
		return "", nil, err
	}
	var err error
	if s.HostConfig, err = e.ledger.WithDonors(s.HostConfig); err != nil {
		return "", nil, err
	}
	if err := ledger.CheckFiles(s.Files); err != nil {
		return "", nil, err
	}
	want, err := ledger.ParsePlatform(s.Platform)
	if err != nil {
		return "", nil, err
	}
	e.mu.Lock()
	image, err := e.findFor(s.Config.Image, want)
	e.mu.Unlock()
	if err != nil {
		return "", nil, err
	}
	cfg, err := ledger.Merged(s.Config, e.imageConfig(image))
	if err != nil {
		return "", nil, err
	}
	mounts, err := volume.Plan(cfg, s.HostConfig, volume.Host{Container: e.ledger.Find})
	if err != nil {
		return "", nil, err
	}
	networks, err := ledger.Networks(s.HostConfig, s.Networks, e.findNetwork)
	if err != nil {
		return "", nil, err
	}
	id := newID()
	name, err := e.ledger.Reserve(s.Name, id)
	if err != nil {
		return "", nil, err
	}
	points, err := e.volumes.Claim(ctx, id, mounts)
	if err != nil {
		e.ledger.Release(name, id)
		return "", nil, err
	}
	if cfg.Hostname == "" {
		cfg.Hostname = id[:12]
	}
	h := *s.HostConfig
	if h.NetworkMode = container.NetworkMode(ledger.NetworkName(h.NetworkMode)); h.RestartPolicy.Name == "" {
		h.RestartPolicy.Name = container.RestartPolicyDisabled
	}
	e.ledger.Add(&ledger.Container{ID: id, Name: name, Created: time.Now(), Config: cfg, HostConfig: &h, ImageID: image,
		Ingress: s.Ingress, Networks: networks, Mounts: points, Subpaths: volume.Subpaths(mounts), Files: engine.Targets(s.Files), State: ledger.State{Status: container.StateCreated}}, "create")
	if len(s.Files) > 0 {
		e.mu.Lock()
		e.files[id] = s.Files
		e.mu.Unlock()
	}
	return id, []string{}, nil
}

// Files are what was placed in a container and is there still.
func (e *Engine) Files(id string) []engine.File {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.files[id]
}

// newID is like the ledger's, without the system's entropy, which costs more than all the rest.
func newID() string {
	var b [32]byte
	for i := 0; i < len(b); i += 8 {
		v := rand.Uint64()
		for j := range 8 {
			b[i+j] = byte(v >> (8 * j))
		}
	}
	return hex.EncodeToString(b[:])
}

// check refuses what the real engine refuses.
func check(c *container.Config, h *container.HostConfig) error {
	if err := ledger.CheckOptions(c, h); err != nil {
		return err
	}
	if err := container.ValidateRestartPolicy(h.RestartPolicy); err != nil {
		return ledger.Errorf(errdefs.ErrInvalidArgument, "%s", err)
	}
	if h.AutoRemove && !h.RestartPolicy.IsNone() {
		return ledger.Errorf(errdefs.ErrInvalidArgument, "can't create 'AutoRemove' container with restart policy")
	}
	if _, err := ledger.PortRequests(nil, h); err != nil {
		return err
	}
	return nil
}

// Wait implements engine.Containers.
func (e *Engine) Wait(ctx context.Context, name string, on container.WaitCondition) (<-chan engine.WaitResult, error) {
	return e.ledger.Wait(ctx, name, on)
}

// Inspect implements engine.Containers.
func (e *Engine) Inspect(_ context.Context, name string) (*container.InspectResponse, error) {
	c, err := e.ledger.Find(name)
	if err != nil {
		return nil, err
	}
	r := ledger.Inspect(c)
	r.ExecIDs = e.execs.Of(c.ID)
	return r, nil
}

// List implements engine.Containers.
func (e *Engine) List(_ context.Context, o engine.ListOptions) ([]container.Summary, error) {
	return e.ledger.List(o, func(ref string) []string {
		id, err := e.find(ref)
		if err != nil {
			return nil
		}
		return []string{id}
	})
}

// Logs implements engine.Containers.
func (e *Engine) Logs(ctx context.Context, name string, o engine.LogOptions, each func(engine.LogLine) error) error {
	if !o.Stdout && !o.Stderr {
		return ledger.Errorf(errdefs.ErrInvalidArgument, "Bad parameters: you must choose at least one stream")
	}
	c, err := e.ledger.Find(name)
	if err != nil {
		return err
	}
	follow := o.Follow && c.Running()
	next := -1
	for {
		e.mu.Lock()
		r := e.runs[c.ID]
		if r == nil {
			e.mu.Unlock()
			return nil // it never ran, or is gone
		}
		if next < 0 {
			if next = 0; o.Tail >= 0 {
				next = max(0, len(r.log)-o.Tail)
			}
		}
		lines, grown := r.log[next:], r.grown
		next = len(r.log)
		cur, err := e.ledger.Find(c.ID)
		running := err == nil && cur.Running()
		e.mu.Unlock()
		for _, l := range lines {
			if !o.Until.IsZero() && l.Time.After(o.Until) {
				return nil
			}
			if l.Time.Before(o.Since) || l.Stream == "stdout" && !o.Stdout || l.Stream == "stderr" && !o.Stderr {
				continue
			}
			if err := each(l); err != nil {
				return err
			}
		}
		if !follow || !running {
			return nil
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// digestOf makes up a digest for a name; the same one for the same name.
func digestOf(s string) string { return fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(s))) }
