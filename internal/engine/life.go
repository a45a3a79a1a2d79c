package engine

import (
	"context"

	"github.com/moby/moby/api/types/container"
)

// Life is what may become of a container beyond start, stop and removal. The restart policies of Create's settings are
// carried out by the engine itself, with Docker's delays; a container that waits for its restart is in the state
// "restarting", which the API also calls running.
type Life interface {
	// Restart stops a container as Stop does and starts it again. One that does not run is started.
	Restart(ctx context.Context, name string, o StopOptions) error
	// Pause freezes a container's processes; Conflict if it does not run or is paused.
	Pause(ctx context.Context, name string) error
	// Unpause lets them go on; Conflict if it is not paused.
	Unpause(ctx context.Context, name string) error
	// Rename gives a container another name; Conflict if that is taken.
	Rename(ctx context.Context, name, to string) error
	// Top lists a running container's processes as `ps` with those arguments does on the host; none is "-ef".
	Top(ctx context.Context, name string, args []string) (*container.TopResponse, error)
	// Stats is one sample, without the one before it. A container that does not run has its ID and name only.
	Stats(ctx context.Context, name string) (*container.StatsResponse, error)
	// Update changes limits, also of a running container, and the restart policy. Zero fields stay as they are.
	Update(ctx context.Context, name string, u container.UpdateConfig) (warnings []string, err error)
	// Prune removes the containers that are not active. Filters are label, label! and until.
	Prune(ctx context.Context, filters map[string][]string) (container.PruneReport, error)
	// Size is how many bytes a container has written and how large its file system is with its image.
	Size(ctx context.Context, name string) (rw, rootFS int64, err error)
}
