package containerd

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/moby/moby/api/types/container"
	"golang.org/x/sys/unix"

	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/engine/health"
	"shoal.dev/shoal/internal/engine/ledger"
)

// settleTime is how long the end of the daemon waits for the probes that it kills.
const settleTime = 5 * time.Second

// probes are the health checks of an engine's containers.
type probes struct {
	health.Watches
	old []string // marks of those that another daemon began
}

// probesDir holds a file CONTAINER.EXEC for each probe that runs, so that another daemon finds what a killed one left.
func (c *Config) probesDir() string { return filepath.Join(c.State, "p") }

// WaitHealth implements engine.Healths.
func (e *Engine) WaitHealth(ctx context.Context, name string, known container.HealthStatus) (container.HealthStatus, error) {
	return e.ledger.WaitHealth(ctx, name, known)
}

// watchHealth begins to probe c if it has a health check and runs, and ends that if not. The caller holds its lock, or
// nobody else knows of it yet.
func (e *Engine) watchHealth(c *ledger.Container) {
	k := health.Of(c.Config)
	if k == nil {
		return
	}
	if c.State.Status != container.StateRunning {
		e.probes.Stop(c.ID)
		return
	}
	h := c.State.Health
	if h == nil { // it was started before there were health checks
		h = k.Begin(nil)
	}
	e.probes.Start(e.life, c.ID, health.Watch{
		Check: k, Started: c.State.StartedAt, Health: h,
		Probe: func(ctx context.Context, out io.Writer, running func()) (int, error) {
			return e.probe(ctx, c.ID, k, out, running)
		},
		Publish: func(ctx context.Context, h *container.Health) { e.publishHealth(ctx, c.ID, h) },
	})
}

// publishHealth takes down what a probe found. Only changes of the status become durable at once: the log alone is not
// worth a write each time.
func (e *Engine) publishHealth(ctx context.Context, id string, h *container.Health) {
	c, unlock, err := e.ledger.Lock(ctx, id)
	if err != nil {
		return
	}
	defer unlock()
	if ctx.Err() != nil { // it was paused or has ended, which is done with the lock held
		return
	}
	n, actions := ledger.Probed(c, h)
	if len(actions) > 0 {
		if err := e.save(e.scope(ctx), n, nil); err != nil && ctx.Err() == nil {
			e.cfg.Log.Warn("cannot record the health of a container", "container", id, "error", err)
		}
	}
	e.ledger.Put(n, actions...)
}

// probe runs a health check's command in a container; see health.Probe.
func (e *Engine) probe(ctx context.Context, id string, k *health.Check, out io.Writer, running func()) (int, error) {
	ex, err := e.execs.Add(e.ledger, id, container.ExecCreateRequest{Cmd: k.Command, AttachStdout: true, AttachStderr: true})
	if err != nil {
		return 0, err
	}
	defer e.execs.Forget(ex.ID)
	if _, err := e.execs.Begin(e.ledger, ex.ID); err != nil {
		return 0, err
	}
	ex.Begun(e.ledger)
	mark := filepath.Join(e.cfg.probesDir(), id+"."+ex.ID)
	if err := os.WriteFile(mark, nil, 0o600); err != nil {
		return 0, err
	}
	defer func() {
		if ex.Ended() {
			_ = os.Remove(mark)
		}
	}()
	// A start that has begun is not cut off, or nobody would know what became of it.
	life := e.scope(e.life)
	p, err := e.launch(life, ex, engine.ExecStart{}, engine.Streams{Stdout: out, Stderr: out})
	if err != nil {
		err = execError(err)
		ex.Failed(execExitCode(err))
		return 0, err
	}
	running()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		e.watchExec(life, ex, p)
	}()
	select {
	case <-ended:
	case <-ctx.Done():
		p.mute()
		e.endProbe(id, ex.ID, ex.Inspect().Pid)
		<-ended
	}
	if code := ex.Inspect().ExitCode; code != nil {
		return *code, nil
	}
	return 0, fmt.Errorf("health check of container %s: nobody knows how it ended", id[:12])
}

// endProbe kills what a probe started. Its first process leads a session, which those that it made are in unless they
// left it on purpose.
func (e *Engine) endProbe(id, exec string, pid int) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(e.scope(e.life)), cleanTimeout)
	defer cancel()
	const rounds = 3 // while it forks
	for range rounds {
		r, err := e.tasks.ListPids(ctx, &tasks.ListPidsRequest{ContainerID: id})
		if err != nil {
			break
		}
		found := false
		for _, p := range r.Processes {
			if sid, err := unix.Getsid(int(p.Pid)); err == nil && sid == pid {
				found = unix.Kill(int(p.Pid), unix.SIGKILL) == nil || found
			}
		}
		if !found {
			break
		}
	}
	// Once more for a container whose processes cannot be listed; a process that has ended is no error.
	_, _ = e.tasks.Kill(ctx, &tasks.KillRequest{ContainerID: id, ExecID: exec, Signal: uint32(unix.SIGKILL)})
}

// resumeHealth goes on with the health checks of containers that ran when the daemon started.
func (e *Engine) resumeHealth() error {
	list, err := os.ReadDir(e.cfg.probesDir())
	if err != nil {
		return err
	}
	for _, d := range list {
		e.probes.old = append(e.probes.old, d.Name())
	}
	for _, c := range e.ledger.All() {
		e.watchHealth(c)
	}
	return nil
}

// endOldProbes kills the probes that another daemon began: nobody hears them any more, and their time-out is gone.
func (e *Engine) endOldProbes(ctx context.Context) {
	for _, name := range e.probes.old {
		id, exec, ok := strings.Cut(name, ".")
		if !ok || ctx.Err() != nil {
			continue
		}
		if r := e.findProbe(ctx, id, exec); r != nil && r.Process.GetPid() != 0 {
			e.endProbe(id, exec, int(r.Process.Pid))
			dctx, cancel := context.WithTimeout(ctx, cleanTimeout)
			_, _ = e.tasks.Wait(dctx, &tasks.WaitRequest{ContainerID: id, ExecID: exec})
			_, _ = e.tasks.DeleteProcess(dctx, &tasks.DeleteProcessRequest{ContainerID: id, ExecID: exec})
			cancel()
		}
		_ = os.Remove(filepath.Join(e.cfg.probesDir(), name))
	}
}

// oldProbeTries and oldProbeAgain bound how long a probe of another daemon is looked for: its shim may be busy.
const (
	oldProbeTries = 20
	oldProbeAgain = 100 * time.Millisecond
)

// findProbe returns what the shim says of a probe, or nil if it knows none.
func (e *Engine) findProbe(ctx context.Context, id, exec string) *tasks.GetResponse {
	for range oldProbeTries {
		r, err := e.tasks.Get(ctx, &tasks.GetRequest{ContainerID: id, ExecID: exec})
		if err == nil {
			return r
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(oldProbeAgain):
		}
	}
	return nil
}
