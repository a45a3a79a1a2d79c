package ledger

import (
	"time"

	"github.com/moby/moby/api/types/container"

	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/engine/health"
)

// The delays between a container's restarts, which are Docker's: the first, the longest, and how long a run lasts
// after which they begin anew. In between each is twice the one before.
const (
	restartFirst = 100 * time.Millisecond
	restartMost  = time.Minute
	restartCalm  = 10 * time.Second
)

// Active says whether the container runs or is about to be restarted; the API shows both as running.
func (c *Container) Active() bool {
	return c.Running() || c.State.Status == container.StateRestarting
}

// Started is the state of a container that runs from now on. A user's start, unlike a restart by policy, forgets
// earlier restarts.
func (c *Container) Started(now time.Time, byPolicy bool) State {
	s := State{Status: container.StateRunning, StartedAt: now}
	if byPolicy {
		s.Restarts, s.Backoff = c.State.Restarts, c.State.Backoff
	}
	if k := health.Of(c.Config); k != nil {
		s.Health = k.Begin(c.State.Health)
	}
	return s
}

// Ended is c after its process has ended: it exited or, if its policy wants it so, restarts after State.Backoff.
func Ended(c *Container, code int, at time.Time, oom bool) *Container {
	n := *c
	n.State.Status, n.State.Pid, n.State.Sandbox = container.StateExited, 0, engine.Sandbox{}
	n.State.ExitCode, n.State.FinishedAt, n.State.OOMKilled = code, at, oom
	if c.State.Stopped || !c.policyWants(code) {
		return &n
	}
	if n.State.Backoff = min(2*c.State.Backoff, restartMost); c.State.Backoff == 0 || at.Sub(c.State.StartedAt) >= restartCalm {
		n.State.Backoff = restartFirst
	}
	n.State.Status = container.StateRestarting
	n.State.Restarts++
	return &n
}

// policyWants says whether the restart policy asks for a restart after an exit that no user caused.
func (c *Container) policyWants(code int) bool {
	switch p := c.HostConfig.RestartPolicy; {
	case p.IsAlways(), p.IsUnlessStopped():
		return true
	case p.IsOnFailure():
		return code != 0 && (p.MaximumRetryCount == 0 || c.State.Restarts < p.MaximumRetryCount)
	}
	return false
}

// Halted is c after a user's stop: one that waits for its restart has exited, and one that runs will not be restarted
// when it ends.
func Halted(c *Container) *Container {
	n := *c
	n.State.Stopped = true
	if n.State.Status == container.StateRestarting {
		n.State.Status = container.StateExited
	}
	return &n
}

// StartsWithDaemon says whether a container that has exited is started when the daemon starts, as in Docker: "always"
// also after a user's stop, "unless-stopped" not.
func (c *Container) StartsWithDaemon() bool {
	if c.State.Status != container.StateExited || c.State.StartedAt.IsZero() {
		return false
	}
	p := c.HostConfig.RestartPolicy
	return p.IsAlways() || p.IsUnlessStopped() && !c.State.Stopped
}

// Again says whether c, as found now, still waits for the restart that was planned for it as planned.
func (c *Container) Again(planned *Container) bool {
	return c.State.Status == container.StateRestarting && c.State.FinishedAt.Equal(planned.State.FinishedAt)
}
