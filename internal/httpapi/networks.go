package httpapi

import (
	"net/http"

	"github.com/moby/moby/api/types/network"
)

func (a *api) networkRoutes() []route {
	with := func(h func(*call) error) func(*call) error {
		return func(c *call) error {
			if err := need(a.Networks != nil, "networks"); err != nil {
				return err
			}
			return h(c)
		}
	}
	return []route{
		get("/networks", with(a.listNetworks)),
		post("/networks/create", with(a.createNetwork)),
		post("/networks/prune", with(a.pruneNetworks)).lasting(0),
		get("/networks/{id}", with(a.inspectNetwork)),
		post("/networks/{id}/connect", with(a.connectNetwork)),
		post("/networks/{id}/disconnect", with(a.disconnectNetwork)),
		del("/networks/{id}", with(a.removeNetwork)),
	}
}

func (a *api) listNetworks(c *call) error {
	filters, err := c.filters()
	if err != nil {
		return err
	}
	networks, err := a.Networks.Networks(c.Context(), filters)
	if err != nil {
		return err
	}
	if !c.since(28) { // until then the list held what inspect shows
		return c.reply(http.StatusOK, list(networks))
	}
	out := make([]network.Summary, len(networks))
	for i, n := range networks {
		out[i] = network.Summary{Network: n.Network}
	}
	return c.reply(http.StatusOK, out)
}

func (a *api) inspectNetwork(c *call) error {
	verbose, err := c.strictFlag("verbose")
	if err != nil {
		return err
	}
	n, err := a.Networks.Network(c.Context(), c.value, c.query.Get("scope"), verbose)
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, n)
}

func (a *api) createNetwork(c *call) error {
	var r network.CreateRequest
	if err := c.json(&r); err != nil {
		return err
	}
	if !c.since(48) { // until then it meant nothing
		r.EnableIPv4 = nil
	}
	made, err := a.Networks.CreateNetwork(c.Context(), r)
	if err != nil {
		return err
	}
	return c.reply(http.StatusCreated, made)
}

func (a *api) removeNetwork(c *call) error {
	if err := a.Networks.RemoveNetwork(c.Context(), c.value); err != nil {
		return err
	}
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}

func (a *api) pruneNetworks(c *call) error {
	filters, err := c.filters()
	if err != nil {
		return err
	}
	r, err := a.Networks.PruneNetworks(c.Context(), filters)
	if err != nil {
		return err
	}
	r.NetworksDeleted = list(r.NetworksDeleted)
	return c.reply(http.StatusOK, r)
}

func (a *api) connectNetwork(c *call) error {
	var r network.ConnectRequest
	if err := c.json(&r); err != nil {
		return err
	}
	if r.Container == "" {
		return invalid("invalid container: no container is named")
	}
	if err := a.Networks.Connect(c.Context(), c.value, r.Container, r.EndpointConfig); err != nil {
		return err
	}
	c.w.WriteHeader(http.StatusOK)
	return nil
}

func (a *api) disconnectNetwork(c *call) error {
	var r network.DisconnectRequest
	if err := c.json(&r); err != nil {
		return err
	}
	if r.Container == "" {
		return invalid("invalid container: no container is named")
	}
	if err := a.Networks.Disconnect(c.Context(), c.value, r.Container, r.Force); err != nil {
		return err
	}
	c.w.WriteHeader(http.StatusOK)
	return nil
}
