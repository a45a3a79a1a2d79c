package control

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/store"
)

// Tasks lists the tasks, ended ones too.
func (c *Control) Tasks(ctx context.Context, f map[string][]string) ([]swarm.Task, error) {
	m, snap, err := c.read(ctx)
	if err != nil {
		return nil, err
	}
	fl := filters(f)
	if err := fl.known("id", "name", "service", "node", "label", "desired-state", "runtime", "_up-to-date"); err != nil {
		return nil, err
	}
	desired, err := fl.words("desired-state", "new", "allocated", "pending", "assigned", "accepted", "preparing", "ready", "starting", "running",
		"complete", "shutdown", "failed", "rejected", "remove", "orphaned")
	if err != nil {
		return nil, err
	}
	services := resolve(snap, fl["service"], "service", serviceName)
	for i, n := range fl["node"] {
		if n == "self" {
			fl["node"] = slices.Clone(fl["node"])
			fl["node"][i] = m.NodeID
		}
	}
	nodes := resolve(snap, fl["node"], "node", nodeName)
	upToDate, err := fl.flag("_up-to-date")
	if err != nil {
		return nil, err
	}
	out := []swarm.Task{}
	for _, t := range candidates(snap, services, nodes) {
		if upToDate && !current(snap, t) {
			continue
		}
		if fl.any("id", prefixOf(t.ID)) && fl.any("name", prefixOf(taskName(t))) && fl.labels("label", t.Labels) &&
			fl.any("service", func(string) bool { return services[t.ServiceID] }) &&
			fl.any("node", func(string) bool { return nodes[t.NodeID] }) &&
			fl.runs(t) &&
			oneOf(desired, shownDesired(t)) {
			out = append(out, task(snap, t))
		}
	}
	return out, nil
}

// runs applies the filter runtime. Attachments are listed only where it names them.
func (f filters) runs(t *cluster.Task) bool {
	if t.Attaches() {
		return slices.Contains(f["runtime"], string(swarm.RuntimeNetworkAttachment))
	}
	return f.any("runtime", func(v string) bool { return v == string(swarm.RuntimeContainer) })
}

// candidates are the tasks of the services or, where none are given, of the nodes, or all, in the order of their IDs.
func candidates(snap *store.Snapshot, services, nodes map[string]bool) (tasks []*cluster.Task) {
	if len(services)+len(nodes) == 0 {
		return slices.Collect(store.List[*cluster.Task](snap))
	}
	ids, of := services, snap.TasksByService
	if len(services) == 0 {
		ids, of = nodes, snap.TasksByNode
	}
	for id := range ids {
		tasks = slices.AppendSeq(tasks, of(id))
	}
	slices.SortFunc(tasks, func(a, b *cluster.Task) int { return strings.Compare(a.ID, b.ID) })
	return tasks
}

// flag is a key's value, which is true or false; false if there is none.
func (f filters) flag(key string) (bool, error) {
	on := false
	for _, v := range f[key] {
		b, err := strconv.ParseBool(v)
		if err != nil {
			return false, invalid("invalid filter '%s=%s'", key, v)
		}
		on = on || b
	}
	return on, nil
}

// current says whether a task is what its service says.
func current(snap *store.Snapshot, t *cluster.Task) bool {
	s, ok := store.Get[*cluster.Service](snap, t.ServiceID)
	return ok && t.Follows(s)
}

// resolve gives the IDs of the records that the references name; what names nothing is left out.
func resolve[T cluster.Object](snap *store.Snapshot, refs []string, kind string, name func(T) string) map[string]bool {
	ids := map[string]bool{}
	for _, r := range refs {
		if o, err := find(snap, kind, r, name); err == nil {
			ids[o.Key()] = true
		} else {
			ids[r] = true // tasks outlive their service and node
		}
	}
	return ids
}

// shownDesired is the desired state that the filter means: a task that waits for its restart delay counts as running. A
// job's task counts as neither, as in Swarm.
func shownDesired(t *cluster.Task) string {
	switch {
	case !t.WantsToRun():
		return "shutdown"
	case t.DesiredState == swarm.TaskStateComplete:
		return string(swarm.TaskStateComplete)
	}
	return "running"
}

// Task returns a task.
func (c *Control) Task(ctx context.Context, ref string) (*swarm.Task, error) {
	_, snap, err := c.read(ctx)
	if err != nil {
		return nil, err
	}
	t, err := find(snap, "task", ref, taskName)
	if err != nil {
		return nil, err
	}
	out := task(snap, t)
	return &out, nil
}

// task is a task as the API shows it: its networks are named.
func task(snap *store.Snapshot, t *cluster.Task) swarm.Task {
	out := t.Clone().(*cluster.Task).Task
	for i, a := range out.NetworksAttachments {
		if n, ok := store.Get[*cluster.Network](snap, a.Network.ID); ok {
			out.NetworksAttachments[i].Network = n.Clone().(*cluster.Network).Network
		}
	}
	return out
}
