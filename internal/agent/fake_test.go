package agent_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/jsonstream"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"shoal.dev/shoal/internal/agent"
	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/network"
)

var (
	_ agent.Engine  = (*fakeEngine)(nil)
	_ agent.Network = (*fakeNetwork)(nil)
)

// fakeEngine keeps containers in memory. Its faults are set by the tests.
type fakeEngine struct {
	mu         sync.Mutex
	containers map[string]*fakeContainer // by ID
	images     map[string]bool
	remote     map[string]bool // what Pull finds
	calls      map[string]int  // by method
	serial     int

	pullTime, startTime time.Duration
	fail                func(method, name string) error // may be nil
	starting, maxStart  int
	onStart             func(name string)
	stopCode            int // that a container ends with when it is stopped
}

type fakeContainer struct {
	id       string
	spec     engine.Spec
	state    container.State
	changed  chan struct{}
	timeout  *time.Duration // what Stop was given
	stubborn bool           // it ends only when it is killed
}

func newFakeEngine(images ...string) *fakeEngine {
	e := &fakeEngine{stopCode: 143, containers: map[string]*fakeContainer{}, images: map[string]bool{}, remote: map[string]bool{}, calls: map[string]int{}}
	for _, i := range images {
		e.images[i], e.remote[i] = true, true
	}
	return e
}

// call counts a call and returns the fault that is set for it. e.mu is held when it returns.
func (e *fakeEngine) call(method, name string) error {
	e.mu.Lock()
	e.calls[method]++
	if e.fail != nil {
		return e.fail(method, name)
	}
	return nil
}

func (e *fakeEngine) find(name string) (*fakeContainer, error) {
	for _, c := range e.containers {
		if c.id == name || c.spec.Name == name {
			return c, nil
		}
	}
	return nil, errdefs.ErrNotFound.WithMessage("No such container: " + name)
}

func (c *fakeContainer) set(s container.State) {
	c.state = s
	close(c.changed)
	c.changed = make(chan struct{})
}

func (e *fakeEngine) Create(ctx context.Context, s engine.Spec) (string, []string, error) {
	defer e.mu.Unlock()
	if err := e.call("Create", s.Name); err != nil {
		return "", nil, err
	}
	if !e.images[s.Config.Image] {
		return "", nil, errdefs.ErrNotFound.WithMessage("no image " + s.Config.Image)
	}
	if _, err := e.find(s.Name); err == nil {
		return "", nil, errdefs.ErrConflict.WithMessage("the name is taken")
	}
	e.serial++
	c := &fakeContainer{id: fmt.Sprintf("c%03d", e.serial), spec: s, changed: make(chan struct{})}
	c.state.Status = container.StateCreated
	e.containers[c.id] = c
	return c.id, nil, nil
}

