package httpapi

import (
	"net/http"

	"github.com/moby/moby/api/types/swarm"
)

func (a *api) configRoutes() []route {
	return []route{
		get("/configs", a.managed(a.listConfigs)),
		post("/configs/create", a.managed(a.createConfig)),
		get("/configs/{id}", a.managed(a.inspectConfig)),
		del("/configs/{id}", a.managed(a.removeConfig)),
		post("/configs/{id}/update", a.managed(a.updateConfig)),
		post("/shoal/v1/configs/{id}/rotate", a.managed(a.rotateConfig)),
		get("/shoal/v1/configs/{id}/versions", a.managed(a.listConfigVersions)),
	}
}

func (a *api) listConfigs(c *call) error {
	filters, err := c.filters()
	if err != nil {
		return err
	}
	configs, err := a.Control.Configs(c.Context(), filters)
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, list(configs))
}

func (a *api) createConfig(c *call) error {
	var spec swarm.ConfigSpec
	if err := c.json(&spec); err != nil {
		return err
	}
	if spec.Templating != nil && !c.since(templatingSince) {
		return invalid("config templating is not supported on the specified API version: %s", c.version)
	}
	id, err := a.Control.CreateConfig(c.Context(), spec)
	if err != nil {
		return err
	}
	return c.reply(http.StatusCreated, swarm.ConfigCreateResponse{ID: id})
}

func (a *api) inspectConfig(c *call) error {
	o, err := a.Control.Config(c.Context(), c.value)
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, o)
}

func (a *api) removeConfig(c *call) error {
	if err := a.Control.RemoveConfig(c.Context(), c.value); err != nil {
		return err
	}
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}

func (a *api) updateConfig(c *call) error {
	var spec swarm.ConfigSpec
	if err := c.json(&spec); err != nil {
		return err
	}
	version, err := c.objectVersion("config")
	if err != nil {
		return err
	}
	return a.Control.UpdateConfig(c.Context(), c.value, version, spec)
}

func (a *api) rotateConfig(c *call) error {
	var r RotateRequest
	if err := c.json(&r); err != nil {
		return err
	}
	out, err := a.Control.RotateConfig(c.Context(), c.value, r.Data)
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, out)
}

func (a *api) listConfigVersions(c *call) error {
	all, err := a.Control.ConfigVersions(c.Context(), c.value)
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, list(all))
}
