package overlay

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/network"
	"shoal.dev/shoal/internal/network/ports"
)

// insideName is a container's interface, as Docker names the first.
const insideName = "eth0"

// validID is what a container may be called: its files are named after it.
var validID = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}$`)

// box is a container's network. It is written to its file before the kernel has any of it, and removed after, so that
// a crash at any point leaves what the next Attach or Detach finishes.
type box struct {
	mu sync.Mutex // held while the kernel is changed for it

	ID      string
	Addr    netip.Addr
	Ingress netip.Addr             `json:"Ingress,omitzero"`
	Outside string                 // the name of the host's end of its interface
	Asked   []engine.PortRequest   `json:",omitempty"`
	Ports   []engine.PublishedPort `json:",omitempty"` // what Asked got
}

// boxes are all containers' networks.
type boxes struct {
	cfg    Config
	subnet netip.Prefix
	nl     *netlink.Handle

	mu     sync.Mutex
	byID   map[string]*box
	used   map[netip.Addr]bool
	book   ports.Book
	cursor netip.Addr // the address that was given last: one that was just freed rests as long as possible
	closed bool
}

// loadBoxes reads what is known from before.
func loadBoxes(cfg Config, subnet netip.Prefix, nl *netlink.Handle) (*boxes, error) {
	b := &boxes{cfg: cfg, subnet: subnet, nl: nl, byID: map[string]*box{}, used: map[netip.Addr]bool{}, cursor: gateway(subnet)}
	if err := os.MkdirAll(b.dir(), 0o700); err != nil {
		return nil, err
	}
	files, err := os.ReadDir(b.dir())
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		path := filepath.Join(b.dir(), f.Name())
		if strings.HasSuffix(f.Name(), ".tmp") {
			_ = os.Remove(path)
			continue
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		x := &box{}
		if err := json.Unmarshal(data, x); err != nil || x.ID != f.Name() || !subnet.Contains(x.Addr) || b.used[x.Addr] {
			cfg.Log.Warn("a container's network cannot be read; it gets a new one when it starts again", "file", path)
			_ = os.Remove(path)
			continue
		}
		b.byID[x.ID], b.used[x.Addr] = x, true
		for _, p := range x.Ports {
			b.book.Add(x.ID, p)
		}
		if b.cursor.Less(x.Addr) {
			b.cursor = x.Addr
		}
	}
	return b, nil
}

func (b *boxes) dir() string            { return filepath.Join(b.cfg.StateDir, "containers") }
func (b *boxes) file(id string) string  { return filepath.Join(b.dir(), id) }
func (b *boxes) netnsOf(x *box) string  { return filepath.Join(b.cfg.NetnsDir, x.ID) }
func (b *boxes) gateway() netip.Addr    { return gateway(b.subnet) }
func (b *boxes) cidr(x *box) *net.IPNet { return ipNet(netip.PrefixFrom(x.Addr, b.subnet.Bits())) }
func (b *boxes) sandbox(x *box) engine.Sandbox {
	return engine.Sandbox{
		NetNS: b.netnsOf(x), Addr: x.Addr, Gateway: b.gateway(), Bits: b.subnet.Bits(),
		MAC: network.MAC(x.Addr).String(), Bridge: "bridge",
		Ports: slices.Clone(x.Ports),
	}
}

// Attach implements engine.Sandboxes. The container's address is the same until Detach, also over restarts. A call with
// another ingress address replaces it.
func (k *Kernel) Attach(ctx context.Context, id string, a engine.Attachment) (engine.Sandbox, error) {
	ingress := a.Ingress
	if !validID.MatchString(id) {
		return engine.Sandbox{}, fmt.Errorf("invalid container ID %q: %w", id, errdefs.ErrInvalidArgument)
	}
	if ingress.IsValid() && !ingress.Is4() {
		return engine.Sandbox{}, fmt.Errorf("ingress address %s of container %s: the routing mesh does not do IPv6 yet: %w", ingress, id, errdefs.ErrNotImplemented)
	}
	if err := ctx.Err(); err != nil {
		return engine.Sandbox{}, err
	}
	sb, err := k.attach(id, ingress, a.Ports, k.swarmPorts())
	if err != nil || len(sb.Ports) == 0 {
		return sb, err
	}
	return sb, k.publish(ctx)
}

func (k *Kernel) attach(id string, ingress netip.Addr, want []engine.PortRequest, swarm []network.Port) (engine.Sandbox, error) {
	x, err := k.boxes.reserve(id, ingress)
	if err != nil {
		return engine.Sandbox{}, err
	}
	defer x.mu.Unlock()
	if err := k.boxes.takePorts(x, want, swarm, k.probe); err != nil {
		return engine.Sandbox{}, err
	}
	if err := k.boxes.plug(x); err != nil {
		return engine.Sandbox{}, fmt.Errorf("network of container %s: %w", id, err)
	}
	return k.boxes.sandbox(x), nil
}

// Detach implements engine.Sandboxes. The namespace is dropped; the kernel takes the interface with it in its own time,
// at the latest when the last process has left.
func (k *Kernel) Detach(ctx context.Context, id string) error {
	k.boxes.mu.Lock()
	x := k.boxes.byID[id]
	k.boxes.mu.Unlock()
	if x == nil {
		return nil
	}
	x.mu.Lock()
	published := len(x.Ports) > 0
	err := k.boxes.unplug(x)
	x.mu.Unlock()
	if published && err == nil {
		err = k.publish(ctx)
	}
	return err
}

// reserve finds or makes the record of a container, and returns it locked.
func (b *boxes) reserve(id string, ingress netip.Addr) (*box, error) {
	for {
		x, err := b.find(id)
		if err != nil {
			return nil, err
		}
		x.mu.Lock()
		b.mu.Lock()
		current := b.byID[id] == x
		b.mu.Unlock()
		if !current { // detached while we waited
			x.mu.Unlock()
			continue
		}
		if x.Ingress != ingress {
			b.forgetNeighbour(x)
			x.Ingress = ingress
		}
		if err := writeJSON(b.file(id), x); err != nil {
			x.mu.Unlock()
			return nil, err
		}
		return x, nil
	}
}

func (b *boxes) find(id string) (*box, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, fmt.Errorf("the network of this host was taken down: %w", errdefs.ErrUnavailable)
	}
	if x := b.byID[id]; x != nil {
		return x, nil
	}
	addr, err := b.nextAddr()
	if err != nil {
		return nil, err
	}
	var random [4]byte
	_, _ = rand.Read(random[:]) // never fails on Linux
	x := &box{ID: id, Addr: addr, Outside: "shoal-" + hex.EncodeToString(random[:])}
	b.byID[id], b.used[addr] = x, true
	return x, nil
}

// nextAddr returns the first free address after the one given last.
func (b *boxes) nextAddr() (netip.Addr, error) {
	a, gw := b.cursor, b.gateway()
	for range 1 << (32 - b.subnet.Bits()) {
		if a = a.Next(); !b.subnet.Contains(a) {
			a = gw // the next one after it; the network's own address is before it
			continue
		}
		if last := !b.subnet.Contains(a.Next()); a == gw || b.used[a] || last { // the last one is for broadcasts
			continue
		}
		b.cursor = a
		return a, nil
	}
	return netip.Addr{}, fmt.Errorf("no available IPv4 addresses on this host's bridge (%s, %d containers): %w", b.subnet, len(b.used), errdefs.ErrResourceExhausted)
}

// plug makes whatever is missing of the container's network. x is locked.
func (b *boxes) plug(x *box) error {
	path := b.netnsOf(x)
	if !isSpace(path) {
		if err := makeSpace(path, setUpInside); err != nil {
			return err
		}
	}
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return err
	}
	defer ns.Close()
	in, err := netlink.NewHandleAt(ns, netlinkFamilies[0])
	if err != nil {
		return err
	}
	defer in.Close()
	inside, err := in.LinkByName(insideName)
	if isNotFound(err) {
		if err = b.connect(x, ns); err == nil {
			inside, err = in.LinkByName(insideName)
		}
	}
	if err != nil {
		return err
	}
	if err := b.plugOutside(x); err != nil {
		return err
	}
	return b.plugInside(x, in, inside)
}

// setUpInside runs in a new namespace. IPv6 stays on for the loopback interface only.
func setUpInside() error {
	if _, err := setSysctl("net/ipv6/conf/default/disable_ipv6", "1"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	h, err := netlink.NewHandle(netlinkFamilies[0])
	if err != nil {
		return err
	}
	defer h.Close()
	lo, err := h.LinkByName("lo")
	if err != nil {
		return err
	}
	return h.LinkSetUp(lo)
}

// connect makes the pair of interfaces that joins the namespace and the host.
func (b *boxes) connect(x *box, ns netns.NsHandle) error {
	if old, err := b.nl.LinkByName(x.Outside); err == nil { // its other end is gone to where we cannot see it
		if err := b.nl.LinkDel(old); err != nil {
			return err
		}
	}
	mtu := b.mtu()
	v := netlink.NewVeth(netlink.LinkAttrs{Name: x.Outside, MTU: mtu, TxQLen: -1})
	v.PeerName, v.PeerHardwareAddr, v.PeerNamespace, v.PeerMTU = insideName, network.MAC(x.Addr), netlink.NsFd(ns), uint32(mtu)
	return b.nl.LinkAdd(v)
}

// mtu is that of the host's way out, but not more than the bridge's.
func (b *boxes) mtu() int {
	routes, err := b.nl.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return maxMTU
	}
	for _, r := range routes {
		if r.Dst != nil && prefixOf(r.Dst).Bits() > 0 {
			continue
		}
		if l, err := b.nl.LinkByIndex(r.LinkIndex); err == nil {
			return min(l.Attrs().MTU, maxMTU)
		}
	}
	return maxMTU
}

func (b *boxes) plugOutside(x *box) error {
	bridge, err := b.nl.LinkByName(b.cfg.BridgeName)
	if err != nil {
		return fmt.Errorf("bridge %s: %w", b.cfg.BridgeName, err)
	}
	out, err := b.nl.LinkByName(x.Outside)
	if err != nil {
		return fmt.Errorf("interface %s: %w", x.Outside, err)
	}
	if out.Attrs().MasterIndex != bridge.Attrs().Index {
		if err := b.nl.LinkSetIP6AddrGenMode(out, 1); err != nil { // IN6_ADDR_GEN_MODE_NONE: a port has no address
			b.cfg.Log.Debug("IPv6 addresses of interface stay on", "interface", x.Outside, "error", err)
		}
		if err := b.nl.LinkSetMaster(out, bridge); err != nil {
			return err
		}
		// Where bridged frames pass the host's IP rules (net.bridge.bridge-nf-call-iptables, often on), the kernel
		// hands what is load-balanced back to its sender directly to the port that it came from.
		if err := b.nl.LinkSetHairpin(out, true); err != nil {
			return fmt.Errorf("hairpin mode of %s: %w", x.Outside, err)
		}
	}
	if out.Attrs().Flags&net.FlagUp == 0 {
		if err := b.nl.LinkSetUp(out); err != nil {
			return err
		}
	}
	if !x.Ingress.IsValid() {
		return nil
	}
	// The address may have been another container's a moment ago; its link address is not asked for but told.
	return b.nl.NeighSet(neighbour(bridge, x))
}

func neighbour(bridge netlink.Link, x *box) *netlink.Neigh {
	return &netlink.Neigh{
		LinkIndex: bridge.Attrs().Index, Family: netlink.FAMILY_V4, State: netlink.NUD_PERMANENT,
		IP: x.Ingress.AsSlice(), HardwareAddr: network.MAC(x.Addr),
	}
}

// forgetNeighbour removes the ingress address's link address, unless another container has the address by now.
func (b *boxes) forgetNeighbour(x *box) {
	bridge, err := b.nl.LinkByName(b.cfg.BridgeName)
	if err != nil || !x.Ingress.IsValid() {
		return
	}
	all, err := b.nl.NeighList(bridge.Attrs().Index, netlink.FAMILY_V4)
	if err != nil {
		return
	}
	want := neighbour(bridge, x)
	for _, n := range all {
		if n.IP.Equal(want.IP) && n.HardwareAddr.String() == want.HardwareAddr.String() {
			_ = b.nl.NeighDel(want)
		}
	}
}

func (b *boxes) plugInside(x *box, in *netlink.Handle, eth netlink.Link) error {
	wanted := map[string]*net.IPNet{x.Addr.String(): b.cidr(x)}
	if x.Ingress.IsValid() {
		wanted[x.Ingress.String()] = host(x.Ingress)
	}
	have, err := in.AddrList(eth, netlink.FAMILY_V4)
	if err != nil {
		return err
	}
	for _, a := range have {
		if w, ok := wanted[a.IP.String()]; !ok || w.String() != a.IPNet.String() {
			if err := in.AddrDel(eth, &a); err != nil {
				return err
			}
		}
	}
	for _, ip := range []netip.Addr{x.Addr, x.Ingress} { // the first is what the container sends from
		if n := wanted[ip.String()]; n != nil {
			if err := in.AddrReplace(eth, &netlink.Addr{IPNet: n}); err != nil {
				return fmt.Errorf("address %s: %w", n, err)
			}
		}
	}
	if err := in.LinkSetUp(eth); err != nil {
		return err
	}
	// A server on UDP that is bound to no address answers from the one that the route says. It was asked at its ingress
	// address, so it has to be that, also on the way to the bridge, from where the host's own requests come.
	way := &netlink.Route{LinkIndex: eth.Attrs().Index, Gw: b.gateway().AsSlice()}
	if x.Ingress.IsValid() {
		way.Src = x.Ingress.AsSlice()
		bridge := &netlink.Route{LinkIndex: eth.Attrs().Index, Dst: host(b.gateway()), Scope: netlink.SCOPE_LINK, Src: way.Src}
		if err := in.RouteReplace(bridge); err != nil {
			return fmt.Errorf("route to %s: %w", b.gateway(), err)
		}
	}
	if err := in.RouteReplace(way); err != nil {
		return fmt.Errorf("default route: %w", err)
	}
	return nil
}

// unplug drops the container's network. x is locked.
func (b *boxes) unplug(x *box) error {
	b.mu.Lock()
	current := b.byID[x.ID] == x
	b.mu.Unlock()
	if !current {
		return nil
	}
	b.forgetNeighbour(x)
	if err := dropSpace(b.netnsOf(x)); err != nil {
		return err
	}
	if err := os.Remove(b.file(x.ID)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.byID, x.ID)
	delete(b.used, x.Addr)
	b.book.Release(x.ID)
	return nil
}

func (b *boxes) all() []*box {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := make([]*box, 0, len(b.byID))
	for _, x := range b.byID {
		out = append(out, x)
	}
	return out
}

// outside is what the host's side of the kernel has of containers.
type outside struct {
	bridge     int
	master     map[string]int // by the name of the interface
	neighbours map[netip.Addr]string
}

// repair plugs containers in again whose interface is gone or not on the bridge.
func (b *boxes) repair(ctx context.Context, note func(string, ...any)) error {
	list, err := b.nl.LinkList()
	if err != nil {
		return fmt.Errorf("list interfaces: %w", err)
	}
	o := outside{master: make(map[string]int, len(list)), neighbours: map[netip.Addr]string{}}
	for _, l := range list {
		o.master[l.Attrs().Name] = l.Attrs().MasterIndex
		if l.Attrs().Name == b.cfg.BridgeName {
			o.bridge = l.Attrs().Index
		}
	}
	known, err := b.nl.NeighList(o.bridge, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("list neighbours: %w", err)
	}
	for _, n := range known {
		if a, ok := netip.AddrFromSlice(n.IP.To4()); ok && n.State&netlink.NUD_PERMANENT != 0 {
			o.neighbours[a] = n.HardwareAddr.String()
		}
	}
	for _, x := range b.all() {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := b.repairOne(x, o, note); err != nil {
			b.cfg.Log.Error("a container's network cannot be repaired", "container", x.ID, "error", err)
		}
	}
	return nil
}

// repairOne leaves containers without a namespace alone: the host was restarted, they do not run, and the engine
// attaches them when they start.
func (b *boxes) repairOne(x *box, o outside, note func(string, ...any)) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	b.mu.Lock()
	current := b.byID[x.ID] == x
	b.mu.Unlock()
	plugged := o.master[x.Outside] == o.bridge && (!x.Ingress.IsValid() || o.neighbours[x.Ingress] == network.MAC(x.Addr).String())
	if !current || plugged || !isSpace(b.netnsOf(x)) {
		return nil
	}
	note("network of container %s", x.ID)
	return b.plug(x)
}

// clear drops every container's network, interfaces included, and refuses new ones.
func (b *boxes) clear() error {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	var errs []error
	for _, x := range b.all() {
		x.mu.Lock()
		if l, err := b.nl.LinkByName(x.Outside); err == nil {
			errs = append(errs, b.nl.LinkDel(l))
		}
		errs = append(errs, b.unplug(x))
		x.mu.Unlock()
	}
	return errors.Join(append(errs, os.RemoveAll(b.dir()))...)
}
