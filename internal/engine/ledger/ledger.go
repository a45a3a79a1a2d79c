// Package ledger is the part of an engine that is the same whatever runs the containers: which containers there are,
// under which names, in which state, who waits for them, and what happened, in order. Both engines (containerd, fake)
// keep their containers in one.
//
// It decides Docker's rules about names, prefixes, filters, wait conditions and event order, and how a container is
// shown. It owns memory only: it starts nothing, writes nothing, and has no goroutines but those of its subscribers.
package ledger

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/engine/health"
)

// Container is what is known of one container. A value in the ledger is immutable: to change one, change a copy and
// Put it. It is also the form in which an engine may persist it.
type Container struct {
	ID         string // 64 hexadecimal digits
	Name       string // without the slash that the API puts before it
	Created    time.Time
	Config     *container.Config // with the image's defaults filled in
	HostConfig *container.HostConfig
	ImageID    string
	Manifest   *ocispec.Descriptor `json:",omitempty"` // the image's manifest for the container's platform; nil if not known
	Ingress    netip.Addr
	Networks   map[string]*network.EndpointSettings `json:",omitempty"` // what it is on when it runs, by the networks' names
	Mounts     []container.MountPoint
	Subpaths   map[string]string `json:",omitempty"` // by destination, the part of a volume that is mounted there
	Files      []string          `json:",omitempty"` // targets of the files that were given for it, by number; see engine.File
	Dir        string            // folder of the container's own files; "" if it has none
	State      State
}

// State is how a container is doing.
type State struct {
	Status     container.ContainerState
	Pid        int
	ExitCode   int
	Error      string
	OOMKilled  bool
	StartedAt  time.Time
	FinishedAt time.Time
	Sandbox    engine.Sandbox
	Stopped    bool          // a user wanted the end of this run
	Restarts   int           // by its restart policy, since a user started it
	Backoff    time.Duration // the delay before the last of them
	Keep       bool          // its end is part of a user's restart, so AutoRemove does not apply
	// Health is what probes found out; nil before the first start and without a health check. It is not changed.
	Health *container.Health `json:",omitempty"`
}

// Running says whether the container has a process.
func (c *Container) Running() bool {
	return c.State.Status == container.StateRunning || c.State.Status == container.StatePaused
}

// Ledger holds containers. It is safe for concurrent use.
type Ledger struct {
	mu      sync.Mutex
	byID    map[string]*entry
	names   map[string]string // name -> ID; also of containers being created
	subs    map[*subscriber]struct{}
	past    []engine.Event // the latest engine.KeptEvents, oldest first
	lastRun time.Time      // time of the last event, so that times never go back
}

type entry struct {
	c       *Container
	lock    chan struct{} // of size 1: held while the container is started, ended or removed
	waiters map[*waiter]struct{}
	probed  chan struct{} // closed when the health changes; nil while nobody waits for that
}

type waiter struct {
	on container.WaitCondition
	ch chan engine.WaitResult // of size 1
}

// New returns an empty ledger.
func New() *Ledger {
	return &Ledger{byID: map[string]*entry{}, names: map[string]string{}, subs: map[*subscriber]struct{}{}}
}

