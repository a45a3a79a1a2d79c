package httpapi

import (
	"net/http"

	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/api/types/swarm"
)

func (a *api) serviceRoutes() []route {
	return []route{
		get("/services", a.managed(a.listServices)),
		post("/services/create", a.managed(a.createService)),
		get("/services/{id}", a.managed(a.inspectService)),
		del("/services/{id}", a.managed(a.removeService)),
		post("/services/{id}/update", a.managed(a.updateService)),
		get("/services/{id}/logs", a.serviceLogs).lasting(0),
	}
}

func (a *api) listServices(c *call) error {
	filters, err := c.filters()
	if err != nil {
		return err
	}
	var status bool
	if c.since(41) {
		if status, err = c.strictFlag("status"); err != nil {
			return err
		}
	}
	services, err := a.Control.Services(c.Context(), filters, status)
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, list(services))
}

func (a *api) inspectService(c *call) error {
	defaults, err := c.strictFlag("insertDefaults")
	if err != nil {
		return err
	}
	s, err := a.Control.Service(c.Context(), c.value, defaults)
	if err != nil {
		return err
	}
	out, err := a.shown(c.Context(), s)
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, out)
}

// queryRegistry says whether the manager pins the image: since API 1.30 the client does that.
func (c *call) queryRegistry() bool { return !c.since(30) }

func (a *api) createService(c *call) error {
	var spec swarm.ServiceSpec
	if err := c.json(&spec); err != nil {
		return err
	}
	r, err := a.Control.CreateService(c.Context(), spec, c.Header.Get(registry.AuthHeader), c.queryRegistry())
	if err != nil {
		return err
	}
	return c.reply(http.StatusCreated, r)
}

func (a *api) updateService(c *call) error {
	var spec swarm.ServiceSpec
	if err := c.json(&spec); err != nil {
		return err
	}
	version, err := c.objectVersion("service")
	if err != nil {
		return err
	}
	o := UpdateOptions{
		EncodedAuth:      c.Header.Get(registry.AuthHeader),
		RegistryAuthFrom: swarm.RegistryAuthSource(c.query.Get("registryAuthFrom")),
		Rollback:         c.query.Get("rollback"),
		QueryRegistry:    c.queryRegistry(),
	}
	switch o.Rollback {
	case "", "none", "previous":
	default:
		return invalid("unrecognized rollback option %s", o.Rollback)
	}
	switch o.RegistryAuthFrom {
	case "", swarm.RegistryAuthFromSpec, swarm.RegistryAuthFromPreviousSpec:
	default:
		return invalid("unsupported registryAuthFrom value: %s", o.RegistryAuthFrom)
	}
	r, err := a.Control.UpdateService(c.Context(), c.value, version, spec, o)
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, r)
}

func (a *api) removeService(c *call) error {
	return a.Control.RemoveService(c.Context(), c.value)
}
