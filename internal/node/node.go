// Package node wires a daemon together. It is the one package that sees every other.
//
// It decides nothing about containers, services or networks; it decides what this host is a member of: it makes a
// swarm, joins one, leaves it, and runs the parts that its role needs. It owns the daemon's configuration, the API's
// sockets and DataRoot/swarm. It never plans.
package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/control"
	"shoal.dev/shoal/internal/dryrun"
	"shoal.dev/shoal/internal/engine/containerd"
	"shoal.dev/shoal/internal/httpapi"
	"shoal.dev/shoal/internal/network/firewall"
	"shoal.dev/shoal/internal/network/overlay"
	"shoal.dev/shoal/internal/tasklog"
)

// Node is a running daemon.
type Node struct {
	cfg     Config // that the daemon was started with
	live    atomic.Pointer[Config]
	parts   parts
	version string
	log     *slog.Logger
	id      string // the engine's ID, for `info`

	machine Machine
	engine  Engine // the machine's, as the kernel is
	kernel  Kernel
	control *control.Control
	api     http.Handler // the Engine API without forwarding
	tried   *dryrun.Runs
	// firewall looks at other programs' packet filters; nil on a machine that has no kernel.
	firewall *firewall.Keeper

	mu     longLock // held while the membership changes
	run    func(func(context.Context) error)
	member atomic.Pointer[member] // nil: in no swarm
	locked atomic.Pointer[state]  // what this manager needs its swarm's unlock key for; nil: it is not locked
}

// Run runs a daemon until ctx ends. The configuration has been validated. Containers go on when it returns.
func Run(ctx context.Context, cfg Config, version string, log *slog.Logger, reload Reloader) error {
	for dir, mode := range map[string]os.FileMode{cfg.DataRoot: 0o700, cfg.ExecRoot: 0o711, filepath.Join(cfg.DataRoot, "swarm"): 0o700} {
		if err := os.MkdirAll(dir, mode); err != nil {
			return err
		}
	}
	id, err := engineID(cfg.DataRoot)
	if err != nil {
		return err
	}
	if cfg.Pidfile != "" {
		if err := os.WriteFile(cfg.Pidfile, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o644); err != nil {
			return fmt.Errorf("writing the pidfile: %w", err)
		}
		defer os.Remove(cfg.Pidfile)
	}
	containerd.RedirectLogs(log)
	n := &Node{cfg: cfg, version: version, log: log, id: id}
	n.live.Store(&cfg)
	n.firewall = n.newKeeper()
	n.parts = findParts(ctx, cfg.Runtime)
	for _, w := range cfg.openDoors() {
		log.Warn(w)
	}
	listeners, err := n.listen()
	if err != nil {
		return err
	}
	if err := n.open(ctx); err != nil {
		return err
	}
	defer n.close()
	return n.work(ctx, func(api http.Handler) {
		n.run(n.firewall.Run)
		n.run(func(ctx context.Context) error { return n.reloads(ctx, reload) })
		for _, l := range listeners {
			n.run(func(ctx context.Context) error { return serve(ctx, l, api, log) })
		}
		log.Info("shoald is ready", "version", version, "hosts", cfg.Hosts)
	})
}

// work runs all parts until ctx ends. ready is called once, with the API, when the node has taken up its membership.
func (n *Node) work(ctx context.Context, ready func(http.Handler)) error {
	group, ctx := errgroup.WithContext(ctx)
	n.run = func(f func(context.Context) error) { group.Go(func() error { return f(ctx) }) }
	n.run(n.engine.Run)
	n.run(n.kernel.Run)
	if err := n.resume(ctx); err != nil {
		return fmt.Errorf("taking up the membership in the swarm: %w", err)
	}
	ready(n.anywhere(n.own()))
	err := group.Wait()
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// own is the Engine API of this node alone.
func (n *Node) own() http.Handler { return n.tried.Wrap(n.forward(n.api)) }

// open opens what every node has: the network, the engine and the API.
func (n *Node) open(ctx context.Context) error {
	kernel, err := overlay.Open(ctx, overlay.Config{
		StateDir: filepath.Join(n.cfg.DataRoot, "network"), NetnsDir: filepath.Join(n.cfg.ExecRoot, "netns"), HostID: n.id, Log: n.log,
	})
	if err != nil {
		return fmt.Errorf("opening the network: %w", err)
	}
	eng, err := containerd.Open(ctx, containerd.Config{
		Root: filepath.Join(n.cfg.DataRoot, "engine"), State: filepath.Join(n.cfg.ExecRoot, "c"), Namespace: "shoal",
		ShimPath: n.cfg.Shim, Init: n.cfg.Init, InitPath: n.cfg.InitPath, Runtime: n.cfg.Runtime, CgroupParent: n.cfg.CgroupParent, SystemdCgroup: n.cfg.systemdCgroup(), Sandboxes: kernel,
		InsecureRegistries: n.cfg.InsecureRegistries, Mirrors: n.cfg.RegistryMirrors, CertsDirs: certsDirs(),
		LogDriver: n.cfg.LogDriver, LogOpts: n.cfg.LogOpts, Log: n.log,
	})
	if err != nil {
		return fmt.Errorf("opening the engine: %w", err)
	}
	n.wire(Machine{Engine: eng, Kernel: kernel})
	return nil
}

// wire puts the API on a machine.
func (n *Node) wire(m Machine) {
	eng := m.Engine
	n.machine, n.engine, n.kernel = m, eng, m.Kernel
	n.control = control.New(eng)
	n.tried = dryrun.New(dryrun.Config{Control: n.control, Host: eng.LocalNetworks, Log: n.log})
	n.api = httpapi.New(httpapi.Config{
		Version: n.version, Containers: eng, Images: eng, Volumes: eng, Disk: eng, Events: eng, Usage: eng, Host: host{n}, Swarm: n, Upkeep: n, Scheduler: n, Jobs: n.control, Control: n.control,
		Networks: networks{n}, Doctor: n, TaskLogs: &tasklog.Reader{Tasks: n.control, Reach: n.reachNode}, DryRuns: n.tried, Log: n.log,
	})
}

func (n *Node) close() {
	if err := n.kernel.Close(); err != nil {
		n.log.Warn("closing the network", "error", err)
	}
}

// engineID is made at the first start and kept.
func engineID(root string) (string, error) {
	path := filepath.Join(root, "engine-id")
	data, err := os.ReadFile(path)
	if err == nil {
		return strings.TrimSpace(string(data)), nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	id := cluster.NewID()
	return id, writeFile(path, []byte(id+"\n"))
}
