package placement

import (
	"cmp"
	"container/heap"
	"slices"
)

// choice finds the best node for each task of a job in turn without looking at all of them every time: one where the
// service does not keep failing, in the spread group with the fewest of its tasks, with the fewest of its tasks, with the
// fewest tasks at all.
//
// During a plan a node only gets worse for a job: what the plan places takes room and is counted, and nothing is given
// back. So the nodes are ordered once. Where a node has become worse since, by this job or another, its place in the order
// is too good; it is put right when the node comes up, and a node that the job may not have then is dropped for good.
//
// Nodes are ordered within the groups that the job is spread over, and groups by their best: a task that is placed makes one
// group worse, not each of its nodes.
type choice struct {
	job  *job
	root *spot
}

// spot is a node, or the nodes of one group.
type spot struct {
	// key orders spots of one level, the lower the better, as it was when last looked at: of a node the service's tasks and
	// all tasks there; of a group what rank says, then the key of its best.
	key  []int64
	node *option // of a group its best
	kids spots   // of a group; those that are dropped are missing
	rank func() int64
}

// newChoice orders nodes for the job.
func newChoice(j *job, seats []*option) *choice {
	c := &choice{job: j}
	leaves := make([]spot, len(seats))
	keys := make([]int64, 2*len(seats))
	var all spots
	for i, o := range seats {
		leaves[i] = spot{node: o, key: keys[2*i : 2*i+2 : 2*i+2]}
		if c.look(&leaves[i]) {
			all = append(all, &leaves[i])
		}
	}
	c.root = c.group(all, 0, func() int64 { return 0 })
	return c
}

// standing is what the node is compared by with others, the lower the better, also if the job may not have it: a zero, the
// failures, the tasks in each of its groups, the service's tasks there, all tasks there.
func (j *job) standing(o *option) []int64 {
	c, leaf := &choice{job: j}, &spot{node: o, key: make([]int64, 2)}
	c.look(leaf)
	return c.group(spots{leaf}, 0, func() int64 { return 0 }).key
}

// group makes the spot of nodes that are alike down to the level: below all nodes are those that failed as often, and below
// them a level for each preference.
func (c *choice) group(nodes spots, level int, rank func() int64) *spot {
	s := &spot{kids: nodes, rank: rank}
	switch {
	case level == 0:
		s.kids = divide(nodes, c.job.failures, func(failures int, ns spots) *spot {
			return c.group(ns, 1, func() int64 { return int64(failures) })
		})
	case level <= len(c.job.spread):
		name := func(o *option) string { return o.groups[level-1] }
		s.kids = divide(nodes, name, func(g string, ns spots) *spot {
			return c.group(ns, level+1, func() int64 { return int64(c.job.groups[g]) })
		})
	}
	heap.Init(&s.kids)
	s.take()
	return s
}

// divide makes a spot of the nodes of each group, in no order.
func divide[K comparable](nodes spots, group func(*option) K, make func(K, spots) *spot) (out spots) {
	by := map[K]spots{}
	for _, n := range nodes {
		k := group(n.node)
		by[k] = append(by[k], n)
	}
	for k, ns := range by {
		out = append(out, make(k, ns))
	}
	return out
}

// best is the node to place the next task on, or nil if no node is left.
func (c *choice) best() *option {
	if !c.look(c.root) {
		return nil
	}
	return c.root.node
}

// look brings the spot's key up to date; false: the job may have no node of it.
func (c *choice) look(s *spot) bool {
	if s.rank == nil {
		s.key[0], s.key[1] = int64(c.job.count.own[s.node.ID]), int64(s.node.tasks)
		return c.job.check(s.node) == filters
	}
	for len(s.kids) > 0 {
		top := s.kids[0]
		if !c.look(top) {
			heap.Pop(&s.kids)
			continue
		}
		heap.Fix(&s.kids, 0)
		if s.kids[0] == top {
			s.take()
			return true
		}
	}
	return false
}

// take gives a group its rank and the key of its best.
func (s *spot) take() {
	s.key = append(s.key[:0], s.rank())
	if len(s.kids) > 0 {
		s.key, s.node = append(s.key, s.kids[0].key...), s.kids[0].node
	}
}

// spots is a heap with the best spot first.
type spots []*spot

func (h spots) Len() int      { return len(h) }
func (h spots) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *spots) Push(x any)   { *h = append(*h, x.(*spot)) }
func (h *spots) Pop() any {
	last := len(*h) - 1
	s := (*h)[last]
	*h = (*h)[:last]
	return s
}

func (h spots) Less(i, j int) bool {
	a, b := h[i], h[j]
	return cmp.Or(slices.Compare(a.key, b.key), cmp.Compare(a.node.tie, b.node.tie), cmp.Compare(a.node.ID, b.node.ID)) < 0
}
