package agent

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/engine"
)

const (
	listTimeout = 30 * time.Second
	lookTimeout = 30 * time.Second
	// startTimeout bounds a creation or a start that has a slot; a loaded machine needs some seconds.
	startTimeout = 2 * time.Minute
	// pullTimeout bounds the pull of one image.
	pullTimeout = time.Hour
	// killTime is what an engine may need to kill a container after its grace period.
	killTime = time.Minute
	// engineAgain and engineAgainMax are the times between tries of what must succeed in the end.
	engineAgain    = 200 * time.Millisecond
	engineAgainMax = 10 * time.Second
)

// up brings the task to running and waits for its end. It returns nil for a task that is complete, errStop if the task
// is not wanted any more, and else why it failed. ctx is the agent's: a creation or a start that has begun is not cut
// off by a stop.
func (r *runner) up(ctx, up context.Context) error {
	if err := context.Cause(up); err != nil {
		return err
	}
	before := r.state()
	if r.container == "" && !cluster.Before(before, swarm.TaskStateStarting) {
		// It was started in an earlier life and nothing is left of it. It must not be started a second time.
		id := taskName(r.spec())
		if c := r.containerStatus(); c != nil && c.ContainerID != "" {
			id = c.ContainerID
		}
		return errdefs.ErrNotFound.WithMessage("No such container: " + id)
	}
	found := container.StateCreated
	if r.container != "" {
		in, err := r.inspect(ctx)
		if err != nil {
			return err
		}
		found = in.State.Status
		if known := r.containerStatus(); in.State.Running && (before != swarm.TaskStateRunning || known == nil || *known != *running(in)) {
			r.started(in)
		}
	}
	if found == container.StateCreated {
		if err := r.start(ctx, up); err != nil {
			return err
		}
	}
	return r.watch(ctx, up)
}

func (r *runner) spec() *cluster.Task {
	t, _, _ := r.now()
	return t
}

func (r *runner) containerStatus() *swarm.ContainerStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.status.ContainerStatus
}

func running(in *container.InspectResponse) *swarm.ContainerStatus {
	return &swarm.ContainerStatus{ContainerID: in.ID, PID: in.State.Pid}
}

// start makes the container, unless it is there, and starts it when the task is due.
func (r *runner) start(ctx, up context.Context) error {
	t := r.spec()
	r.report(swarm.TaskStateAccepted, "accepted", "", nil)
	r.report(swarm.TaskStatePreparing, "preparing", "", nil)
	if r.container == "" {
		spec, err := r.a.vault.container(t, r.a.cfg.NodeID)
		if err != nil {
			return err
		}
		join(t, &spec, r.a.networks())
		pulled := r.a.pull(up, r.log, t)
		if err := context.Cause(up); err != nil {
			return err
		}
		if err := r.create(ctx, up, spec, pulled); err != nil {
			return err
		}
	}
	r.report(swarm.TaskStateReady, "prepared", "", &swarm.ContainerStatus{ContainerID: r.container})
	if err := r.due(up); err != nil {
		return err
	}
	if err := r.a.slots.acquire(up, true); err != nil {
		return err
	}
	defer r.a.slots.release()
	r.report(swarm.TaskStateStarting, "starting", "", nil)
	if err := r.try(ctx, up, func(ctx context.Context) error { return r.a.cfg.Engine.Start(ctx, r.container) }); err != nil {
		return err
	}
	in, err := r.inspect(ctx)
	if err != nil {
		return err
	}
	r.started(in)
	return nil
}

// started reports that the container runs. Its task does only once it is healthy, if it has a health check.
func (r *runner) started(in *container.InspectResponse) {
	r.publishes(in)
	if h := in.State.Health; h != nil && h.Status != container.Healthy && cluster.Before(r.state(), swarm.TaskStateRunning) {
		r.report(swarm.TaskStateStarting, "starting", "", running(in))
		return
	}
	r.report(swarm.TaskStateRunning, "started", r.obstacle(), running(in))
}

