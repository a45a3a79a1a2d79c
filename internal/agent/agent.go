// Package agent is a node's side of the swarm: it brings the node's containers and network to what a manager says and
// reports what became of them.
//
// It decides the states of a task from accepted to its end, when a container is started, stopped and removed, and
// which containers of an earlier life are still wanted. It owns the containers that carry the label
// com.docker.swarm.task.id. It never plans and never stops anything because a manager is away.
package agent

import (
	"context"
	"log/slog"
	"net/http"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/moby/moby/api/types/swarm"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/singleflight"

	"shoal.dev/shoal/internal/dispatch/protocol"
	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/network"
)

// Engine is what the agent needs of the container engine; see [engine.Engine] for what the methods promise.
type Engine interface {
	Create(ctx context.Context, s engine.Spec) (id string, warnings []string, err error)
	Start(ctx context.Context, name string) error
	Stop(ctx context.Context, name string, o engine.StopOptions) error
	Purge(ctx context.Context, name string, force bool) error
	Wait(ctx context.Context, name string, c container.WaitCondition) (<-chan engine.WaitResult, error)
	Stats(ctx context.Context, name string) (*container.StatsResponse, error)
	WaitHealth(ctx context.Context, name string, known container.HealthStatus) (container.HealthStatus, error)
	Inspect(ctx context.Context, name string) (*container.InspectResponse, error)
	List(ctx context.Context, o engine.ListOptions) ([]container.Summary, error)
	Pull(ctx context.Context, ref string, o engine.PullOptions, report func(jsonstream.Message)) error
	InspectImage(ctx context.Context, ref string, platform *ocispec.Platform) (*image.InspectResponse, error)
}

// Network brings the node's kernel to a desired state. Applying the same state again repairs what others broke.
type Network interface {
	Apply(ctx context.Context, d network.Desired) error
}

// Session is a connection to a manager.
type Session struct {
	RoundTripper http.RoundTripper
	// Done is closed when the connection is lost. It may be nil.
	Done <-chan struct{}
	// Close ends the connection. It may be nil.
	Close func()
}

// Config is what an [Agent] needs.
type Config struct {
	NodeID string
	// Addr is the node's address as others see it: Node.Status.Addr.
	Addr    string
	Engine  Engine
	Network Network
	// Describe says what the node is.
	Describe func(ctx context.Context) swarm.NodeDescription
	// DiskFull is how many percent of the disk were used when the node was found too full for new tasks; 0: it is not. It is
	// asked every few seconds. It may be nil.
	DiskFull func() int
	// Connections is how many connections were begun through the routing mesh to each of this node's tasks, by the task's
	// address on it. They may count from zero again at any time. It may be nil.
	Connections func() (map[netip.Addr]uint64, error)
	// Obstacle says which packet filter of the host drops what tasks get or send, "" if none does. It is asked every few
	// seconds. It may be nil.
	Obstacle func() string
	// Connect reaches some manager, if possible another one than last time. The session ends by its Close; ctx bounds
	// only the connecting.
	Connect func(ctx context.Context) (Session, error)
	// OnManagers is told the swarm's managers whenever they change. It must not block. It may be nil.
	OnManagers func([]swarm.Peer)
	// OnRole is told the role that the node is to have, with every heartbeat. It must not block. It may be nil.
	OnRole func(swarm.NodeRole)
	// OnCertificate is told, with every heartbeat, what the swarm says of the node's certificate. It must not block. It may be nil.
	OnCertificate func(protocol.Certificate)
	// OnClock is told, with every heartbeat, how far this node's clock is ahead of the manager's. It must not block. It may be nil.
	OnClock func(ahead time.Duration)
	// StateDir keeps the highest epoch and version seen.
	StateDir string
	// Parallel bounds the containers that are created or started at the same time; 0 is twice the number of CPUs, at
	// least 4.
	Parallel int
	Log      *slog.Logger
}