func (e *fakeEngine) Start(ctx context.Context, name string) error {
	err := e.call("Start", name)
	if err != nil {
		e.mu.Unlock()
		return err
	}
	e.starting++
	e.maxStart = max(e.maxStart, e.starting)
	e.mu.Unlock()
	if e.startTime > 0 {
		time.Sleep(e.startTime)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.starting--
	c, err := e.find(name)
	if err != nil {
		return err
	}
	if e.onStart != nil {
		e.onStart(c.spec.Name)
	}
	e.serial++
	s := container.State{Status: container.StateRunning, Running: true, Pid: 1000 + e.serial}
	if c.spec.Config.Healthcheck != nil {
		s.Health = &container.Health{Status: container.Starting}
	}
	c.set(s)
	return nil
}

func (e *fakeEngine) Stop(ctx context.Context, name string, o engine.StopOptions) error {
	if err := e.call("Stop", name); err != nil {
		e.mu.Unlock()
		return err
	}
	c, err := e.find(name)
	if err != nil || !c.state.Running {
		e.mu.Unlock()
		return err
	}
	c.timeout = o.Timeout
	stubborn := c.stubborn
	e.mu.Unlock()
	if stubborn {
		select {
		case <-time.After(*o.Timeout):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	e.exit(name, container.State{ExitCode: e.stopCode})
	return nil
}

// exit ends a container.
func (e *fakeEngine) exit(name string, s container.State) {
	e.mu.Lock()
	defer e.mu.Unlock()
	c, err := e.find(name)
	if err != nil {
		panic(err)
	}
	s.Status = container.StateExited
	c.set(s)
}

func (e *fakeEngine) Purge(ctx context.Context, name string, force bool) error {
	defer e.mu.Unlock()
	if err := e.call("Remove", name); err != nil {
		return err
	}
	c, err := e.find(name)
	if err != nil {
		return err
	}
	if c.state.Running && !force {
		return errdefs.ErrConflict.WithMessage("it runs")
	}
	delete(e.containers, c.id)
	close(c.changed)
	return nil
}

func (e *fakeEngine) Wait(ctx context.Context, name string, _ container.WaitCondition) (<-chan engine.WaitResult, error) {
	defer e.mu.Unlock()
	if err := e.call("Wait", name); err != nil {
		return nil, err
	}
	c, err := e.find(name)
	if err != nil {
		return nil, err
	}
	out := make(chan engine.WaitResult, 1)
	changed := c.changed
	if !c.state.Running {
		out <- engine.WaitResult{ExitCode: c.state.ExitCode}
		return out, nil
	}
	go func() {
		for {
			select {
			case <-changed:
			case <-ctx.Done():
				out <- engine.WaitResult{Err: ctx.Err()}
				return
			}
			e.mu.Lock()
			running, code := c.state.Running && e.containers[c.id] == c, c.state.ExitCode
			changed = c.changed
			e.mu.Unlock()
			if !running {
				out <- engine.WaitResult{ExitCode: code}
				return
			}
		}
	}()
	return out, nil
}

// Stats says that a container uses half a CPU and 64 MiB, 16 of which the kernel can take back.
func (e *fakeEngine) Stats(_ context.Context, name string) (*container.StatsResponse, error) {
	s := &container.StatsResponse{ID: name, Read: time.Now()}
	s.CPUStats.CPUUsage.TotalUsage = uint64(time.Now().UnixNano() / 2)
	s.MemoryStats.Usage, s.MemoryStats.Stats = 64<<20, map[string]uint64{"inactive_file": 16 << 20}
	return s, nil
}

func (e *fakeEngine) Inspect(ctx context.Context, name string) (*container.InspectResponse, error) {
	defer e.mu.Unlock()
	if err := e.call("Inspect", name); err != nil {
		return nil, err
	}
	c, err := e.find(name)
	if err != nil {
		return nil, err
	}
	s := c.state
	return &container.InspectResponse{ID: c.id, Name: "/" + c.spec.Name, State: &s, Config: c.spec.Config}, nil
}

func (e *fakeEngine) List(ctx context.Context, o engine.ListOptions) ([]container.Summary, error) {
	defer e.mu.Unlock()
	if err := e.call("List", ""); err != nil {
		return nil, err
	}
	var out []container.Summary
	for _, id := range slices.Sorted(maps.Keys(e.containers)) {
		c := e.containers[id]
		if _, ok := c.spec.Config.Labels[o.Filters["label"][0]]; ok && (o.All || c.state.Running) {
			out = append(out, container.Summary{ID: id, Labels: c.spec.Config.Labels, State: c.state.Status})
		}
	}
	return out, nil
}

func (e *fakeEngine) Pull(ctx context.Context, ref string, _ engine.PullOptions, _ func(jsonstream.Message)) error {
	err := e.call("Pull", ref)
	e.mu.Unlock()
	if err != nil {
		return err
	}
	select {
	case <-time.After(e.pullTime):
	case <-ctx.Done():
		return ctx.Err()
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.remote[ref] {
		return errdefs.ErrNotFound.WithMessage("manifest unknown")
	}
	e.images[ref] = true
	return nil
}

func (e *fakeEngine) InspectImage(ctx context.Context, ref string, _ *ocispec.Platform) (*image.InspectResponse, error) {
	defer e.mu.Unlock()
	if err := e.call("InspectImage", ref); err != nil {
		return nil, err
	}
	if !e.images[ref] {
		return nil, errdefs.ErrNotFound.WithMessage("No such image: " + ref)
	}
	return &image.InspectResponse{ID: ref}, nil
}

func (e *fakeEngine) WaitHealth(ctx context.Context, name string, known container.HealthStatus) (container.HealthStatus, error) {
	for {
		if err := e.call("WaitHealth", name); err != nil {
			e.mu.Unlock()
			return "", err
		}
		c, err := e.find(name)
		if err != nil {
			e.mu.Unlock()
			return "", err
		}
		now, changed := container.NoHealthcheck, c.changed
		if c.state.Health != nil {
			now = c.state.Health.Status
		}
		e.mu.Unlock()
		if now != known {
			return now, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

// faults sets what fails from now on; nil for nothing.
func (e *fakeEngine) faults(f func(method, name string) error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.fail = f
}

// health sets a container's health.
func (e *fakeEngine) health(name string, s container.HealthStatus) {
	e.mu.Lock()
	defer e.mu.Unlock()
	c, err := e.find(name)
	if err != nil {
		panic(err)
	}
	st := c.state
	st.Health = &container.Health{Status: s}
	c.set(st)
}

// get is a copy of a container, nil if there is none.
func (e *fakeEngine) get(name string) *fakeContainer {
	e.mu.Lock()
	defer e.mu.Unlock()
	c, err := e.find(name)
	if err != nil {
		return nil
	}
	return &fakeContainer{id: c.id, spec: c.spec, state: c.state, timeout: c.timeout}
}

func (e *fakeEngine) count(method string) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.calls[method]
}

func (e *fakeEngine) running() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := 0
	for _, c := range e.containers {
		if c.state.Running {
			n++
		}
	}
	return n
}

// fakeNetwork remembers what it was given.
type fakeNetwork struct {
	mu      sync.Mutex
	held    network.Desired
	applied int
	err     error
}

func (n *fakeNetwork) Apply(ctx context.Context, d network.Desired) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.applied++
	if n.err == nil {
		n.held = d
	}
	return n.err
}

func (n *fakeNetwork) fault(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.err = err
}

func (n *fakeNetwork) get() network.Desired {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.held
}

func (n *fakeNetwork) tries() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.applied
}
