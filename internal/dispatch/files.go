package dispatch

import (
	"maps"
	"slices"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/dispatch/protocol"
	"shoal.dev/shoal/internal/store"
)

// files is which secrets and configs an agent has: those of the tasks that it was sent and that may still need them,
// and no others. The zero value has none.
type files struct {
	byTask map[string][]string            // IDs that a task uses
	users  map[string]map[string]struct{} // tasks by the ID that they use
	dirty  map[string]struct{}            // IDs whose users changed
	held   map[string]struct{}            // IDs that the agent has
}

// usesFiles says whether a task may still need the payloads of its secrets and configs: one that has ended does not,
// and one that is to end has its container already.
func usesFiles(t *cluster.Task) bool {
	c := t.Spec.ContainerSpec
	return c != nil && len(c.Secrets)+len(c.Configs) > 0 && !t.Ended() && (t.WantsToRun() || t.Held())
}

// set says what the node knows of a task now; nil is nothing.
func (f *files) set(id string, t *cluster.Task) {
	var ids []string
	if t != nil && usesFiles(t) {
		for _, r := range t.Spec.ContainerSpec.Secrets {
			ids = append(ids, r.SecretID)
		}
		for _, r := range t.Spec.ContainerSpec.Configs {
			ids = append(ids, r.ConfigID)
		}
	}
	had := f.byTask[id]
	if slices.Equal(had, ids) {
		return
	}
	if f.byTask == nil {
		f.byTask, f.users = map[string][]string{}, map[string]map[string]struct{}{}
		f.dirty, f.held = map[string]struct{}{}, map[string]struct{}{}
	}
	for _, file := range had {
		f.dirty[file] = struct{}{}
		if delete(f.users[file], id); len(f.users[file]) == 0 {
			delete(f.users, file)
		}
	}
	for _, file := range ids {
		f.dirty[file] = struct{}{}
		if f.users[file] == nil {
			f.users[file] = map[string]struct{}{}
		}
		f.users[file][id] = struct{}{}
	}
	if f.byTask[id] = ids; len(ids) == 0 {
		delete(f.byTask, id)
	}
}

// maxFiles is how many bytes of files go with one frame, so that it stays far below [protocol.MaxFrame].
const maxFiles = protocol.MaxFrame / 4

// take returns what the agent has to get and to drop, and counts it as done; more says that there is more than a frame
// should carry. What is not in the store any more is not sent; the task that wants it fails, and says so.
func (f *files) take(snap *store.Snapshot) (send []protocol.File, drop []string, more bool) {
	size := 0
	for _, id := range slices.Sorted(maps.Keys(f.dirty)) {
		if size >= maxFiles {
			return send, drop, true
		}
		delete(f.dirty, id)
		_, held := f.held[id]
		switch wanted := len(f.users[id]) > 0; {
		case wanted && !held:
			if file, ok := payload(snap, id); ok {
				send = append(send, file)
				size += len(file.Data)
				f.held[id] = struct{}{}
			}
		case !wanted && held:
			drop = append(drop, id)
			delete(f.held, id)
		}
	}
	return send, drop, false
}

func payload(snap *store.Snapshot, id string) (protocol.File, bool) {
	if c, ok := store.Get[*cluster.Config](snap, id); ok {
		return protocol.File{ID: id, Data: c.Spec.Data, Template: c.Spec.Templating != nil}, true
	}
	s, known := store.Get[*cluster.Secret](snap, id)
	d, ok := store.Get[*cluster.SecretData](snap, id)
	if !known || !ok {
		return protocol.File{}, false
	}
	return protocol.File{ID: id, Data: d.Data, Template: s.Spec.Templating != nil}, true
}