// NewID makes up a container ID.
func NewID() string {
	var b [32]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

var validName = regexp.MustCompile(`^/?[a-zA-Z0-9][a-zA-Z0-9_.-]+$`)

// Reserve takes a name for the container id that is about to be made; an empty name makes one up. It fails with
// Conflict if the name is taken. Add or Release must follow.
func (l *Ledger) Reserve(name, id string) (string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if name == "" {
		for name = inventName(); l.names[name] != ""; name = inventName() + "_" + id[:4] {
		}
	} else if !validName.MatchString(name) {
		return "", Errorf(errdefs.ErrInvalidArgument,
			"Invalid container name (%s), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed", name)
	}
	name = strings.TrimPrefix(name, "/")
	if owner := l.names[name]; owner != "" {
		return "", Errorf(errdefs.ErrConflict, "Conflict. The container name %q is already in use by container %q. "+
			"You have to remove (or rename) that container to be able to reuse that name.", "/"+name, owner)
	}
	l.names[name] = id
	return name, nil
}

// Release gives a reserved name back.
func (l *Ledger) Release(name, id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e := l.byID[id]; e == nil && l.names[name] == id {
		delete(l.names, name)
	}
}

// Add takes in a container that was made, or found at start; action, if not empty, is the event to report.
func (l *Ledger) Add(c *Container, action string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.byID[c.ID] = &entry{c: c, lock: make(chan struct{}, 1), waiters: map[*waiter]struct{}{}}
	l.names[c.Name] = c.ID
	if action != "" {
		l.emitContainer(c, action, nil)
	}
}

// Put replaces a container by a changed copy and reports the actions as events, in order. Whoever waited for what
// this brought about is told before Put returns. A container that was dropped stays so.
func (l *Ledger) Put(c *Container, actions ...Action) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.byID[c.ID]
	if e == nil {
		return
	}
	ended := e.c.Running() && !c.Running() || e.c.Active() && !c.Active()
	probed := e.c.Health() != c.Health()
	e.c = c
	for _, a := range actions {
		l.emitContainer(c, a.Name, a.Attributes)
	}
	if ended {
		e.tell(engine.WaitResult{ExitCode: c.State.ExitCode}, container.WaitConditionNotRunning, container.WaitConditionNextExit)
	}
	if probed {
		e.tellHealth()
	}
}

// Action is an event to report about a container.
type Action struct {
	Name       string
	Attributes map[string]string // beside the name, the image and the labels
}

// Drop takes a container out and reports its destruction.
func (l *Ledger) Drop(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.byID[id]
	if e == nil {
		return
	}
	delete(l.byID, id)
	delete(l.names, e.c.Name)
	l.emitContainer(e.c, "destroy", nil)
	e.tell(engine.WaitResult{ExitCode: e.c.State.ExitCode},
		container.WaitConditionNotRunning, container.WaitConditionNextExit, container.WaitConditionRemoved)
	e.tellHealth()
}

func (e *entry) tell(r engine.WaitResult, on ...container.WaitCondition) {
	for w := range e.waiters {
		if slices.Contains(on, w.on) {
			w.ch <- r
			delete(e.waiters, w)
		}
	}
}

// Find returns the container of that name, ID or unambiguous prefix of an ID.
func (l *Ledger) Find(name string) (*Container, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e, err := l.find(name)
	if err != nil {
		return nil, err
	}
	return e.c, nil
}

func (l *Ledger) find(name string) (*entry, error) {
	if e := l.byID[name]; e != nil {
		return e, nil
	}
	plain := strings.TrimPrefix(name, "/")
	if id := l.names[plain]; id != "" {
		if e := l.byID[id]; e != nil {
			return e, nil
		}
	}
	var found *entry
	if plain != "" {
		for id, e := range l.byID {
			if strings.HasPrefix(id, plain) {
				if found != nil {
					return nil, Errorf(errdefs.ErrInvalidArgument, "Multiple IDs found with provided prefix: %s", name)
				}
				found = e
			}
		}
	}
	if found == nil {
		return nil, Errorf(errdefs.ErrNotFound, "No such container: %s", name)
	}
	return found, nil
}

// Lock waits until nobody else starts, ends or removes the container, and returns it as it is then.
func (l *Ledger) Lock(ctx context.Context, name string) (*Container, func(), error) {
	l.mu.Lock()
	e, err := l.find(name)
	l.mu.Unlock()
	if err != nil {
		return nil, nil, err
	}
	select {
	case e.lock <- struct{}{}:
	case <-ctx.Done():
		return nil, nil, context.Cause(ctx)
	}
	unlock := func() { <-e.lock }
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.byID[e.c.ID] != e { // it was removed while we waited
		unlock()
		return nil, nil, Errorf(errdefs.ErrNotFound, "No such container: %s", name)
	}
	return e.c, unlock, nil
}

