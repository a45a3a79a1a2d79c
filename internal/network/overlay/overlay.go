// Package overlay brings a host's kernel to the network that is desired: the bridges that containers hang on, their
// network namespaces, the tunnels to other nodes, and the routes to the addresses of tasks. Package balance, which it
// drives, has the rules, package local the host's networks, and package dns the names of containers.
//
// It decides how the desired network is put into links, routes and rules, and in which order, so that nothing is sent
// to where it cannot arrive yet or any more. It owns the bridges of the host's networks and the tunnel device named in
// [Config], the routes and rules of protocol 83, routing table 200, the namespaces in [Config].NetnsDir, and the files in [Config].StateDir. It
// never touches other interfaces, and of the host's settings only net.ipv4.ip_forward, which it turns on.
//
// The mesh: each task's address on it is a second address of its container's interface. Every node has a route to
// each, over the bridge or through the tunnel to its node. A container answers by its ordinary default route; the node
// sends answers to connections that came through another node back through that node (table 200).
package overlay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"

	"shoal.dev/shoal/internal/network"
	"shoal.dev/shoal/internal/network/balance"
)

// Config is where and under which names a [Kernel] works.
type Config struct {
	// StateDir keeps the bridge's subnet and the containers' addresses over restarts.
	StateDir string
	// NetnsDir gets a file for each container's network namespace.
	NetnsDir string
	// BridgeName, of the network "bridge", and TunnelName name the interfaces; "" is shoal-gw and shoal-vx.
	BridgeName, TunnelName string
	// HostID is what the IDs of the predefined networks follow from: any text that stays and differs between hosts.
	HostID string
	// Subnet is the bridge's where it is free and none was chosen before; otherwise, and if it is zero, it is the first
	// free one of [local.Pools].
	Subnet netip.Prefix
	// ResolvConf names the servers that know what no container is called; "" is /etc/resolv.conf.
	ResolvConf string
	// NetNS is the path of the network namespace to work in; "" is the process's own.
	NetNS string
	// CheckEvery is how often Run compares the kernel with what is desired; 0 is 5 s.
	CheckEvery time.Duration
	Log        *slog.Logger
}

// Kernel is the network of one host. Its methods are safe for concurrent use. It implements engine.Sandboxes.
type Kernel struct {
	cfg   Config
	host  *space
	nl    *netlink.Handle
	table *balance.Table
	boxes *boxes

	segments segments

	mu     sync.Mutex
	subnet netip.Prefix // of the bridge, masked
	want   *network.Desired
	have   *mesh // what was last applied; nil if that is not known
	bad    error // what of want cannot be done
	did    []network.Finding
	at     string // the ID of the network that is worked on; "" for what the host has beside these
}

// Open connects to the kernel and makes the bridge and what containers need to reach the outside. A routing mesh that
// is there from before a restart goes on untouched until the first Apply.
func Open(ctx context.Context, cfg Config) (_ *Kernel, err error) {
	setDefaults(&cfg)
	for _, dir := range []string{cfg.StateDir, cfg.NetnsDir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	k := &Kernel{cfg: cfg}
	defer func() {
		if err != nil {
			_ = k.Close()
		}
	}()
	if k.host, err = openSpace(cfg.NetNS); err != nil {
		return nil, err
	}
	if k.nl, err = netlink.NewHandleAt(k.host.ns, netlinkFamilies...); err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	k.table, err = balance.Open(balance.Config{NetNS: int(k.host.ns), In: k.host.in, Netlink: k.nl, Log: cfg.Log})
	if err != nil {
		return nil, err
	}
	if k.subnet, err = k.chooseSubnet(); err != nil {
		return nil, err
	}
	if k.boxes, err = loadBoxes(cfg, k.subnet, k.host, k.nl, &k.segments); err != nil {
		return nil, err
	}
	if err = k.loadSegments(); err != nil {
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k, k.reconcile(ctx)
}

func setDefaults(cfg *Config) {
	if cfg.BridgeName == "" {
		cfg.BridgeName = "shoal-gw"
	}
	if cfg.TunnelName == "" {
		cfg.TunnelName = "shoal-vx"
	}
	if cfg.ResolvConf == "" {
		cfg.ResolvConf = "/etc/resolv.conf"
	}
	if cfg.CheckEvery == 0 {
		cfg.CheckEvery = 5 * time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
}

// Connections is how many connections were begun through the routing mesh to each task of this node, by the task's address on
// it; see [balance.Table.Connections].
func (k *Kernel) Connections() (map[netip.Addr]uint64, error) { return k.table.Connections() }

// Apply makes the kernel hold d, which must not be changed afterwards. It may be called again with the same or with any
// other state. After an error it does everything again at the next call, and Run does so within seconds. The first call
// compares the whole kernel; others change what differs from the last.
//
// A Desired without an Ingress is a host outside a swarm, or in a swarm that publishes nothing.
func (k *Kernel) Apply(ctx context.Context, d network.Desired) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	was := k.want
	k.want = &d
	switch {
	case k.have == nil:
		return k.reconcile(ctx)
	case was != nil && was.Self == d.Self && was.Ingress.Equal(d.Ingress):
		if err := k.table.Apply(ctx, k.rules(k.have.ingress, k.have.links.mtu)); err != nil {
			k.have = nil
			return err
		}
		return errors.Join(k.bad, k.applyOverlays(ctx, false))
	}
	want, bad := meshOf(d)
	if err := k.apply(ctx, want, k.have); err != nil {
		k.have = nil
		return err
	}
	k.bad = bad
	return errors.Join(bad, k.applyOverlays(ctx, false))
}

// Repair compares the whole kernel with what is desired, and puts right what differs.
func (k *Kernel) Repair(ctx context.Context) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.reconcile(ctx)
}

// Check is Repair that says what it found. What was found is right afterwards.
func (k *Kernel) Check(ctx context.Context) ([]network.Finding, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	err := k.reconcile(ctx)
	return k.did, err
}

// Run repairs the kernel every [Config].CheckEvery until ctx ends, which is its only error.
func (k *Kernel) Run(ctx context.Context) error {
	tick := time.NewTicker(k.cfg.CheckEvery)
	defer tick.Stop()
	failed := "" // the last failure, so that it is logged once
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		k.mu.Lock()
		err := k.reconcile(ctx)
		did := k.did
		k.mu.Unlock()
		switch {
		case err != nil && ctx.Err() == nil && err.Error() != failed:
			failed = err.Error()
			k.cfg.Log.Error("network is not as desired", "error", err)
		case err == nil:
			failed = ""
			if len(did) > 0 {
				k.cfg.Log.Warn("network was changed by others and is repaired", "repairs", did)
			}
		}
	}
}

