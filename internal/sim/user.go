package sim

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/store"
)

// ingress is the routing mesh's network; a small one runs out of addresses.
func ingress(small bool) *cluster.Network {
	n := &cluster.Network{}
	n.ID = "ingress-id"
	n.Spec.Name, n.Spec.Ingress = "ingress", true
	subnet := netip.MustParsePrefix("10.0.0.0/24")
	if small {
		subnet = netip.MustParsePrefix("10.0.0.0/26")
	}
	n.IPAMOptions = &swarm.IPAMOptions{Configs: []swarm.IPAMConfig{{Subnet: subnet, Gateway: netip.MustParseAddr("10.0.0.1")}}}
	return n
}

// addNode joins a node.
func (w *world) addNode() {
	n := &cluster.Node{}
	n.ID = w.newID()
	n.Spec.Role, n.Spec.Availability = swarm.NodeRoleWorker, swarm.NodeAvailabilityActive
	n.Spec.Labels = map[string]string{"zone": string('a' + rune(w.rng.IntN(3)))}
	n.Description.Hostname = "host-" + n.ID
	n.Description.Resources = swarm.Resources{NanoCPUs: 4e9, MemoryBytes: 8 << 30}
	if w.rng.IntN(2) == 0 {
		n.Description.Resources.GenericResources = []swarm.GenericResource{
			{NamedResourceSpec: &swarm.NamedGenericResource{Kind: "gpu", Value: "U1"}}, {NamedResourceSpec: &swarm.NamedGenericResource{Kind: "gpu", Value: "U2"}},
		}
	}
	w.update("node "+n.ID+" joins", func(tx *store.Tx) error { tx.Write(store.Create(n)); return nil })
	if _, ok := store.Get[*cluster.Node](w.snapshot(), n.ID); ok { // also if the answer was lost
		w.agents[n.ID] = &agent{w: w, id: n.ID, alive: true, connected: true, contact: time.Now(), tasks: map[string]*local{}}
	}
}

// removeNode removes a node that is down, as `node rm` does.
func (w *world) removeNode(n *cluster.Node) {
	if n.Status.State != swarm.NodeStateDown {
		return
	}
	w.update("node rm "+n.ID, func(tx *store.Tx) error {
		n, ok := store.Get[*cluster.Node](tx.Snapshot, n.ID)
		if ok && n.Status.State == swarm.NodeStateDown {
			tx.Write(store.Delete(n))
		}
		return nil
	})
	if _, ok := store.Get[*cluster.Node](w.snapshot(), n.ID); !ok {
		delete(w.agents, n.ID)
	}
}

// user is one command.
func (w *world) user() {
	var services []*cluster.Service
	for s := range store.List[*cluster.Service](w.snapshot()) {
		services = append(services, s)
	}
	var nodes []*cluster.Node
	for n := range store.List[*cluster.Node](w.snapshot()) {
		nodes = append(nodes, n)
	}
	n := nodes[w.rng.IntN(len(nodes))]
	switch k := w.rng.IntN(20); {
	case len(services) > 0 && w.faults && w.rng.IntN(4) == 0:
		w.load(services[w.rng.IntN(len(services))].ID)
	case len(services) == 0 || k < 5 && len(services) < 6:
		w.createService()
	case k < 9:
		w.updateService(services[w.rng.IntN(len(services))].ID)
	case k < 10 && w.rng.IntN(2) == 0:
		w.rebalance(services[w.rng.IntN(len(services))].ID)
	case k < 11:
		w.scale(services[w.rng.IntN(len(services))].ID, uint64(w.rng.IntN(9)), true)
	case k < 12 && w.rng.IntN(3) == 0:
		w.suspend(services[w.rng.IntN(len(services))].ID)
	case k < 12:
		w.label(n)
	case k < 15:
		w.removeService(services[w.rng.IntN(len(services))].ID)
	case k < 18:
		av := []swarm.NodeAvailability{swarm.NodeAvailabilityActive, swarm.NodeAvailabilityActive, swarm.NodeAvailabilityPause, swarm.NodeAvailabilityDrain}[w.rng.IntN(4)]
		w.update(fmt.Sprintf("node update --availability %s %s", av, n.ID), func(tx *store.Tx) error {
			n, ok := store.Get[*cluster.Node](tx.Snapshot, n.ID)
			if !ok {
				return nil
			}
			c := n.Clone().(*cluster.Node)
			c.Spec.Availability = av
			if av == swarm.NodeAvailabilityDrain {
				w.stats.Drained++
			}
			tx.Write(store.PutSpec(c))
			return nil
		})
	case k == 18 && len(nodes) < 9:
		w.addNode()
	case len(nodes) > 3:
		w.removeNode(n)
	}
}

