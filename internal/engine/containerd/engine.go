// Package containerd runs containers on containerd, in this process, and our shim, one small process a container.
//
// It decides how Docker's container settings become an OCI bundle, where a container's files are, and what became of
// containers while it was away. It owns a containerd namespace, everything under its two folders, and the cgroups
// under its parent. It never decides which containers should run, and never touches the network but by Sandboxes.
//
// # What is true of a container
//
// The one durable record of a container is containerd's own: Docker's settings and the last known state are an
// extension of it, so that a container and its record appear and disappear in one transaction. Opening reads them
// all into a ledger in memory, which answers everything afterwards. What the record cannot know because the daemon
// was away is in the container's folder, written by its shim: exit.json and the log. A record is written before the
// first process of a container runs and after it ended; in between, that it runs is known from its shim.
package containerd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/cmd/containerd/server"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/moby/moby/api/types/container"
	"golang.org/x/sync/errgroup"

	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/engine/ledger"
	"shoal.dev/shoal/internal/engine/volume"
)

// snapshotter is containerd's name for the driver of root filesystems.
const snapshotter = "overlayfs"

// Config says where an engine lives.
type Config struct {
	Root  string // durable data: images, containers, logs
	State string // what need not survive a reboot, sockets among it: at most maxState characters
	// Namespace is containerd's, and part of no path that a user sees; several engines on one containerd root would
	// have one each.
	Namespace string
	ShimPath  string // absolute path of containerd-shim-shoal-v1
	// InitPath is the absolute path of shoal-init, which containers with an init process get as theirs. It is looked
	// for when one starts. Init is what a container gets that does not say.
	InitPath string
	Init     bool
	Runtime  string // name or path of runc
	// CgroupParent is the cgroup under which containers get theirs; with SystemdCgroup a slice.
	CgroupParent  string
	SystemdCgroup bool
	Sandboxes     engine.Sandboxes // nil: only the networks host and none
	// InsecureRegistries are hosts with port, or networks in CIDR form, that are spoken to without verified TLS.
	// Loopback addresses always are.
	InsecureRegistries []string
	Mirrors            []string // URLs that are asked before docker.io
	// CertsDirs are folders with a folder HOST[:PORT] for each registry that has authorities or a client certificate of
	// its own, in Docker's form.
	CertsDirs []string
	// LogDriver and LogOpts are those of containers that name none; "" is json-file.
	LogDriver string
	LogOpts   map[string]string
	Log       *slog.Logger
}

// maxState keeps the longest socket path, STATE/s/<64 hex>, under the kernel's 108 bytes.
const maxState = 40

// Validate says what is wrong with c, naming the field.
func (c *Config) Validate() error {
	for name, path := range map[string]string{"Root": c.Root, "State": c.State, "ShimPath": c.ShimPath} {
		if !filepath.IsAbs(path) {
			return fmt.Errorf("engine: %s %q is not an absolute path", name, path)
		}
	}
	if len(c.State) > maxState {
		return fmt.Errorf("engine: State %q is longer than %d characters; sockets below it would have paths too long for the kernel",
			c.State, maxState)
	}
	if st, err := os.Stat(c.ShimPath); err != nil || st.Mode()&0o111 == 0 {
		return fmt.Errorf("engine: the shim %s is not an executable file", c.ShimPath)
	}
	if c.Namespace == "" || c.Runtime == "" || c.Log == nil {
		return errors.New("engine: Namespace, Runtime and Log are needed")
	}
	if c.SystemdCgroup != strings.HasSuffix(c.CgroupParent, ".slice") {
		return fmt.Errorf("engine: CgroupParent %q: a slice belongs to systemd's cgroup driver, a path to the other", c.CgroupParent)
	}
	if err := checkLog(container.LogConfig{Type: c.LogDriver, Config: c.LogOpts}); err != nil {
		return fmt.Errorf("failed to set log opts: %w", err)
	}
	_, err := newRegistries(c)
	return err
}

