package overlay

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sync/errgroup"

	"shoal.dev/shoal/internal/network"
	"shoal.dev/shoal/internal/network/local"
	"shoal.dev/shoal/internal/network/virtual"
)

// applyOverlays brings the host's parts of the swarm's networks to what is desired: first what leads to new addresses,
// then the services' virtual addresses in the containers, then what nothing leads to any more. With check, everything is
// compared with the kernel, else what differs from the last time is changed. k.mu is held.
func (k *Kernel) applyOverlays(ctx context.Context, check bool) error {
	var errs []error
	wanted := map[string]bool{}
	for _, o := range k.want.Overlays {
		if err := ctx.Err(); err != nil {
			return err
		}
		wanted[o.ID] = true
		if err := k.applyOverlay(o, check); err != nil {
			errs = append(errs, fmt.Errorf("network %s: %w", o.Name, err))
		}
	}
	for _, g := range k.segments.all() {
		if !wanted[g.id] {
			errs = append(errs, k.dropSegment(g))
		}
	}
	return errors.Join(errs...)
}

func (k *Kernel) applyOverlay(o *network.Overlay, check bool) error {
	defer k.on(o.ID)()
	g := k.segments.get(o.ID)
	if g != nil && !check {
		if was, _ := g.overlay(); was != nil && was.Equal(o) {
			return nil
		}
	}
	i := slices.IndexFunc(o.Peers, func(p network.Peer) bool { return p.NodeID == k.want.Self })
	if i < 0 || !o.Peers[i].Underlay.Is4() {
		return fmt.Errorf("this node has no IPv4 address for tunnels: %w", errdefs.ErrNotImplemented)
	}
	if err := k.boxes.putOverlay(o); err != nil {
		return err
	}
	if g == nil {
		var err error
		if g, err = k.openSegment(o.ID); err != nil {
			return err
		}
		k.segments.mu.Lock()
		k.segments.byID[o.ID] = g
		k.segments.mu.Unlock()
	}
	mtu, fresh, err := k.devices(g, o, o.Peers[i].Underlay)
	if err != nil {
		return err
	}
	tunnel, err := g.nl.LinkByName(segmentTunnel)
	if err != nil {
		return err
	}
	at := tunnel.Attrs().Index
	g.mu.Lock()
	have := g.have
	g.have = nil // until all is done
	g.mu.Unlock()
	if have == nil || check || fresh {
		if have, err = g.dump(at); err != nil {
			return err
		}
	}
	want := remote(o, k.want.Self)
	if err := g.put(at, have, want, k.note); err != nil {
		return err
	}
	g.mu.Lock()
	g.o, g.mtu = o, mtu
	g.mu.Unlock()
	k.boxes.renewNow()
	if err := k.boxes.revise(o.ID, k.note); err != nil {
		return err
	}
	if check {
		if err := g.checkGuards(k.note); err != nil {
			return err
		}
	}
	if err := g.drop(at, have, want, k.note); err != nil {
		return err
	}
	g.mu.Lock()
	g.have = want
	g.mu.Unlock()
	return nil
}

// dropSegment removes the host's part of a network that it needs no more, once the last container has left it.
func (k *Kernel) dropSegment(g *segment) error {
	gone, err := k.boxes.dropOverlay(g.id)
	if err != nil || !gone {
		return err
	}
	k.segments.mu.Lock()
	delete(k.segments.byID, g.id)
	k.segments.mu.Unlock()
	k.boxes.renewNow()
	g.close()
	return dropSpace(g.path)
}

func (b *boxes) renewNow() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.renew()
}

// loadSegments finds the parts of networks that are there from before a restart.
func (k *Kernel) loadSegments() error {
	k.segments.byID = map[string]*segment{}
	for _, n := range k.boxes.overlays() {
		if !isSpace(k.segmentPath(n.ID)) {
			continue // the host was restarted
		}
		g, err := k.openSegment(n.ID)
		if err != nil {
			return fmt.Errorf("network %s: %w", n.Name, err)
		}
		k.segments.byID[n.ID] = g
	}
	return nil
}

// clearSegments removes every network of the swarm.
func (k *Kernel) clearSegments() error {
	var errs []error
	for _, g := range k.segments.all() {
		g.close()
		errs = append(errs, dropSpace(g.path))
	}
	k.segments.mu.Lock()
	defer k.segments.mu.Unlock()
	k.segments.byID = map[string]*segment{}
	return errors.Join(errs...)
}

// putOverlay takes a network of the swarm into the book, and writes it down: after a restart its containers are found on
// it before any manager says so.
func (b *boxes) putOverlay(o *network.Overlay) error {
	n := local.Overlay(o.ID, o.Name, o.Subnet, o.Gateway, o.MTU, o.Internal)
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, err := os.Stat(b.networkFile(n.ID)); errors.Is(err, fs.ErrNotExist) {
		if err := writeJSON(b.networkFile(n.ID), n); err != nil {
			return err
		}
	}
	b.nets.PutOverlay(n)
	return nil
}

