package engine

import "context"

// Life is what may become of a container beyond start, stop and removal. The restart policies of Create's settings are
// carried out by the engine itself, with Docker's delays; a container that waits for its restart is in the state
// "restarting", which the API also calls running.
type Life interface {
	// Restart stops a container as Stop does and starts it again. One that does not run is started.
	Restart(ctx context.Context, name string, o StopOptions) error
}
