package httpapi

import (
	"net/http"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/container"

	"shoal.dev/shoal/internal/engine"
)

func (a *api) commitRoutes() []route {
	return []route{post("/commit", func(c *call) error {
		if err := need(a.Containers != nil, "containers"); err != nil {
			return err
		}
		return a.commitContainer(c)
	}).lasting(0)}
}

func (a *api) commitContainer(c *call) error {
	o := engine.CommitOptions{Author: c.query.Get("author"), Comment: c.query.Get("comment"), Changes: c.query["changes"],
		Pause: !c.query.Has("pause") || c.flag("pause")}
	if err := c.json(&o.Config); err != nil {
		return err
	}
	var err error
	if o.Ref, err = imageTag(c.query.Get("repo"), c.query.Get("tag")); err != nil {
		return err
	}
	id, err := a.Containers.Commit(c.Context(), c.query.Get("container"), o)
	if err != nil {
		return err
	}
	return c.reply(http.StatusCreated, container.CommitResponse{ID: id})
}

// imageTag is the name that an image gets; nil if repo is empty.
func imageTag(repo, tag string) (reference.NamedTagged, error) {
	if repo == "" {
		return nil, nil
	}
	ref, err := reference.ParseNormalizedNamed(repo)
	if err != nil {
		return nil, invalid("%s", err)
	}
	if _, ok := ref.(reference.Digested); ok {
		return nil, invalid("cannot import digest reference")
	}
	if tag != "" {
		named, err := reference.WithTag(ref, tag)
		if err != nil {
			return nil, invalid("%s", err)
		}
		return named, nil
	}
	named, ok := reference.TagNameOnly(ref).(reference.NamedTagged)
	if !ok {
		return nil, invalid("unexpected reference: %q", ref.String())
	}
	return named, nil
}
