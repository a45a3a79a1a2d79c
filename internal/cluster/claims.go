package cluster

import (
	"fmt"
	"net/netip"
	"strconv"
)

// ClaimName claims a name among the records of a kind.
func ClaimName(k Kind, name string) string { return "name/" + string(k) + "/" + name }

// ClaimPort claims a port of the routing mesh, which is the same on every node.
func ClaimPort(protocol string, port uint32) string {
	return fmt.Sprintf("port/%s/%d", protocol, port)
}

// ClaimAddr claims an address on a network.
func ClaimAddr(networkID string, a netip.Addr) string { return "addr/" + networkID + "/" + a.String() }

// ClaimSlots is what the IDs of all claims of a service's slots begin with.
func ClaimSlots(serviceID string) string { return "slot/" + serviceID + "/" }

// ClaimSlot claims a slot of a service for a task. A replacement takes the claim over with its expected version.
func ClaimSlot(serviceID string, slot int) string {
	return ClaimSlots(serviceID) + strconv.Itoa(slot)
}

// ClaimSlotNode claims what is the slot of a global service or job: a node.
func ClaimSlotNode(serviceID, nodeID string) string { return ClaimSlots(serviceID) + "node/" + nodeID }

// ClaimNodeIndex claims a node's small number; see [Node.Index].
func ClaimNodeIndex(i uint16) string { return "index/" + strconv.Itoa(int(i)) }

// ClaimVNI claims a VXLAN network identifier.
func ClaimVNI(vni uint32) string { return "vni/" + strconv.FormatUint(uint64(vni), 10) }

// ClaimRemoved marks a node that was removed: its certificate is refused although it is valid. A manager that merely
// does not know a node cannot refuse it, because its own replica may be behind.
func ClaimRemoved(nodeID string) string { return "removed/" + nodeID }

// ClaimPools is rewritten by everybody who gives out a subnet or takes one back, so that of two who chose at the same
// time one has to look again: that subnets do not overlap is nothing that a claim of one of them could say. Its owner is the
// VXLAN identifier that was given last, and the owner's name the subnet.
const ClaimPools = "pools"
