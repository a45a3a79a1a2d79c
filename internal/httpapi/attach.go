package httpapi

import (
	"strings"

	"shoal.dev/shoal/internal/engine"
)

func (a *api) attachRoutes() []route {
	with := a.withContainers
	return []route{
		post("/containers/{name*}/attach", with(a.attachContainer)).lasting(0),
		post("/containers/{name*}/resize", with(a.resizeContainer)),
	}
}

// withContainers is a handler that needs the backend and takes a container's name without the slash before it.
func (a *api) withContainers(h func(*call) error) func(*call) error {
	return func(c *call) error {
		if err := need(a.Containers != nil, "containers"); err != nil {
			return err
		}
		c.value = strings.TrimPrefix(c.value, "/")
		return h(c)
	}
}

func (a *api) attachContainer(c *call) error {
	o := engine.AttachOptions{
		Stdin: c.flag("stdin"), Stdout: c.flag("stdout"), Stderr: c.flag("stderr"),
		Logs: c.flag("logs"), Stream: c.flag("stream"), DetachKeys: c.query.Get("detachKeys"),
	}
	info, err := a.Containers.Inspect(c.Context(), c.value)
	if err != nil {
		return err
	}
	var h *hijacked
	o.Open = func() (engine.Streams, error) {
		var err error
		if h, err = c.hijack(info.Config == nil || !info.Config.Tty); err != nil {
			return engine.Streams{}, err
		}
		return h.streams(), nil
	}
	err = a.Containers.Attach(c.Context(), c.value, o)
	if h == nil {
		return err
	}
	if err != nil && c.Context().Err() == nil {
		a.Log.Error("attaching failed", "container", c.value, "error", err)
		h.fail(err.Error())
	}
	h.close()
	return nil
}

func (a *api) resizeContainer(c *call) error {
	height, width, err := c.size()
	if err != nil {
		return err
	}
	return a.Containers.Resize(c.Context(), c.value, height, width)
}
