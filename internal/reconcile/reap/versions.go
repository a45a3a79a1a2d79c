package reap

import (
	"strings"
	"time"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/reconcile"
	"shoal.dev/shoal/internal/store"
)

// versionPrefix begins the keys of older versions of secrets and configs; their IDs follow.
const versionPrefix = "version/"

// freed are the keys of the older versions that an event may have left without use.
func freed(snap *store.Snapshot, e store.Event) []reconcile.Key {
	var keys []reconcile.Key
	add := func(id string) {
		if _, _, ok := olderVersion(snap, id); ok {
			keys = append(keys, reconcile.Key(versionPrefix+id))
		}
	}
	switch old := e.Old.(type) {
	case *cluster.Service:
		for id := range usedBy(old) {
			add(id)
		}
	case *cluster.Task:
		if t, _ := e.New.(*cluster.Task); t == nil || !old.Ended() && t.Ended() {
			for id := range cluster.FileIDs(&old.Spec) {
				add(id)
			}
		}
	case *cluster.Config:
		for id := range old.Kept() {
			add(id)
		}
		add(e.ID)
	case *cluster.Secret:
		add(e.ID)
	}
	return keys
}

// olderVersion is the secret or config of the ID and its name, if it is an older version.
func olderVersion(snap *store.Snapshot, id string) (o cluster.Object, name string, ok bool) {
	if s, is := store.Get[*cluster.Secret](snap, id); is {
		return s, s.Spec.Name, s.VersionOf != ""
	}
	if c, is := store.Get[*cluster.Config](snap, id); is {
		return c, c.Spec.Name, c.VersionOf != ""
	}
	return nil, "", false
}

// usedBy are the secrets and configs of a service, with those that it would have after a rollback.
func usedBy(s *cluster.Service) map[string]bool {
	ids := map[string]bool{}
	for id := range cluster.FileIDs(&s.Spec.TaskTemplate) {
		ids[id] = true
	}
	if s.PreviousSpec != nil {
		for id := range cluster.FileIDs(&s.PreviousSpec.TaskTemplate) {
			ids[id] = true
		}
	}
	return ids
}

// unusedTime is how long an older version is kept that nothing uses any more: `stack rm` lists what it removes and takes
// what has gone meanwhile for a failure.
const unusedTime = time.Minute

// prune deletes an older version of a secret or a config that nothing has used for [unusedTime]. Its name goes along: who
// refers to it at the same time writes the name's claim.
func prune(snap *store.Snapshot, id string, env reconcile.Env) reconcile.Plan {
	o, name, ok := olderVersion(snap, id)
	if !ok {
		return reconcile.Plan{}
	}
	if unused := versioned(o).UnusedAt; used(snap, id) == unused.IsZero() {
		if unused.IsZero() || env.Now.Before(unused.Add(unusedTime)) {
			return reconcile.Plan{Again: again(unused)}
		}
		return reconcile.Plan{Groups: []store.Group{{Why: "nothing uses the older version " + name, Changes: deletion(snap, o, name)}}}
	}
	o = o.Clone()
	v, why := versioned(o), "the older version "+name+" is used again"
	if v.UnusedAt.IsZero() {
		v.UnusedAt, why = env.Now, "nothing uses the older version "+name+" any more"
	} else {
		v.UnusedAt = time.Time{}
	}
	return reconcile.Plan{Groups: []store.Group{{Why: why, Changes: []store.Change{store.PutSpec(o)}}}, Again: again(v.UnusedAt)}
}

// again is when to look again at what has not been used since then; the zero time is not.
func again(unused time.Time) time.Time {
	if unused.IsZero() {
		return unused
	}
	return unused.Add(unusedTime)
}

func versioned(o cluster.Object) *cluster.Versioned {
	if s, ok := o.(*cluster.Secret); ok {
		return &s.Versioned
	}
	return &o.(*cluster.Config).Versioned
}

func deletion(snap *store.Snapshot, o cluster.Object, name string) []store.Change {
	changes := []store.Change{store.Delete(o)}
	if cl, ok := store.Get[*cluster.Claim](snap, cluster.ClaimName(o.Kind(), name)); ok && cl.Owner == o.Key() {
		changes = append(changes, store.Delete(cl))
	}
	if data, ok := store.Get[*cluster.SecretData](snap, o.Key()); ok {
		changes = append(changes, store.Delete(data))
	}
	return changes
}

// used says whether a service uses the secret or config, could roll back to it or has a task with it, or a config keeps
// it.
func used(snap *store.Snapshot, id string) bool {
	for s := range store.List[*cluster.Service](snap) {
		if usedBy(s)[id] {
			return true
		}
	}
	for c := range store.List[*cluster.Config](snap) {
		for kept := range c.Kept() {
			if kept == id {
				return true
			}
		}
	}
	for t := range store.List[*cluster.Task](snap) {
		if t.Ended() {
			continue
		}
		for file := range cluster.FileIDs(&t.Spec) {
			if file == id {
				return true
			}
		}
	}
	return false
}

// olderVersions are the keys of all of them.
func olderVersions(snap *store.Snapshot) []reconcile.Key {
	var keys []reconcile.Key
	for s := range store.List[*cluster.Secret](snap) {
		if s.VersionOf != "" {
			keys = append(keys, reconcile.Key(versionPrefix+s.ID))
		}
	}
	for c := range store.List[*cluster.Config](snap) {
		if c.VersionOf != "" {
			keys = append(keys, reconcile.Key(versionPrefix+c.ID))
		}
	}
	return keys
}

// versionOf is the ID that a key names; ok is false for other keys.
func versionOf(k reconcile.Key) (id string, ok bool) {
	return strings.CutPrefix(string(k), versionPrefix)
}
