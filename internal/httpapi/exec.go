package httpapi

import (
	"net/http"
	"strconv"

	"github.com/moby/moby/api/types/container"

	"shoal.dev/shoal/internal/engine"
)

func (a *api) execRoutes() []route {
	with := a.withContainers
	return []route{
		post("/containers/{name*}/exec", with(a.createExec)),
		post("/exec/{id}/start", with(a.startExec)).lasting(0),
		post("/exec/{id}/resize", with(a.resizeExec)),
		get("/exec/{id}/json", with(a.inspectExec)),
	}
}

func (a *api) createExec(c *call) error {
	var r container.ExecCreateRequest
	if err := c.json(&r); err != nil {
		return err
	}
	if len(r.Cmd) == 0 {
		return invalid("No exec command specified")
	}
	if !c.since(42) || !r.Tty {
		r.ConsoleSize = nil
	}
	id, err := a.Containers.CreateExec(c.Context(), c.value, r)
	if err != nil {
		return err
	}
	return c.reply(http.StatusCreated, container.ExecCreateResponse{ID: id})
}

func (a *api) startExec(c *call) error {
	var r container.ExecStartRequest
	if err := c.json(&r); err != nil {
		return err
	}
	if r.ConsoleSize != nil && !r.Tty && c.since(42) {
		return invalid("console size cannot be set without a terminal")
	}
	if !c.since(42) {
		r.ConsoleSize = nil
	}
	var h *hijacked
	o := engine.ExecStart{Detach: r.Detach, ConsoleSize: r.ConsoleSize, Open: func() (engine.Streams, error) {
		var err error
		if h, err = c.hijack(!r.Tty); err != nil {
			return engine.Streams{}, err
		}
		return h.streams(), nil
	}}
	err := a.Containers.StartExec(c.Context(), c.value, o)
	if h == nil {
		return err
	}
	if err != nil && c.Context().Err() == nil {
		h.fail(err.Error())
	}
	h.close()
	return nil
}

func (a *api) resizeExec(c *call) error {
	height, width, err := c.size()
	if err != nil {
		return err
	}
	return a.Containers.ResizeExec(c.Context(), c.value, height, width)
}

// size reads the size of a terminal in characters.
func (c *call) size() (height, width uint, err error) {
	for name, to := range map[string]*uint{"h": &height, "w": &width} {
		n, err := strconv.ParseUint(c.query.Get(name), 10, 16)
		if err != nil {
			return 0, 0, invalid("invalid resize %s %q: %v", map[string]string{"h": "height", "w": "width"}[name], c.query.Get(name), err)
		}
		*to = uint(n)
	}
	return height, width, nil
}

func (a *api) inspectExec(c *call) error {
	r, err := a.Containers.InspectExec(c.Context(), c.value)
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, r)
}
