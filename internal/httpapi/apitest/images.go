package apitest

import (
	"context"
	"fmt"
	"io"
	"maps"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/api/types/volume"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"shoal.dev/shoal/internal/engine"
)

func (f *Engine) known(ref string) (image.Summary, error) {
	i, ok := f.ByRef[ref]
	if !ok {
		i, ok = f.ByRef[ref+":latest"]
	}
	if !ok {
		return i, errdefs.ErrNotFound.WithMessage("No such image: " + ref)
	}
	return i, nil
}

// ImageHistory is one step.
func (f *Engine) ImageHistory(_ context.Context, ref string, _ *ocispec.Platform) ([]image.HistoryResponseItem, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	i, err := f.known(ref)
	if err != nil {
		return nil, err
	}
	return []image.HistoryResponseItem{{ID: i.ID, CreatedBy: "COPY hello /", Size: 3, Tags: i.RepoTags}}, nil
}

func (f *Engine) TagImage(_ context.Context, ref, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	i, err := f.known(ref)
	if err != nil {
		return err
	}
	i.RepoTags = []string{name}
	f.ByRef[name] = i
	return nil
}

// PruneImages removes all but hello:1 with the filter dangling=false, and nothing without it.
func (f *Engine) PruneImages(_ context.Context, filters map[string][]string) (*image.PruneReport, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := &image.PruneReport{}
	for k := range filters {
		if k != "dangling" {
			return nil, errdefs.ErrInvalidArgument.WithMessage("invalid filter '" + k + "'")
		}
	}
	if len(filters["dangling"]) == 1 && filters["dangling"][0] == "false" {
		for name := range maps.Clone(f.ByRef) {
			if name != "hello:1" {
				delete(f.ByRef, name)
				r.ImagesDeleted = append(r.ImagesDeleted, image.DeleteResponse{Untagged: name})
				r.SpaceReclaimed += 5
			}
		}
	}
	return r, nil
}

// Save writes the names of what is saved.
func (f *Engine) Save(_ context.Context, refs []string, _ []ocispec.Platform, w io.Writer) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, ref := range refs {
		if _, err := f.known(ref); err != nil {
			return err
		}
	}
	_, err := io.WriteString(w, strings.Join(refs, "\n"))
	return err
}

// Import makes an image of whatever is not empty.
func (f *Engine) Import(_ context.Context, r io.Reader, o engine.ImportOptions) (string, error) {
	b, err := io.ReadAll(r)
	if err != nil {
		return "", err
	}
	if len(b) == 0 {
		return "", errdefs.ErrInvalidArgument.WithMessage("cannot import: unexpected EOF")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	id := "sha256:" + strings.Repeat("c", 64)
	f.Imported = o
	f.ByRef[o.Name] = image.Summary{ID: id, RepoTags: []string{o.Name}}
	return id, nil
}

// Push needs the password "water" for whatever is in secret/.
func (f *Engine) Push(_ context.Context, ref string, o engine.PushOptions, report func(jsonstream.Message)) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.Pushed = o
	report(jsonstream.Message{Status: "The push refers to repository [docker.io/" + ref + "]"})
	if strings.HasPrefix(ref, "secret/") && (o.Auth == nil || o.Auth.Password != "water") {
		return errdefs.ErrUnauthenticated.WithMessage("push access denied, repository does not exist or may require authorization")
	}
	if _, ok := f.ByRef[ref]; !ok && !o.AllTags {
		return errdefs.ErrNotFound.WithMessage("tag does not exist: " + ref)
	}
	report(jsonstream.Message{ID: "aaaaaaaaaaaa", Status: "Pushed"})
	report(jsonstream.Message{Status: fmt.Sprintf("1: digest: sha256:%s size: 7", strings.Repeat("a", 64))})
	return nil
}

// Login wants the password "water" and gives the token "t" to the user "token".
func (f *Engine) Login(_ context.Context, auth *registry.AuthConfig) (string, error) {
	if auth.Password != "water" {
		return "", errdefs.ErrUnauthenticated.WithMessage("login attempt to https://" + auth.ServerAddress + "/v2/ failed with status: 401 Unauthorized")
	}
	if auth.Username == "token" {
		return "t", nil
	}
	return "", nil
}

// DiskUsage counts what there is.
func (f *Engine) DiskUsage(ctx context.Context, o engine.DiskUsageOptions) (*system.DiskUsage, error) {
	u := &system.DiskUsage{}
	if o.Containers {
		list, err := f.List(ctx, engine.ListOptions{All: true})
		if err != nil {
			return nil, err
		}
		u.ContainerUsage = &container.DiskUsage{TotalCount: int64(len(list)), TotalSize: 11, Reclaimable: 11, Items: list}
	}
	if o.Images {
		list, err := f.Images(ctx, engine.ImageListOptions{})
		if err != nil {
			return nil, err
		}
		u.ImageUsage = &image.DiskUsage{TotalCount: int64(len(list)), TotalSize: 12 << 20, Reclaimable: 3 << 20, Items: list}
	}
	if o.Volumes {
		list, err := f.Volumes(ctx, nil)
		if err != nil {
			return nil, err
		}
		u.VolumeUsage = &volume.DiskUsage{TotalCount: int64(len(list)), Items: list}
	}
	return u, nil
}
