// Package local keeps the networks of one host as records: which there are, their subnets, and which address on them
// is whose.
//
// It decides which networks may be made and removed, which subnet one gets that asks for none, which address a
// container gets, what the filters of a list mean, and the words of each refusal, which are Docker's. It owns memory
// only. It never touches a kernel or a file: what the host's routes cover it is told, and who keeps a [Book] writes its
// networks down. It knows one driver, bridge, and the predefined networks bridge, host and none.
package local

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"
)

// The networks that every host has.
const (
	Bridge = network.NetworkBridge
	Host   = network.NetworkHost
	None   = network.NetworkNone
)

// Endpoint is a container's place on a network.
type Endpoint struct {
	ID        string
	Container string // its ID
	Name      string // the container's, for messages
	Addr      netip.Addr
	MAC       network.HardwareAddr
}

// Book is the networks of a host and the addresses that are given on them. It is not safe for concurrent use.
type Book struct {
	nets map[string]*entry // by ID
}

type entry struct {
	Network
	endpoints map[string]Endpoint // by ID
	used      map[netip.Addr]bool
	cursor    netip.Addr // the address that was given last: one that was just freed rests as long as possible
}

// NewBook returns a book with the predefined networks. Their IDs follow from host, so that they stay and differ
// between hosts. bridge is the subnet of the network of that name; its first address is the host's.
func NewBook(host string, bridge netip.Prefix, bridgeName string) *Book {
	b := &Book{nets: map[string]*entry{}}
	for name, driver := range map[string]string{Bridge: "bridge", Host: "host", None: "null"} {
		n := Network{network.Network{
			Name: name, ID: idOf(host, name), Scope: "local", Driver: driver, EnableIPv4: true,
			IPAM: network.IPAM{Driver: "default"}, Options: map[string]string{}, Labels: map[string]string{},
		}}
		if name == Bridge {
			n.IPAM.Config = []network.IPAMConfig{{Subnet: bridge.Masked(), Gateway: bridge.Masked().Addr().Next()}}
			n.Options[optionBridge], n.Options["com.docker.network.bridge.default_bridge"] = bridgeName, "true"
		}
		b.insert(n)
	}
	return b
}

func idOf(host, name string) string {
	sum := sha256.Sum256([]byte(host + "/" + name))
	return hex.EncodeToString(sum[:])
}

// Predefined says whether a name is that of a network that every host has.
func Predefined(name string) bool { return name == Bridge || name == Host || name == None }

func (b *Book) insert(n Network) *entry {
	e := &entry{Network: n, endpoints: map[string]Endpoint{}, used: map[netip.Addr]bool{}}
	e.cursor = e.first().Prev()
	for _, a := range n.reserved() {
		e.used[a] = true
	}
	b.nets[n.ID] = e
	return e
}

// Add takes in a network that was made before.
func (b *Book) Add(n Network) error {
	if n.ID == "" || n.Name == "" || !n.Subnet().IsValid() || !n.Gateway().IsValid() {
		return fmt.Errorf("network %q (%s) has no name, subnet or gateway: %w", n.Name, n.ID, errdefs.ErrInvalidArgument)
	}
	if b.nets[n.ID] != nil || b.named(n.Name) != nil {
		return conflict("network with name %s already exists", n.Name)
	}
	b.insert(n)
	return nil
}

func (b *Book) named(name string) *entry {
	for _, e := range b.nets {
		if e.Name == name {
			return e
		}
	}
	return nil
}

// Find returns the network of that ID, name or unambiguous prefix of an ID.
func (b *Book) Find(ref string) (Network, error) {
	e, err := b.find(ref)
	if err != nil {
		return Network{}, err
	}
	return e.Network, nil
}

func (b *Book) find(ref string) (*entry, error) {
	if e := b.nets[ref]; e != nil {
		return e, nil
	}
	if e := b.named(ref); e != nil {
		return e, nil
	}
	var found []*entry
	for id, e := range b.nets {
		if ref != "" && strings.HasPrefix(id, ref) {
			found = append(found, e)
		}
	}
	switch len(found) {
	case 0:
		return nil, errdefs.ErrNotFound.WithMessage(fmt.Sprintf("network %s not found", ref))
	case 1:
		return found[0], nil
	}
	return nil, invalid("network %s is ambiguous (%d matches found based on ID prefix)", ref, len(found))
}

