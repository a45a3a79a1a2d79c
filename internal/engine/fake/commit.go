package fake

import (
	"context"
	"maps"
	"time"

	"github.com/moby/moby/api/types/container"

	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/engine/dockerfile"
	"shoal.dev/shoal/internal/engine/ledger"
)

// made is an image that was made of a container.
type made struct {
	files  tree
	config *container.Config
	layers []string
	author string
}

// Commit implements engine.Committer.
func (e *Engine) Commit(_ context.Context, name string, o engine.CommitOptions) (string, error) {
	c, t, err := e.findFile(name, "/")
	if err != nil {
		return "", err
	}
	from := o.Config
	if from == nil {
		from = c.Config
	}
	cfg, err := dockerfile.Apply(from, o.Changes)
	if err != nil {
		return "", err
	}
	if cfg, err = ledger.Merged(cfg, c.Config); err != nil {
		return "", err
	}
	id := "sha256:" + newID()
	e.mu.Lock()
	m := &made{files: maps.Clone(t), config: cfg, author: o.Author, layers: e.layersOf(c.ImageID)}
	if e.trees[c.ID] != nil {
		m.layers = append(m.layers, digestOf("layer of "+id))
	}
	e.made[id] = m
	p := e.picture(id)
	p.config, p.created, p.comment = *cfg, time.Now(), o.Comment
	image := ledger.Dangling + id
	if o.Ref != nil {
		image = o.Ref.String()
	}
	e.name(image, id)
	e.mu.Unlock()
	e.ledger.ReportCommit(c, id, o)
	return id, nil
}

// layersOf makes up an image's layers. The caller holds the lock.
func (e *Engine) layersOf(id string) []string {
	if m := e.made[id]; m != nil {
		return append([]string{}, m.layers...)
	}
	return []string{digestOf("layer of " + id)}
}

// imageConfig is what containers of an image inherit.
func (e *Engine) imageConfig(id string) *container.Config {
	e.mu.Lock()
	defer e.mu.Unlock()
	if m := e.made[id]; m != nil {
		return m.config
	}
	return &container.Config{Cmd: []string{"sleep"}}
}
