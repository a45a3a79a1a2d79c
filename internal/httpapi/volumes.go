package httpapi

import (
	"net/http"

	"github.com/moby/moby/api/types/volume"
)

func (a *api) volumeRoutes() []route {
	with := func(h func(*call) error) func(*call) error {
		return func(c *call) error {
			if err := need(a.Volumes != nil, "volumes"); err != nil {
				return err
			}
			return h(c)
		}
	}
	return []route{
		get("/volumes", with(a.listVolumes)),
		post("/volumes/create", with(a.createVolume)),
		post("/volumes/prune", with(a.pruneVolumes)).lasting(0),
		get("/volumes/{name*}", with(a.inspectVolume)),
		del("/volumes/{name*}", with(a.removeVolume)),
	}
}

func (a *api) listVolumes(c *call) error {
	filters, err := c.filters()
	if err != nil {
		return err
	}
	vs, err := a.Volumes.Volumes(c.Context(), filters)
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, volume.ListResponse{Volumes: list(vs), Warnings: []string{}})
}

func (a *api) createVolume(c *call) error {
	var r volume.CreateRequest
	if err := c.json(&r); err != nil {
		return err
	}
	v, err := a.Volumes.CreateVolume(c.Context(), r)
	if err != nil {
		return err
	}
	return c.reply(http.StatusCreated, v)
}

func (a *api) inspectVolume(c *call) error {
	v, err := a.Volumes.InspectVolume(c.Context(), c.value)
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, v)
}

func (a *api) removeVolume(c *call) error {
	force, err := c.strictFlag("force")
	if err != nil {
		return err
	}
	if err := a.Volumes.RemoveVolume(c.Context(), c.value, force); err != nil {
		return err
	}
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}

func (a *api) pruneVolumes(c *call) error {
	filters, err := c.filters()
	if err != nil {
		return err
	}
	if !c.since(42) { // until then named volumes went too
		if filters == nil {
			filters = map[string][]string{}
		}
		filters["all"] = []string{"true"}
	}
	r, err := a.Volumes.PruneVolumes(c.Context(), filters)
	if err != nil {
		return err
	}
	r.VolumesDeleted = list(r.VolumesDeleted)
	return c.reply(http.StatusOK, r)
}
