package control

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"

	"github.com/containerd/errdefs"
	apinetwork "github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/store"
)

// IngressVNI is the VXLAN network identifier of the routing mesh: the first of Swarm's range for overlay networks.
const IngressVNI = 4096

// defaultSubnetSize is Swarm's prefix length of the subnets that it takes from its pools.
const defaultSubnetSize = 24

// NewIngress is the routing mesh's network of a new swarm.
func NewIngress(subnet netip.Prefix) *cluster.Network {
	n := &cluster.Network{}
	n.ID = cluster.NewID()
	n.Spec.Name, n.Spec.Labels, n.Spec.Ingress = "ingress", map[string]string{}, true
	n.Spec.DriverConfiguration = &swarm.Driver{Name: "overlay"}
	n.DriverState = swarm.Driver{Name: "overlay", Options: map[string]string{cluster.OptionVNI: strconv.Itoa(IngressVNI)}}
	n.IPAMOptions = &swarm.IPAMOptions{Driver: swarm.Driver{Name: "default"}, Configs: []swarm.IPAMConfig{{Subnet: subnet, Gateway: subnet.Addr().Next()}}}
	n.Spec.IPAMOptions = &swarm.IPAMOptions{Driver: swarm.Driver{Name: "default"}, Configs: slices.Clone(n.IPAMOptions.Configs)}
	return n
}

// Networks lists the swarm's networks. A node that is no manager has none to list.
func (c *Control) Networks(ctx context.Context) ([]apinetwork.Inspect, error) {
	_, snap, err := c.read(ctx)
	if err != nil {
		return nil, err
	}
	var out []apinetwork.Inspect
	for n := range store.List[*cluster.Network](snap) {
		out = append(out, inspectNetwork(n))
	}
	return out, nil
}

func inspectNetwork(n *cluster.Network) apinetwork.Inspect {
	out := apinetwork.Inspect{}
	out.Name, out.ID, out.Created = n.Spec.Name, n.ID, n.CreatedAt
	out.Scope, out.Driver = "swarm", "overlay"
	out.EnableIPv4, out.EnableIPv6 = true, n.Spec.IPv6Enabled
	out.Internal, out.Attachable, out.Ingress = n.Spec.Internal, n.Spec.Attachable, n.Spec.Ingress
	out.Options, out.Labels = maps.Clone(n.DriverState.Options), maps.Clone(n.Spec.Labels)
	out.IPAM.Driver = "default"
	if n.IPAMOptions != nil {
		for _, c := range n.IPAMOptions.Configs {
			out.IPAM.Config = append(out.IPAM.Config, apinetwork.IPAMConfig{Subnet: c.Subnet, IPRange: c.Range, Gateway: c.Gateway})
		}
		if len(out.IPAM.Config) > 0 {
			out.IPAM.Config[0].AuxAddress = maps.Clone(n.Reserved)
		}
	}
	return out
}

// CreateNetwork makes an overlay network of the whole swarm, with a subnet and a VXLAN identifier of its own.
func (c *Control) CreateNetwork(ctx context.Context, r apinetwork.CreateRequest) (id string, err error) {
	m, err := c.write()
	if err != nil {
		return "", err
	}
	if err := cluster.ValidateNetwork(r); err != nil {
		return "", err
	}
	if err := cluster.UnsupportedNetwork(r); err != nil {
		return "", err
	}
	n := newNetwork(r)
	return n.ID, m.update(ctx, func(tx *store.Tx) error {
		if o, ok := tx.IngressNetwork(); ok && r.Ingress {
			return errdefs.ErrAlreadyExists.WithMessage(fmt.Sprintf("ingress network (%s) is already present", o.ID))
		}
		if _, ok := tx.NetworkByName(r.Name); ok || r.Name == "ingress" && !r.Ingress {
			return errdefs.ErrAlreadyExists.WithMessage("network with name " + r.Name + " already exists")
		}
		n := n.Clone().(*cluster.Network)
		if err := allocate(tx, n); err != nil {
			return err
		}
		tx.Write(store.Create(n))
		tx.Write(store.Create(&cluster.Claim{ID: cluster.ClaimName(cluster.KindNetwork, r.Name), Owner: n.ID, OwnerName: r.Name}))
		tx.Write(store.Create(&cluster.Claim{ID: cluster.ClaimVNI(n.VNI()), Owner: n.ID, OwnerName: r.Name}))
		for _, a := range reserved(n) {
			tx.Write(store.Create(&cluster.Claim{ID: cluster.ClaimAddr(n.ID, a), Owner: n.ID, OwnerName: r.Name}))
		}
		return nil
	})
}

