package httpapi

import (
	"net/http"

	"github.com/moby/moby/api/types/swarm"
)

func (a *api) nodeRoutes() []route {
	return []route{
		get("/nodes", a.managed(a.listNodes)),
		get("/nodes/{id}", a.managed(a.inspectNode)),
		del("/nodes/{id}", a.managed(a.removeNode)),
		post("/nodes/{id}/update", a.managed(a.updateNode)),
	}
}

func (a *api) listNodes(c *call) error {
	filters, err := c.filters()
	if err != nil {
		return err
	}
	nodes, err := a.Control.Nodes(c.Context(), filters)
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, list(nodes))
}

func (a *api) inspectNode(c *call) error {
	n, err := a.Control.Node(c.Context(), c.value)
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, n)
}

func (a *api) removeNode(c *call) error {
	return a.Control.RemoveNode(c.Context(), c.value, c.flag("force"))
}

func (a *api) updateNode(c *call) error {
	var spec swarm.NodeSpec
	if err := c.json(&spec); err != nil {
		return err
	}
	version, err := c.objectVersion("node")
	if err != nil {
		return err
	}
	return a.Control.UpdateNode(c.Context(), c.value, version, spec)
}
