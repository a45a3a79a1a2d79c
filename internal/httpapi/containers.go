package httpapi

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"shoal.dev/shoal/internal/engine"
)

func (a *api) containerRoutes() []route {
	with := func(h func(*call) error) func(*call) error {
		return func(c *call) error {
			if err := need(a.Containers != nil, "containers"); err != nil {
				return err
			}
			c.value = strings.TrimPrefix(c.value, "/")
			return h(c)
		}
	}
	return []route{
		get("/containers/json", with(a.listContainers)),
		post("/containers/create", with(a.createContainer)),
		get("/containers/{name*}/json", with(a.inspectContainer)),
		get("/containers/{name*}/logs", with(a.containerLogs)).lasting(0),
		post("/containers/{name*}/start", with(a.startContainer)),
		post("/containers/{name*}/stop", with(a.stopContainer)).lasting(0),
		post("/containers/{name*}/restart", with(a.restartContainer)).lasting(0),
		post("/containers/{name*}/kill", with(a.killContainer)),
		post("/containers/{name*}/wait", with(a.waitContainer)).lasting(0),
		get("/containers/{name*}/top", with(a.topContainer)),
		get("/containers/{name*}/stats", with(a.containerStats)).lasting(0),
		post("/containers/{name*}/update", with(a.updateContainer)),
		post("/containers/{name*}/rename", with(a.renameContainer)),
		post("/containers/{name*}/pause", with(a.pauseContainer)),
		post("/containers/{name*}/unpause", with(a.unpauseContainer)),
		post("/containers/prune", with(a.pruneContainers)),
		del("/containers/{name*}", with(a.removeContainer)),
	}
}

func (a *api) listContainers(c *call) error {
	filters, err := c.filters()
	if err != nil {
		return err
	}
	o := engine.ListOptions{All: c.flag("all"), Size: c.flag("size"), Filters: filters}
	for _, old := range []string{"since", "before"} { // of before API 1.23, as filters
		if v := c.query.Get(old); v != "" {
			if o.Filters == nil {
				o.Filters = map[string][]string{}
			}
			o.Filters[old] = []string{v}
		}
	}
	if v := c.query.Get("limit"); v != "" {
		if o.Limit, err = strconv.Atoi(v); err != nil {
			return invalid("invalid value for limit: %s", v)
		}
		o.Limit = max(o.Limit, 0) // -1 is Docker's "no limit"
	}
	cs, err := a.Containers.List(c.Context(), o)
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, list(cs))
}

func (a *api) createContainer(c *call) error {
	if err := c.wantJSON(); err != nil {
		return err
	}
	if c.Body == nil {
		return invalid("invalid JSON: got EOF while reading request body")
	}
	var r container.CreateRequest
	if err := c.decode(&r); err != nil {
		return err
	}
	if r.Config == nil {
		return invalid("config cannot be empty in order to create a container")
	}
	if r.HostConfig == nil {
		r.HostConfig = &container.HostConfig{}
	}
	if m := r.HostConfig.NetworkMode; m == "" || m.IsDefault() {
		r.HostConfig.NetworkMode = network.NetworkBridge
	}
	var networks map[string]*network.EndpointSettings
	if r.NetworkingConfig != nil {
		networks = r.NetworkingConfig.EndpointsConfig
	}
	if !c.since(44) && len(networks) > 1 { // until then it was connected to others afterwards
		return invalid("Container cannot be connected to network endpoints: %s", strings.Join(slices.Sorted(maps.Keys(networks)), ", "))
	}
	id, warnings, err := a.Containers.Create(c.Context(), engine.Spec{
		Name:       strings.TrimPrefix(c.query.Get("name"), "/"),
		Platform:   c.query.Get("platform"),
		Config:     r.Config,
		HostConfig: r.HostConfig,
		Networks:   networks,
	})
	if err != nil {
		return err
	}
	return c.reply(http.StatusCreated, container.CreateResponse{ID: id, Warnings: list(warnings)})
}

func (a *api) inspectContainer(c *call) error {
	r, err := a.Containers.Inspect(c.Context(), c.value)
	if err != nil {
		return err
	}
	if c.flag("size") {
		rw, rootFS, err := a.Containers.Size(c.Context(), r.ID)
		if err != nil {
			return err
		}
		r.SizeRw, r.SizeRootFs = &rw, &rootFS
	}
	return c.reply(http.StatusOK, r)
}

