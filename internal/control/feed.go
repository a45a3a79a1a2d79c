package control

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/store"
)

// LogsOf names whose logs are asked for: a service's or one task's, by ID, name or an unambiguous prefix of the ID.
// Exactly one of them is set.
type LogsOf struct{ Service, Task string }

// TaskLine is a line that a task's container wrote.
type TaskLine struct {
	engine.LogLine
	NodeID, ServiceID, TaskID string
}

// Feed is the tasks of a service, or one task, as they come and go. Close it after use. It is not safe for concurrent
// use.
type Feed struct {
	// TTY says that their containers have terminals.
	TTY bool

	m       *Manager
	service string // ID; "" for one task
	task    string
	watch   *store.Watcher
	snap    *store.Snapshot
	begun   bool
}

// Feed opens the feed of what is named.
func (c *Control) Feed(ctx context.Context, of LogsOf) (*Feed, error) {
	m, _, err := c.read(ctx)
	if err != nil {
		return nil, err
	}
	f := &Feed{m: m}
	f.watch, f.snap = m.Store.Watch()
	var spec *swarm.ContainerSpec
	if of.Task != "" {
		var t *cluster.Task
		if t, err = find(f.snap, "task", of.Task, taskName); err == nil {
			f.task, spec = t.ID, t.Spec.ContainerSpec
		}
	} else {
		var s *cluster.Service
		if s, err = find(f.snap, "service", of.Service, serviceName); err == nil {
			f.service, spec = s.ID, s.Spec.TaskTemplate.ContainerSpec
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	f.TTY = spec != nil && spec.TTY
	return f, nil
}

// Close ends the feed.
func (f *Feed) Close() { f.watch.Close() }

// Next returns the tasks as they are, in the order of their slots: at once the first time, then whenever one of them
// has changed. last says that no other will come: the service, or the task, is gone or has ended.
func (f *Feed) Next(ctx context.Context) (tasks []*cluster.Task, last bool, err error) {
	for changed := !f.begun; !changed; {
		events, _, err := f.watch.Next(ctx)
		if err != nil {
			return nil, false, err
		}
		if changed = slices.ContainsFunc(events, f.concerns); changed {
			f.snap = f.m.Store.Snapshot()
		}
	}
	f.begun = true
	if f.service == "" {
		t, ok := store.Get[*cluster.Task](f.snap, f.task)
		if !ok {
			return nil, true, nil
		}
		return []*cluster.Task{t}, t.Ended(), nil
	}
	for t := range f.snap.TasksByService(f.service) {
		tasks = append(tasks, t)
	}
	slices.SortStableFunc(tasks, func(a, b *cluster.Task) int {
		if a.Slot != b.Slot {
			return a.Slot - b.Slot
		}
		return strings.Compare(a.ID, b.ID)
	})
	_, there := store.Get[*cluster.Service](f.snap, f.service)
	return tasks, !there, nil
}

func (f *Feed) concerns(e store.Event) bool {
	if e.Reset {
		return true
	}
	switch e.Kind {
	case cluster.KindService:
		return e.ID == f.service
	case cluster.KindTask:
		for _, o := range []cluster.Object{e.Old, e.New} {
			if t, ok := o.(*cluster.Task); ok && t != nil && (t.ServiceID == f.service || t.ID == f.task) {
				return true
			}
		}
	}
	return false
}

// Node names a node for an error, and says whether the swarm takes it for down, and whether it is a member at all.
func (f *Feed) Node(id string) (name string, down, member bool) {
	n, ok := store.Get[*cluster.Node](f.m.Store.Snapshot(), id)
	if !ok {
		return id, true, false
	}
	if n.Description.Hostname == "" {
		return id, n.Status.State == swarm.NodeStateDown, true
	}
	return fmt.Sprintf("%s (%s)", n.Description.Hostname, id), n.Status.State == swarm.NodeStateDown, true
}
