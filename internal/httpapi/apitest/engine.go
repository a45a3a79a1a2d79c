// Package apitest has backends of package httpapi in memory, for tests of the API and of its clients.
//
// They keep what they are given and refuse what Docker refuses, with its words; nothing runs and nobody joins.
package apitest

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/registry"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/engine/volume"
)

// Engine keeps containers and images in memory. A container runs until it is stopped or killed.
type Engine struct {
	*volumes
	networks
	mu       sync.Mutex
	ByName   map[string]*Container
	ByRef    map[string]image.Summary
	Auth     *registry.AuthConfig // of the last pull
	Pulled   engine.PullOptions   // likewise
	Pushed   engine.PushOptions   // of the last push
	Imported engine.ImportOptions // of the last import
	Lines    []engine.LogLine
	Past     []engine.Event
	Feed     chan engine.Event
	Execs    map[string]*Exec
	Slow     bool // block until the context ends
	Panics   bool
	Purged   []string // what was removed with its volumes
	Files    Files

	Committed engine.CommitOptions // of the last Commit

	frozen  map[string]bool // by ID
	samples int
}

// Container is one of Engine.
type Container struct {
	id      string
	Spec    engine.Spec
	Size    [2]uint // that its terminal was last resized to
	running bool
	code    int
	exited  chan struct{}
}

// NewEngine holds the image hello:1.
func NewEngine() *Engine {
	return &Engine{
		Files:   Files{Text: map[string]string{}},
		frozen:  map[string]bool{},
		volumes: &volumes{volume.Memory(func(string, string, map[string]string) {})},
		ByName:  map[string]*Container{},
		ByRef:   map[string]image.Summary{"hello:1": {ID: "sha256:" + strings.Repeat("a", 64), RepoTags: []string{"hello:1"}, Size: 1 << 40}},
		Feed:    make(chan engine.Event, 16),
	}
}

func (f *Engine) find(name string) (*Container, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.ByName[name]
	for _, other := range f.ByName {
		if other.id == name {
			c = other
		}
	}
	if c == nil {
		return nil, errdefs.ErrNotFound.WithMessage("No such container: " + name)
	}
	return c, nil
}

func (f *Engine) Create(_ context.Context, s engine.Spec) (string, []string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.ByRef[s.Config.Image]; !ok {
		return "", nil, errdefs.ErrNotFound.WithMessage("No such image: " + s.Config.Image)
	}
	if _, ok := f.ByName[s.Name]; ok {
		return "", nil, errdefs.ErrConflict.WithMessage(fmt.Sprintf("Conflict. The container name %q is already in use", "/"+s.Name))
	}
	c := &Container{id: digest.FromString(s.Name).Encoded(), Spec: s, exited: make(chan struct{})}
	f.ByName[s.Name] = c
	return c.id, nil, nil
}

func (f *Engine) Start(_ context.Context, name string) error {
	c, err := f.find(name)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	c.running = true
	return nil
}

func (f *Engine) Stop(_ context.Context, name string, o engine.StopOptions) error {
	return f.end(name, 143)
}

func (f *Engine) Kill(_ context.Context, name, signal string) error { return f.end(name, 137) }

func (f *Engine) end(name string, code int) error {
	c, err := f.find(name)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if c.running {
		c.running, c.code = false, code
		close(c.exited)
	}
	return nil
}

func (f *Engine) Remove(_ context.Context, name string, force bool) error {
	c, err := f.find(name)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if c.running && !force {
		return errdefs.ErrConflict.WithMessage("cannot remove container \"" + name + "\": container is running: stop the container before removing or force remove")
	}
	delete(f.ByName, c.Spec.Name)
	return nil
}

// Purge is Remove; the containers here use no volumes.
func (f *Engine) Purge(ctx context.Context, name string, force bool) error {
	f.Purged = append(f.Purged, name)
	return f.Remove(ctx, name, force)
}

func (f *Engine) Wait(ctx context.Context, name string, _ container.WaitCondition) (<-chan engine.WaitResult, error) {
	c, err := f.find(name)
	if err != nil {
		return nil, err
	}
	ch := make(chan engine.WaitResult, 1)
	go func() {
		select {
		case <-c.exited:
			ch <- engine.WaitResult{ExitCode: c.code}
		case <-ctx.Done():
		}
	}()
	return ch, nil
}

func (f *Engine) Inspect(_ context.Context, name string) (*container.InspectResponse, error) {
	c, err := f.find(name)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return &container.InspectResponse{
		ID: c.id, Name: "/" + c.Spec.Name, State: &container.State{Running: c.running}, Config: c.Spec.Config, HostConfig: c.Spec.HostConfig,
		ImageManifestDescriptor: &ocispec.Descriptor{Size: 7},
		NetworkSettings: &container.NetworkSettings{Networks: map[string]*network.EndpointSettings{
			"bridge": {EndpointID: "ep1", IPPrefixLen: 16},
		}},
	}, nil
}

