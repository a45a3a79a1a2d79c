package ledger

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"golang.org/x/sys/unix"

	"shoal.dev/shoal/internal/engine"
)

// defaultGrace is how long a stop waits before it kills; Docker's.
const defaultGrace = 10 * time.Second

// StopSettings are how to stop c: as asked, else as its settings say, else Docker's defaults. A negative grace has no
// end.
func StopSettings(c *Container, o engine.StopOptions) (unix.Signal, time.Duration, error) {
	name, grace := o.Signal, defaultGrace
	if name == "" {
		name = c.Config.StopSignal
	}
	if name == "" {
		name = "SIGTERM"
	}
	if c.Config.StopTimeout != nil {
		grace = time.Duration(*c.Config.StopTimeout) * time.Second
	}
	if o.Timeout != nil {
		grace = *o.Timeout
	}
	s, err := ParseSignal(name)
	return s, grace, err
}

// Ends says whether a user who sends the signal wants the container's end: SIGKILL or its own stop signal.
func Ends(c *Container, s unix.Signal) bool {
	stop, _, err := StopSettings(c, engine.StopOptions{})
	return s == unix.SIGKILL || err == nil && s == stop
}

// ParseSignal reads a signal's name, with or without SIG, or its number.
func ParseSignal(s string) (unix.Signal, error) {
	invalid := Errorf(errdefs.ErrInvalidArgument, "invalid signal: %s", s)
	if n, err := strconv.Atoi(s); err == nil {
		if n <= 0 || n > 64 {
			return 0, invalid
		}
		return unix.Signal(n), nil
	}
	name := strings.TrimPrefix(strings.ToUpper(s), "SIG")
	const realtimeMin, realtimeMax = 34, 64 // glibc's, which Docker's names mean
	if off, ok := strings.CutPrefix(name, "RTMIN"); ok {
		if n, err := strconv.Atoi("0" + strings.TrimPrefix(off, "+")); err == nil && realtimeMin+n <= realtimeMax {
			return unix.Signal(realtimeMin + n), nil
		}
		return 0, invalid
	}
	if n := unix.SignalNum("SIG" + name); n != 0 {
		return n, nil
	}
	return 0, invalid
}

// EndActions are the events of a container that has ended.
func EndActions(c *Container) []Action {
	var list []Action
	if c.State.OOMKilled {
		list = append(list, Action{Name: "oom"})
	}
	return append(list, Action{Name: "die", Attributes: map[string]string{
		"exitCode":     fmt.Sprint(c.State.ExitCode),
		"execDuration": fmt.Sprint(int(c.State.FinishedAt.Sub(c.State.StartedAt).Seconds())),
	}})
}

// Running is the refusal to remove a container that is active.
func Running(c *Container) error {
	if c.State.Status == container.StatePaused {
		return Errorf(errdefs.ErrConflict, "cannot remove container %q: container is paused and must be unpaused first", "/"+c.Name)
	}
	return Errorf(errdefs.ErrConflict,
		"cannot remove container %q: container is %s: stop the container before removing or force remove", "/"+c.Name, c.State.Status)
}
