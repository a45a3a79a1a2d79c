package apitest

import (
	"context"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/image"
	"github.com/opencontainers/go-digest"

	"shoal.dev/shoal/internal/engine"
)

// Commit implements engine.Committer. The options stay in Engine.Committed.
func (f *Engine) Commit(_ context.Context, name string, o engine.CommitOptions) (string, error) {
	c, err := f.find(name)
	if err != nil {
		return "", err
	}
	for _, change := range o.Changes {
		if strings.HasPrefix(change, "FROM") {
			return "", errdefs.ErrInvalidArgument.WithMessage("FROM is not a valid change command")
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.Committed = o
	id := digest.FromString("image of " + c.id).String()
	if o.Ref != nil {
		n := reference.FamiliarString(o.Ref)
		f.ByRef[n] = image.Summary{ID: id, RepoTags: []string{n}}
	}
	return id, nil
}