// createService makes a service as control does: with claims of its name and its ports.
func (w *world) createService() {
	s := &cluster.Service{}
	s.ID = w.newID()
	s.Spec.Name = fmt.Sprintf("svc%d", w.rng.IntN(8))
	what := w.mode(s)
	w.balance(s)
	t := &s.Spec.TaskTemplate
	t.ContainerSpec = &swarm.ContainerSpec{Image: "hello:1"}
	delay := time.Duration(w.rng.IntN(3)) * 2500 * time.Millisecond
	t.RestartPolicy = &swarm.RestartPolicy{Condition: swarm.RestartPolicyConditionAny, Delay: &delay}
	switch w.rng.IntN(10) {
	case 0:
		t.RestartPolicy = nil
	case 1:
		t.RestartPolicy.Condition = swarm.RestartPolicyConditionOnFailure
	case 2:
		t.RestartPolicy.Condition = swarm.RestartPolicyConditionNone
	case 3:
		n := uint64(1 + w.rng.IntN(3))
		t.RestartPolicy.MaxAttempts = &n
	}
	t.Placement = &swarm.Placement{}
	switch w.rng.IntN(5) {
	case 0:
		t.Placement.Constraints = []string{"node.labels.zone != a"}
	case 1:
		t.Placement.MaxReplicas = 2
	case 2:
		t.Placement.Preferences = []swarm.PlacementPreference{{Spread: &swarm.SpreadOver{SpreadDescriptor: "node.labels.zone"}}}
	}
	if w.rng.IntN(2) == 0 && t.Resources == nil {
		t.Resources = &swarm.ResourceRequirements{Reservations: &swarm.Resources{NanoCPUs: int64(1+w.rng.IntN(3)) * 5e8}}
	}
	if t.Resources != nil && w.rng.IntN(4) == 0 {
		t.Resources.Reservations.GenericResources = []swarm.GenericResource{{DiscreteResourceSpec: &swarm.DiscreteGenericResource{Kind: "gpu", Value: 1}}}
	}
	if s.JobStatus == nil {
		s.Spec.UpdateConfig, s.Spec.RollbackConfig = w.updateConfig(), w.updateConfig()
	}
	var claims []store.Change
	switch w.rng.IntN(4) {
	case 2:
		w.hostPorts(s)
	case 0:
		p := uint32(8080 + w.rng.IntN(6))
		s.Spec.EndpointSpec = &swarm.EndpointSpec{Ports: []swarm.PortConfig{{Protocol: "tcp", TargetPort: 80, PublishedPort: p, PublishMode: swarm.PortConfigPublishModeIngress}}}
		claims = append(claims, store.Create(&cluster.Claim{ID: cluster.ClaimPort("tcp", p), Owner: s.ID, OwnerName: s.Spec.Name}))
	case 1:
		s.Spec.EndpointSpec = &swarm.EndpointSpec{Ports: []swarm.PortConfig{{Protocol: "tcp", TargetPort: 80, PublishMode: swarm.PortConfigPublishModeIngress}}}
	}
	claims = append(claims, store.Create(&cluster.Claim{ID: cluster.ClaimName(cluster.KindService, s.Spec.Name), Owner: s.ID, OwnerName: s.Spec.Name}))
	w.update(fmt.Sprintf("service create %s %s (%s)", s.Spec.Name, what, s.ID), func(tx *store.Tx) error {
		for _, c := range claims {
			if old, ok := store.Get[*cluster.Claim](tx.Snapshot, c.ID); ok {
				return fmt.Errorf("%s is in use by %s", c.ID, old.OwnerName)
			}
		}
		for _, c := range claims {
			tx.Write(store.Create(c.Value.Clone()))
		}
		tx.Write(store.Create(s.Clone()))
		return nil
	})
}

// scale changes the replicas; another user may be quicker.
func (w *world) scale(id string, n uint64, rival bool) {
	w.update(fmt.Sprintf("service scale %s=%d", id, n), func(tx *store.Tx) error {
		if rival && w.chance(30) {
			rival = false
			w.scale(id, uint64(w.rng.IntN(9)), false)
		}
		s, ok := store.Get[*cluster.Service](tx.Snapshot, id)
		if !ok {
			return fmt.Errorf("no such service")
		}
		c := s.Clone().(*cluster.Service)
		prev := s.Clone().(*cluster.Service).Spec
		c.PreviousSpec, c.UpdateStatus = &prev, nil
		switch m := &c.Spec.Mode; {
		case m.Replicated != nil:
			m.Replicated.Replicas = &n
			switch {
			case c.Scale == nil:
			case n == 0:
				c.Scale = nil
			default:
				a, _ := cluster.AutoscaleOf(&c.Spec)
				c.Scale.Decide(min(max(n, a.Min), a.Max), w.leader.store.Now(), "scaled by hand")
			}
		case m.ReplicatedJob != nil:
			m.ReplicatedJob.TotalCompletions = &n
		default:
			return fmt.Errorf("scale can only be used with replicated or replicated-job mode")
		}
		w.again(c)
		tx.Write(store.PutBoth(c))
		return nil
	})
}

// removeService removes the service, its name and its ports, as control does; the tasks stay.
func (w *world) removeService(id string) {
	w.update("service rm "+id, func(tx *store.Tx) error {
		s, ok := store.Get[*cluster.Service](tx.Snapshot, id)
		if !ok {
			return fmt.Errorf("no such service")
		}
		tx.Write(store.Delete(s))
		for c := range store.List[*cluster.Claim](tx.Snapshot) {
			if c.Owner == id {
				tx.Write(store.Delete(c))
			}
		}
		return nil
	})
}

// fault is something that goes wrong, or right again.
func (w *world) fault() {
	as := w.sorted()
	a := as[w.rng.IntN(len(as))]
	switch w.rng.IntN(7) {
	case 0:
		w.note("%s loses power", a.id)
		a.alive, a.connected = false, false
	case 1, 2:
		if a.alive {
			w.note("%s is cut off", a.id)
			a.connected = false
		}
	case 3:
		a.slow = w.rng.IntN(95)
		w.note("%s is slow: %d%%", a.id, a.slow)
	case 4:
		a.lossy = !a.lossy
		w.note("%s loses statuses: %v", a.id, a.lossy)
	default:
		w.back(a)
	}
}

// back brings a node back, with what it knew: after a power cut its containers are gone and it does not know how they
// ended.
func (w *world) back(a *agent) {
	if a.connected {
		return
	}
	w.note("%s is back (power was out: %v)", a.id, !a.alive)
	if !a.alive {
		for _, l := range a.tasks {
			if !cluster.Terminal(l.state) {
				l.state = swarm.TaskStateFailed
			}
		}
		a.routes = nil
	}
	a.alive = true
	a.connect()
}
