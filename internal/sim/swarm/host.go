package swarm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/moby/moby/api/types/container"

	"shoal.dev/shoal/internal/consensus"
	"shoal.dev/shoal/internal/engine"
	enginefake "shoal.dev/shoal/internal/engine/fake"
	networkfake "shoal.dev/shoal/internal/network/fake"
	"shoal.dev/shoal/internal/node"
	"shoal.dev/shoal/internal/store"
)

// host is a machine: its disk, its containers and, while it runs, its daemon.
type host struct {
	w    *world
	name string
	ip   string

	mu     sync.Mutex
	disk   string // the folder of its data, another one after each crash
	disks  int
	engine *enginefake.Engine // nil without power
	kernel *networkfake.Network
	nodeID string // in the swarm; "" before it is in one
	life   *life  // nil while the daemon is down
	last   *life  // the latest
	retire bool   // it belongs to a history that was cut: its log is not compared any more

	// crashAt is the number of writes to the disk after which the host crashes; 0 is never.
	crashAt atomic.Int64
	diskLag atomic.Int64 // nanoseconds that a write takes
	// entryLag is how many nanoseconds more a write of entries takes: votes are quick, and what is decided is not.
	entryLag atomic.Int64
	full     atomic.Bool // entries cannot be written
}

// life is one run of a daemon.
type life struct {
	host   *host
	cancel context.CancelFunc
	dead   chan struct{} // closed when nothing of it counts any more
	done   chan struct{} // closed when all of it has ended
	ready  chan struct{} // closed when the API is there
	api    http.Handler
	err    error
	store  atomic.Pointer[store.Store] // of its part as a manager, as far as anything was applied
	once   sync.Once
}

func (l *life) isDead() bool {
	select {
	case <-l.dead:
		return true
	default:
		return false
	}
}

func newHost(w *world, i int) *host {
	h := &host{w: w, name: fmt.Sprintf("h%d", i), ip: fmt.Sprintf("10.1.0.%d", i)}
	h.disk = filepath.Join(w.o.Dir, h.name+"-0")
	h.boot()
	return h
}

// boot gives the host power: an engine without a running container.
func (h *host) boot() {
	h.mu.Lock()
	h.kernel = &networkfake.Network{}
	h.engine = enginefake.New()
	h.engine.AnyImage = true
	h.engine.PullTime, h.engine.StartTime = 50*time.Millisecond, 20*time.Millisecond
	h.engine.Sandboxes = h.kernel
	h.mu.Unlock()
	h.w.net.alter(func() { h.w.net.up[h.ip] = true })
}

// start starts the daemon if it does not run, on a host that has power from then on.
func (h *host) start() {
	ctx, cancel := context.WithCancel(context.Background())
	l := &life{host: h, cancel: cancel, dead: make(chan struct{}), done: make(chan struct{}), ready: make(chan struct{})}
	h.mu.Lock()
	last, runs := h.last, h.life != nil
	h.mu.Unlock()
	if runs {
		cancel()
		return
	}
	if last != nil {
		<-last.done
	}
	h.mu.Lock()
	if h.life != nil { // somebody else was quicker
		h.mu.Unlock()
		cancel()
		return
	}
	h.life, h.last = l, l
	h.mu.Unlock()
	if h.machine() == nil {
		h.boot()
	}
	h.mu.Lock()
	machine := node.Machine{
		Engine: machineEngine{h.engine}, Kernel: machineKernel{h.kernel}, Probe: probe{l},
		Dial:   func(ctx context.Context, addr string) (net.Conn, error) { return h.w.net.dial(ctx, l, addr) },
		Listen: func(addr string) (net.Listener, error) { return h.w.net.listen(l, addr) },
	}
	disk := h.disk
	h.mu.Unlock()
	go func() {
		defer close(l.done)
		l.err = node.RunOn(ctx, machine, node.Config{DataRoot: disk}, h.w.logger(h), func(api http.Handler) {
			l.api = api
			close(l.ready)
		})
		if l.err != nil && !l.isDead() {
			h.w.violate("the daemon of %s ended: %v", h.name, l.err)
		}
	}()
}

// alive returns the daemon that runs, nil if none does.
func (h *host) alive() *life {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.life
}

// stop ends the daemon as a package update does; its containers go on.
func (h *host) stop() {
	l := h.alive()
	if l == nil {
		return
	}
	h.mu.Lock()
	h.life = nil
	h.mu.Unlock()
	l.once.Do(func() { close(l.dead) })
	l.cancel()
	<-l.done
	h.w.net.kill(l)
}

// crash ends the daemon in the middle of whatever it does: nothing that it does from now on reaches its disk or
// another host. With power, the whole host is gone: its containers, and its kernel, which would reset connections.
func (h *host) crash(power bool) {
	l := h.alive()
	if l == nil {
		return
	}
	h.crashLife(l)
	if power {
		h.w.net.alter(func() { h.w.net.up[h.ip] = false })
		h.machine().Close()
	}
	<-l.done
	if power {
		h.mu.Lock()
		h.engine = nil
		h.mu.Unlock()
	}
}

// machine is the host's engine; nil without power.
func (h *host) machine() *enginefake.Engine {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.engine
}

func (h *host) id() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.nodeID
}

func (h *host) setID(id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.nodeID = id
}

