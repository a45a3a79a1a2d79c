package ledger

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/storage"
)

type portKey = network.Port

// Argv is what a container runs.
func (c *Container) Argv() []string {
	return slices.Concat(c.Config.Entrypoint, c.Config.Cmd)
}

// LogPath is where the container's log is; "" if it has none.
func (c *Container) LogPath() string {
	switch {
	case c.Dir == "" || c.HostConfig.LogConfig.Type == "none":
		return ""
	case c.HostConfig.LogConfig.Type == "local":
		return filepath.Join(c.Dir, "container.log")
	}
	return filepath.Join(c.Dir, c.ID+"-json.log")
}

// shownLogPath is where `inspect` says that the log is: as in Docker, that of json-file only.
func (c *Container) shownLogPath() string {
	if c.HostConfig.LogConfig.Type == "local" {
		return ""
	}
	return c.LogPath()
}

// Summary is the container as `ps` shows it.
func Summary(c *Container) container.Summary {
	s := container.Summary{
		ID:              c.ID,
		Names:           []string{"/" + c.Name},
		Image:           c.Config.Image,
		ImageID:         c.ImageID,
		Command:         command(c.Argv()),
		Created:         c.Created.Unix(),
		Ports:           ports(c),
		Labels:          c.Config.Labels,
		State:           c.State.Status,
		Status:          statusText(&c.State, time.Now()),
		NetworkSettings: &container.NetworkSettingsSummary{Networks: endpoints(c)},
		Mounts:          c.Mounts,
		Health:          healthSummary(c),
	}
	s.HostConfig.NetworkMode = string(c.HostConfig.NetworkMode)
	s.HostConfig.Annotations = c.HostConfig.Annotations
	if s.Labels == nil {
		s.Labels = map[string]string{}
	}
	if s.Mounts == nil {
		s.Mounts = []container.MountPoint{}
	}
	return s
}

// Inspect is the container as `inspect` shows it, without what only an engine knows: sizes and paths of its files.
func Inspect(c *Container) *container.InspectResponse {
	argv := c.Argv()
	path, args := "", []string{}
	if len(argv) > 0 {
		path, args = argv[0], argv[1:]
	}
	mounts := c.Mounts
	if mounts == nil {
		mounts = []container.MountPoint{}
	}
	return &container.InspectResponse{
		ID:      c.ID,
		Created: c.Created.UTC().Format(time.RFC3339Nano),
		Path:    path,
		Args:    args,
		State: &container.State{
			Status:     c.State.Status,
			Running:    c.Active(),
			Restarting: c.State.Status == container.StateRestarting,
			Paused:     c.State.Status == container.StatePaused,
			OOMKilled:  c.State.OOMKilled,
			Pid:        c.State.Pid,
			ExitCode:   c.State.ExitCode,
			Error:      c.State.Error,
			StartedAt:  c.State.StartedAt.UTC().Format(time.RFC3339Nano),
			FinishedAt: c.State.FinishedAt.UTC().Format(time.RFC3339Nano),
			Health:     healthShown(c),
		},
		Image:                   c.ImageID,
		RestartCount:            c.State.Restarts,
		Name:                    "/" + c.Name,
		LogPath:                 c.shownLogPath(),
		Platform:                "linux",
		HostConfig:              c.HostConfig,
		Storage:                 &storage.Storage{},
		Mounts:                  mounts,
		Config:                  c.Config,
		ImageManifestDescriptor: c.Manifest,
		NetworkSettings: &container.NetworkSettings{
			SandboxKey: c.State.Sandbox.NetNS,
			Ports:      portMap(c),
			Networks:   endpoints(c),
		},
	}
}

// command is a command line as `ps` shows it: an argument with a space in quotes.
func command(argv []string) string {
	shown := slices.Clone(argv)
	for i, a := range shown {
		if i > 0 && strings.ContainsAny(a, " \t\n") {
			shown[i] = "'" + a + "'"
		}
	}
	return strings.Join(shown, " ")
}

// statusText is Docker's sentence about a state: "Up 3 minutes", "Exited (0) 2 hours ago".
func statusText(s *State, now time.Time) string {
	switch s.Status {
	case container.StateRunning:
		up := "Up " + units.HumanDuration(now.Sub(s.StartedAt))
		switch {
		case s.Health == nil:
			return up
		case s.Health.Status == container.Starting:
			return up + " (health: starting)"
		}
		return up + " (" + string(s.Health.Status) + ")"
	case container.StatePaused:
		return "Up " + units.HumanDuration(now.Sub(s.StartedAt)) + " (Paused)"
	case container.StateRestarting:
		return fmt.Sprintf("Restarting (%d) %s ago", s.ExitCode, units.HumanDuration(now.Sub(s.FinishedAt)))
	case container.StateExited:
		return fmt.Sprintf("Exited (%d) %s ago", s.ExitCode, units.HumanDuration(now.Sub(s.FinishedAt)))
	case container.StateRemoving:
		return "Removal In Progress"
	case container.StateDead:
		return "Dead"
	default:
		return "Created"
	}
}
