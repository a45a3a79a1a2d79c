package address

import (
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/reconcile"
	"shoal.dev/shoal/internal/store"
)

// The range of published ports that users leave open; Swarm's.
const (
	firstPort = 30000
	lastPort  = 32767
)

// waiting says whether the task waits for what this planner gives.
func waiting(t *cluster.Task) bool {
	return t.Status.State == swarm.TaskStateNew && t.WantsToRun()
}

// planTasks gives every new task what it needs and makes it pending.
func planTasks(snap *store.Snapshot, env reconcile.Env) reconcile.Plan {
	var plan reconcile.Plan
	a := &allocator{snap: snap, publishes: map[string]bool{}, pools: map[string]*pool{}}
	for t := range snap.WaitingTasks(swarm.TaskStateNew) {
		if !waiting(t) {
			continue
		}
		g, problem := a.task(t, env)
		if problem != "" {
			plan.Reasons = append(plan.Reasons, fmt.Sprintf("task %s: %s", t.ID, problem))
		}
		if len(g.Changes) > 0 {
			plan.Groups = append(plan.Groups, g)
		}
	}
	return plan
}

// allocator gives addresses to tasks during one plan.
type allocator struct {
	snap      *store.Snapshot
	publishes map[string]bool  // by service ID
	pools     map[string]*pool // by network ID; nil for one that cannot give an address
	soon      bool             // the address that was asked for last is about to be free
}

// task plans one task, or says why it cannot.
func (a *allocator) task(t *cluster.Task, env reconcile.Env) (g store.Group, problem string) {
	a.soon = false
	c := cluster.Fork(t)
	pending := swarm.TaskStatus{State: swarm.TaskStatePending, Message: "pending task scheduling", Timestamp: env.Now}
	if t.Attaches() { // its node has the container, and waits for the address only
		pending.State, pending.Message = swarm.TaskStateRunning, "attached"
	}
	networks, problem := a.networks(t)
	if problem == "" && len(networks) == 0 {
		c.Status = pending
		return store.Group{Why: "needs no address", Changes: []store.Change{store.PutState(c)}}, ""
	}
	var claims []store.Change
	var got []string
	for _, n := range networks {
		addr, bits, why := a.address(n, t.ID, t.Asked)
		if why != "" {
			problem = why
			break
		}
		c.NetworksAttachments = append(slices.Clip(c.NetworksAttachments), swarm.NetworkAttachment{
			Network:   swarm.Network{ID: n.ID},
			Addresses: []netip.Prefix{netip.PrefixFrom(addr, bits)},
		})
		got = append(got, addr.String())
		claims = append(claims, store.Create(&cluster.Claim{ID: cluster.ClaimAddr(n.ID, addr), Owner: t.ID, OwnerName: t.Name()}))
	}
	if problem != "" {
		if t.Status.Err == problem || a.soon {
			return store.Group{}, problem
		}
		c = cluster.Fork(t)
		c.Status.Err, c.Status.Timestamp = problem, env.Now
		return store.Group{Why: problem, Changes: []store.Change{store.PutState(c)}}, problem
	}
	c.SetStatus(pending, env.Now)
	return store.Group{Why: "gets address " + strings.Join(got, ", "), Changes: append([]store.Change{store.PutBoth(c)}, claims...)}, ""
}

// networks are the networks that the task needs an address on: the routing mesh first.
func (a *allocator) networks(t *cluster.Task) (list []*cluster.Network, problem string) {
	if a.published(t.ServiceID) {
		n, ok := a.snap.IngressNetwork()
		if !ok {
			return nil, "service needs ingress network, but no ingress network is present"
		}
		list = append(list, n)
	}
	for _, id := range cluster.Targets(&t.Spec) {
		n, ok := store.Get[*cluster.Network](a.snap, id)
		if !ok {
			return nil, "network " + id + " is not there any more: update the service to use another one"
		}
		list = append(list, n)
	}
	return list, ""
}

func (a *allocator) published(serviceID string) bool {
	v, ok := a.publishes[serviceID]
	if !ok {
		svc, found := store.Get[*cluster.Service](a.snap, serviceID)
		v = found && len(ingressPorts(svc.Spec.EndpointSpec)) > 0
		a.publishes[serviceID] = v
	}
	return v
}

// address gives out an address of the network for a task or a service: the one that is asked for, if any is.
func (a *allocator) address(n *cluster.Network, owner string, asked netip.Addr) (addr netip.Addr, bits int, problem string) {
	p, ok := a.pools[n.ID]
	if !ok {
		p = newPool(a.snap, n)
		a.pools[n.ID] = p
	}
	if p == nil {
		return addr, 0, fmt.Sprintf("network %s has no subnet to take an address from", n.Spec.Name)
	}
	if asked.IsValid() {
		problem, a.soon = p.take(asked)
		return asked, p.prefix.Bits(), problem
	}
	if addr, ok = p.next(owner); !ok {
		return addr, 0, fmt.Sprintf("could not find an available IP in subnet %s of network %s", p.prefix, n.Spec.Name)
	}
	return addr, p.prefix.Bits(), ""
}