// All returns the networks by name.
func (b *Book) All() []Network {
	out := make([]Network, 0, len(b.nets))
	for _, e := range b.nets {
		out = append(out, e.Network)
	}
	slices.SortFunc(out, func(a, b Network) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// Inspect is a network as the API shows it, with the containers that are on it.
func (b *Book) Inspect(id string) network.Inspect {
	e := b.nets[id]
	if e == nil {
		return network.Inspect{}
	}
	out := network.Inspect{Network: e.Network.Network, Containers: map[string]network.EndpointResource{}}
	out.Options, out.Labels = maps.Clone(e.Options), maps.Clone(e.Labels)
	out.IPAM.Config = slices.Clone(e.IPAM.Config)
	for _, p := range e.endpoints {
		out.Containers[p.Container] = network.EndpointResource{
			Name: p.Name, EndpointID: p.ID, MacAddress: p.MAC, IPv4Address: netip.PrefixFrom(p.Addr, e.Subnet().Bits()),
		}
	}
	if s := e.Subnet(); s.IsValid() {
		out.Status = &network.Status{IPAM: network.IPAMStatus{Subnets: network.SubnetStatuses{s: e.status()}}}
	}
	return out
}

// Taken is what subnets are in use beside those of the book.
type Taken struct {
	Host  []netip.Prefix // what the host's addresses and routes cover: a subnet that is chosen here avoids them
	Swarm []netip.Prefix // the swarm's: no network may overlap them
}

// Create makes a network. It changes nothing if it fails.
func (b *Book) Create(id string, r network.CreateRequest, taken Taken, now time.Time) (Network, error) {
	n, err := parse(id, r, now)
	if err != nil {
		return Network{}, err
	}
	if b.named(n.Name) != nil {
		return Network{}, conflict("network with name %s already exists", n.Name)
	}
	for _, e := range b.nets {
		if e.Driver == "bridge" && e.BridgeName() == n.BridgeName() {
			return Network{}, forbidden("cannot create network %s (%s): conflicts with network %s (%s): networks have same bridge name",
				n.ID, n.BridgeName(), e.ID, e.BridgeName())
		}
	}
	c := &n.IPAM.Config[0]
	used := slices.Clone(taken.Swarm)
	for _, e := range b.nets {
		if s := e.Subnet(); s.IsValid() {
			used = append(used, s)
		}
	}
	if c.Subnet.IsValid() {
		if slices.ContainsFunc(used, c.Subnet.Overlaps) {
			return Network{}, forbidden("invalid pool request: Pool overlaps with other one on this address space")
		}
	} else if c.Subnet, err = freePool(append(used, taken.Host...)); err != nil {
		return Network{}, err
	}
	if !c.Gateway.IsValid() {
		if c.Gateway, err = n.defaultGateway(); err != nil {
			return Network{}, err
		}
	}
	b.insert(n)
	return n, nil
}

// freePool is the first default pool that nothing overlaps.
func freePool(used []netip.Prefix) (netip.Prefix, error) {
	for p := range Pools {
		if !slices.ContainsFunc(used, p.Overlaps) {
			return p, nil
		}
	}
	return netip.Prefix{}, invalid("all predefined address pools have been fully subnetted")
}

// Pools goes through the subnets that networks get which ask for none: Docker's, without that of Docker's own bridge.
func Pools(yield func(netip.Prefix) bool) {
	for n := byte(18); n < 32; n++ {
		if !yield(netip.PrefixFrom(netip.AddrFrom4([4]byte{172, n, 0, 0}), 16)) {
			return
		}
	}
	for n := 0; n < 256; n += 16 {
		if !yield(netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, byte(n), 0}), 20)) {
			return
		}
	}
}

// Remove takes a network out that no container is on.
func (b *Book) Remove(ref string) (Network, error) {
	e, err := b.find(ref)
	if err != nil {
		return Network{}, err
	}
	if Predefined(e.Name) {
		return Network{}, forbidden("%s is a pre-defined network and cannot be removed", e.Name)
	}
	if len(e.endpoints) > 0 {
		var users []string
		for _, p := range e.endpoints {
			users = append(users, fmt.Sprintf("name:%q id:%q", p.Name, p.ID[:min(12, len(p.ID))]))
		}
		slices.Sort(users)
		return Network{}, forbidden("error while removing network: network %s has active endpoints (%s)", e.Name, strings.Join(users, ", "))
	}
	delete(b.nets, e.ID)
	return e.Network, nil
}

// InUse says whether containers are on the network.
func (b *Book) InUse(id string) bool { e := b.nets[id]; return e != nil && len(e.endpoints) > 0 }

func conflict(format string, args ...any) error {
	return errdefs.ErrConflict.WithMessage(fmt.Sprintf(format, args...))
}
func forbidden(format string, args ...any) error {
	return errdefs.ErrPermissionDenied.WithMessage(fmt.Sprintf(format, args...))
}
func invalid(format string, args ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...))
}
func absent(format string, args ...any) error {
	return errdefs.ErrNotImplemented.WithMessage(fmt.Sprintf(format, args...))
}
