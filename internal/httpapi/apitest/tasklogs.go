package apitest

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/containerd/errdefs"

	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/httpapi"
)

// BrokenLogs is the name of a service whose logs are not whole.
const BrokenLogs = "broken"

// TaskLogs gives two lines for each task. Tail counts lines; Follow adds one more.
func (f *Swarm) TaskLogs(ctx context.Context, of httpapi.LogsOf, o engine.LogOptions, open func(tty bool), each func(httpapi.TaskLine) error) error {
	if err := f.manager(); err != nil {
		return err
	}
	f.mu.Lock()
	var found bool
	var lines []httpapi.TaskLine
	var tty, broken bool
	for _, name := range slices.Sorted(maps.Keys(f.ByName)) {
		s := f.ByName[name]
		t := taskOf(s)
		if s.ID != of.Service && name != of.Service && t.ID != of.Task {
			continue
		}
		found, broken = true, name == BrokenLogs
		tty = s.Spec.TaskTemplate.ContainerSpec.TTY
		add := func(stream, text string) {
			lines = append(lines, httpapi.TaskLine{
				LogLine: engine.LogLine{Stream: stream, Time: time.Unix(1700000000, int64(len(lines))).UTC(), Line: []byte(text + "\n")},
				NodeID:  t.NodeID, ServiceID: s.ID, TaskID: t.ID,
			})
		}
		add("stdout", "hello from "+name)
		add("stderr", "a complaint")
		if o.Follow {
			add("stdout", "and more")
		}
	}
	f.mu.Unlock()
	if !found {
		if of.Task != "" {
			return errdefs.ErrNotFound.WithMessage("task " + of.Task + " not found")
		}
		return errdefs.ErrNotFound.WithMessage("service " + of.Service + " not found")
	}
	open(tty)
	if o.Tail >= 0 && o.Tail < len(lines) {
		lines = lines[len(lines)-o.Tail:]
	}
	for _, l := range lines {
		if l.Stream == "stdout" && !o.Stdout || l.Stream == "stderr" && !o.Stderr || l.Time.Before(o.Since) {
			continue
		}
		if err := each(l); err != nil {
			return err
		}
	}
	if broken {
		return errors.New("warning: incomplete log stream. some logs could not be retrieved for the following reasons: node n2 is not available")
	}
	return nil
}
