package control

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/store"
)

// minPrefix is how many characters of an ID name a task or a container on another node: as many as clients print. A
// shorter one that is meant for a container of this node must not hit another's.
const minPrefix = 12

// Place is where a task's container is.
type Place struct {
	NodeID, TaskID, ContainerID string
}

// LocateNode returns the node with the ID, the name or the unambiguous prefix of an ID, and its name. Without a leader
// the answer is what this manager knows.
func (c *Control) LocateNode(ctx context.Context, ref string) (id, name string, err error) {
	_, snap, err := c.read(AllowStale(ctx, new(atomic.Bool)))
	if err != nil {
		return "", "", err
	}
	n, err := find(snap, "node", ref, nodeName)
	if err != nil {
		return "", "", err
	}
	return n.ID, NameOfNode(snap, n.ID), nil
}

// NameOfNode is what users call a node: its host's name, or its ID if that is not known.
func NameOfNode(snap *store.Snapshot, id string) string {
	if n, ok := store.Get[*cluster.Node](snap, id); ok && nodeName(n) != "" {
		return nodeName(n)
	}
	return id
}

// LocateTask returns where the container is that ref names: SERVICE.SLOT (the task of the slot that runs, or the latest
// that has a container), SERVICE.SLOT.TASK as containers of tasks are called, or the ID of the container or, if
// byTask, of the task, or at least 12 characters of its beginning. NotFound is for what names no task, Conflict for a
// task that has no container yet. Without a leader the answer is what this manager knows.
func (c *Control) LocateTask(ctx context.Context, ref string, byTask bool) (Place, error) {
	_, snap, err := c.read(AllowStale(ctx, new(atomic.Bool)))
	if err != nil {
		return Place{}, err
	}
	t, err := findContainer(snap, ref, byTask)
	if err != nil {
		return Place{}, err
	}
	if containerOf(t) == "" {
		text := fmt.Sprintf("task %s has no container: it is %s", taskName(t), t.Status.State)
		if t.Status.Err != "" {
			text += ": " + t.Status.Err
		}
		return Place{}, errdefs.ErrConflict.WithMessage(text)
	}
	return Place{t.NodeID, t.ID, containerOf(t)}, nil
}

func containerOf(t *cluster.Task) string {
	if s := t.Status.ContainerStatus; s != nil && t.NodeID != "" {
		return s.ContainerID
	}
	return ""
}

func findContainer(snap *store.Snapshot, ref string, byTask bool) (*cluster.Task, error) {
	none := errdefs.ErrNotFound.WithMessage("No such container: " + ref)
	if dot := strings.LastIndexByte(ref, '.'); dot >= 0 {
		if t, ok := store.Get[*cluster.Task](snap, ref[dot+1:]); ok && taskName(t) == ref {
			return t, nil
		}
		var best *cluster.Task
		if s, ok := snap.ServiceByName(ref[:dot]); ok {
			for t := range snap.TasksByService(s.ID) {
				if t.Name() == ref && (best == nil || better(t, best)) {
					best = t
				}
			}
		}
		if best == nil {
			return nil, none
		}
		return best, nil
	}
	if len(ref) < minPrefix {
		return nil, none
	}
	var found *cluster.Task
	for t := range store.List[*cluster.Task](snap) {
		switch id := containerOf(t); {
		case id == ref || byTask && t.ID == ref:
			return t, nil
		case !strings.HasPrefix(id, ref) && !(byTask && strings.HasPrefix(t.ID, ref)):
		case found != nil:
			return nil, invalid("Multiple IDs found with provided prefix: %s", ref)
		default:
			found = t
		}
	}
	if found == nil {
		return nil, none
	}
	return found, nil
}

// better says whether the user who names a slot rather means t than o: of its tasks the one that runs, else one that has
// a container, else the latest.
func better(t, o *cluster.Task) bool {
	rank := func(t *cluster.Task) int {
		switch {
		case t.Status.State == swarm.TaskStateRunning && t.WantsToRun():
			return 3
		case t.Status.State == swarm.TaskStateRunning:
			return 2
		case containerOf(t) != "":
			return 1
		}
		return 0
	}
	if a, b := rank(t), rank(o); a != b {
		return a > b
	}
	return t.CreatedAt.After(o.CreatedAt)
}
