package dryrun

import (
	"cmp"
	"slices"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/httpapi"
	"shoal.dev/shoal/internal/store"
)

// compare says in what after differs from before.
func compare(before, after *store.Snapshot) ([]httpapi.DryRunChange, error) {
	var out []httpapi.DryRunChange
	add := func(changes []httpapi.DryRunChange, err error) error {
		slices.SortFunc(changes, func(a, b httpapi.DryRunChange) int {
			return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID))
		})
		out = append(out, changes...)
		return err
	}
	err := cmp.Or(
		add(differences(before, after, "network", func(n *cluster.Network) (string, any) { return n.Spec.Name, n.Spec })),
		add(differences(before, after, "secret", func(s *cluster.Secret) (string, any) {
			spec := s.Spec
			spec.Data = nil
			return spec.Name, spec
		})),
		add(differences(before, after, "config", func(c *cluster.Config) (string, any) { return c.Spec.Name, configSpec(c) })),
		add(differences(before, after, "service", func(s *cluster.Service) (string, any) { return s.Spec.Name, s.Spec })),
		add(differences(before, after, "node", func(n *cluster.Node) (string, any) { return n.Description.Hostname, n.Spec })),
		add(differences(before, after, "swarm", func(s *cluster.Swarm) (string, any) {
			spec := s.Spec
			spec.CAConfig.SigningCAKey = ""
			return spec.Name, spec
		})),
	)
	for i := range out {
		if out[i].Kind == "service" {
			out[i].Tasks = tasks(before, after, out[i].ID)
		}
	}
	return out, err
}

// configSpec shows how many bytes a config has: its text can be long, and is shown by `config inspect`.
func configSpec(c *cluster.Config) any {
	spec := c.Spec
	spec.Data = nil
	return struct {
		swarm.ConfigSpec
		Bytes int
	}{spec, len(c.Spec.Data)}
}

// differences are those of one kind of record; show gives an object's name and what is shown of it.
func differences[T cluster.Object](before, after *store.Snapshot, kind string, show func(T) (name string, spec any)) ([]httpapi.DryRunChange, error) {
	var out []httpapi.DryRunChange
	for o := range store.List[T](after) {
		name, spec := show(o)
		c := httpapi.DryRunChange{Kind: kind, Action: "create", ID: o.Key(), Name: name}
		var from any
		if old, ok := store.Get[T](before, o.Key()); ok {
			c.Action = "update"
			_, from = show(old)
		}
		var err error
		if c.Fields, err = fields(from, spec); err != nil {
			return nil, err
		}
		if c.Action == "create" || len(c.Fields) > 0 {
			out = append(out, c)
		}
	}
	for o := range store.List[T](before) {
		if _, ok := store.Get[T](after, o.Key()); !ok {
			name, _ := show(o)
			out = append(out, httpapi.DryRunChange{Kind: kind, Action: "remove", ID: o.Key(), Name: name})
		}
	}
	return out, nil
}

// tasks says what becomes of a service's tasks.
func tasks(before, after *store.Snapshot, id string) *httpapi.DryRunTasks {
	svc, stays := store.Get[*cluster.Service](after, id)
	running, replaced := 0, 0
	for t := range before.TasksByService(id) {
		if !t.WantsToRun() || t.Ended() {
			continue
		}
		running++
		if stays && !t.Follows(svc) {
			replaced++
		}
	}
	out := &httpapi.DryRunTasks{Replaced: replaced}
	switch {
	case !stays:
		out.Stopped = running
	case svc.Spec.Mode.Replicated != nil:
		want := int(svc.Replicas())
		out.Started, out.Stopped = max(0, want-running), max(0, running-want)
		out.Replaced = max(0, min(replaced, running-out.Stopped))
	}
	return out
}