// reserved are the addresses that no container gets: without the gateway, which none gets in any case.
func reserved(n *cluster.Network) []netip.Addr {
	_, gateway, _ := n.Subnet()
	all := slices.SortedFunc(maps.Values(n.Reserved), netip.Addr.Compare)
	return slices.DeleteFunc(slices.Compact(all), func(a netip.Addr) bool { return a == gateway })
}

// newNetwork is the record of a request, with nothing given out yet.
func newNetwork(r apinetwork.CreateRequest) *cluster.Network {
	n := &cluster.Network{}
	n.ID = cluster.NewID()
	n.Spec.Name, n.Spec.Labels = r.Name, maps.Clone(r.Labels)
	if n.Spec.Labels == nil {
		n.Spec.Labels = map[string]string{}
	}
	n.Spec.Internal, n.Spec.Attachable, n.Spec.Ingress, n.Spec.Scope = r.Internal, r.Attachable, r.Ingress, "swarm"
	n.Spec.DriverConfiguration = &swarm.Driver{Name: "overlay", Options: maps.Clone(r.Options)}
	n.Spec.IPAMOptions = &swarm.IPAMOptions{Driver: swarm.Driver{Name: "default"}}
	if r.IPAM != nil {
		for _, c := range r.IPAM.Config {
			n.Spec.IPAMOptions.Configs = append(n.Spec.IPAMOptions.Configs, swarm.IPAMConfig{Subnet: c.Subnet, Range: c.IPRange, Gateway: c.Gateway})
			n.Reserved = maps.Clone(c.AuxAddress)
		}
	}
	return n
}

// allocate gives the network its subnet and its VXLAN identifier, and has everybody else who does so at this moment look
// again.
func allocate(tx *store.Tx, n *cluster.Network) error {
	pools, known := store.Get[*cluster.Claim](tx.Snapshot, cluster.ClaimPools)
	if !known {
		pools = &cluster.Claim{ID: cluster.ClaimPools}
	}
	pools = pools.Clone().(*cluster.Claim)
	var config swarm.IPAMConfig
	if len(n.Spec.IPAMOptions.Configs) > 0 {
		config = n.Spec.IPAMOptions.Configs[0]
	}
	if config.Subnet.IsValid() {
		if o, ok := overlapping(tx.Snapshot, config.Subnet); ok {
			return errdefs.ErrPermissionDenied.WithMessage(fmt.Sprintf("invalid pool request: Pool overlaps with other one on this address space: %s is part of network %s", config.Subnet, o.Spec.Name))
		}
	} else {
		var err error
		last, _ := netip.ParsePrefix(pools.OwnerName)
		if config.Subnet, err = freeSubnet(tx.Snapshot, last); err != nil {
			return err
		}
		pools.OwnerName = config.Subnet.String()
	}
	if !config.Gateway.IsValid() {
		config.Gateway = config.Subnet.Addr().Next()
	}
	n.IPAMOptions = &swarm.IPAMOptions{Driver: swarm.Driver{Name: "default"}, Configs: []swarm.IPAMConfig{config}}
	options := maps.Clone(n.Spec.DriverConfiguration.Options)
	if options == nil {
		options = map[string]string{}
	}
	if asked := options[cluster.OptionVNI]; asked == "" {
		last, _ := strconv.ParseUint(pools.Owner, 10, 32)
		vni, err := freeVNI(tx.Snapshot, uint32(last))
		if err != nil {
			return err
		}
		pools.Owner = strconv.FormatUint(uint64(vni), 10)
		options[cluster.OptionVNI] = strconv.FormatUint(uint64(vni), 10)
	}
	n.DriverState = swarm.Driver{Name: "overlay", Options: options}
	if c, taken := store.Get[*cluster.Claim](tx.Snapshot, cluster.ClaimVNI(n.VNI())); taken {
		return invalid("VXLAN identifier %d is in use by network %s: choose another one or leave the option %s out", n.VNI(), c.OwnerName, cluster.OptionVNI)
	}
	if known {
		tx.Write(store.PutSpec(pools))
	} else {
		tx.Write(store.Create(pools))
	}
	return nil
}

