package httpapi

import (
	"context"
	"net/http"
)

// DryRuns tries changes on a copy of the swarm's records. Requests belong to a dry run by a header, before they come
// here: see package dryrun.
type DryRuns interface {
	// Open makes a copy of the records as they are now. Unavailable on a node that is no manager, and while there are
	// too many.
	Open(ctx context.Context) (id string, err error)
	// Changes says in what the copy differs from what it was: networks, secrets, configs, services, nodes and the
	// swarm, each by name. NotFound for a dry run that has ended.
	Changes(ctx context.Context, id string) ([]DryRunChange, error)
	End(id string)
}

// DryRunChange is one object that would be made, changed or removed.
type DryRunChange struct {
	Kind   string // network, secret, config, service, node or swarm
	Action string // create, update or remove
	ID     string
	Name   string
	// Fields are those of the object's specification that differ, by their paths in its JSON; of an object that is
	// created all that it has, of one that is removed none. A secret's bytes are never among them.
	Fields []DryRunField `json:",omitempty"`
	// Tasks is for services.
	Tasks *DryRunTasks `json:",omitempty"`
}

// DryRunField is a field of a specification. A text that is empty says that the field was or would not be there.
type DryRunField struct{ Path, From, To string }

// DryRunTasks is what becomes of a service's tasks. Of services that follow the nodes nothing is said about tasks that
// are started.
type DryRunTasks struct {
	Replaced int // run, and are not what the service would say
	Started  int
	Stopped  int
}

func (a *api) dryRunRoutes() []route {
	with := func(h func(*call) error) func(*call) error {
		return func(c *call) error {
			if err := need(a.DryRuns != nil, "dry runs"); err != nil {
				return err
			}
			return h(c)
		}
	}
	return []route{
		post("/shoal/v1/dryruns", with(func(c *call) error {
			id, err := a.DryRuns.Open(c.Context())
			if err != nil {
				return err
			}
			return c.reply(http.StatusOK, struct{ ID string }{id})
		})),
		get("/shoal/v1/dryruns/{id}", with(func(c *call) error {
			changes, err := a.DryRuns.Changes(c.Context(), c.value)
			if err != nil {
				return err
			}
			return c.reply(http.StatusOK, list(changes))
		})),
		del("/shoal/v1/dryruns/{id}", with(func(c *call) error {
			a.DryRuns.End(c.value)
			return c.reply(http.StatusOK, struct{}{})
		})),
	}
}
