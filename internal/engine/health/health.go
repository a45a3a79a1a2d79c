// Package health decides when containers are probed and how they are: the schedule and the state machine of Docker's
// health checks, the same for every engine.
//
// It owns one goroutine for each container that is watched, and a second one while a probe runs. It runs no command
// and keeps no record: an engine gives it a [Probe] and takes what came out of it.
package health

import (
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
)

// Docker's defaults.
const (
	defaultInterval      = 30 * time.Second
	defaultTimeout       = 30 * time.Second
	defaultStartInterval = 5 * time.Second
	defaultRetries       = 3
)

// shortest is the least value of a duration; Docker's.
const shortest = time.Millisecond

// maxLog is how many results are kept; Docker's.
const maxLog = 5

// Check is a health check with Docker's defaults filled in.
type Check struct {
	Command       []string
	Interval      time.Duration // between probes, from the end of one to the start of the next
	Timeout       time.Duration // of one probe, from when its command runs
	StartPeriod   time.Duration // from the container's start, in which failures do not count
	StartInterval time.Duration // between probes in it
	Retries       int           // failures in a row that make a container unhealthy
}

// Of is the health check of a container, nil if it has none.
func Of(c *container.Config) *Check {
	h := c.Healthcheck
	if h == nil || len(h.Test) < 2 {
		return nil
	}
	k := &Check{Interval: h.Interval, Timeout: h.Timeout, StartPeriod: h.StartPeriod, StartInterval: h.StartInterval, Retries: h.Retries}
	switch h.Test[0] {
	case "CMD":
		k.Command = h.Test[1:]
	case "CMD-SHELL":
		shell := c.Shell
		if len(shell) == 0 {
			shell = []string{"/bin/sh", "-c"}
		}
		k.Command = slices.Concat(shell, h.Test[1:])
	default: // NONE, and what nobody knows
		return nil
	}
	def(&k.Interval, defaultInterval)
	def(&k.Timeout, defaultTimeout)
	def(&k.StartInterval, defaultStartInterval)
	def(&k.Retries, defaultRetries)
	return k
}

func def[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Validate refuses what Docker refuses, and a kind of test without a command. The error is InvalidArgument.
func Validate(h *container.HealthConfig) error {
	if h == nil {
		return nil
	}
	bad := func(format string, args ...any) error {
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...))
	}
	for _, d := range []struct {
		name  string
		value time.Duration
	}{{"Interval", h.Interval}, {"Timeout", h.Timeout}, {"StartPeriod", h.StartPeriod}, {"StartInterval", h.StartInterval}} {
		if d.value != 0 && d.value < shortest {
			return bad("%s in Healthcheck cannot be less than %s", d.name, shortest)
		}
	}
	if h.Retries < 0 {
		return bad("Retries in Healthcheck cannot be negative")
	}
	if len(h.Test) == 1 && (h.Test[0] == "CMD" || h.Test[0] == "CMD-SHELL") {
		return bad("Test in Healthcheck has no command after %s", h.Test[0])
	}
	return nil
}

// Merged fills what a container's settings leave open from its image's, field by field as Docker does. Neither is
// changed.
func Merged(own, image *container.HealthConfig) *container.HealthConfig {
	if own == nil || image == nil {
		if own == nil {
			return image
		}
		return own
	}
	m := *own
	if len(m.Test) == 0 {
		m.Test = image.Test
	}
	def(&m.Interval, image.Interval)
	def(&m.Timeout, image.Timeout)
	def(&m.StartPeriod, image.StartPeriod)
	def(&m.StartInterval, image.StartInterval)
	def(&m.Retries, image.Retries)
	return &m
}

// Begin is the health of a container that starts: what was found out in earlier runs stays in the log only, as in
// Docker. last is its health before, nil for none.
func (k *Check) Begin(last *container.Health) *container.Health {
	h := &container.Health{Status: container.Starting}
	if last != nil {
		h.Log = last.Log
	}
	return h
}

// Delay is the time to the next probe of a container that started so long ago. In the start period it is short, and no
// longer than what is left of it, so that failures count from its end on.
func (k *Check) Delay(s container.HealthStatus, sinceStart time.Duration) time.Duration {
	left := k.StartPeriod - max(sinceStart, 0)
	switch {
	case left <= 0:
		return k.Interval
	case s == container.Starting:
		return min(k.StartInterval, left)
	default:
		return min(k.Interval, left)
	}
}

// Judge is the health of a container after a probe. h is not changed.
func (k *Check) Judge(h *container.Health, r *container.HealthcheckResult, started time.Time) *container.Health {
	n := &container.Health{Status: h.Status, FailingStreak: h.FailingStreak}
	n.Log = append(slices.Clone(h.Log[max(0, len(h.Log)+1-maxLog):]), r)
	switch {
	case r.ExitCode == 0:
		n.Status, n.FailingStreak = container.Healthy, 0
	case h.Status == container.Starting && r.Start.Sub(started) < k.StartPeriod:
	default:
		if n.FailingStreak++; n.FailingStreak >= k.Retries {
			n.Status = container.Unhealthy
		}
	}
	return n
}
