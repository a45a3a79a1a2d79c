package ledger

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"shoal.dev/shoal/internal/engine"
)

// labelTask says which of the swarm's tasks a container is of; the agent sets it.
const labelTask = "com.docker.swarm.task.id"

// Finder finds a network of the host.
type Finder func(ref string) (*network.Inspect, error)

// Networks is what a new container is on: the network of its mode and those that it names, by the networks' names. A
// network that is not there yet is kept under the name given; the start will miss it.
func Networks(h *container.HostConfig, want map[string]*network.EndpointSettings, find Finder) (map[string]*network.EndpointSettings, error) {
	mode := NetworkName(h.NetworkMode)
	if h.NetworkMode.IsContainer() {
		for ref := range want { // clients name it here, too
			if ref != string(h.NetworkMode) {
				return nil, errShared()
			}
		}
		return nil, nil
	}
	out := map[string]*network.EndpointSettings{}
	for ref, s := range want {
		if ref == network.NetworkDefault {
			ref = network.NetworkBridge
		}
		n := known(find, ref)
		name := ref
		if n != nil {
			name = n.Name
		}
		s, err := checked(name, n, s)
		if err != nil {
			return nil, Errorf(errdefs.ErrInvalidArgument, "invalid config for network %s: %s", ref, err)
		}
		out[name] = s
	}
	name := mode
	if n := known(find, mode); n != nil {
		name = n.Name
	}
	if out[name] == nil {
		out[name] = &network.EndpointSettings{}
	}
	if len(out) > 1 {
		if h.NetworkMode.IsHost() || out[network.NetworkHost] != nil {
			return nil, errShared()
		}
		if h.NetworkMode.IsNone() || out[network.NetworkNone] != nil {
			return nil, errPrivate()
		}
	}
	for name, s := range out {
		if n := known(find, name); n != nil && !container.NetworkMode(name).IsUserDefined() {
			s.NetworkID = n.ID // it stays
		}
	}
	return out, nil
}

func errShared() error {
	return Errorf(errdefs.ErrInvalidArgument, "container sharing network namespace with another container or host cannot be connected to any other network")
}

func errPrivate() error {
	return Errorf(errdefs.ErrInvalidArgument, "container cannot be connected to multiple networks with one of the networks in private (none) mode")
}

func known(find Finder, ref string) *network.Inspect {
	if find == nil {
		return nil
	}
	n, err := find(ref)
	if err != nil {
		return nil
	}
	return n
}

// checked is what a user said of a place on a network, without what a user cannot say; n is nil if it is not there yet.
func checked(name string, n *network.Inspect, s *network.EndpointSettings) (*network.EndpointSettings, error) {
	if s == nil {
		return &network.EndpointSettings{}, nil
	}
	out := &network.EndpointSettings{
		IPAMConfig: s.IPAMConfig.Copy(), Links: slices.Clone(s.Links), Aliases: slices.Clone(s.Aliases), DriverOpts: maps.Clone(s.DriverOpts),
		GwPriority: s.GwPriority, MacAddress: slices.Clone(s.MacAddress),
	}
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	own := container.NetworkMode(name).IsUserDefined()
	if c := out.IPAMConfig; c != nil {
		c.IPv4Address, c.IPv6Address = c.IPv4Address.Unmap(), c.IPv6Address.Unmap()
		switch {
		case !own && (c.IPv4Address.IsValid() || c.IPv6Address.IsValid()):
			bad("user-specified IP address is supported on user-defined networks only")
		case c.IPv4Address.IsValid() && (!c.IPv4Address.Is4() || c.IPv4Address.IsUnspecified()):
			bad("invalid IPv4 address: %s", c.IPv4Address)
		case c.IPv4Address.IsValid() && n != nil && !contains(n, c.IPv4Address):
			bad("no configured subnet contains IP address %s", c.IPv4Address)
		}
		if own && c.IPv6Address.IsValid() {
			bad("no configured subnet contains IP address %s", c.IPv6Address)
		}
		if len(c.LinkLocalIPs) > 0 {
			bad("link-local addresses are not supported: they are not implemented by Shoal yet")
		}
	}
	if !own && len(out.Aliases) > 0 {
		bad("network-scoped aliases are only supported for user-defined networks")
	}
	if !own && len(out.Links) > 0 {
		bad("links are only supported for user-defined networks")
	}
	if m := out.MacAddress; len(m) > 0 && (len(m) != 6 || m[0]&1 != 0) {
		bad("invalid MAC address: %s", m)
	}
	for _, l := range out.Links {
		if to, alias := link(l); to == "" || alias == "" {
			bad("invalid link: %q", l)
		}
	}
	if o := out.DriverOpts["com.docker.network.endpoint.sysctls"]; o != "" {
		bad("sysctls of an interface are not supported: they are not implemented by Shoal yet")
	}
	if len(errs) > 0 {
		return nil, fmt.Errorf("invalid endpoint settings:\n%w", errors.Join(errs...))
	}
	return out, nil
}

