package fake

import (
	"context"
	"io"
	"strconv"

	"github.com/moby/moby/api/types/container"

	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/engine/health"
	"shoal.dev/shoal/internal/engine/ledger"
)

// WaitHealth implements engine.Healths.
func (e *Engine) WaitHealth(ctx context.Context, name string, known container.HealthStatus) (container.HealthStatus, error) {
	return e.ledger.WaitHealth(ctx, name, known)
}

// watchHealth begins to probe c if it has a health check and runs, and ends that if not. The caller holds its lock.
func (e *Engine) watchHealth(c *ledger.Container) {
	k := health.Of(c.Config)
	if k == nil {
		return
	}
	if c.State.Status != container.StateRunning {
		e.watches.Stop(c.ID)
		return
	}
	e.watches.Start(context.Background(), c.ID, health.Watch{
		Check: k, Started: c.State.StartedAt, Health: c.State.Health,
		Probe: func(ctx context.Context, out io.Writer, running func()) (int, error) {
			return e.probe(ctx, c, out, running)
		},
		Publish: func(ctx context.Context, h *container.Health) {
			c, unlock, err := e.ledger.Lock(ctx, c.ID)
			if err != nil {
				return
			}
			defer unlock()
			e.mu.Lock() // what ends a container does not take its lock
			defer e.mu.Unlock()
			if c, err = e.ledger.Find(c.ID); err == nil && ctx.Err() == nil {
				n, actions := ledger.Probed(c, h)
				e.ledger.Put(n, actions...)
			}
		},
	})
}

// probe runs a health check: steps like those of a container, without a shell.
func (e *Engine) probe(ctx context.Context, c *ledger.Container, out io.Writer, running func()) (int, error) {
	ex, err := e.execs.Add(e.ledger, c.ID, container.ExecCreateRequest{Cmd: c.Config.Healthcheck.Test[1:], AttachStdout: true, AttachStderr: true})
	if err != nil {
		return 0, err
	}
	defer e.execs.Forget(ex.ID)
	if _, err := e.execs.Begin(e.ledger, ex.ID); err != nil {
		return 0, err
	}
	ex.Begun(e.ledger)
	ex.Started(1000)
	running()
	code, err := e.runExec(ctx, ex, engine.Streams{Stdout: out, Stderr: out})
	ex.End(e.ledger, code, map[string]string{"exitCode": strconv.Itoa(code)})
	return code, err
}
