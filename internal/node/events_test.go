package node

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/store"
)

func TestSwarmEvents(t *testing.T) {
	service := func(image string, replicas uint64, state swarm.UpdateState) *cluster.Service {
		s := &cluster.Service{}
		s.ID, s.Spec.Name = "s1", "web"
		s.Spec.TaskTemplate.ContainerSpec = &swarm.ContainerSpec{Image: image}
		s.Spec.Mode.Replicated = &swarm.ReplicatedService{Replicas: &replicas}
		if state != "" {
			s.UpdateStatus = &swarm.UpdateStatus{State: state}
		}
		return s
	}
	node := func(availability swarm.NodeAvailability, role swarm.NodeRole, state swarm.NodeState) *cluster.Node {
		n := &cluster.Node{}
		n.ID, n.Description.Hostname = "n1", "node1"
		n.Spec.Availability, n.Spec.Role, n.Status.State = availability, role, state
		return n
	}
	net := &cluster.Network{}
	net.ID, net.Spec.Name = "net1", "ingress"
	secret, config := &cluster.Secret{}, &cluster.Config{}
	secret.ID, secret.Spec.Name = "s1", "pass"
	config.ID, config.Spec.Name = "c1", "page"
	type attrs = map[string]string
	for name, c := range map[string]struct {
		in   store.Event
		want *engine.Event
	}{
		"a new service": {store.Event{ID: "s1", New: service("a", 1, "")},
			&engine.Event{Type: "service", Action: "create", ID: "s1", Attributes: attrs{"name": "web"}}},
		"a service is scaled": {store.Event{ID: "s1", Old: service("a", 1, ""), New: service("a", 3, "")},
			&engine.Event{Type: "service", Action: "update", ID: "s1", Attributes: attrs{"name": "web", "replicas.old": "1", "replicas.new": "3"}}},
		"an update begins": {store.Event{ID: "s1", Old: service("a", 1, ""), New: service("b", 1, "updating")},
			&engine.Event{Type: "service", Action: "update", ID: "s1",
				Attributes: attrs{"name": "web", "image.old": "a", "image.new": "b", "updatestate.new": "updating"}}},
		"an update ends": {store.Event{ID: "s1", Old: service("b", 1, "updating"), New: service("b", 1, "completed")},
			&engine.Event{Type: "service", Action: "update", ID: "s1",
				Attributes: attrs{"name": "web", "updatestate.old": "updating", "updatestate.new": "completed"}}},
		"a service goes": {store.Event{ID: "s1", Old: service("b", 1, "completed")},
			&engine.Event{Type: "service", Action: "remove", ID: "s1", Attributes: attrs{"name": "web"}}},
		"a node joins": {store.Event{ID: "n1", New: node("active", "worker", "unknown")},
			&engine.Event{Type: "node", Action: "create", ID: "n1", Attributes: attrs{"name": "node1"}}},
		"a node changes": {store.Event{ID: "n1", Old: node("active", "worker", "ready"), New: node("drain", "manager", "down")},
			&engine.Event{Type: "node", Action: "update", ID: "n1", Attributes: attrs{"name": "node1",
				"availability.old": "active", "availability.new": "drain", "role.old": "worker", "role.new": "manager",
				"state.old": "ready", "state.new": "down"}}},
		"a network": {store.Event{ID: "net1", New: net},
			&engine.Event{Type: "network", Action: "create", ID: "net1", Attributes: attrs{"name": "ingress"}}},
		"a secret": {store.Event{ID: "s1", New: secret},
			&engine.Event{Type: "secret", Action: "create", ID: "s1", Attributes: attrs{"name": "pass"}}},
		"a secret goes": {store.Event{ID: "s1", Old: secret},
			&engine.Event{Type: "secret", Action: "remove", ID: "s1", Attributes: attrs{"name": "pass"}}},
		"a config": {store.Event{ID: "c1", Old: config, New: config},
			&engine.Event{Type: "config", Action: "update", ID: "c1", Attributes: attrs{"name": "page"}}},
		"a secret's bytes": {store.Event{ID: "s1", New: &cluster.SecretData{ID: "s1", Data: []byte("canary")}}, nil},
		"a task":           {store.Event{ID: "t1", New: &cluster.Task{}}, nil},
		"the CA":           {store.Event{ID: "ca", New: &cluster.Authority{PrivateKey: []byte("canary")}}, nil},
		"a snapshot":       {store.Event{Reset: true}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			got, ok := swarmEvent(c.in)
			if c.want == nil {
				if ok {
					t.Errorf("it is reported: %+v", got)
				}
				return
			}
			c.want.Scope = "swarm"
			if d := cmp.Diff(*c.want, got); d != "" || !ok {
				t.Errorf("%v %s", ok, d)
			}
		})
	}
}