// pull fetches an image, once for all tasks that need it at the time. An image that its digest names and that is here
// needs no registry. Its error matters only if the image is not here then, as in Docker.
func (a *Agent) pull(up context.Context, log interface{ Warn(string, ...any) }, t *cluster.Task) error {
	ref := t.Spec.ContainerSpec.Image
	if strings.Contains(ref, "@sha256:") {
		look, cancel := context.WithTimeout(up, lookTimeout)
		_, err := a.cfg.Engine.InspectImage(look, ref, nil)
		cancel()
		if err == nil {
			return nil
		}
	}
	// Who may pull what somebody else may is not known here: tasks share a pull if they have the same credentials.
	auth, mark := a.vault.credentials(t)
	done := a.pulls.DoChan(ref+" "+mark, func() (any, error) {
		ctx, cancel := context.WithTimeout(a.life, pullTimeout)
		defer cancel()
		return nil, a.cfg.Engine.Pull(ctx, ref, engine.PullOptions{Auth: auth}, nil)
	})
	select {
	case res := <-done:
		if res.Err != nil {
			log.Warn("cannot pull the image", "image", ref, "error", res.Err)
		}
		return res.Err
	case <-up.Done():
		return context.Cause(up)
	}
}

func (r *runner) create(ctx, up context.Context, spec engine.Spec, pulled error) error {
	if err := r.a.slots.acquire(up, false); err != nil {
		return err
	}
	defer r.a.slots.release()
	err := r.try(ctx, up, func(ctx context.Context) error {
		id, warnings, err := r.a.cfg.Engine.Create(ctx, spec)
		for _, w := range warnings {
			r.log.Warn("container created with a warning", "warning", w)
		}
		r.container = id
		return err
	})
	switch {
	case err == nil:
		return nil
	case errdefs.IsConflict(err) || errdefs.IsAlreadyExists(err):
		// An earlier try of ours succeeded without our knowing.
		if in, look := r.look(ctx, spec.Name); look == nil && in.Config.Labels[labelTaskID] == r.id {
			r.container = in.ID
			return nil
		}
	case errdefs.IsNotFound(err):
		text := "No such image: " + spec.Config.Image
		if pulled == nil {
			pulled = err
		}
		return &causeError{text, pulled}
	}
	return err
}

