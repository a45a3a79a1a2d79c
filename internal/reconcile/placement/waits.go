package placement

import (
	"strings"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/store"
)

// waits knows which services wait for others, during one plan.
type waits struct {
	snap *store.Snapshot
	why  map[string]string // by service
}

// forWhat says what the task's service waits for; "" is nothing.
func (w *waits) forWhat(t *cluster.Task) string {
	why, ok := w.why[t.ServiceID]
	if ok {
		return why
	}
	if s, there := store.Get[*cluster.Service](w.snap, t.ServiceID); there {
		var parts []string
		for _, d := range s.Unmet() {
			on, ok := w.snap.DependedOn(s, d)
			if !ok {
				parts = append(parts, d.Service+" (there is no such service)")
				continue
			}
			d.Service = on.Spec.Name
			parts = append(parts, d.String())
		}
		if len(parts) > 0 {
			why = "waits for " + strings.Join(parts, ", ")
		}
	}
	if w.why == nil {
		w.why = map[string]string{}
	}
	w.why[t.ServiceID] = why
	return why
}

// gated says whether an event changes what a service waits for.
func gated(e store.Event) bool {
	old, _ := e.Old.(*cluster.Service)
	s, _ := e.New.(*cluster.Service)
	return old != nil && s != nil && len(old.Unmet()) != len(s.Unmet())
}
