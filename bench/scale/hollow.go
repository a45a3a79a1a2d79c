package scale

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"syscall"
	"time"

	"github.com/moby/moby/api/types/swarm"
	"golang.org/x/sync/errgroup"

	"shoal.dev/shoal/bench"
	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/node"
)

// HollowOptions is the size of a swarm of hollow nodes.
type HollowOptions struct {
	Nodes, Services, Tasks int // Tasks in all
	// Runs is how often each answer is measured.
	Runs int
	// Profile is a folder in which the manager leaves profiles of its heap and its CPU time; "": none.
	Profile string
	Out     io.Writer
}

// hollowAddr is the manager's address, which only this network namespace has.
const hollowAddr = "198.18.0.1"

// hollowManager is a manager in a process of its own.
type hollowManager struct {
	dir    string
	cmd    *exec.Cmd
	client *http.Client
	nodes  []*hollowNode
}

// Hollow measures one manager of a swarm of hollow nodes, and its restart. The calling process must have a network namespace
// and a mount namespace for itself, and be root: the manager is all that shoald is, with its engine and its network.
func Hollow(ctx context.Context, o HollowOptions, r *bench.Report) (err error) {
	for _, args := range [][]string{
		{"link", "set", "lo", "up"}, {"addr", "add", hollowAddr + "/32", "dev", "lo"},
	} {
		if out, err := exec.CommandContext(ctx, "ip", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %v: %w: %s", args, err, out)
		}
	}
	dir, err := os.MkdirTemp("", "hollow-")
	if err != nil {
		return err
	}
	m := &hollowManager{dir: dir, client: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", filepath.Join(dir, "s"))
		}, MaxIdleConnsPerHost: 64,
	}}}
	defer func() { err = errors.Join(err, m.stop(), os.RemoveAll(dir)) }()
	if err := m.start(ctx, o.Profile); err != nil {
		return err
	}
	ctx, end := context.WithCancel(ctx)
	defer end()
	if err := m.fill(ctx, o, r); err != nil {
		return err
	}
	if err := m.measure(ctx, o, r, "after the start"); err != nil {
		return err
	}
	if err := m.reach(ctx, o, r); err != nil {
		return err
	}
	if err := m.stop(); err != nil {
		return err
	}
	began := time.Now()
	if err := m.start(ctx, o.Profile); err != nil {
		return err
	}
	r.Add(o.side(), "restart until services are listed", "s", time.Since(began).Seconds())
	used, err := bench.CPUTime(m.cmd.Process.Pid)
	if err != nil {
		return err
	}
	r.Add(o.side(), "restart until services are listed, CPU", "s", used.Seconds())
	if err := m.ready(ctx, o.Nodes); err != nil {
		return err
	}
	r.Add(o.side(), "restart until every node is ready", "s", time.Since(began).Seconds())
	return m.measure(ctx, o, r, "after a restart")
}

func (o HollowOptions) side() string {
	return fmt.Sprintf("%d nodes, %d services, %d tasks", o.Nodes, o.Services, o.Tasks)
}

// fill makes the swarm and waits until all of it runs.
func (m *hollowManager) fill(ctx context.Context, o HollowOptions, r *bench.Report) error {
	if err := m.call(ctx, "POST", "/swarm/init", swarm.InitRequest{ListenAddr: "0.0.0.0:2377", AdvertiseAddr: hollowAddr, Availability: swarm.NodeAvailabilityDrain}, nil); err != nil {
		return err
	}
	var sw swarm.Swarm
	if err := m.call(ctx, "GET", "/swarm", nil, &sw); err != nil {
		return err
	}
	fmt.Fprintf(o.Out, "%d nodes join\n", o.Nodes)
	m.nodes = make([]*hollowNode, o.Nodes)
	joins, joining := errgroup.WithContext(ctx)
	joins.SetLimit(8)
	for i := range o.Nodes {
		joins.Go(func() error {
			h := &hollowNode{name: fmt.Sprintf("hollow-%d", i), manager: hollowAddr + ":2377"}
			if err := h.join(joining, sw.JoinTokens.Worker); err != nil {
				return err
			}
			m.nodes[i] = h
			go h.run(ctx)
			return nil
		})
	}
	if err := joins.Wait(); err != nil {
		return err
	}
	if err := m.ready(ctx, o.Nodes); err != nil {
		return err
	}
	fmt.Fprintf(o.Out, "%d services are created\n", o.Services)
	began := time.Now()
	var p planning
	creations, creating := errgroup.WithContext(ctx)
	creations.SetLimit(32)
	for i := range o.Services {
		creations.Go(func() error {
			return m.call(creating, "POST", "/services/create", p.newService(fmt.Sprintf("service-%05d", i), uint64(o.Tasks/o.Services)).Spec, nil)
		})
	}
	if err := creations.Wait(); err != nil {
		return err
	}
	r.Add(o.side(), "services created a second, 32 clients", "/s", float64(o.Services)/time.Since(began).Seconds())
	for {
		services, err := m.services(ctx)
		if err != nil {
			return err
		}
		running := 0
		for _, s := range services {
			running += int(s.ServiceStatus.RunningTasks)
		}
		if running >= o.Tasks/o.Services*o.Services {
			r.Add(o.side(), "all tasks running since the first creation", "s", time.Since(began).Seconds())
			return nil
		}
		fmt.Fprintf(o.Out, "%d tasks run\n", running)
		if err := pause(ctx, 2*time.Second); err != nil {
			return err
		}
	}
}