func (c *Config) ttrpcSocket() string { return filepath.Join(c.State, "ttrpc") }
func (c *Config) shimSockets() string { return filepath.Join(c.State, "s") }
func (c *Config) containerDir(id string) string {
	return filepath.Join(c.Root, "containers", id)
}

// Engine implements engine.Engine.
type Engine struct {
	cfg        Config
	server     *server.Server
	client     *client.Client
	containers containers.Store
	tasks      tasks.TasksClient
	snapshots  snapshots.Snapshotter
	images     images.Store
	ledger     *ledger.Ledger
	volumes    *volume.Store
	known      imageCache
	using      imageUse
	pruning    sync.Mutex
	registries *registries
	host       host
	rro        struct { // whether read-only mounts can be so to the bottom; asked once
		once sync.Once
		err  error
	}
	pulls   keyedLock
	execs   ledger.Execs
	waiting waiting
	probes  probes
	garbage chan struct{}   // of one: a removal left something to collect
	life    context.Context // ends with Run: what outlives the call that began it ends then
	endLife context.CancelFunc
}

var _ engine.Engine = (*Engine)(nil)

// Open starts containerd and finds what there is: containers that still run, and how those ended that do not. The
// engine then answers, but learns of exits and lets go of containerd only in Run, which must follow.
func Open(ctx context.Context, cfg Config) (*Engine, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	regs, err := newRegistries(&cfg)
	if err != nil {
		return nil, err
	}
	for _, dir := range []string{filepath.Join(cfg.Root, "containers"), cfg.State, filepath.Join(cfg.State, "a"), cfg.probesDir()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	// The streams of commands that another daemon began lead nowhere any more.
	if err := os.RemoveAll(filepath.Join(cfg.State, "e")); err != nil {
		return nil, err
	}
	// containerd's parts live until Stop, whatever becomes of the context of Open.
	srv, cl, err := startServer(context.WithoutCancel(ctx), &cfg)
	if err != nil {
		return nil, err
	}
	e := &Engine{
		cfg: cfg, server: srv, client: cl,
		containers: cl.ContainerService(), tasks: cl.TaskService(), snapshots: cl.SnapshotService(snapshotter),
		images: cl.ImageService(), ledger: ledger.New(), registries: regs, host: probeHost(),
		garbage: make(chan struct{}, 1),
	}
	e.life, e.endLife = context.WithCancel(context.WithoutCancel(ctx))
	err = e.openVolumes()
	if err == nil {
		err = e.load(e.scope(ctx))
	}
	if err == nil {
		err = e.resumeHealth()
	}
	if err != nil {
		e.endLife()
		srv.Stop()
		return nil, err
	}
	return e, nil
}

// Run follows containers until ctx ends, then stops containerd; containers go on. It is to be called once.
func (e *Engine) Run(ctx context.Context) error {
	defer e.server.Stop()
	defer e.probes.Settle(settleTime)
	defer e.endLife()
	ctx = e.scope(ctx)
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { e.endOldProbes(gctx); return nil })
	g.Go(func() error { return e.follow(gctx, g) })
	g.Go(func() error { e.collectGarbage(gctx); return nil })
	e.resume(gctx, g)
	err := g.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// scope puts a call into the engine's containerd namespace.
func (e *Engine) scope(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, e.cfg.Namespace)
}

// Events implements engine.Feed.
func (e *Engine) Events(ctx context.Context) <-chan engine.Event { return e.ledger.Events(ctx) }

// Recall implements engine.Feed.
func (e *Engine) Recall(ctx context.Context, since time.Time) ([]engine.Event, <-chan engine.Event) {
	return e.ledger.Recall(ctx, since)
}

// Announce implements engine.Feed.
func (e *Engine) Announce(ev engine.Event) { e.ledger.Announce(ev) }

// Usage implements engine.Engine.
func (e *Engine) Usage(ctx context.Context) (engine.Usage, error) {
	u := e.ledger.Usage()
	list, err := e.images.List(e.scope(ctx))
	if err != nil {
		return u, err
	}
	ids := map[string]bool{}
	for _, i := range list {
		ids[i.Target.Digest.String()] = true
	}
	u.Images = len(ids)
	return u, nil
}