// Close lets go of the kernel and leaves everything as it is: containers keep their network and the mesh goes on. Names
// are not answered until the next Open.
func (k *Kernel) Close() error {
	var errs []error
	if k.boxes != nil {
		k.boxes.silence()
	}
	if k.table != nil {
		errs = append(errs, k.table.Close())
	}
	for _, g := range k.segments.all() {
		g.close()
	}
	if k.nl != nil {
		k.nl.Close()
	}
	if k.host != nil {
		errs = append(errs, k.host.close())
	}
	return errors.Join(errs...)
}

// Down removes everything: rules, tunnels, containers' namespaces, the bridge and the state. To leave a swarm and keep
// plain containers running, Apply a Desired without an Ingress instead. net.ipv4.ip_forward stays as it is, because
// others may rely on it by now. A later Apply or Attach fails; Open makes everything anew.
func (k *Kernel) Down(ctx context.Context) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.want, k.have = nil, nil
	errs := []error{k.table.Remove(ctx), k.removeMesh(), k.boxes.clear(), k.clearSegments()}
	for _, n := range k.boxes.networks() {
		errs = append(errs, k.removeLink(n.BridgeName()))
	}
	errs = append(errs, os.RemoveAll(k.boxes.networksDir()), os.RemoveAll(k.subnetFile()))
	k.subnet = netip.Prefix{}
	return errors.Join(errs...)
}

// reconcile compares everything with the kernel and puts right what differs. k.mu is held.
func (k *Kernel) reconcile(ctx context.Context) error {
	k.did = nil
	if !k.subnet.IsValid() {
		return fmt.Errorf("the network of this host was taken down: %w", errdefs.ErrUnavailable)
	}
	k.have = nil
	if err := k.ensureBase(); err != nil {
		return err
	}
	if err := k.boxes.repair(ctx, k.note); err != nil {
		return err
	}
	intact, err := k.table.Check()
	if err != nil {
		return err
	}
	if k.want == nil { // no Apply yet: what is there from before is better than nothing
		if mesh, err := k.table.HasMesh(); err != nil || mesh {
			return err
		}
		return k.table.Apply(ctx, k.rules(nil, 0))
	}
	if !intact {
		k.note("ruleset")
	}
	want, bad := meshOf(*k.want)
	have, err := k.dump(want)
	if err != nil {
		return err
	}
	if err := k.apply(ctx, want, have); err != nil {
		return err
	}
	k.bad = bad
	return errors.Join(bad, k.applyOverlays(ctx, true))
}

// on has notes say that they are of a network until done is called.
func (k *Kernel) on(id string) (done func()) {
	before := k.at
	k.at = id
	return func() { k.at = before }
}

// apply goes from have to want: first what traffic needs to arrive, then the rules that send it, then what no rule
// needs any more. k.mu is held.
func (k *Kernel) apply(ctx context.Context, want, have *mesh) error {
	defer k.on(network.MeshNetwork)()
	if want.ingress == nil {
		if err := k.table.Apply(ctx, k.rules(nil, 0)); err != nil {
			return err
		}
		if have.ingress != nil {
			if err := k.removeMesh(); err != nil {
				return err
			}
		}
		k.have = want
		return nil
	}
	if have.sameDevice(want) {
		want.links = have.links
	} else {
		fresh, err := k.ensureTunnel(want)
		if err != nil {
			return err
		}
		if fresh { // what hung on an old device went with it
			k.table.Forget()
			have = have.withoutTunnel()
		}
	}
	if err := k.put(have, want); err != nil {
		return err
	}
	if err := k.table.Apply(ctx, k.rules(want.ingress, want.links.mtu)); err != nil {
		return err
	}
	if err := k.drop(have, want); err != nil {
		return err
	}
	k.have = want
	return nil
}

func (k *Kernel) rules(m *network.Ingress, mtu int) balance.State {
	s := balance.State{Bridge: k.cfg.BridgeName, Tunnel: k.cfg.TunnelName, Bridges: k.boxes.bridges(), MTU: mtu, Mesh: m, Published: k.boxes.published()}
	if k.want == nil {
		return s
	}
	for _, o := range k.want.Overlays {
		s.TunnelPort = o.Port // one for the whole swarm
		for _, p := range o.Peers {
			if p.Underlay.Is4() {
				s.Tunnels = append(s.Tunnels, balance.Tunnel{VNI: o.VNI, From: p.Underlay})
			}
		}
	}
	return s
}

// note remembers what was changed, for Run's log.
func (k *Kernel) note(format string, args ...any) {
	k.did = append(k.did, network.Finding{Network: k.at, What: fmt.Sprintf(format, args...)})
}
