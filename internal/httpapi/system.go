package httpapi

import (
	"context"
	"net/http"
	"path"
	"runtime"
	"time"

	"github.com/moby/moby/api/types/build"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/api/types/system"

	"shoal.dev/shoal/internal/httpapi/compat"
)

func (a *api) systemRoutes() []route {
	head := get("/_ping", a.ping)
	head.method = http.MethodHead
	return []route{
		get("/_ping", a.ping),
		head,
		get("/version", a.version),
		get("/info", a.info),
		get("/system/df", a.diskUsage).lasting(0),
		get("/events", a.events).lasting(0),
		post("/build/prune", a.pruneBuilds),
	}
}

func (a *api) ping(c *call) error {
	h := c.w.Header()
	h.Set("Cache-Control", "no-cache, no-store, must-revalidate")
	h.Set("Pragma", "no-cache")
	h.Set("Swarm", swarmStatus(a.swarmInfo(c.Context())))
	h.Set("Content-Type", "text/plain; charset=utf-8")
	if c.Method == http.MethodHead {
		h.Set("Content-Length", "0")
		return nil
	}
	_, _ = c.w.Write([]byte("OK"))
	return nil
}

// swarmStatus is the header that tells a client which commands to show: inactive, pending, error, locked,
// active/worker or active/manager.
func swarmStatus(i swarm.Info) string {
	if i.LocalNodeState != swarm.LocalNodeStateActive {
		return string(i.LocalNodeState)
	}
	if i.ControlAvailable {
		return "active/manager"
	}
	return "active/worker"
}

func (a *api) swarmInfo(ctx context.Context) swarm.Info {
	var i swarm.Info
	if a.Swarm != nil {
		i = a.Swarm.Info(ctx)
	}
	if i.LocalNodeState == "" {
		i.LocalNodeState = swarm.LocalNodeStateInactive
	}
	return i
}

func (a *api) version(c *call) error {
	var host system.Info
	if a.Host != nil {
		// What the machine does not tell is left out: a client asks for the version first of all.
		host, _ = a.Host.Info(c.Context())
	}
	kernel := host.KernelVersion
	var parts []system.ComponentVersion
	for _, p := range []struct{ name, version string }{
		{"containerd", host.ContainerdCommit.ID}, {host.DefaultRuntime, host.RuncCommit.ID}, {host.InitBinary, host.InitCommit.ID},
	} {
		if p.name != "" && p.version != "" {
			parts = append(parts, system.ComponentVersion{Name: path.Base(p.name), Version: p.version})
		}
	}
	return c.reply(http.StatusOK, system.VersionResponse{
		Platform:      system.PlatformInfo{Name: "Shoal"},
		Version:       a.Version,
		APIVersion:    compat.Newest.String(),
		MinAPIVersion: compat.Oldest.String(),
		Os:            runtime.GOOS,
		Arch:          runtime.GOARCH,
		GoVersion:     runtime.Version(),
		KernelVersion: kernel,
		Components: append([]system.ComponentVersion{{
			Name:    "Engine",
			Version: a.Version,
			Details: map[string]string{
				"ApiVersion":    compat.Newest.String(),
				"MinAPIVersion": compat.Oldest.String(),
				"Os":            runtime.GOOS,
				"Arch":          runtime.GOARCH,
				"GoVersion":     runtime.Version(),
				"KernelVersion": kernel,
				"Experimental":  "false",
			},
		}}, parts...),
	})
}

func (a *api) info(c *call) error {
	var i system.Info
	if a.Host != nil {
		var err error
		if i, err = a.Host.Info(c.Context()); err != nil {
			return err
		}
	}
	if a.Usage != nil {
		u, err := a.Usage.Usage(c.Context())
		if err != nil {
			return err
		}
		i.ContainersRunning, i.ContainersPaused, i.ContainersStopped = u.Running, u.Paused, u.Stopped
		i.Containers = u.Running + u.Paused + u.Stopped
		i.Images = u.Images
	}
	i.Swarm = a.swarmInfo(c.Context())
	i.Warnings = append(list(i.Warnings), i.Swarm.Warnings...)
	i.ServerVersion = a.Version
	i.SystemTime = time.Now().Format(time.RFC3339Nano)
	i.NGoroutines = runtime.NumGoroutine()
	return c.reply(http.StatusOK, i)
}

// pruneBuilds finds nothing: there is no build cache. Older clients ask for it in every `system prune`.
func (a *api) pruneBuilds(c *call) error {
	return c.reply(http.StatusOK, build.CachePruneReport{CachesDeleted: []string{}})
}