// Wait implements engine.Containers. The channel holds one result when the condition holds, or when ctx ends.
func (l *Ledger) Wait(ctx context.Context, name string, on container.WaitCondition) (<-chan engine.WaitResult, error) {
	switch on {
	case "":
		on = container.WaitConditionNotRunning
	case container.WaitConditionNotRunning, container.WaitConditionNextExit, container.WaitConditionRemoved:
	default:
		return nil, Errorf(errdefs.ErrInvalidArgument, "invalid condition: %q", string(on))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	e, err := l.find(name)
	if err != nil {
		return nil, err
	}
	w := &waiter{on: on, ch: make(chan engine.WaitResult, 1)}
	if on == container.WaitConditionNotRunning && !e.c.Active() {
		w.ch <- engine.WaitResult{ExitCode: e.c.State.ExitCode}
		return w.ch, nil
	}
	e.waiters[w] = struct{}{}
	context.AfterFunc(ctx, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if _, waits := e.waiters[w]; waits {
			delete(e.waiters, w)
			w.ch <- engine.WaitResult{Err: context.Cause(ctx)}
		}
	})
	return w.ch, nil
}

// All returns every container, newest first.
func (l *Ledger) All() []*Container {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make([]*Container, 0, len(l.byID))
	for _, e := range l.byID {
		all = append(all, e.c)
	}
	slices.SortFunc(all, func(a, b *Container) int {
		if c := b.Created.Compare(a.Created); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return all
}

// Usage counts the containers.
func (l *Ledger) Usage() engine.Usage {
	var u engine.Usage
	for _, c := range l.All() {
		switch c.State.Status {
		case container.StateRunning:
			u.Running++
		case container.StatePaused:
			u.Paused++
		default:
			u.Stopped++
		}
	}
	return u
}

// Merged fills what c leaves open from the image's configuration, as Docker does. Neither is changed. It fails if
// nothing says what to run, or how a health check is to run.
func Merged(c *container.Config, img *container.Config) (*container.Config, error) {
	m := *c
	if img == nil {
		img = &container.Config{}
	}
	if m.User == "" {
		m.User = img.User
	}
	if m.WorkingDir == "" {
		m.WorkingDir = img.WorkingDir
	}
	if m.StopSignal == "" {
		m.StopSignal = img.StopSignal
	}
	if err := health.Validate(c.Healthcheck); err != nil {
		return nil, err
	}
	m.Healthcheck = health.Merged(c.Healthcheck, img.Healthcheck)
	// A new entrypoint drops the image's command; [""] means none at all.
	if len(m.Entrypoint) == 0 {
		if len(m.Cmd) == 0 {
			m.Cmd = slices.Clone(img.Cmd)
		}
		m.Entrypoint = slices.Clone(img.Entrypoint)
	}
	if len(m.Entrypoint) == 1 && m.Entrypoint[0] == "" {
		m.Entrypoint = nil
	}
	m.Env = slices.Clone(c.Env)
	for _, e := range img.Env {
		key, _, _ := strings.Cut(e, "=")
		if !slices.ContainsFunc(c.Env, func(s string) bool { k, _, _ := strings.Cut(s, "="); return k == key }) {
			m.Env = append(m.Env, e)
		}
	}
	m.Labels = maps.Clone(img.Labels)
	if m.Labels == nil {
		m.Labels = map[string]string{}
	}
	maps.Copy(m.Labels, c.Labels)
	m.ExposedPorts = maps.Clone(img.ExposedPorts)
	m.Volumes = maps.Clone(img.Volumes)
	for v := range c.Volumes {
		if m.Volumes == nil {
			m.Volumes = map[string]struct{}{}
		}
		m.Volumes[v] = struct{}{}
	}
	for p := range c.ExposedPorts {
		if m.ExposedPorts == nil {
			m.ExposedPorts = map[portKey]struct{}{}
		}
		m.ExposedPorts[p] = struct{}{}
	}
	if len(m.Entrypoint)+len(m.Cmd) == 0 {
		return nil, Errorf(errdefs.ErrInvalidArgument, "no command specified")
	}
	return &m, nil
}

// classed is an error of a class of errdefs whose text does not name the class.
type classed struct {
	class error
	text  string
}

func (e *classed) Error() string { return e.text }
func (e *classed) Unwrap() error { return e.class }

// Errorf makes an error of a class of errdefs without the class's name in its text, which is Docker's.
func Errorf(class error, format string, args ...any) error {
	return &classed{class: class, text: fmt.Sprintf(format, args...)}
}
