package ledger

import (
	"context"

	"github.com/moby/moby/api/types/container"
)

// Health is the container's health: "none" if it has no health check or never ran.
func (c *Container) Health() container.HealthStatus {
	if c.State.Health == nil {
		return container.NoHealthcheck
	}
	return c.State.Health.Status
}

// Probed is c with the health that a probe found, and the events to report.
func Probed(c *Container, h *container.Health) (*Container, []Action) {
	n := *c
	n.State.Health = h
	if c.Health() == h.Status {
		return &n, nil
	}
	return &n, []Action{{Name: "health_status: " + string(h.Status)}}
}

// WaitHealth implements engine.Healths.
func (l *Ledger) WaitHealth(ctx context.Context, name string, known container.HealthStatus) (container.HealthStatus, error) {
	for {
		l.mu.Lock()
		e, err := l.find(name)
		if err != nil {
			l.mu.Unlock()
			return "", err
		}
		now := e.c.Health()
		name = e.c.ID // it may get another name
		if e.probed == nil {
			e.probed = make(chan struct{})
		}
		probed := e.probed
		l.mu.Unlock()
		if now != known {
			return now, nil
		}
		select {
		case <-probed:
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
	}
}

// tellHealth wakes those who wait for another health. The ledger's lock is held.
func (e *entry) tellHealth() {
	if e.probed != nil {
		close(e.probed)
		e.probed = nil
	}
}

// healthShown is c's as `inspect` shows it, nil for none.
func healthShown(c *Container) *container.Health {
	h := c.State.Health
	if h == nil {
		return nil
	}
	return &container.Health{Status: h.Status, FailingStreak: h.FailingStreak, Log: append([]*container.HealthcheckResult{}, h.Log...)}
}

// healthSummary is c's as `ps` shows it.
func healthSummary(c *Container) *container.HealthSummary {
	s := &container.HealthSummary{Status: c.Health()}
	if h := c.State.Health; h != nil {
		s.FailingStreak = h.FailingStreak
	}
	return s
}

// Forget takes out a command that has ended, or never began, before its time.
func (x *Execs) Forget(id string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.byID, id)
}