// overlapping is a network of the swarm whose subnet overlaps.
func overlapping(snap *store.Snapshot, p netip.Prefix) (*cluster.Network, bool) {
	for n := range store.List[*cluster.Network](snap) {
		if have, _, ok := n.Subnet(); ok && have.Overlaps(p) {
			return n, true
		}
	}
	return nil, false
}

// freeSubnet is the first subnet of the swarm's pools after last, going round, that overlaps no network's and has no
// node's address in it: one that was just freed rests, because a node may still have containers there that are stopping.
// A pool's very first is the last to be taken: it is what most other networks in the world begin with.
func freeSubnet(snap *store.Snapshot, last netip.Prefix) (netip.Prefix, error) {
	pools, bits := []netip.Prefix{defaultPool()}, defaultSubnetSize
	if s := snap.Swarm(); s != nil && len(s.DefaultAddrPool) > 0 {
		pools = s.DefaultAddrPool
		if s.SubnetSize != 0 {
			bits = int(s.SubnetSize)
		}
	}
	var taken []netip.Prefix
	for n := range store.List[*cluster.Network](snap) {
		if p, _, ok := n.Subnet(); ok {
			taken = append(taken, p)
		}
	}
	for n := range store.List[*cluster.Node](snap) {
		if a, err := netip.ParseAddr(n.Status.Addr); err == nil && a.Is4() {
			taken = append(taken, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	free := func(from, to netip.Prefix) (netip.Prefix, bool) { // after from, up to and with to
		inside := !from.IsValid()
		for _, pool := range pools {
			if !pool.Addr().Is4() || pool.Bits() > bits {
				continue
			}
			count := uint64(1) << (bits - pool.Bits())
			for i := range count {
				p := nth(pool, bits, (i+1)%count)
				if inside && !slices.ContainsFunc(taken, p.Overlaps) {
					return p, true
				}
				inside = inside || p == from
				if to.IsValid() && p == to {
					return netip.Prefix{}, false
				}
			}
		}
		return netip.Prefix{}, false
	}
	if p, ok := free(last, netip.Prefix{}); ok {
		return p, nil
	}
	if p, ok := free(netip.Prefix{}, last); ok { // last is of other pools, or of the end of these
		return p, nil
	}
	return netip.Prefix{}, errdefs.ErrResourceExhausted.WithMessage("could not find an available, non-overlapping IPv4 address pool among the defaults to assign to the network: remove networks, or give this one a subnet")
}

// nth is the i-th subnet of so many bits in a pool.
func nth(pool netip.Prefix, bits int, i uint64) netip.Prefix {
	a := pool.Masked().Addr().As4()
	v := uint64(a[0])<<24 | uint64(a[1])<<16 | uint64(a[2])<<8 | uint64(a[3])
	v += i << (32 - bits)
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)}), bits)
}

