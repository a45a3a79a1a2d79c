package httpapi

import (
	"net/http"

	"github.com/moby/moby/api/types/swarm"
)

func (a *api) secretRoutes() []route {
	return []route{
		get("/secrets", a.managed(a.listSecrets)),
		post("/secrets/create", a.managed(a.createSecret)),
		get("/secrets/{id}", a.managed(a.inspectSecret)),
		del("/secrets/{id}", a.managed(a.removeSecret)),
		post("/secrets/{id}/update", a.managed(a.updateSecret)),
		post("/shoal/v1/secrets/{id}/rotate", a.managed(a.rotateSecret)),
		get("/shoal/v1/secrets/{id}/versions", a.managed(a.listSecretVersions)),
	}
}

// templatingSince is the minor API version that brought templates in secrets and configs.
const templatingSince = 37

// RotateRequest is the body of POST /shoal/v1/secrets/{id}/rotate and of that for configs; Data is base64 in JSON.
type RotateRequest struct{ Data []byte }

func (a *api) listSecrets(c *call) error {
	filters, err := c.filters()
	if err != nil {
		return err
	}
	secrets, err := a.Control.Secrets(c.Context(), filters)
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, list(secrets))
}

func (a *api) createSecret(c *call) error {
	var spec swarm.SecretSpec
	if err := c.json(&spec); err != nil {
		return err
	}
	if spec.Templating != nil && !c.since(templatingSince) {
		return invalid("secret templating is not supported on the specified API version: %s", c.version)
	}
	id, err := a.Control.CreateSecret(c.Context(), spec)
	if err != nil {
		return err
	}
	return c.reply(http.StatusCreated, swarm.SecretCreateResponse{ID: id})
}

func (a *api) inspectSecret(c *call) error {
	s, err := a.Control.Secret(c.Context(), c.value)
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, s)
}

func (a *api) removeSecret(c *call) error {
	if err := a.Control.RemoveSecret(c.Context(), c.value); err != nil {
		return err
	}
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}

func (a *api) updateSecret(c *call) error {
	var spec swarm.SecretSpec
	if err := c.json(&spec); err != nil {
		return err
	}
	version, err := c.objectVersion("secret")
	if err != nil {
		return err
	}
	return a.Control.UpdateSecret(c.Context(), c.value, version, spec)
}

func (a *api) rotateSecret(c *call) error {
	var r RotateRequest
	if err := c.json(&r); err != nil {
		return err
	}
	out, err := a.Control.RotateSecret(c.Context(), c.value, r.Data)
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, out)
}

func (a *api) listSecretVersions(c *call) error {
	all, err := a.Control.SecretVersions(c.Context(), c.value)
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, list(all))
}
