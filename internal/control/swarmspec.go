package control

import (
	"net/netip"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/pki"
)

// Defaults of a swarm's settings. They are Swarm's, but for the heartbeat: a node is down after three that are missed.
const (
	defaultHistory          = 5
	defaultSnapshotInterval = 10000
	defaultSlowFollowers    = 500
	defaultHeartbeat        = 2 * time.Second
	// minHeartbeat is the shortest that a manager with thousands of nodes could hear.
	minHeartbeat = 100 * time.Millisecond

	// MaxSubnetSize is the longest prefix of a swarm's subnets that Docker accepts: 8 addresses.
	MaxSubnetSize = 29
)

// defaultPool is Swarm's, and defaultIngress the routing mesh's part of it: one that Docker's own defaults leave alone and
// that has room for 65,000 tasks.
func defaultPool() netip.Prefix    { return netip.MustParsePrefix("10.0.0.0/8") }
func defaultIngress() netip.Prefix { return netip.MustParsePrefix("10.255.0.0/16") }

// SetSwarmDefaults fills in what a request leaves out.
func SetSwarmDefaults(s *swarm.Spec) {
	s.Name = "default"
	if s.Labels == nil {
		s.Labels = map[string]string{}
	}
	if s.Orchestration.TaskHistoryRetentionLimit == nil {
		n := int64(defaultHistory)
		s.Orchestration.TaskHistoryRetentionLimit = &n
	}
	r := &s.Raft
	if r.SnapshotInterval == 0 {
		r.SnapshotInterval = defaultSnapshotInterval
	}
	if r.KeepOldSnapshots == nil {
		r.KeepOldSnapshots = new(uint64)
	}
	if r.LogEntriesForSlowFollowers == 0 {
		r.LogEntriesForSlowFollowers = defaultSlowFollowers
	}
	r.ElectionTick, r.HeartbeatTick = 10, 1 // they measure nothing here: consensus has time-outs of its own
	if s.Dispatcher.HeartbeatPeriod == 0 {
		s.Dispatcher.HeartbeatPeriod = defaultHeartbeat
	}
	if s.CAConfig.NodeCertExpiry == 0 {
		s.CAConfig.NodeCertExpiry = pki.DefaultValidity
	}
}

// checkAvailability is of a node that is made or updated.
func checkAvailability(a swarm.NodeAvailability) error {
	switch a {
	case swarm.NodeAvailabilityActive, swarm.NodeAvailabilityPause, swarm.NodeAvailabilityDrain:
		return nil
	}
	return invalid("invalid Availability: %q", string(a))
}

// NodeAvailability is what a request asks for, or active.
func NodeAvailability(asked swarm.NodeAvailability) (swarm.NodeAvailability, error) {
	if asked == "" {
		return swarm.NodeAvailabilityActive, nil
	}
	return asked, checkAvailability(asked)
}

// AddressPools checks the pools that a new swarm takes its networks' subnets from, size being the subnets' prefix length,
// and returns both, with the defaults for what is empty, and the routing mesh's subnet.
func AddressPools(asked []netip.Prefix, size uint32) (pools []netip.Prefix, bits uint32, ingress netip.Prefix, err error) {
	if size == 0 {
		size = defaultSubnetSize
	}
	if size > MaxSubnetSize {
		return nil, 0, netip.Prefix{}, invalid("subnet size is out of range: %d", size)
	}
	for _, p := range asked {
		switch {
		case !p.IsValid() || !p.Addr().Is4():
			return nil, 0, netip.Prefix{}, invalid("invalid base pool %s: it must be an IPv4 subnet, ADDRESS/BITS", p)
		case int(size) < p.Bits():
			return nil, 0, netip.Prefix{}, invalid("invalid CIDR: %q. Subnet size is too small for pool: %d", p, size)
		}
		for _, other := range pools {
			if other.Overlaps(p) {
				return nil, 0, netip.Prefix{}, invalid("invalid base pool %s: it overlaps the pool %s", p, other)
			}
		}
		pools = append(pools, p.Masked())
	}
	if len(pools) == 0 {
		if int(size) < defaultPool().Bits() {
			return nil, 0, netip.Prefix{}, invalid("invalid CIDR: %q. Subnet size is too small for pool: %d", defaultPool(), size)
		}
		return []netip.Prefix{defaultPool()}, size, defaultIngress(), nil
	}
	// The mesh needs an address for every task that publishes a port: the last quarter of the first pool, at most as much
	// as by default and at least one subnet.
	width := min(max(pools[0].Bits()+2, defaultIngress().Bits()), int(size))
	ingress = nth(pools[0], width, uint64(1)<<(width-pools[0].Bits())-1)
	return pools, size, ingress, nil
}

// DataPathPort checks the UDP port of the tunnels; 0 is IANA's for VXLAN, and Swarm's.
func DataPathPort(asked uint32) (uint16, error) {
	const vxlan = 4789
	switch {
	case asked == 0:
		return vxlan, nil
	case asked < 1024 || asked > 49151:
		return 0, invalid("Datapath port number is not in valid range (1024-49151) : %d", asked)
	}
	return uint16(asked), nil
}

func checkHeartbeat(d time.Duration) error {
	switch {
	case d < 0:
		return invalid("heartbeat time period cannot be a negative duration")
	case d != 0 && d < minHeartbeat:
		return invalid("heartbeat time period cannot be shorter than %s", minHeartbeat)
	}
	return nil
}
