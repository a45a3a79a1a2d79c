package network

import (
	"net"
	"net/netip"
)

// MAC is the link address that goes with an IPv4 address: locally administered, 02:42 and the address, as Docker has
// it. Tunnels need no address resolution, and an address that is used again brings its old link address along.
func MAC(a netip.Addr) net.HardwareAddr {
	b := a.As4()
	return net.HardwareAddr{0x02, 0x42, b[0], b[1], b[2], b[3]}
}