// ingressPorts are the ports that the routing mesh publishes.
func ingressPorts(e *swarm.EndpointSpec) []swarm.PortConfig {
	if e == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(e.Ports), func(p swarm.PortConfig) bool {
		return p.PublishMode == swarm.PortConfigPublishModeHost
	})
}

// planNodes gives every node a number and an address on the routing mesh, the lowest first.
func planNodes(snap *store.Snapshot) reconcile.Plan {
	var plan reconcile.Plan
	var p *pool
	ingress, ok := snap.IngressNetwork()
	if ok {
		p = newPool(snap, ingress)
	}
	index, offset := uint32(1), uint32(0)
	for n := range store.List[*cluster.Node](snap) {
		placed := p == nil || onIngress(snap, ingress.ID, n)
		if n.Index != 0 && placed {
			continue
		}
		c := n.Clone().(*cluster.Node)
		var claims []store.Change
		if c.Index == 0 {
			for ; index <= 65535; index++ {
				if _, ok := store.Get[*cluster.Claim](snap, cluster.ClaimNodeIndex(uint16(index))); !ok {
					break
				}
			}
			if index > 65535 {
				plan.Reasons = append(plan.Reasons, fmt.Sprintf("node %s: all 65535 node numbers are in use", n.ID))
				continue
			}
			c.Index = uint16(index)
			index++
			claims = append(claims, store.Create(&cluster.Claim{ID: cluster.ClaimNodeIndex(c.Index), Owner: n.ID, OwnerName: n.Description.Hostname}))
		}
		if !placed {
			addr, ok := p.from(offset)
			if ok {
				offset = number(addr) - p.first + 1
				c.IngressAddr = addr
				claims = append(claims, store.Create(&cluster.Claim{ID: cluster.ClaimAddr(ingress.ID, addr), Owner: n.ID, OwnerName: n.Description.Hostname}))
			} else {
				plan.Reasons = append(plan.Reasons, fmt.Sprintf("node %s: could not find an available IP in subnet %s of network %s", n.ID, p.prefix, ingress.Spec.Name))
			}
		}
		if len(claims) > 0 {
			plan.Groups = append(plan.Groups, store.Group{
				Why: "node gets its number and address", Changes: append(claims, store.PutSpec(c)),
			})
		}
	}
	return plan
}

// onIngress says whether the node has an address on this routing mesh, and not of one that was there before.
func onIngress(snap *store.Snapshot, network string, n *cluster.Node) bool {
	c, ok := store.Get[*cluster.Claim](snap, cluster.ClaimAddr(network, n.IngressAddr))
	return n.IngressAddr.IsValid() && ok && c.Owner == n.ID
}

// planService fills the service's endpoint: what its specification says, with a port where it left one open.
func planService(snap *store.Snapshot, id string) reconcile.Plan {
	svc, ok := store.Get[*cluster.Service](snap, id)
	if !ok {
		return reconcile.Plan{}
	}
	var spec swarm.EndpointSpec
	if svc.Spec.EndpointSpec != nil {
		spec = *svc.Spec.EndpointSpec
	}
	var plan reconcile.Plan
	had := slices.Clone(svc.Endpoint.Ports)
	var ports []swarm.PortConfig
	var claims []store.Change
	var given map[string]bool // claims not to ask for
	for _, p := range spec.Ports {
		p = withDefaults(p)
		if p.PublishedPort != 0 || p.PublishMode == swarm.PortConfigPublishModeHost {
			ports = append(ports, p)
			continue
		}
		// A port that was given before stays.
		i := slices.IndexFunc(had, func(h swarm.PortConfig) bool {
			h2 := h
			h2.PublishedPort = 0
			c, ok := store.Get[*cluster.Claim](snap, cluster.ClaimPort(string(h.Protocol), h.PublishedPort))
			return h2 == p && ok && c.Owner == svc.ID
		})
		if i >= 0 {
			ports = append(ports, had[i])
			had = slices.Delete(had, i, i+1)
			continue
		}
		if given == nil {
			given = hostPorts(snap)
		}
		port, ok := freePort(snap, svc.ID, p, given)
		if !ok {
			plan.Reasons = append(plan.Reasons, fmt.Sprintf("service %s: no %s port between %d and %d is free", svc.Spec.Name, p.Protocol, firstPort, lastPort))
			continue
		}
		p.PublishedPort = port
		id := cluster.ClaimPort(string(p.Protocol), port)
		given[id] = true
		claims = append(claims, store.Create(&cluster.Claim{ID: id, Owner: svc.ID, OwnerName: svc.Spec.Name}))
		ports = append(ports, p)
	}
	vips, more, problems := virtualIPs(snap, svc, spec.Mode)
	claims, plan.Reasons = append(claims, more...), append(plan.Reasons, problems...)
	if len(plan.Reasons) > 0 || samePorts(svc.Endpoint, spec, ports) && slices.Equal(svc.Endpoint.VirtualIPs, vips) {
		return plan
	}
	c := svc.Clone().(*cluster.Service)
	c.Endpoint.Spec, c.Endpoint.Ports, c.Endpoint.VirtualIPs = spec, ports, vips
	changes := append(claims, store.PutState(c))
	// Claims of ports that the service does not publish any more.
	for _, h := range svc.Endpoint.Ports {
		still := slices.ContainsFunc(ports, func(p swarm.PortConfig) bool {
			return p.Protocol == h.Protocol && p.PublishedPort == h.PublishedPort
		})
		old, ok := store.Get[*cluster.Claim](snap, cluster.ClaimPort(string(h.Protocol), h.PublishedPort))
		if !still && ok && old.Owner == svc.ID {
			changes = append(changes, store.Delete(old))
		}
	}
	plan.Groups = []store.Group{{Why: "service gets its endpoint", Changes: changes}}
	return plan
}

