package node

import (
	"context"
	"strconv"
	"time"

	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/store"
)

// announce reports what happens to the swarm's records as events, on every manager. It begins once this replica has
// what was committed before: the log that a manager reads again at its start is no news.
func (m *manager) announce(ctx context.Context, report func(engine.Event)) error {
	for {
		index, err := m.readIndex(ctx)
		if err == nil && m.store.WaitIndex(ctx, index) == nil {
			break
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(100 * time.Millisecond): // an election may be under way
		}
	}
	w, _ := m.store.Watch()
	defer w.Close()
	for {
		changes, _, err := w.Next(ctx)
		if err != nil {
			return nil // the daemon ends
		}
		for _, c := range changes {
			if e, ok := swarmEvent(c); ok {
				report(e)
			}
			for _, e := range runEvents(c) {
				report(e)
			}
		}
	}
}

// swarmEvent is what Docker reports of a record's change; its attributes tell what an update changed.
func swarmEvent(c store.Event) (engine.Event, bool) {
	e := engine.Event{ID: c.ID, Scope: "swarm", Action: string(events.ActionUpdate), Attributes: map[string]string{}}
	now := c.New
	switch {
	case c.Reset:
		return e, false
	case c.New == nil:
		e.Action, now = string(events.ActionRemove), c.Old
	case c.Old == nil:
		e.Action = string(events.ActionCreate)
	}
	a := attributes(e.Attributes)
	switch now := now.(type) {
	case *cluster.Node:
		e.Type = string(events.NodeEventType)
		if a["name"] = now.Spec.Name; now.Spec.Name == "" {
			a["name"] = now.Description.Hostname
		}
		if old, _ := c.Old.(*cluster.Node); old != nil && c.New != nil {
			a.ofNode(old, now)
		}
	case *cluster.Service:
		e.Type = string(events.ServiceEventType)
		a["name"] = now.Spec.Name
		if old, _ := c.Old.(*cluster.Service); old != nil && c.New != nil {
			a.ofService(old, now)
		}
	case *cluster.Network:
		e.Type = string(events.NetworkEventType)
		a["name"] = now.Spec.Name
	case *cluster.Secret:
		e.Type = string(events.SecretEventType)
		a["name"] = now.Spec.Name
	case *cluster.Config:
		e.Type = string(events.ConfigEventType)
		a["name"] = now.Spec.Name
	default:
		return e, false
	}
	return e, true
}

// attributes are those of an event: what changed stands in them twice, as KEY.old and KEY.new.
type attributes map[string]string

func (a attributes) changed(key, old, now string) {
	if old != now {
		a[key+".old"], a[key+".new"] = old, now
	}
}

func (a attributes) ofNode(old, now *cluster.Node) {
	a.changed("availability", string(old.Spec.Availability), string(now.Spec.Availability))
	a.changed("role", string(old.Spec.Role), string(now.Spec.Role))
	a.changed("state", string(old.Status.State), string(now.Status.State))
}

func (a attributes) ofService(old, now *cluster.Service) {
	a.changed("image", image(old), image(now))
	if o, n := old.Spec.Mode.Replicated, now.Spec.Mode.Replicated; o != nil && n != nil {
		a.changed("replicas", replicas(o), replicas(n))
	}
	if now.UpdateStatus == nil {
		return
	}
	if old.UpdateStatus == nil {
		a["updatestate.new"] = string(now.UpdateStatus.State)
	} else {
		a.changed("updatestate", string(old.UpdateStatus.State), string(now.UpdateStatus.State))
	}
}

func image(s *cluster.Service) string {
	if c := s.Spec.TaskTemplate.ContainerSpec; c != nil {
		return c.Image
	}
	return ""
}

func replicas(r *swarm.ReplicatedService) string {
	if r.Replicas == nil {
		return "1"
	}
	return strconv.FormatUint(*r.Replicas, 10)
}