// dropOverlay takes it out, unless a container is on it.
func (b *boxes) dropOverlay(id string) (bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.nets.DropOverlay(id) {
		return false, nil
	}
	if err := os.Remove(b.networkFile(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	return true, nil
}

// overlays are the networks of the swarm that the book has.
func (b *boxes) overlays() []local.Network {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []local.Network
	for _, n := range b.nets.All() {
		if n.OfSwarm() {
			out = append(out, n)
		}
	}
	return out
}

// revise brings the containers on a network to what it is now: their interfaces, if the segment is a new one, and the
// virtual addresses.
func (b *boxes) revise(networkID string, note func(string, ...any)) error {
	boxes := b.all()
	errs := make([]error, len(boxes))
	var noting sync.Mutex
	noteOne := func(format string, args ...any) {
		noting.Lock()
		defer noting.Unlock()
		note(format, args...)
	}
	var all errgroup.Group
	all.SetLimit(revisedAtOnce)
	for i, x := range boxes {
		all.Go(func() error {
			errs[i] = b.reviseOne(x, networkID, noteOne)
			return nil // the others are revised all the same
		})
	}
	_ = all.Wait()
	return errors.Join(errs...)
}

// revisedAtOnce is how many containers are brought to a change at a time. Each waits for the kernel, some 15 ms, more than it
// computes.
const revisedAtOnce = 32

func (b *boxes) reviseOne(x *box, networkID string, note func(string, ...any)) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	p := x.on(networkID)
	if p == nil || !isSpace(b.netnsOf(x)) {
		return nil
	}
	if b.isPlugged(p) {
		return b.setVirtual(x)
	}
	note("network of container %s", x.ID)
	return b.plug(x)
}

// isPlugged says whether the host's end of an interface on a network of the swarm is where it belongs.
func (b *boxes) isPlugged(p *endpoint) bool {
	g := b.segments.get(p.NetworkID)
	if g == nil {
		return true // nothing can be done about it now
	}
	bridge, err := g.nl.LinkByName(segmentBridge)
	if err != nil {
		return false
	}
	out, err := g.nl.LinkByName(p.Outside)
	return err == nil && out.Attrs().MasterIndex == bridge.Attrs().Index && out.Attrs().Flags&net.FlagUp != 0
}

// plugOverlay makes whatever is missing of an endpoint on a network of the swarm. x is locked.
func (b *boxes) plugOverlay(x *box, p *endpoint, ns netns.NsHandle, in *netlink.Handle) error {
	g := b.segments.get(p.NetworkID)
	if g == nil {
		return errdefs.ErrUnavailable.WithMessage("it is not on this node yet")
	}
	_, mtu := g.overlay()
	if mtu == 0 {
		mtu = maxMTU - vxlanOverhead // after a restart, until a manager says more
	}
	inside, err := in.LinkByName(p.Inside)
	if isNotFound(err) {
		if old, err := g.nl.LinkByName(p.Outside); err == nil {
			if err := g.nl.LinkDel(old); err != nil {
				return err
			}
		}
		v := netlink.NewVeth(netlink.LinkAttrs{Name: p.Outside, MTU: mtu, TxQLen: -1})
		v.PeerName, v.PeerHardwareAddr, v.PeerNamespace, v.PeerMTU = p.Inside, net.HardwareAddr(p.MAC), netlink.NsFd(ns), uint32(mtu)
		if err = g.nl.LinkAdd(v); err == nil {
			inside, err = in.LinkByName(p.Inside)
		}
	}
	if err != nil {
		return err
	}
	bridge, err := g.nl.LinkByName(segmentBridge)
	if err != nil {
		return fmt.Errorf("bridge: %w", err)
	}
	out, err := g.nl.LinkByName(p.Outside)
	if isNotFound(err) { // its namespace was made anew: so must be the pair
		if err := in.LinkDel(inside); err != nil {
			return err
		}
		return b.plugOverlay(x, p, ns, in)
	}
	if err != nil {
		return err
	}
	if out.Attrs().MasterIndex != bridge.Attrs().Index {
		if err := g.nl.LinkSetMaster(out, bridge); err != nil {
			return err
		}
	}
	if err := g.guard(p); err != nil {
		return err
	}
	if err := g.nl.LinkSetUp(out); err != nil {
		return err
	}
	return b.plugInside(x, p, in, inside)
}

// setVirtual gives the container the virtual addresses of the services on its networks. x is locked.
func (b *boxes) setVirtual(x *box) error {
	var vips []network.VIP
	known := false
	for _, p := range x.Endpoints {
		if !p.net.OfSwarm() {
			continue
		}
		if g := b.segments.get(p.NetworkID); g != nil {
			if o, _ := g.overlay(); o != nil {
				known = true
				vips = append(vips, o.VIPs...)
			}
		}
	}
	if !known { // of before a restart, until a manager says more
		return nil
	}
	slices.SortFunc(vips, func(a, b network.VIP) int { return a.Addr.Compare(b.Addr) })
	if x.virtual && slices.EqualFunc(x.vips, vips, func(a, b network.VIP) bool { return a.Addr == b.Addr && slices.Equal(a.Backends, b.Backends) }) {
		return nil
	}
	inside, err := openSpace(b.netnsOf(x))
	if err != nil {
		return err
	}
	defer inside.close()
	write := func() error { return virtual.Apply(inside.ns, vips) }
	if x.virtual {
		write = func() error { return virtual.Change(inside.ns, x.vips, vips) }
	}
	if err := x.write(inside, write); err != nil {
		return fmt.Errorf("virtual addresses of container %s: %w", x.ID, err)
	}
	x.vips, x.virtual = vips, true
	return nil
}