func (m *hollowManager) services(ctx context.Context) (list []swarm.Service, err error) {
	return list, m.call(ctx, "GET", "/services?status=true", nil, &list)
}

// ready waits until so many nodes are.
func (m *hollowManager) ready(ctx context.Context, nodes int) error {
	for {
		var list []swarm.Node
		if err := m.call(ctx, "GET", "/nodes", nil, &list); err != nil {
			return err
		}
		ready := 0
		for _, n := range list {
			if n.Status.State == swarm.NodeStateReady {
				ready++
			}
		}
		if ready > nodes { // and the manager
			return nil
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
}

// measure takes what the manager costs at rest and how fast it answers.
func (m *hollowManager) measure(ctx context.Context, o HollowOptions, r *bench.Report, when string) error {
	fmt.Fprintf(o.Out, "measuring %s\n", when)
	const rest = 15 * time.Second
	if err := pause(ctx, rest); err != nil {
		return err
	}
	pid := m.cmd.Process.Pid
	mb, err := bench.PSS(pid)
	if err != nil {
		return err
	}
	r.Add(o.side(), "memory of the manager (PSS) "+when, "MB", mb)
	if o.Profile != "" {
		if err := m.cmd.Process.Signal(syscall.SIGUSR1); err != nil {
			return err
		}
	}
	for _, q := range []struct{ name, path string }{{"service ls", "/services?status=true"}, {"node ls", "/nodes"}, {"service ps", "/tasks?filters=" + `{"service":["service-00001"]}`}} {
		before, err := bench.CPUTime(pid)
		if err != nil {
			return err
		}
		for range o.Runs {
			began := time.Now()
			var list []json.RawMessage
			if err := m.call(ctx, "GET", q.path, nil, &list); err != nil {
				return err
			}
			r.Add(o.side(), q.name+" "+when, "ms", float64(time.Since(began).Microseconds())/1000)
		}
		after, err := bench.CPUTime(pid)
		if err != nil {
			return err
		}
		// What the manager does for its nodes at the same time is in it.
		r.Add(o.side(), q.name+" "+when+", CPU of the manager, on average", "ms", float64((after-before).Milliseconds())/float64(o.Runs))
	}
	if mb, err = bench.PSS(pid); err != nil {
		return err
	}
	r.Add(o.side(), "memory of the manager (PSS) "+when+" and these requests", "MB", mb)
	return nil
}

func (m *hollowManager) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://shoal/v1.52"+path, body)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := m.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("%s %s: %d %s", method, path, resp.StatusCode, data)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(data, out)
}

// start starts the manager and waits until it answers.
func (m *hollowManager) start(ctx context.Context, profile string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(m.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	first := true
	if _, err := os.Stat(filepath.Join(m.dir, "data", "swarm", "state.json")); err == nil {
		first = false
	}
	m.cmd = exec.Command(self, ManagerCommand, m.dir, profile)
	m.cmd.Stdout, m.cmd.Stderr = log, log
	if err := m.cmd.Start(); err != nil {
		return err
	}
	path := "/services"
	if first {
		path = "/info"
	}
	for {
		err := m.call(ctx, "GET", path, nil, nil)
		if err == nil {
			return nil
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return errors.Join(err, context.Cause(ctx))
		}
	}
}

func (m *hollowManager) stop() error {
	if m.cmd == nil || m.cmd.ProcessState != nil {
		return nil
	}
	if err := m.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	return m.cmd.Wait()
}

// ManagerCommand is the first argument of the process that is the manager.
const ManagerCommand = "manager-of-hollow-nodes"

// RunManager is the manager's process: what shoald does, with its state in dir, and profiles where they are asked for.
func RunManager(ctx context.Context, dir, profile string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cfg := node.DefaultConfig()
	cfg.Hosts = []string{"unix://" + filepath.Join(dir, "s")}
	cfg.DataRoot, cfg.ExecRoot, cfg.Pidfile = filepath.Join(dir, "data"), filepath.Join(dir, "x"), ""
	cfg.Shim, cfg.InitPath = self, self // nothing is started
	if err := cfg.Validate(); err != nil {
		return err
	}
	if profile != "" {
		stop, err := profiles(profile)
		if err != nil {
			return err
		}
		defer stop()
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	return node.Run(ctx, cfg, cluster.NewID()[:8], log, node.Reloader{})
}

// profiles records the CPU time until stop, and the heap at every SIGUSR1.
func profiles(dir string) (stop func(), err error) {
	name := func(kind string) string {
		return filepath.Join(dir, fmt.Sprintf("%s-%d.prof", kind, os.Getpid()))
	}
	f, err := os.Create(name("cpu"))
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, err
	}
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGUSR1)
	go func() {
		for range asked {
			runtime.GC()
			if h, err := os.Create(name("heap")); err == nil {
				_ = pprof.WriteHeapProfile(h)
				_ = h.Close()
			}
		}
	}()
	return func() {
		pprof.StopCPUProfile()
		_ = f.Close()
	}, nil
}