// Agent runs a node's tasks.
type Agent struct {
	cfg   Config
	log   *slog.Logger
	slots *slots
	pulls singleflight.Group
	clock clock
	out   outbox
	net   applier
	vault vault
	off   atomic.Bool // the clock is too far from the managers'
	meter meter
	calm  atomic.Int64 // refused heartbeats in a row after which another manager is tried

	life context.Context // of the tasks: that of Run

	mu       sync.Mutex // guards what follows
	seen     seen
	ingress  *network.Ingress
	overlays []*network.Overlay
	tasks    map[string]*runner
	running  sync.WaitGroup // the runners
}

// New returns an agent that begins with [Agent.Run].
func New(cfg Config) *Agent {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.OnManagers == nil {
		cfg.OnManagers = func([]swarm.Peer) {}
	}
	if cfg.OnRole == nil {
		cfg.OnRole = func(swarm.NodeRole) {}
	}
	if cfg.OnCertificate == nil {
		cfg.OnCertificate = func(protocol.Certificate) {}
	}
	if cfg.Obstacle == nil {
		cfg.Obstacle = func() string { return "" }
	}
	if cfg.OnClock == nil {
		cfg.OnClock = func(time.Duration) {}
	}
	if cfg.Parallel <= 0 {
		// A start waits about half its time for its shim and runc; more than two a CPU only take turns.
		cfg.Parallel = max(4, 2*runtime.GOMAXPROCS(0))
	}
	return &Agent{
		cfg: cfg, log: cfg.Log.With("node", cfg.NodeID),
		slots: newSlots(cfg.Parallel),
		out:   newOutbox(),
		net:   newApplier(cfg.Network),
		tasks: map[string]*runner{},
	}
}

// Run connects to managers and runs what they assign until ctx ends. Containers then go on; another agent on the same
// data takes them over.
func (a *Agent) Run(ctx context.Context) error {
	s, err := loadSeen(a.cfg.StateDir)
	if err != nil {
		// Without it the agent believes the first manager it meets, which is better than no agent.
		a.log.Warn("what the agent had seen of the swarm is lost", "error", err)
	}
	g, ctx := errgroup.WithContext(ctx)
	a.seen, a.life = s, ctx // nothing else runs yet
	g.Go(func() error { return a.net.run(ctx, a.log) })
	g.Go(func() error { return a.runSessions(ctx) })
	g.Go(func() error { return a.keepSeen(ctx) })
	g.Go(func() error { return a.watchObstacle(ctx) })
	err = g.Wait()
	a.running.Wait()
	return err
}

// keepSeen writes what was seen once a second while it changes.
func (a *Agent) keepSeen(ctx context.Context) error {
	var saved seen
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for done := false; !done; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			done = true
		}
		a.mu.Lock()
		s := a.seen
		a.mu.Unlock()
		if s == saved {
			continue
		}
		if err := saveSeen(a.cfg.StateDir, s, s.Epoch != saved.Epoch); err != nil {
			a.log.Warn("cannot keep what the agent has seen", "error", err)
			continue
		}
		saved = s
	}
	return nil
}

// clock is swarm time as the manager's frames tell it, so that a node whose own clock is wrong starts and reports at
// the right time.
type clock struct {
	mu   sync.Mutex
	at   time.Time // swarm time
	when time.Time // our time, with a monotonic reading
}

// clockStep is how far the estimate may be ahead of a frame that was under way for a while.
const clockStep = time.Second

func (c *clock) hear(at time.Time) {
	if at.IsZero() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if d := at.Sub(c.nowLocked()); c.at.IsZero() || d > 0 || d < -clockStep {
		c.at, c.when = at, time.Now()
	}
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nowLocked()
}

func (c *clock) nowLocked() time.Time {
	if c.at.IsZero() {
		return time.Now().UTC().Round(0)
	}
	return c.at.Add(time.Since(c.when)).UTC()
}