// freeVNI is the first free identifier after last, going round.
func freeVNI(snap *store.Snapshot, last uint32) (uint32, error) {
	const first, count = uint32(IngressVNI + 1), cluster.MaxVNI - IngressVNI
	for i := range uint32(count) {
		vni := first + (max(last, first-1)-first+1+i)%count
		if _, taken := store.Get[*cluster.Claim](snap, cluster.ClaimVNI(vni)); !taken {
			return vni, nil
		}
	}
	return 0, errors.New("every VXLAN identifier is in use")
}

// publishes says whether the routing mesh publishes a port of the service.
func publishes(s *cluster.Service) bool {
	e := s.Spec.EndpointSpec
	return e != nil && slices.ContainsFunc(e.Ports, func(p swarm.PortConfig) bool { return p.PublishMode != swarm.PortConfigPublishModeHost })
}

// RemoveNetwork removes a network that no service, no task and no container uses. It waits a moment for containers that
// have just ended, unless it is to remove unused networks only.
func (c *Control) RemoveNetwork(ctx context.Context, ref string, unused bool) error {
	m, err := c.write()
	if err != nil {
		return err
	}
	if !unused {
		m.awaitDetached(ctx, ref)
	}
	return m.update(ctx, func(tx *store.Tx) error {
		n, err := find(tx.Snapshot, "network", ref, networkName)
		if err != nil {
			return err
		}
		for s := range store.List[*cluster.Service](tx.Snapshot) {
			if n.Spec.Ingress && publishes(s) {
				return errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf("ingress network cannot be removed because service %s depends on it", s.ID))
			}
			if slices.Contains(cluster.Targets(&s.Spec.TaskTemplate), n.ID) {
				return errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf("network %s is in use by service %s", n.ID, s.ID))
			}
		}
		for t := range store.List[*cluster.Task](tx.Snapshot) {
			// One that is stopping, or is about to because its service is gone, gives its node's part of the network back
			// when it has ended.
			if _, serves := store.Get[*cluster.Service](tx.Snapshot, t.ServiceID); t.ServiceID != "" && !serves {
				continue
			}
			if !n.Spec.Ingress && t.WantsToRun() && !t.Ended() && t.Address(n.ID).IsValid() {
				return errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf("network %s is in use by task %s", n.ID, t.ID))
			}
		}
		tx.Write(store.Delete(n))
		claims := []string{cluster.ClaimName(cluster.KindNetwork, n.Spec.Name), cluster.ClaimVNI(n.VNI())}
		for _, a := range reserved(n) {
			claims = append(claims, cluster.ClaimAddr(n.ID, a))
		}
		for _, id := range claims {
			if cl, ok := store.Get[*cluster.Claim](tx.Snapshot, id); ok && cl.Owner == n.ID {
				tx.Write(store.Delete(cl))
			}
		}
		if cl, ok := store.Get[*cluster.Claim](tx.Snapshot, cluster.ClaimPools); ok {
			tx.Write(store.PutSpec(cl))
		}
		return nil
	})
}

func networkName(n *cluster.Network) string { return n.Spec.Name }

// resolveNetworks replaces the names of networks by their IDs, and refuses those that a service cannot be on. A network
// that is removed at the same moment is what the service's tasks then say they wait for.
func resolveNetworks(snap *store.Snapshot, spec *swarm.ServiceSpec) error {
	if len(spec.TaskTemplate.Networks) == 0 {
		return nil
	}
	list := slices.Clone(spec.TaskTemplate.Networks)
	seen := map[string]bool{}
	for i, a := range list {
		if a.Target == cluster.HostNetwork {
			if len(list) > 1 {
				return invalid("a service on the host's own network cannot be on others as well")
			}
			continue
		}
		n, err := find(snap, "network", a.Target, networkName)
		if err != nil {
			return err
		}
		if n.Spec.Ingress {
			return invalid("Service cannot be explicitly attached to the ingress network %q", n.ID)
		}
		if seen[n.ID] {
			return invalid("network %s is named twice", n.Spec.Name)
		}
		seen[n.ID] = true
		list[i].Target = n.ID
	}
	spec.TaskTemplate.Networks = list
	return nil
}
