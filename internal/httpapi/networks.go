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
		get("/networks/{id}", with(a.inspectNetwork)),
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
