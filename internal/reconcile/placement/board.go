package placement

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/store"
)

// A node on which so many of a service's tasks failed within failureWindow is taken last; Swarm's numbers.
const (
	maxFailures   = 5
	failureWindow = 5 * time.Minute
)

// board is the nodes with what runs on them, during one plan.
type board struct {
	snap     *store.Snapshot
	nodes    []seat // in the order of their IDs
	services map[string]*count
}

// count is what a service has, by node. All its jobs share it, so that each sees what the others have placed.
type count struct {
	own      map[string]int // tasks that are meant to run
	failures map[string]int // lately
}

// seat is a node with what is left of it.
type seat struct {
	*cluster.Node
	cpu, memory int64 // free, in billionths of a CPU and bytes
	tasks       int   // that have not ended
	hash        uint64
	detail      *detail // nil: nobody has asked yet
}

// detail is what of a node few tasks ask for: it is found by reading the node's tasks.
type detail struct {
	generic pool
	ports   map[cluster.HostPort]bool // that tasks have
}

func newBoard(snap *store.Snapshot) *board {
	b := &board{snap: snap, services: map[string]*count{}}
	for n := range store.List[*cluster.Node](snap) {
		h := fnv.New64a()
		h.Write([]byte(n.ID)) // a hash.Hash never fails
		b.nodes = append(b.nodes, seat{Node: n, cpu: n.Description.Resources.NanoCPUs, memory: n.Description.Resources.MemoryBytes, hash: h.Sum64()})
	}
	for l := range snap.Loads() {
		if s := b.seat(l.NodeID); s != nil {
			s.cpu, s.memory, s.tasks = s.cpu-l.NanoCPUs, s.memory-l.MemoryBytes, l.Tasks
		}
	}
	return b
}

// seat is the node's, or nil if it is gone.
func (b *board) seat(node string) *seat {
	i, ok := slices.BinarySearchFunc(b.nodes, node, func(s seat, id string) int { return cmp.Compare(s.ID, id) })
	if !ok {
		return nil
	}
	return &b.nodes[i]
}

// details are the seat's.
func (b *board) details(s *seat) *detail {
	if s.detail == nil {
		s.detail = &detail{generic: newPool(s.Description.Resources.GenericResources), ports: map[cluster.HostPort]bool{}}
		for t := range b.snap.TasksByNode(s.ID) {
			if t.TakesRoom() {
				s.detail.take(t)
				s.detail.generic.take(t.GenericResources)
			}
		}
	}
	return s.detail
}

func (d *detail) take(t *cluster.Task) {
	for _, p := range t.NodePorts() {
		d.ports[p] = true
	}
}

// book books a task that the plan places.
func (b *board) book(s *seat, t *cluster.Task) {
	if len(t.HostPorts) > 0 {
		b.details(s).take(t)
	}
	r := cluster.Reservations(&t.Spec)
	s.cpu -= r.NanoCPUs
	s.memory -= r.MemoryBytes
	s.tasks++
}

// The filters, in the order in which a node meets them.
const (
	filterReady = iota
	filterResources
	filterAccess
	filterPlugins
	filterConstraints
	filterPlatform
	filterPorts
	filterMaxReplicas
	filters
)

// explain says in Swarm's words why so many nodes did not pass a filter.
func explain(filter, nodes int) string {
	if filter == filterMaxReplicas {
		return "max replicas per node limit exceed"
	}
	if filter == filterAccess {
		return notAllowed
	}
	if filter == filterReady {
		if nodes == 1 {
			return "1 node not available for new tasks"
		}
		return fmt.Sprintf("%d nodes not available for new tasks", nodes)
	}
	what := [...]string{
		filterResources: "insufficient resources", filterPlugins: "missing plugin", filterConstraints: "scheduling constraints not satisfied",
		filterPlatform: "unsupported platform", filterPorts: "host-mode port already in use",
	}[filter]
	if nodes == 1 {
		return what + " on 1 node"
	}
	return fmt.Sprintf("%s on %d nodes", what, nodes)
}

