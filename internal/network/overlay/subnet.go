package overlay

import "net/netip"

// BridgeSubnet is the address of the host on its bridge, with the length of the bridge's prefix.
func (k *Kernel) BridgeSubnet() netip.Prefix {
	return netip.PrefixFrom(gateway(k.subnet), k.subnet.Bits())
}
