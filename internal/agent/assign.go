package agent

import (
	"maps"
	"slices"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/dispatch/protocol"
)

// assign gives a frame's tasks to their runners. held are the containers that were there before, by task; it is given
// with a complete frame only, because before one nothing is known to be unwanted. a.mu is held.
func (a *Agent) assign(f *protocol.Frame, held map[string]string) {
	a.takeAttachments(f)
	known := map[string]bool{}
	for _, t := range f.Tasks {
		if t.Attaches() {
			continue
		}
		known[t.ID] = true
		r := a.tasks[t.ID]
		if r == nil {
			a.begin(t, f.Version, held[t.ID])
			continue
		}
		if r.update(t, f.Version) && f.Complete {
			r.resend(t.Status)
		}
	}
	for _, id := range f.Removed {
		if r := a.tasks[id]; r != nil {
			r.discard()
		}
	}
	if !f.Complete {
		return
	}
	for id, r := range a.tasks {
		if !known[id] {
			r.discard()
		}
	}
	for id, c := range held {
		if known[id] || a.tasks[id] != nil {
			continue
		}
		// Its record is gone: all that is known of the task is its container.
		a.log.Info("removing the container of a task that is not assigned any more", "task", id, "container", c)
		t := &cluster.Task{}
		t.ID, t.Status.State, t.DesiredState = id, swarm.TaskStateOrphaned, swarm.TaskStateRemove
		a.begin(t, f.Version, c).discard()
	}
}

// takeAttachments tells what a frame says of the attachments of the node's containers. a.mu is held.
func (a *Agent) takeAttachments(f *protocol.Frame) {
	changed := f.Complete
	if f.Complete {
		a.attached = map[string]cluster.Attachment{}
	}
	for _, t := range f.Tasks {
		if at, ok := t.Attachment(); ok {
			a.attached[t.ID] = at
			changed = true
		}
	}
	for _, id := range f.Removed {
		if _, ok := a.attached[id]; ok {
			delete(a.attached, id)
			changed = true
		}
	}
	if changed {
		a.cfg.OnAttachments(slices.Collect(maps.Values(a.attached)))
	}
}

// begin starts the runner of a task. a.mu is held.
func (a *Agent) begin(t *cluster.Task, version uint64, containerID string) *runner {
	r := newRunner(a, t, version, containerID)
	a.tasks[t.ID] = r
	a.running.Go(func() {
		r.run(a.life)
		a.ended(r)
	})
	return r
}

// ended forgets a runner, and begins anew if its task came back meanwhile: a swarm that was restored from a backup may
// know a task again.
func (a *Agent) ended(r *runner) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.tasks, r.id)
	if again, version := r.again(); again != nil && a.life.Err() == nil {
		a.begin(again, version, "")
	}
}
