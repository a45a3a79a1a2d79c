package health

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/moby/moby/api/types/container"
)

const (
	// startTime is how long a probe's command may take to run; it does not count for the check's timeout. Docker's.
	startTime = 30 * time.Second
	// killTime is how long a probe may take to end when it was told to. One that takes longer is left alone, and none
	// is begun beside it.
	killTime = 5 * time.Second
	// maxOutput is how much of a probe's output is kept, in bytes; Docker's.
	maxOutput = 4096
	// failed is the exit code of a probe that has none; Docker's.
	failed = -1
)

// Probe runs a check's command once and returns its exit code. It calls running when the command runs. When ctx ends
// it kills the command; it returns when nothing of it is left.
type Probe func(ctx context.Context, out io.Writer, running func()) (exitCode int, err error)

// Watch is what is needed to watch a container.
type Watch struct {
	Check   *Check
	Started time.Time         // the container's start
	Health  *container.Health // as it is now
	Probe   Probe
	// Publish is told the health after each probe, unless ctx has ended.
	Publish func(ctx context.Context, h *container.Health)
	left    <-chan outcome // of a probe that would not end
}

type outcome struct {
	code int
	err  error
}

// run probes until ctx ends, and then returns when its probe has ended or would not.
func (w *Watch) run(ctx context.Context) {
	t := time.NewTimer(w.Check.Delay(w.Health.Status, time.Since(w.Started)))
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
		r := w.once(ctx)
		if ctx.Err() != nil {
			return
		}
		w.Health = w.Check.Judge(w.Health, r, w.Started)
		w.Publish(ctx, w.Health)
		t.Reset(w.Check.Delay(w.Health.Status, time.Since(w.Started)))
	}
}

// once runs a probe to its end, at the latest the check's.
func (w *Watch) once(ctx context.Context) *container.HealthcheckResult {
	r := &container.HealthcheckResult{Start: time.Now(), ExitCode: failed}
	defer func() { r.End = time.Now() }()
	if w.left != nil {
		select {
		case <-w.left:
			w.left = nil
		default:
			r.Output = "the health check before has not ended yet although it was killed"
			return r
		}
	}
	pctx, cancel := context.WithCancel(ctx)
	defer cancel()
	out, done, begun := &output{}, make(chan outcome, 1), make(chan struct{})
	go func() {
		code, err := w.Probe(pctx, out, sync.OnceFunc(func() { close(begun) }))
		done <- outcome{code, err}
	}()
	limit := time.NewTimer(startTime)
	defer limit.Stop()
	var running <-chan struct{} = begun
	for {
		select {
		case <-running:
			running = nil
			limit.Reset(w.Check.Timeout)
		case o := <-done:
			if o.err != nil {
				r.Output = o.err.Error()
			} else {
				r.ExitCode, r.Output = o.code, out.String()
			}
			return r
		case <-limit.C:
			cancel()
			w.await(done)
			if running != nil {
				r.Output = fmt.Sprintf("the health check did not start within %s", startTime)
				return r
			}
			r.Output = fmt.Sprintf("Health check exceeded timeout (%v)", w.Check.Timeout)
			if s := out.String(); s != "" {
				r.Output += ": " + s
			}
			return r
		case <-ctx.Done():
			w.await(done)
			return r
		}
	}
}

// await gives a probe that was told to end the time to do so.
func (w *Watch) await(done <-chan outcome) {
	t := time.NewTimer(killTime)
	defer t.Stop()
	select {
	case <-done:
	case <-t.C:
		w.left = done
	}
}

// output keeps the beginning of what is written to it.
type output struct {
	mu  sync.Mutex
	b   strings.Builder
	cut bool
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	room := maxOutput - o.b.Len()
	if len(p) > room {
		o.cut = true
		o.b.Write(p[:room])
		return len(p), nil
	}
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.cut {
		return o.b.String() + "..."
	}
	return o.b.String()
}

// Watches are the containers of an engine that are watched. The zero value watches none. It is safe for concurrent use.
type Watches struct {
	mu      sync.Mutex
	stop    map[string]context.CancelFunc // by container ID
	running sync.WaitGroup
}

// Start watches a container until Stop or the end of ctx. A watch that it had before is stopped.
func (w *Watches) Start(ctx context.Context, id string, c Watch) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if stop := w.stop[id]; stop != nil {
		stop()
	}
	if ctx.Err() != nil {
		return
	}
	ctx, stop := context.WithCancel(ctx)
	if w.stop == nil {
		w.stop = map[string]context.CancelFunc{}
	}
	w.stop[id] = stop
	w.running.Go(func() { c.run(ctx) })
}

// Stop ends the watch of a container. Nothing is published once the watch sees its context's end, and a probe that
// runs is killed; Stop does not wait for that.
func (w *Watches) Stop(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if stop := w.stop[id]; stop != nil {
		stop()
		delete(w.stop, id)
	}
}

// StopAll ends all watches.
func (w *Watches) StopAll() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for id, stop := range w.stop {
		stop()
		delete(w.stop, id)
	}
}

// Settle waits until all watches that were stopped, or whose context has ended, are over, but no longer than limit.
func (w *Watches) Settle(limit time.Duration) {
	over := make(chan struct{})
	go func() { w.running.Wait(); close(over) }()
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-over:
	case <-t.C:
	}
}