// job is what tasks of one service and specification ask for.
type job struct {
	board       *board
	task        *cluster.Task // one of them
	reserve     swarm.Resources
	generic     map[string]int64 // by kind
	ports       []cluster.HostPort
	plugins     []swarm.PluginDescription
	maxReplicas int
	spread      []string // label descriptors
	count       *count
	seats       []*option
	groups      map[string]int // the service's tasks by spread group
	static      [filters]int   // how many nodes never pass, by filter
	choice      *choice        // nil before the first task
	refused     string         // see refusal; "" before the first
}

// option is a node that a job may choose.
type option struct {
	*seat
	groups []string
	tie    uint64 // orders equal nodes
	// blocked is the filter other than readiness and resources that the node never passes, or filters.
	blocked int
}

func (b *board) newJob(t *cluster.Task, now time.Time) *job {
	j := &job{board: b, task: t, reserve: cluster.Reservations(&t.Spec), groups: map[string]int{}}
	j.ports = cluster.FixedHostPorts(t.HostPorts)
	j.plugins = plugins(&t.Spec)
	j.generic = wanted(j.reserve.GenericResources)
	var constraints []cluster.Constraint
	var platforms []swarm.Platform
	valid := true
	if p := t.Spec.Placement; p != nil {
		j.maxReplicas = int(min(p.MaxReplicas, 1<<31-1))
		platforms = p.Platforms
		for _, e := range p.Constraints {
			c, err := cluster.ParseConstraint(e)
			valid = valid && err == nil
			constraints = append(constraints, c)
		}
		for _, pref := range p.Preferences {
			if pref.Spread != nil {
				j.spread = append(j.spread, pref.Spread.SpreadDescriptor)
			}
		}
	}
	j.count = b.ofService(t.ServiceID, now)
	// Equal nodes are in another order in each plan, so that the first node of the list is nothing special.
	h := fnv.New64a()
	h.Write([]byte(t.ID))
	seed := h.Sum64() | 1
	refused := forbidden(b.snap, t)
	options := make([]option, len(b.nodes))
	j.seats = make([]*option, 0, len(b.nodes))
	for i := range b.nodes {
		s := &b.nodes[i]
		if s.Status.State != swarm.NodeStateReady || s.Spec.Availability != swarm.NodeAvailabilityActive && s.Spec.Availability != "" {
			j.static[filterReady]++
			continue
		}
		o := &options[i]
		o.seat, o.blocked, o.tie = s, filters, (s.hash^seed)*seed
		switch {
		case refused:
			o.blocked = filterAccess
		case len(missingPlugins(j.plugins, s.Node)) > 0:
			o.blocked = filterPlugins
		case !valid || slices.ContainsFunc(constraints, func(c cluster.Constraint) bool { return !c.Match(s.Node) }):
			o.blocked = filterConstraints
		case !cluster.RunsOn(platforms, s.Description.Platform):
			o.blocked = filterPlatform
		}
		o.groups = j.groupsOf(s.Node)
		j.seats = append(j.seats, o)
	}
	if len(j.spread) > 0 {
		for id, n := range j.count.own {
			if s := b.seat(id); s != nil {
				for _, g := range j.groupsOf(s.Node) {
					j.groups[g] += n
				}
			}
		}
	}
	return j
}

// groupsOf are the groups that a node belongs to, a preference each; a later one divides the groups of those before.
func (j *job) groupsOf(n *cluster.Node) []string {
	var out []string
	var path strings.Builder
	for _, d := range j.spread {
		v, _ := cluster.NodeLabel(d, n)
		fmt.Fprintf(&path, "%q", v)
		out = append(out, path.String())
	}
	return out
}