func (a *api) startContainer(c *call) error {
	// "{}" and nothing are what clients send; a configuration belongs to create.
	if c.ContentLength > 7 || c.ContentLength == -1 {
		return invalid("starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24")
	}
	if c.query.Get("checkpoint") != "" {
		return absent("starting a container from a checkpoint is not supported: it is not implemented by Shoal yet")
	}
	r, err := a.Containers.Inspect(c.Context(), c.value)
	if err != nil {
		return err
	}
	if r.State != nil && r.State.Running && !r.State.Paused { // what is paused has a refusal
		c.w.WriteHeader(http.StatusNotModified)
		return nil
	}
	if err := a.Containers.Start(c.Context(), c.value); err != nil {
		return err
	}
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}

// stopOptions reads the signal and t, the seconds until SIGKILL; a negative t waits for ever.
func (c *call) stopOptions() (engine.StopOptions, error) {
	var o engine.StopOptions
	if c.since(42) {
		o.Signal = c.query.Get("signal")
	}
	if v := c.query.Get("t"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil {
			return o, invalid("invalid value for t: %s", v)
		}
		d := time.Duration(n) * time.Second
		o.Timeout = &d
	}
	return o, nil
}

func (a *api) stopContainer(c *call) error {
	o, err := c.stopOptions()
	if err != nil {
		return err
	}
	r, err := a.Containers.Inspect(c.Context(), c.value)
	if err != nil {
		return err
	}
	if r.State != nil && !r.State.Running && r.State.Status != container.StateRestarting {
		c.w.WriteHeader(http.StatusNotModified)
		return nil
	}
	if err := a.Containers.Stop(c.Context(), c.value, o); err != nil {
		return err
	}
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}

func (a *api) restartContainer(c *call) error {
	o, err := c.stopOptions()
	if err != nil {
		return err
	}
	if err := a.Containers.Restart(c.Context(), c.value, o); err != nil {
		return err
	}
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}

func (a *api) killContainer(c *call) error {
	if err := a.Containers.Kill(c.Context(), c.value, c.query.Get("signal")); err != nil {
		if strings.HasPrefix(err.Error(), "cannot kill container") {
			return err
		}
		return fmt.Errorf("cannot kill container: %s: %w", c.value, err)
	}
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}

func (a *api) removeContainer(c *call) error {
	if c.flag("link") {
		return absent("removing a link is not supported: links between containers are not implemented by Shoal")
	}
	remove := a.Containers.Remove
	if c.flag("v") {
		remove = a.Containers.Purge
	}
	if err := remove(c.Context(), c.value, c.flag("force")); err != nil {
		return err
	}
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}

func (a *api) waitContainer(c *call) error {
	condition := container.WaitConditionNotRunning
	if v := container.WaitCondition(c.query.Get("condition")); v != "" && c.since(30) {
		if !slices.Contains([]container.WaitCondition{container.WaitConditionNotRunning, container.WaitConditionNextExit, container.WaitConditionRemoved}, v) {
			return invalid("invalid condition: %q", string(v))
		}
		condition = v
	}
	ch, err := a.Containers.Wait(c.Context(), c.value, condition)
	if err != nil {
		return err
	}
	c.w.Header().Set("Content-Type", "application/json")
	if c.since(30) {
		c.w.Flush() // `docker run` starts the container once it has the headers
	}
	var res engine.WaitResult
	select {
	case r, ok := <-ch:
		if !ok {
			r.Err = errors.New("the wait ended before the container did")
		}
		res = r
	case <-c.Context().Done():
		return nil
	}
	out := container.WaitResponse{StatusCode: int64(res.ExitCode)}
	if res.Err != nil {
		if c.w.status == 0 && errdefs.IsNotFound(res.Err) {
			return res.Err
		}
		out.Error = &container.WaitExitError{Message: res.Err.Error()}
	}
	b, err := c.encode(out)
	if err != nil {
		return err
	}
	_, _ = c.w.Write(b)
	return nil
}
