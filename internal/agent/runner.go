package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
)

var errStop = errors.New("the task is not wanted any more")

// runner is one task's life on the node, in one goroutine. Fields below status belong to that goroutine.
type runner struct {
	a   *Agent
	id  string
	log *slog.Logger

	mu      sync.Mutex // guards what follows
	task    *cluster.Task
	version uint64                  // of the frame that brought the task
	gone    bool                    // the task's record is gone
	next    *cluster.Task           // the task after it was gone
	stop    context.CancelCauseFunc // ends what brings the task up; nil if nothing does
	changed chan struct{}           // closed at every change of the above
	status  swarm.TaskStatus        // the newest

	container string // ID; "" while there is none
}

func newRunner(a *Agent, t *cluster.Task, version uint64, containerID string) *runner {
	return &runner{
		a: a, id: t.ID, log: a.log.With("task", t.ID, "service", t.ServiceName),
		task: t, version: version, status: t.Status, container: containerID, changed: make(chan struct{}),
	}
}

// update takes a newer record of the task. It is false if the task is being removed.
func (r *runner) update(t *cluster.Task, version uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.gone {
		r.next = t
		r.version = version
		return false
	}
	r.task = t
	r.wakeLocked()
	return true
}

// discard tells that the task's record is gone.
func (r *runner) discard() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.gone, r.next = true, nil
	r.wakeLocked()
}

func (r *runner) wakeLocked() {
	if r.stop != nil && !r.wantedLocked() {
		r.stop(errStop)
	}
	close(r.changed)
	r.changed = make(chan struct{})
}

// wantedLocked says whether the container is to run: a task that nodes may still send connections goes on for a moment.
func (r *runner) wantedLocked() bool { return !r.gone && (r.task.WantsToRun() || r.task.Held()) }

// again is the task that came back after it was gone.
func (r *runner) again() (*cluster.Task, uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.next, r.version
}

// now is the task as it is wanted now, and a channel that is closed when that changes.
func (r *runner) now() (t *cluster.Task, gone bool, changed <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.task, r.gone, r.changed
}

func (r *runner) state() swarm.TaskState {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.status.State
}

// resend reports the status again if the swarm knows another one.
func (r *runner) resend(known swarm.TaskStatus) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.status.State != known.State || !r.status.Timestamp.Equal(known.Timestamp) {
		r.a.out.put(r.id, r.status)
	}
}

// report sets the status. A state never goes back.
func (r *runner) report(state swarm.TaskState, message, errText string, c *swarm.ContainerStatus) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if cluster.Before(state, r.status.State) || r.gone {
		return
	}
	at := r.a.clock.now()
	if !at.After(r.status.Timestamp) {
		at = r.status.Timestamp.Add(time.Nanosecond)
	}
	if c == nil {
		c = r.status.ContainerStatus
	}
	ports := r.status.PortStatus
	if cluster.Terminal(state) {
		ports = swarm.PortStatus{} // the node has them back
	}
	r.status = swarm.TaskStatus{Timestamp: at, State: state, Message: message, Err: errText, ContainerStatus: c, PortStatus: ports}
	r.a.out.put(r.id, r.status)
	r.log.Debug("task state", "state", state, "error", errText)
}

// publishes notes the ports of the node that the next report is to name.
func (r *runner) publishes(in *container.InspectResponse) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status.PortStatus = portStatus(r.task, in)
}

// run lives the task's life until its record is gone and nothing is left of it, or ctx ends: then everything stays.
func (r *runner) run(ctx context.Context) {
	if !cluster.Terminal(r.state()) {
		up, stop := context.WithCancelCause(ctx)
		r.mu.Lock()
		r.stop = stop
		if !r.wantedLocked() {
			stop(errStop)
		}
		r.mu.Unlock()
		err := r.up(ctx, up)
		r.mu.Lock()
		r.stop = nil
		r.mu.Unlock()
		stop(nil)
		if ctx.Err() != nil {
			return
		}
		if err != nil && !errors.Is(err, errStop) {
			r.fail(err)
		}
	}
	if !r.halt(ctx) {
		return
	}
	for {
		_, gone, changed := r.now()
		if gone {
			break
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
	r.a.out.drop(r.id)
	r.remove(ctx)
}

// fail reports why the task ended: rejected if it never began to start, else failed, as in Docker.
func (r *runner) fail(err error) {
	state := swarm.TaskStateRejected
	if !cluster.Before(r.state(), swarm.TaskStateStarting) {
		state = swarm.TaskStateFailed
	}
	var exit *exitError
	var c *swarm.ContainerStatus
	if errors.As(err, &exit) {
		c = &swarm.ContainerStatus{ContainerID: r.container, ExitCode: exit.code}
	}
	var cause *causeError
	message := r.message()
	if errors.As(err, &cause) {
		message += ": " + cause.cause.Error()
	}
	r.log.Info("task ended", "state", state, "error", err)
	r.report(state, message, err.Error(), c)
}

func (r *runner) message() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.status.Message
}

// exitError is a container that ended with an exit code other than 0, or had to.
type exitError struct {
	code int
	why  string
}

func (e *exitError) Error() string {
	if e.code == 0 {
		return "task: " + e.why
	}
	s := fmt.Sprintf("task: non-zero exit (%d)", e.code)
	if e.why != "" {
		s += ": " + e.why
	}
	return s
}

// causeError has Docker's words as its text and keeps what lies behind them.
type causeError struct {
	text  string
	cause error
}

func (e *causeError) Error() string { return e.text }
func (e *causeError) Unwrap() error { return e.cause }