func contains(n *network.Inspect, a netip.Addr) bool {
	return slices.ContainsFunc(n.IPAM.Config, func(c network.IPAMConfig) bool { return c.Subnet.Contains(a) })
}

// link reads "container:alias" or "container".
func link(s string) (to, alias string) {
	to, alias, two := strings.Cut(s, ":")
	if !two {
		alias = to
	}
	return strings.TrimPrefix(to, "/"), alias
}

// Attachment is what the container wants of the network.
func (c *Container) Attachment() (engine.Attachment, error) {
	ports, err := PortRequests(c.Config.ExposedPorts, c.HostConfig)
	if err != nil {
		return engine.Attachment{}, err
	}
	a := engine.Attachment{Name: c.Name, Task: c.Config.Labels[labelTask], Ingress: c.Ingress, Ports: ports, Resolvers: c.HostConfig.DNS}
	if c.Networks == nil { // of before there were others than the bridge
		return a, nil
	}
	a.Networks = []engine.EndpointRequest{}
	first := NetworkName(c.HostConfig.NetworkMode)
	names := slices.SortedFunc(maps.Keys(c.Networks), func(a, b string) int { // that of the mode is eth0
		return cmp.Or(-cmp.Compare(btoi(a == first), btoi(b == first)), cmp.Compare(a, b))
	})
	for _, name := range names {
		s := c.Networks[name]
		r := engine.EndpointRequest{Network: name, Priority: s.GwPriority, Names: c.dnsNames(name, s.Aliases)}
		if s.IPAMConfig != nil {
			r.Addr = s.IPAMConfig.IPv4Address
		}
		if len(s.MacAddress) > 0 {
			r.MAC = s.MacAddress.String()
		}
		for _, l := range s.Links {
			to, alias := link(l)
			if r.Links == nil {
				r.Links = map[string]string{}
			}
			r.Links[alias] = to
		}
		a.Networks = append(a.Networks, r)
	}
	return a, nil
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// dnsNames is what the container is called on a network: its name, its aliases, its short ID and its host name. On the
// network bridge it has none, as in Docker.
func (c *Container) dnsNames(name string, aliases []string) []string {
	if !container.NetworkMode(name).IsUserDefined() {
		return nil
	}
	var out []string
	for _, n := range slices.Concat([]string{c.Name}, aliases, []string{c.ID[:12], c.Config.Hostname}) {
		if n != "" && !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out
}

// Connect is engine.Networks' of an engine. rewire makes n of c, whose lock is held: it attaches n if c runs, writes it
// down, and returns it.
func (l *Ledger) Connect(ctx context.Context, find Finder, ref, name string, s *network.EndpointSettings, rewire func(c, n *Container) (*Container, error)) error {
	return l.rewire(ctx, find, ref, name, false, func(c *Container, n *network.Inspect) (*Container, error) { return connected(c, ref, n, s) }, rewire)
}

// Disconnect is engine.Networks' of an engine; see Connect.
func (l *Ledger) Disconnect(ctx context.Context, find Finder, ref, name string, force bool, rewire func(c, n *Container) (*Container, error)) error {
	return l.rewire(ctx, find, ref, name, force, func(c *Container, n *network.Inspect) (*Container, error) { return disconnected(c, ref, n) }, rewire)
}

// rewire changes the networks of a container. A running one, unless forced, is on networks that are there only.
func (l *Ledger) rewire(ctx context.Context, find Finder, ref, name string, force bool, change func(*Container, *network.Inspect) (*Container, error), rewire func(c, n *Container) (*Container, error)) error {
	c, unlock, err := l.Lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	found, err := find(ref)
	if err != nil && (c.Running() && !force || !errdefs.IsNotFound(err)) {
		return err
	}
	n, err := change(c, found)
	if err != nil {
		return err
	}
	if n, err = rewire(c, n); err != nil {
		return err
	}
	l.Put(n)
	l.ReportEndpoints(n.ID, c.State.Sandbox, n.State.Sandbox)
	return nil
}

// connected is the container with one more network, n, or, if that is not there yet, the one named ref.
func connected(c *Container, ref string, n *network.Inspect, s *network.EndpointSettings) (*Container, error) {
	name := ref
	if n != nil {
		name = n.Name
	}
	mode := c.HostConfig.NetworkMode
	switch {
	case name == network.NetworkHost && !mode.IsHost():
		return nil, Errorf(errdefs.ErrInvalidArgument, "cannot connect container to host network - container must be created in host network mode")
	case mode.IsContainer(), mode.IsHost() && name != network.NetworkHost:
		return nil, errShared()
	case len(c.Networks) > 0 && (name == network.NetworkNone) != (c.Networks[network.NetworkNone] != nil):
		return nil, errPrivate()
	}
	settings, err := checked(name, n, s)
	if err != nil {
		return nil, Errorf(errdefs.ErrInvalidArgument, "%s", err)
	}
	if c.Networks[name] != nil {
		if c.Running() {
			return nil, Errorf(errdefs.ErrPermissionDenied, "endpoint with name %s already exists in network %s", c.Name, name)
		}
		return c, nil
	}
	out := *c
	out.Networks = maps.Clone(c.Networks)
	if out.Networks == nil {
		out.Networks = map[string]*network.EndpointSettings{NetworkName(mode): {}}
	}
	out.Networks[name] = settings
	return &out, nil
}

// disconnected is the container without a network.
func disconnected(c *Container, ref string, n *network.Inspect) (*Container, error) {
	name := ref
	if n != nil {
		name = n.Name
	}
	switch {
	case c.HostConfig.NetworkMode.IsHost() && name == network.NetworkHost:
		return nil, Errorf(errdefs.ErrInvalidArgument, "cannot disconnect container from host network - container was created in host network mode")
	case c.Networks[name] == nil && (c.Networks != nil || name != network.NetworkBridge):
		if c.Running() {
			return nil, Errorf(errdefs.ErrInternal, "container %s is not connected to network %s", c.ID, name)
		}
		return nil, Errorf(errdefs.ErrInternal, "container %s is not connected to the network %s", c.ID, name)
	case name == network.NetworkNone:
		return nil, Errorf(errdefs.ErrNotImplemented, "disconnecting a container from the network none is not supported: it is not implemented by Shoal")
	}
	out := *c
	out.Networks = maps.Clone(c.Networks)
	if out.Networks == nil {
		out.Networks = map[string]*network.EndpointSettings{}
	}
	delete(out.Networks, name)
	return &out, nil
}

// Placed is the container where the network has put it. It remembers the IDs of its networks when it has ended.
func (c *Container) Placed(s engine.Sandbox) *Container {
	n := *c
	n.State.Sandbox, n.Networks = s, maps.Clone(c.Networks)
	for _, p := range s.Endpoints {
		if old := n.Networks[p.Network]; old != nil && old.NetworkID != p.NetworkID {
			e := old.Copy()
			e.NetworkID = p.NetworkID
			n.Networks[p.Network] = e
		}
	}
	return &n
}

// endpoints is the container's places as `inspect` and `ps` show them.
func endpoints(c *Container) map[string]*network.EndpointSettings {
	all := c.Networks
	if all == nil && !c.HostConfig.NetworkMode.IsContainer() {
		all = map[string]*network.EndpointSettings{NetworkName(c.HostConfig.NetworkMode): {}}
	}
	out := make(map[string]*network.EndpointSettings, len(all))
	gateway := c.State.Sandbox.Gateway()
	for name, s := range all {
		e := s.Copy()
		if p := c.State.Sandbox.On(name); p != nil {
			e.NetworkID, e.EndpointID, e.IPAddress, e.IPPrefixLen, e.Gateway = p.NetworkID, p.ID, p.Addr, p.Bits, p.Gateway
			if mac, err := net.ParseMAC(p.MAC); err == nil {
				e.MacAddress = network.HardwareAddr(mac)
			}
			if gateway != nil && gateway.NetworkID != p.NetworkID && p.Internal {
				e.Gateway = netip.Addr{}
			}
		}
		e.DNSNames = c.dnsNames(name, s.Aliases)
		out[name] = e
	}
	return out
}

// PruneNetworks has those networks of a host removed that no container is on and that pass the filters of POST
// /networks/prune. One that somebody uses by now stays.
func (l *Ledger) PruneNetworks(all []network.Inspect, filters map[string][]string, remove func(id string) error) (*network.PruneReport, error) {
	all = slices.DeleteFunc(slices.Clone(all), func(n network.Inspect) bool { return n.Scope == "swarm" }) // not the host's to remove
	list, err := Prunable(all, filters)
	if err != nil {
		return nil, err
	}
	out := &network.PruneReport{NetworksDeleted: []string{}}
	for _, n := range list {
		switch err := remove(n.ID); {
		case err == nil:
			out.NetworksDeleted = append(out.NetworksDeleted, n.Name)
		case !errdefs.IsPermissionDenied(err) && !errdefs.IsNotFound(err):
			return nil, err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.emit(engine.Event{Type: "network", Action: "prune", Attributes: map[string]string{"reclaimed": "0"}})
	return out, nil
}

// Prunable are the networks that POST /networks/prune with these filters removes if nobody uses them.
func Prunable(all []network.Inspect, want map[string][]string) ([]network.Inspect, error) {
	var until time.Time
	for k, values := range want {
		switch k {
		case "label", "label!":
		case "until":
			if len(values) > 1 {
				return nil, Errorf(errdefs.ErrInvalidArgument, "invalid filter: 'until' cannot be specified more than once")
			}
			var err error
			if until, err = parseUntil(values[0], time.Now()); err != nil {
				return nil, err
			}
		default:
			return nil, Errorf(errdefs.ErrInvalidArgument, "invalid filter '%s'", k)
		}
	}
	lacks := func(n network.Inspect) func(string) bool {
		return func(v string) bool { return !MatchLabel(n.Labels, v) }
	}
	var out []network.Inspect
	for _, n := range all {
		predefined := !container.NetworkMode(n.Name).IsUserDefined()
		if predefined || n.Ingress || len(n.Containers) > 0 || !until.IsZero() && n.Created.After(until) ||
			slices.ContainsFunc(want["label"], lacks(n)) ||
			len(want["label!"]) > 0 && !slices.ContainsFunc(want["label!"], lacks(n)) {
			continue
		}
		out = append(out, n)
	}
	return out, nil
}

// ReportNetwork reports something that happened to a network.
func (l *Ledger) ReportNetwork(n *network.Inspect, action string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.emit(engine.Event{Type: "network", Action: action, ID: n.ID, Attributes: map[string]string{"name": n.Name, "type": n.Driver}})
}

// ReportEndpoints reports which networks a container came to, and which it left.
func (l *Ledger) ReportEndpoints(container string, old, now engine.Sandbox) {
	l.mu.Lock()
	defer l.mu.Unlock()
	report := func(action string, list []engine.Endpoint, others *engine.Sandbox) {
		for _, p := range list {
			if o := others.On(p.NetworkID); o != nil && o.ID == p.ID {
				continue
			}
			l.emit(engine.Event{Type: "network", Action: action, ID: p.NetworkID, Attributes: map[string]string{
				"container": container, "name": p.Network, "type": p.Driver,
			}})
		}
	}
	report("disconnect", old.Endpoints, &now)
	report("connect", now.Endpoints, &old)
}
