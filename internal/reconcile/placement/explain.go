package placement

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/store"
)

// filterNames are what explanations call the filters.
var filterNames = [filters]string{
	filterReady: "ready", filterDisk: "disk", filterResources: "resources", filterAccess: "privileges", filterPlugins: "plugins", filterConstraints: "constraints", filterPlatform: "platform",
	filterPorts: "ports", filterMaxReplicas: "max replicas",
}

// Explain says where the service's next task would go and why, and why its tasks wait or failed. It asks the functions
// that place tasks, on the snapshot as it is.
func Explain(snap *store.Snapshot, svc *cluster.Service, now time.Time) cluster.Explanation {
	e := cluster.Explanation{ServiceID: svc.ID, ServiceName: svc.Spec.Name, Rebalancing: svc.Rebalancing, Nodes: []cluster.NodeVerdict{},
		Waiting: []cluster.WaitingTasks{}, Failures: failures(snap, svc.ID)}
	b := newBoard(snap)
	next := &cluster.Task{HostPorts: cluster.HostPorts(svc.Spec.EndpointSpec)}
	next.Access = cluster.AccessOf(svc)
	next.ServiceID, next.Spec = svc.ID, svc.Spec.TaskTemplate
	j := b.newJob(next, now)

	var passed []*option
	var refused []cluster.NodeVerdict
	options := map[string]*option{}
	for _, o := range j.seats {
		options[o.ID] = o
	}
	for i := range b.nodes {
		s := &b.nodes[i]
		o := options[s.ID]
		if o == nil {
			o = &option{seat: s, groups: j.groupsOf(s.Node)}
			v := j.verdict(o)
			v.Filter, v.Refusal = filterNames[filterReady], unready(s.Node)
			refused = append(refused, v)
			continue
		}
		if f := j.check(o); f != filters {
			v := j.verdict(o)
			v.Filter, v.Refusal = filterNames[f], j.refusalOf(o, f)
			refused = append(refused, v)
			continue
		}
		passed = append(passed, o)
	}
	slices.SortFunc(passed, func(x, y *option) int {
		return cmp.Or(slices.Compare(j.standing(x), j.standing(y)), cmp.Compare(x.Description.Hostname, y.Description.Hostname), cmp.Compare(x.ID, y.ID))
	})
	for i, o := range passed {
		v := j.verdict(o)
		v.Rank = i + 1
		e.Nodes = append(e.Nodes, v)
	}
	slices.SortFunc(refused, func(x, y cluster.NodeVerdict) int {
		return cmp.Or(cmp.Compare(x.Hostname, y.Hostname), cmp.Compare(x.ID, y.ID))
	})
	e.Nodes = append(e.Nodes, refused...)
	e.Waiting = append(e.Waiting, b.waiting(svc.ID, now)...)
	return e
}

func (j *job) verdict(o *option) cluster.NodeVerdict {
	v := cluster.NodeVerdict{ID: o.ID, Hostname: o.Description.Hostname, Score: cluster.NodeScore{
		Failures: j.count.failures[o.ID], Avoided: j.failures(o) >= maxFailures, Own: j.count.own[o.ID], Tasks: o.tasks,
	}}
	for i, label := range j.spread {
		value, _ := cluster.NodeLabel(label, o.Node)
		v.Score.Spread = append(v.Score.Spread, cluster.SpreadGroup{Label: label, Value: value, Tasks: j.groups[o.groups[i]]})
	}
	return v
}

// unready says why a node takes no tasks at all.
func unready(n *cluster.Node) string {
	if n.Status.State != swarm.NodeStateReady {
		if n.Status.Message != "" {
			return fmt.Sprintf("the node is %s: %s", n.Status.State, n.Status.Message)
		}
		return fmt.Sprintf("the node is %s", n.Status.State)
	}
	if n.Spec.Availability == swarm.NodeAvailabilityDrain {
		return "the node is drained"
	}
	return "the node is paused"
}

