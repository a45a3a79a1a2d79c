package placement

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/store"
)

// Move is a task that would be better placed on another node.
type Move struct {
	Task *cluster.Task
	To   *cluster.Node
}

// Improve says which of a service's tasks to replace by others so that the service is spread better, at most so many, the
// best first. The tasks are of one specification and run. A task moves only where [Planner] would place its successor
// while the task is leaving ([cluster.Task.Moving]), and only if that node has fewer of the service's tasks, or is in a
// spread group with fewer, even when the task itself is not counted. So each move makes the sum of the squared counts
// smaller, of the outermost groups that it changes first: a service that is moved until there is nothing to improve comes
// to rest, and nothing moves back.
func Improve(snap *store.Snapshot, tasks []*cluster.Task, limit int, now time.Time) []Move {
	if len(tasks) == 0 || limit <= 0 {
		return nil
	}
	j := newBoard(snap).newJob(tasks[0], now)
	on := map[string][]*cluster.Task{}
	for _, t := range tasks {
		on[t.NodeID] = append(on[t.NodeID], t)
	}
	for _, ts := range on { // the youngest goes first
		slices.SortFunc(ts, func(a, b *cluster.Task) int {
			return cmp.Or(b.CreatedAt.Compare(a.CreatedAt), cmp.Compare(a.ID, b.ID))
		})
	}
	var out []Move
	for len(out) < limit {
		from, to := j.improvement(on)
		if to == nil {
			break
		}
		t := on[from.ID][0]
		on[from.ID] = on[from.ID][1:]
		out = append(out, Move{Task: t, To: to.Node})
		j.count.leave(from.ID)
		j.recount(from, -1)
		j.board.book(to.seat, t)
		if len(j.generic) > 0 {
			j.board.details(to.seat).generic.claim(j.generic)
		}
		j.recount(to, 1)
	}
	return out
}

// recount counts a task more or less on the node.
func (j *job) recount(o *option, n int) {
	j.count.own[o.ID] += n
	for _, g := range o.groups {
		j.groups[g] += n
	}
}

// improvement is a node that one of the tasks is to leave and the one to which it goes; nil: none improves anything.
func (j *job) improvement(on map[string][]*cluster.Task) (from, to *option) {
	for _, src := range j.fullest(on) {
		j.count.leave(src.ID)
		j.recount(src, -1)
		others := slices.DeleteFunc(slices.Clone(j.seats), func(o *option) bool { return o == src })
		best := newChoice(j, others).best()
		better := best != nil && precedes(j.standing(best), j.standing(src))
		j.recount(src, 1)
		j.count.stay(src.ID)
		if better {
			return src, best
		}
	}
	return nil, nil
}

// precedes compares standings. The number of failures must not be worse, and of the rest only the service's own tasks
// count: what others have on a node is no reason to move.
func precedes(a, b []int64) bool {
	return a[1] <= b[1] && slices.Compare(a[2:len(a)-1], b[2:len(b)-1]) < 0
}

// fullest are the nodes with the most of the service's tasks in each of the innermost groups, the fullest group first: if
// no task of these improves anything by moving, none in their groups does. Nodes that the service may not have, or that
// take no new tasks, are left as they are.
func (j *job) fullest(on map[string][]*cluster.Task) []*option {
	by := map[string]*option{}
	for _, o := range j.seats {
		if o.blocked != filters || len(on[o.ID]) == 0 {
			continue
		}
		g := strings.Join(o.groups, "/")
		if had := by[g]; had == nil || j.count.own[had.ID] < j.count.own[o.ID] {
			by[g] = o
		}
	}
	var out []*option
	for _, o := range by {
		out = append(out, o)
	}
	slices.SortFunc(out, func(a, b *option) int {
		return cmp.Or(slices.Compare(j.standing(b), j.standing(a)), cmp.Compare(a.ID, b.ID))
	})
	return out
}