// ofService counts what the service has.
func (b *board) ofService(id string, now time.Time) *count {
	if c := b.services[id]; c != nil {
		return c
	}
	c := &count{own: map[string]int{}, failures: map[string]int{}}
	b.services[id] = c
	for t := range b.snap.TasksByService(id) {
		if !placed(t) {
			continue
		}
		switch {
		case t.WantsToRun() && !t.Ended():
			c.own[t.NodeID]++
		case (t.Status.State == swarm.TaskStateFailed || t.Status.State == swarm.TaskStateRejected) && t.Status.Timestamp.After(now.Add(-failureWindow)):
			c.failures[t.NodeID]++
		}
	}
	return c
}

// place books the best node for the task, with the generic resources that it is given there, or returns nil if there is
// none.
func (j *job) place(t *cluster.Task) (*cluster.Node, []swarm.GenericResource) {
	best := j.best(t)
	if best == nil {
		return nil, nil
	}
	j.board.book(best.seat, t)
	j.count.own[best.ID]++
	for _, g := range best.groups {
		j.groups[g]++
	}
	if len(j.generic) == 0 {
		return best.Node, nil
	}
	return best.Node, j.board.details(best.seat).generic.claim(j.generic)
}

// best is the node to place the task on, or nil.
func (j *job) best(t *cluster.Task) *option {
	if !t.Global {
		if j.choice == nil {
			j.choice = newChoice(j, j.seats)
		}
		return j.choice.best()
	}
	if only := j.seatsOf(t); len(only) > 0 && j.check(only[0]) == filters {
		return only[0]
	}
	return nil
}

// seatsOf are the nodes that the task may choose: one of a global service has no choice.
func (j *job) seatsOf(t *cluster.Task) []*option {
	if !t.Global {
		return j.seats
	}
	i, ok := slices.BinarySearchFunc(j.seats, t.NodeID, func(o *option, id string) int { return cmp.Compare(o.ID, id) })
	if !ok {
		return nil
	}
	return j.seats[i : i+1]
}

// refusal says in Swarm's words why there is no node, the most frequent reason first, or why a global task's node is
// none. It is asked once the plan places nothing more.
func (j *job) refusal(t *cluster.Task) string {
	if t.Global {
		if o := j.seatsOf(t); len(o) > 0 {
			return explain(j.check(o[0]), 1)
		}
		return explain(filterReady, 1)
	}
	if j.refused == "" {
		failed := j.static
		for _, o := range j.seats {
			if f := j.check(o); f != filters {
				failed[f]++
			}
		}
		j.refused = sentence(failed)
	}
	return j.refused
}

// check is the first filter that the node does not pass now, or filters.
func (j *job) check(o *option) int {
	if j.reserve.NanoCPUs > 0 && j.reserve.NanoCPUs > o.cpu || j.reserve.MemoryBytes > 0 && j.reserve.MemoryBytes > o.memory ||
		len(j.generic) > 0 && !j.board.details(o.seat).generic.has(j.generic) {
		return filterResources
	}
	if o.blocked != filters {
		return o.blocked
	}
	if len(j.ports) > 0 && slices.ContainsFunc(j.ports, func(p cluster.HostPort) bool { return j.board.details(o.seat).ports[p] }) {
		return filterPorts
	}
	if j.maxReplicas > 0 && j.count.own[o.ID] >= j.maxReplicas {
		return filterMaxReplicas
	}
	return filters
}

// failures is how badly the service fares on the node; a few failures are nothing.
func (j *job) failures(o *option) int { return max(j.count.failures[o.ID], maxFailures-1) }

func sentence(failed [filters]int) string {
	var order []int
	for f, n := range failed {
		if n > 0 {
			order = append(order, f)
		}
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(failed[b], failed[a]) })
	var parts []string
	for _, f := range order {
		parts = append(parts, explain(f, failed[f]))
	}
	if len(parts) == 0 {
		return "no suitable node"
	}
	return "no suitable node (" + strings.Join(parts, "; ") + ")"
}