// try repeats an operation of the engine while the engine is not available. Every try has its own deadline, and none
// begins once the task is not wanted.
func (r *runner) try(ctx, up context.Context, op func(context.Context) error) error {
	again := engineAgain
	for {
		if err := context.Cause(up); err != nil {
			return err
		}
		one, cancel := context.WithTimeout(ctx, startTimeout)
		err := op(one)
		cancel()
		if err == nil || !errdefs.IsUnavailable(err) {
			return err
		}
		r.log.Warn("the container engine is not available", "error", err, "again", again)
		if err := pause(up, again); err != nil {
			return err
		}
		again = min(2*again, engineAgainMax)
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// due waits until the task is to run: it is wanted running, its time has come and the network is there.
func (r *runner) due(up context.Context) error {
	for {
		t, _, changed := r.now()
		var timer <-chan time.Time
		left := t.StartAt.Sub(r.a.clock.now())
		switch {
		case cluster.Before(t.DesiredState, swarm.TaskStateRunning):
		case left > 0:
			timer = time.After(left)
		default:
			return r.network(up, meshAddr(t).IsValid())
		}
		select {
		case <-changed:
		case <-timer:
		case <-up.Done():
			return context.Cause(up)
		}
	}
}

// network waits until the kernel holds what came with the task. A task that is on no network does not wait for one
// that fails.
func (r *runner) network(up context.Context, member bool) error {
	for reported := ""; ; {
		st, changed := r.a.net.get()
		if st.applied >= r.version || st.err != nil && !member {
			return nil
		}
		if st.err != nil && st.err.Error() != reported {
			reported = st.err.Error()
			r.report(swarm.TaskStateReady, "prepared", "the network of the node is not ready: "+reported, nil)
		}
		select {
		case <-changed:
		case <-up.Done():
			return context.Cause(up)
		}
	}
}

// watch waits for the container's end, which it brings about itself if the container is unhealthy.
func (r *runner) watch(ctx, up context.Context) error {
	health, unwatch := r.watchHealth(up)
	defer unwatch()
	again := engineAgain
	for {
		ch, err := r.a.cfg.Engine.Wait(up, r.container, container.WaitConditionNotRunning)
		if err == nil {
			select {
			case res := <-ch:
				if err = res.Err; err == nil {
					return r.exited(ctx, res.ExitCode, health.bad.Load())
				}
			case <-up.Done():
			}
		}
		if cause := context.Cause(up); cause != nil {
			return cause
		}
		if errdefs.IsNotFound(err) {
			return errdefs.ErrNotFound.WithMessage("No such container: " + r.container)
		}
		r.log.Warn("cannot wait for the container", "container", r.container, "error", err, "again", again)
		if err := pause(up, again); err != nil {
			return err
		}
		again = min(2*again, engineAgainMax)
	}
}

// exited reports how the container ended.
func (r *runner) exited(ctx context.Context, code int, unhealthy bool) error {
	if unhealthy {
		return &exitError{code: code, why: unhealthyContainer}
	}
	if code == 0 {
		r.report(swarm.TaskStateComplete, "finished", "", &swarm.ContainerStatus{ContainerID: r.container})
		return nil
	}
	e := &exitError{code: code}
	if in, err := r.inspect(ctx); err == nil {
		switch {
		case in.State.OOMKilled:
			e.why = "OOM killed"
		case in.State.Error != "":
			e.why = in.State.Error
		}
	}
	return e
}

func (r *runner) inspect(ctx context.Context) (*container.InspectResponse, error) {
	return r.look(ctx, r.container)
}

func (r *runner) look(ctx context.Context, name string) (*container.InspectResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	in, err := r.a.cfg.Engine.Inspect(ctx, name)
	if err == nil && (in.State == nil || in.Config == nil) {
		return nil, errors.New("the engine describes container " + name + " without a state")
	}
	return in, err
}

// halt stops the container of a task that ended or is not wanted. It is false if ctx ended before.
func (r *runner) halt(ctx context.Context) bool {
	ended := cluster.Terminal(r.state())
	var c *swarm.ContainerStatus
	if r.container == "" && !ended {
		// A creation that was cut off may have left one.
		if in, err := r.look(ctx, taskName(r.spec())); err == nil && in.Config.Labels[labelTaskID] == r.id {
			r.container = in.ID
		}
	}
	if r.container != "" {
		if !r.quit(ctx) {
			return false
		}
		if in, err := r.inspect(ctx); err == nil {
			c = &swarm.ContainerStatus{ContainerID: r.container, ExitCode: in.State.ExitCode}
		}
	}
	if !ended {
		r.report(swarm.TaskStateShutdown, "shutdown", "", c)
	}
	return ctx.Err() == nil
}

// quit stops the container, with the task's grace period. It is false if ctx ended before.
func (r *runner) quit(ctx context.Context) bool {
	o := engine.StopOptions{}
	g := defaultGrace
	if t := r.spec(); t.Spec.ContainerSpec != nil {
		g = grace(t)
		o.Timeout = &g
	}
	return r.must(ctx, "stop", func() error {
		ctx, cancel := context.WithTimeout(ctx, g+killTime)
		defer cancel()
		return r.a.cfg.Engine.Stop(ctx, r.container, o)
	})
}

// remove deletes the container.
func (r *runner) remove(ctx context.Context) {
	if r.container == "" {
		return
	}
	r.must(ctx, "remove", func() error {
		if err := r.a.slots.acquire(ctx, false); err != nil {
			return err
		}
		defer r.a.slots.release()
		ctx, cancel := context.WithTimeout(ctx, startTimeout)
		defer cancel()
		return r.a.cfg.Engine.Purge(ctx, r.container, true)
	})
}

// must repeats what has to succeed in the end, until it does or the container is gone. It is false if ctx ended.
func (r *runner) must(ctx context.Context, what string, op func() error) bool {
	for again := engineAgain; ; again = min(2*again, engineAgainMax) {
		err := op()
		if err == nil || errdefs.IsNotFound(err) {
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		r.log.Error("cannot "+what+" the container", "container", r.container, "error", err, "again", again)
		if pause(ctx, again) != nil {
			return false
		}
	}
}