// virtualIPs are the service's addresses on its networks, one on each unless it is found by its tasks' addresses; those
// that it has stay.
func virtualIPs(snap *store.Snapshot, svc *cluster.Service, mode swarm.ResolutionMode) (vips []swarm.EndpointVirtualIP, claims []store.Change, problems []string) {
	if mode == swarm.ResolutionModeDNSRR {
		return nil, nil, nil
	}
	a := &allocator{snap: snap, pools: map[string]*pool{}}
	for _, id := range cluster.Targets(&svc.Spec.TaskTemplate) {
		n, ok := store.Get[*cluster.Network](snap, id)
		if !ok {
			continue // its tasks say so
		}
		if i := slices.IndexFunc(svc.Endpoint.VirtualIPs, func(v swarm.EndpointVirtualIP) bool { return v.NetworkID == id }); i >= 0 {
			vips = append(vips, svc.Endpoint.VirtualIPs[i])
			continue
		}
		addr, bits, problem := a.address(n, svc.ID, netip.Addr{})
		if problem != "" {
			problems = append(problems, fmt.Sprintf("service %s: %s", svc.Spec.Name, problem))
			continue
		}
		vips = append(vips, swarm.EndpointVirtualIP{NetworkID: id, Addr: netip.PrefixFrom(addr, bits)})
		claims = append(claims, store.Create(&cluster.Claim{ID: cluster.ClaimAddr(id, addr), Owner: svc.ID, OwnerName: svc.Spec.Name}))
	}
	return vips, claims, problems
}

// withDefaults is the port with what Swarm fills in.
func withDefaults(p swarm.PortConfig) swarm.PortConfig {
	if p.Protocol == "" {
		p.Protocol = network.TCP
	}
	if p.PublishMode == "" {
		p.PublishMode = swarm.PortConfigPublishModeIngress
	}
	return p
}

func samePorts(e swarm.Endpoint, spec swarm.EndpointSpec, ports []swarm.PortConfig) bool {
	return e.Spec.Mode == spec.Mode && slices.Equal(e.Spec.Ports, spec.Ports) && slices.Equal(e.Ports, ports)
}

// hostPorts are the claims of the ports that services publish on their tasks' nodes: nobody has claimed them, but the
// routing mesh cannot have them.
func hostPorts(snap *store.Snapshot) map[string]bool {
	taken := map[string]bool{}
	for s := range store.List[*cluster.Service](snap) {
		for _, p := range cluster.FixedHostPorts(cluster.HostPorts(s.Spec.EndpointSpec)) {
			taken[cluster.ClaimPort(p.Protocol, p.Port)] = true
		}
	}
	return taken
}

// freePort finds a port for the service; where it starts to look depends on the service and the port inside, so that
// two services planned at the same time rarely choose the same.
func freePort(snap *store.Snapshot, serviceID string, p swarm.PortConfig, given map[string]bool) (uint32, bool) {
	h := fnv.New32a()
	fmt.Fprintf(h, "%s/%s/%d", serviceID, p.Protocol, p.TargetPort)
	const n = lastPort - firstPort + 1
	start := h.Sum32() % n
	for i := range uint32(n) {
		port := firstPort + (start+i)%n
		id := cluster.ClaimPort(string(p.Protocol), port)
		if given[id] {
			continue
		}
		if _, ok := store.Get[*cluster.Claim](snap, id); !ok {
			return port, true
		}
	}
	return 0, false
}