// crashLife cuts a daemon off from the world. It is also called by the daemon's own goroutines.
func (h *host) crashLife(l *life) {
	l.once.Do(func() {
		close(l.dead)
		h.mu.Lock()
		h.life = nil
		h.disks++
		to := filepath.Join(h.w.o.Dir, fmt.Sprintf("%s-%d", h.name, h.disks))
		if err := copyTree(h.disk, to); err != nil {
			h.w.violate("copying the disk of %s: %v", h.name, err)
		}
		h.disk = to
		h.mu.Unlock()
		h.w.net.kill(l)
		l.cancel()
	})
}

// copyTree copies what is on the disk now. bbolt's first pages, which say what counts, come before what they refer to, so
// that a copy made during a transaction is what a crash during it leaves.
func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(name string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it was renamed meanwhile
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, name)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o700)
		}
		data, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		return writeSparse(filepath.Join(to, rel), data)
	})
}

// page is the unit in which a file system leaves out what was never written.
const page = 4096

// writeSparse writes a file without its empty pages, of which a log's file has megabytes.
func writeSparse(name string, data []byte) (err error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	var empty [page]byte
	for at := 0; at < len(data); at += page {
		if p := data[at:min(at+page, len(data))]; !bytes.Equal(p, empty[:len(p)]) {
			if _, err := f.WriteAt(p, int64(at)); err != nil {
				return err
			}
		}
	}
	return f.Truncate(int64(len(data)))
}

// answer is what the API said.
type answer struct {
	status int
	body   []byte
	stale  bool
}

// message is the text of an error.
func (a answer) message() string {
	var m struct{ Message string }
	if json.Unmarshal(a.body, &m) != nil {
		return string(a.body)
	}
	return m.Message
}

var errDied = errors.New("the daemon died before it answered")

var errDown = errors.New("the daemon is down")

// ask asks the host's own API, as a client on the host does. An error says that nothing is known of what became of it.
func (h *host) ask(ctx context.Context, method, path string, body any) (answer, error) {
	l := h.alive()
	if l == nil {
		return answer{}, errDown
	}
	select {
	case <-l.ready:
	case <-l.dead:
		return answer{}, errDown
	case <-ctx.Done():
		return answer{}, ctx.Err()
	}
	var in io.Reader = http.NoBody
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return answer{}, err
		}
		in = bytes.NewReader(data)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r := httptest.NewRequestWithContext(ctx, method, path, in)
	r.Header.Set("Content-Type", "application/json")
	rec := httptest.NewRecorder()
	served := make(chan struct{})
	go func() {
		defer close(served)
		l.api.ServeHTTP(rec, r)
	}()
	select {
	case <-served:
	case <-l.dead:
		cancel()
		<-served
	}
	if l.isDead() {
		return answer{}, errDied
	}
	if ctx.Err() != nil {
		return answer{}, ctx.Err()
	}
	return answer{rec.Code, rec.Body.Bytes(), rec.Header().Get(node.StaleHeader) != ""}, nil
}

// get decodes an answer.
func (h *host) get(ctx context.Context, path string, out any) error {
	a, err := h.ask(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	if a.status != http.StatusOK {
		return fmt.Errorf("%s: %d %s", path, a.status, a.message())
	}
	return json.Unmarshal(a.body, out)
}

// running are the containers of tasks that run on the host, by task.
func (h *host) running() map[string]container.Summary {
	out := map[string]container.Summary{}
	e := h.machine()
	if e == nil {
		return out
	}
	list, err := e.List(context.Background(), engine.ListOptions{Filters: map[string][]string{"label": {"com.docker.swarm.task.id"}}})
	if err != nil {
		h.w.violate("listing the containers of %s: %v", h.name, err)
	}
	for _, c := range list {
		out[c.Labels["com.docker.swarm.task.id"]] = c
	}
	return out
}

type machineEngine struct{ *enginefake.Engine }

func (machineEngine) Run(ctx context.Context) error     { <-ctx.Done(); return nil }
func (machineEngine) SetRegistries(_, _ []string) error { return nil }

type machineKernel struct{ *networkfake.Network }

func (machineKernel) Run(ctx context.Context) error { <-ctx.Done(); return nil }
func (machineKernel) Close() error                  { return nil }

// probe is the host's disk and the auditor's ear.
type probe struct{ l *life }

var _ consensus.Probe = probe{}

func (p probe) BeforeWrite(w consensus.Write) error {
	h := p.l.host
	lag := h.diskLag.Load()
	if len(w.Entries) > 0 {
		lag += h.entryLag.Load()
	}
	if lag > 0 {
		time.Sleep(time.Duration(lag))
	}
	p.count()
	if h.full.Load() && len(w.Entries) > 0 {
		return errors.New("no space left on device")
	}
	return nil
}

func (p probe) AfterWrite(consensus.Write) { p.count() }

// count crashes the host if that was planned for this write.
func (p probe) count() {
	if p.l.isDead() {
		return
	}
	if h := p.l.host; h.crashAt.Load() > 0 && h.crashAt.Add(-1) == 0 {
		h.w.note("%s crashes in the middle of a write", h.name)
		h.crashLife(p.l)
	}
}

func (p probe) Applied(s *store.Store, index uint64, entry []byte) {
	p.l.store.Store(s)
	p.l.host.w.applied(p.l, index, entry)
}

func (p probe) Restored(s *store.Store) {
	p.l.store.Store(s)
	p.l.host.w.restored(p.l, s)
}