// refusalOf says why the node does not pass the filter, with what is asked and what there is.
func (j *job) refusalOf(o *option, filter int) string {
	switch filter {
	case filterDisk:
		return fmt.Sprintf("the disk was found %d%% full", o.DiskFull)
	case filterResources:
		return strings.Join(j.shortages(o), "; ")
	case filterPlugins:
		var missing []string
		for _, p := range missingPlugins(j.plugins, o.Node) {
			missing = append(missing, strings.ToLower(p.Type)+" driver "+p.Name)
		}
		return "missing plugin: " + strings.Join(missing, ", ")
	case filterConstraints:
		for _, e := range j.task.Spec.Placement.Constraints {
			c, err := cluster.ParseConstraint(e)
			if err != nil {
				return fmt.Sprintf("constraint %q: %s", e, err)
			}
			if !c.Match(o.Node) {
				return fmt.Sprintf("constraint %s: the node has %q", e, c.Have(o.Node))
			}
		}
	case filterPlatform:
		var want []string
		for _, p := range j.task.Spec.Placement.Platforms {
			want = append(want, p.OS+"/"+p.Architecture)
		}
		have := o.Description.Platform
		return fmt.Sprintf("the image is for %s, the node is %s/%s", strings.Join(want, ", "), have.OS, have.Architecture)
	case filterPorts:
		var taken []string
		for _, p := range j.ports {
			if j.board.details(o.seat).ports[p] {
				taken = append(taken, fmt.Sprintf("%d/%s", p.Port, p.Protocol))
			}
		}
		return "host-mode port already in use: " + strings.Join(taken, ", ")
	case filterMaxReplicas:
		return fmt.Sprintf("max replicas per node: %d allowed, %d there", j.maxReplicas, j.count.own[o.ID]+j.count.leaving[o.ID])
	}
	return explain(filter, 1)
}

// shortages are what the node has too little of.
func (j *job) shortages(o *option) []string {
	var out []string
	if asked := j.reserve.NanoCPUs; asked > 0 && asked > o.cpu {
		out = append(out, fmt.Sprintf("cpu: %g asked, %g free", float64(asked)/1e9, float64(max(o.cpu, 0))/1e9))
	}
	if asked := j.reserve.MemoryBytes; asked > 0 && asked > o.memory {
		out = append(out, fmt.Sprintf("memory: %s asked, %s free", units.BytesSize(float64(asked)), units.BytesSize(float64(max(o.memory, 0)))))
	}
	for _, kind := range slices.Sorted(maps.Keys(j.generic)) {
		has := j.board.details(o.seat).generic
		if asked := j.generic[kind]; !has.has(map[string]int64{kind: asked}) {
			out = append(out, fmt.Sprintf("%s: %d asked, %d free", kind, asked, max(has.counts[kind], int64(len(has.names[kind])), 0)))
		}
	}
	return out
}

// waiting says why tasks of the service have no node yet.
func (b *board) waiting(service string, now time.Time) []cluster.WaitingTasks {
	byReason := map[string][]string{}
	var j *job
	waits := waits{snap: b.snap}
	for t := range b.snap.TasksByService(service) {
		if !t.WantsToRun() || t.Ended() || placed(t) {
			continue
		}
		reason := t.Status.Err
		switch {
		case pending(t) && waits.forWhat(t) != "":
			reason = waits.forWhat(t)
		case pending(t):
			if j == nil || j.task.SpecVersion != t.SpecVersion || !sameWants(j.task, t) {
				j = b.newJob(t, now)
			}
			if reason = "a node is about to be chosen"; !slices.ContainsFunc(j.seatsOf(t), func(o *option) bool { return j.check(o) == filters }) {
				reason = j.refusal(t)
			}
		case reason == "":
			reason = "waits for its addresses"
		}
		byReason[reason] = append(byReason[reason], t.ID)
	}
	var out []cluster.WaitingTasks
	for reason, ids := range byReason {
		slices.Sort(ids)
		out = append(out, cluster.WaitingTasks{Reason: reason, Tasks: ids})
	}
	slices.SortFunc(out, func(x, y cluster.WaitingTasks) int {
		return cmp.Or(cmp.Compare(len(y.Tasks), len(x.Tasks)), cmp.Compare(x.Reason, y.Reason))
	})
	return out
}

// failures are the service's failed tasks that are still known.
func failures(snap *store.Snapshot, service string) []cluster.TaskFailures {
	type kind struct {
		node, state, err string
		code             int
	}
	byKind := map[kind]*cluster.TaskFailures{}
	for t := range snap.TasksByService(service) {
		if t.Status.State != swarm.TaskStateFailed && t.Status.State != swarm.TaskStateRejected {
			continue
		}
		k := kind{node: t.NodeID, state: string(t.Status.State), err: t.Status.Err}
		if c := t.Status.ContainerStatus; c != nil {
			k.code = c.ExitCode
		}
		f := byKind[k]
		if f == nil {
			f = &cluster.TaskFailures{NodeID: k.node, State: k.state, Err: k.err, ExitCode: k.code}
			if n, ok := store.Get[*cluster.Node](snap, k.node); ok {
				f.Hostname = n.Description.Hostname
			}
			byKind[k] = f
		}
		f.Count++
		if f.LastTask == "" || t.Status.Timestamp.After(f.Last) {
			f.Last, f.LastTask = t.Status.Timestamp, t.ID
		}
	}
	out := []cluster.TaskFailures{}
	for _, f := range byKind {
		out = append(out, *f)
	}
	slices.SortFunc(out, func(x, y cluster.TaskFailures) int {
		return cmp.Or(y.Last.Compare(x.Last), cmp.Compare(x.LastTask, y.LastTask))
	})
	return out
}