func (f *Engine) List(ctx context.Context, o engine.ListOptions) ([]container.Summary, error) {
	if f.Panics {
		panic("secret internals")
	}
	if f.Slow {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	for k := range o.Filters {
		if k != "name" && k != "label" {
			return nil, errdefs.ErrInvalidArgument.WithMessage("invalid filter '" + k + "'")
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []container.Summary
	for _, name := range slices.Sorted(maps.Keys(f.ByName)) {
		if c := f.ByName[name]; o.All || c.running {
			out = append(out, container.Summary{ID: c.id, Names: []string{"/" + name}, Image: c.Spec.Config.Image})
		}
	}
	return out, nil
}

func (f *Engine) Logs(ctx context.Context, name string, o engine.LogOptions, each func(engine.LogLine) error) error {
	for _, l := range f.Lines {
		if l.Stream == "stdout" && !o.Stdout || l.Stream == "stderr" && !o.Stderr {
			continue
		}
		if err := each(l); err != nil {
			return err
		}
	}
	if o.Follow {
		c, err := f.find(name)
		if err != nil {
			return err
		}
		select {
		case <-c.exited:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (f *Engine) Pull(_ context.Context, ref string, o engine.PullOptions, report func(jsonstream.Message)) error {
	f.Auth, f.Pulled = o.Auth, o
	if strings.HasPrefix(ref, "absent") {
		return errdefs.ErrNotFound.WithMessage("pull access denied for absent, repository does not exist or may require 'docker login'")
	}
	report(jsonstream.Message{Status: "Pulling from library/" + ref, ID: "1"})
	if strings.HasPrefix(ref, "broken") {
		return errdefs.ErrUnavailable.WithMessage("the registry went away")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ByRef[ref] = image.Summary{RepoTags: []string{ref}}
	return nil
}

func (f *Engine) Load(_ context.Context, r io.Reader) ([]string, error) {
	b, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	if len(b) == 0 {
		return nil, errdefs.ErrInvalidArgument.WithMessage("invalid tar header")
	}
	return []string{string(b)}, nil
}

func (f *Engine) Images(context.Context, engine.ImageListOptions) ([]image.Summary, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []image.Summary
	for _, k := range slices.Sorted(maps.Keys(f.ByRef)) {
		out = append(out, f.ByRef[k])
	}
	return out, nil
}

func (f *Engine) InspectImage(_ context.Context, ref string, p *ocispec.Platform) (*image.InspectResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	i, ok := f.ByRef[ref]
	if !ok {
		return nil, errdefs.ErrNotFound.WithMessage("No such image: " + ref)
	}
	if p != nil && p.Architecture != "amd64" {
		return nil, errdefs.ErrNotFound.WithMessage("image with reference " + ref + " was found but does not provide the specified platform (" + p.OS + "/" + p.Architecture + ")")
	}
	return &image.InspectResponse{ID: i.ID, RepoTags: i.RepoTags, Size: i.Size, Manifests: []image.ManifestSummary{{ID: i.ID}}}, nil
}

func (f *Engine) RemoveImage(_ context.Context, ref string, _ bool) ([]image.DeleteResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.ByRef[ref]; !ok {
		return nil, errdefs.ErrNotFound.WithMessage("No such image: " + ref)
	}
	delete(f.ByRef, ref)
	return []image.DeleteResponse{{Untagged: ref}}, nil
}

func (f *Engine) Distribution(_ context.Context, ref string, _ *registry.AuthConfig) (*registry.DistributionInspect, error) {
	d := &registry.DistributionInspect{Descriptor: ocispec.Descriptor{Digest: digest.FromString(ref)}}
	d.Platforms = []ocispec.Platform{{OS: "linux", Architecture: "amd64"}}
	return d, nil
}

func (f *Engine) Events(context.Context) <-chan engine.Event { return f.Feed }

func (f *Engine) Announce(e engine.Event) { f.Feed <- e }

func (f *Engine) Recall(_ context.Context, since time.Time) ([]engine.Event, <-chan engine.Event) {
	i := slices.IndexFunc(f.Past, func(e engine.Event) bool { return !e.Time.Before(since) })
	if i < 0 {
		i = len(f.Past)
	}
	return f.Past[i:], f.Feed
}

func (f *Engine) Usage(context.Context) (engine.Usage, error) {
	return engine.Usage{Running: 1, Stopped: 2, Images: 3}, nil
}
