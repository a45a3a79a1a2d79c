package dispatch

import (
	"maps"
	"slices"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/dispatch/protocol"
	"shoal.dev/shoal/internal/store"
)

// files is which secrets, configs and credentials an agent has: those of the tasks that it was sent and that may still
// need them, and no others. The zero value has none.
type files struct {
	byTask map[string][]string            // IDs that a task uses
	users  map[string]map[string]struct{} // tasks by the ID that they use
	dirty  map[string]struct{}            // IDs whose users changed
	held   map[string]uint64              // versions that the agent has, by ID
}

// usesFiles says whether a task may still need the payloads of its secrets and configs, or credentials: one that has
// ended does not, and one that is to end has its container already.
func usesFiles(t *cluster.Task) bool {
	return t.Spec.ContainerSpec != nil && !t.Ended() && (t.WantsToRun() || t.Held())
}

// set says what the node knows of a task now; nil is nothing.
func (f *files) set(snap *store.Snapshot, id string, t *cluster.Task) {
	var ids []string
	if t != nil && usesFiles(t) {
		if _, ok := store.Get[*cluster.Credentials](snap, t.ServiceID); ok {
			ids = append(ids, t.ServiceID)
			f.refresh(t.ServiceID)
		}
		ids = slices.AppendSeq(ids, cluster.FileIDs(&t.Spec))
	}
	had := f.byTask[id]
	if slices.Equal(had, ids) {
		return
	}
	if f.byTask == nil {
		f.byTask, f.users = map[string][]string{}, map[string]map[string]struct{}{}
		f.dirty, f.held = map[string]struct{}{}, map[string]uint64{}
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

// refresh looks again at what the agent may have in an older version: credentials change, other payloads never do.
func (f *files) refresh(id string) {
	if f.dirty != nil {
		f.dirty[id] = struct{}{}
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
		had, held := f.held[id]
		switch wanted := len(f.users[id]) > 0; {
		case wanted:
			if file, version, ok := payload(snap, id); ok && (!held || had != version) {
				send = append(send, file)
				size += len(file.Data)
				f.held[id] = version
			}
		case held:
			drop = append(drop, id)
			delete(f.held, id)
		}
	}
	return send, drop, false
}

// payload is a file and the version of its payload, which is 0 for those that never change.
func payload(snap *store.Snapshot, id string) (f protocol.File, version uint64, ok bool) {
	if c, ok := store.Get[*cluster.Config](snap, id); ok {
		return protocol.File{ID: id, Data: c.Spec.Data, Template: c.Spec.Templating != nil}, 0, true
	}
	if c, ok := store.Get[*cluster.Credentials](snap, id); ok {
		file, err := protocol.CredentialsFile(id, c.Auth)
		return file, c.Version.Index, err == nil
	}
	s, known := store.Get[*cluster.Secret](snap, id)
	d, ok := store.Get[*cluster.SecretData](snap, id)
	if !known || !ok {
		return protocol.File{}, 0, false
	}
	return protocol.File{ID: id, Data: d.Data, Template: s.Spec.Templating != nil}, 0, true
}
