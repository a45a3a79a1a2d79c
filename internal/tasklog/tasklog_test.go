package tasklog_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/control"
	"shoal.dev/shoal/internal/dispatch/memhttp"
	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/engine/fake"
	"shoal.dev/shoal/internal/link"
	"shoal.dev/shoal/internal/store"
	"shoal.dev/shoal/internal/tasklog"
)

// lab is a swarm of a manager and nodes with engines in memory.
type lab struct {
	*testing.T
	store   *store.Store
	control *control.Control
	engines map[string]*fake.Engine

	mu    sync.Mutex
	links map[string]*memhttp.Link
	down  map[string]bool
}

func newLab(t *testing.T, nodes ...string) *lab {
	l := &lab{T: t, store: store.New(), control: control.New(nil), engines: map[string]*fake.Engine{}, links: map[string]*memhttp.Link{}, down: map[string]bool{}}
	store.NewLocal(l.store)
	l.control.Activate(&control.Manager{NodeID: "m1", Store: l.store, ReadBarrier: func(context.Context) error { return nil }})
	l.write(func(tx *store.Tx) {
		tx.Write(store.Create(&cluster.Swarm{}))
		s := &cluster.Service{}
		s.ID, s.Spec.Name = "svc", "web"
		s.Spec.TaskTemplate.ContainerSpec = &swarm.ContainerSpec{Image: "hello:1"}
		tx.Write(store.Create(s))
		for _, id := range nodes {
			n := &cluster.Node{}
			n.ID, n.Description.Hostname, n.Status.State = id, "host-"+id, swarm.NodeStateReady
			tx.Write(store.Create(n))
		}
	})
	for _, id := range nodes {
		e := fake.New()
		e.AnyImage = true
		t.Cleanup(e.Close)
		if err := e.Pull(t.Context(), "hello:1", engine.PullOptions{}, nil); err != nil {
			t.Fatal(err)
		}
		l.engines[id] = e
		l.connect(id)
	}
	return l
}

func (l *lab) connect(node string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down[node] = false
	l.links[node] = memhttp.Dial(l, tasklog.Handler(l.engines[node]), link.Peer{NodeID: "m1", Role: swarm.NodeRoleManager})
}

// cut breaks the connection; with away, the node cannot be reached until connect.
func (l *lab) cut(node string, away bool) {
	l.mu.Lock()
	old := l.links[node]
	l.down[node] = away
	l.mu.Unlock()
	old.Close()
	if !away {
		l.connect(node)
	}
}

func (l *lab) reach(_ context.Context, node string) (http.RoundTripper, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.down[node] {
		return nil, errors.New("no manager has a connection to it")
	}
	return l.links[node], nil
}

func (l *lab) write(fn func(*store.Tx)) {
	l.Helper()
	if _, err := l.store.Update(l.Context(), func(tx *store.Tx) error { fn(tx); return nil }); err != nil {
		l.Fatal(err)
	}
}

// run starts a task's container on a node.
func (l *lab) run(task, node, command string) string {
	l.Helper()
	e := l.engines[node]
	id, _, err := e.Create(l.Context(), engine.Spec{
		Config:     &container.Config{Image: "hello:1", Cmd: strings.Fields(command), Labels: map[string]string{"com.docker.swarm.task.id": task}},
		HostConfig: &container.HostConfig{NetworkMode: "none"},
	})
	if err == nil {
		err = e.Start(l.Context(), id)
	}
	if err != nil {
		l.Fatal(err)
	}
	l.write(func(tx *store.Tx) {
		t := &cluster.Task{ServiceName: "web"}
		t.ID, t.ServiceID, t.NodeID, t.Slot, t.DesiredState = task, "svc", node, 1, swarm.TaskStateRunning
		t.Status = swarm.TaskStatus{State: swarm.TaskStateRunning, ContainerStatus: &swarm.ContainerStatus{ContainerID: id}}
		tx.Write(store.Create(t))
	})
	return id
}

// logs reads to the end.
func (l *lab) logs(ctx context.Context, of control.LogsOf, o engine.LogOptions) ([]string, error) {
	var mu sync.Mutex
	var out []string
	r := &tasklog.Reader{Tasks: l.control, Reach: l.reach}
	o.Stdout, o.Stderr = true, true
	err := r.TaskLogs(ctx, of, o, func(bool) {}, func(t control.TaskLine) error {
		mu.Lock()
		defer mu.Unlock()
		out = append(out, t.TaskID+" "+strings.TrimSpace(string(t.Line)))
		return nil
	})
	return out, err
}

// follower is a follow that runs.
type follower struct {
	l      *lab
	cancel context.CancelFunc
	done   chan error
	mu     sync.Mutex
	lines  []string
}

func (l *lab) follow(of control.LogsOf, o engine.LogOptions) *follower {
	ctx, cancel := context.WithCancel(context.Background())
	f := &follower{l: l, cancel: cancel, done: make(chan error, 1)}
	r := &tasklog.Reader{Tasks: l.control, Reach: l.reach}
	o.Stdout, o.Stderr, o.Follow = true, true, true
	go func() {
		f.done <- r.TaskLogs(ctx, of, o, func(bool) {}, func(t control.TaskLine) error {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.lines = append(f.lines, t.TaskID+" "+strings.TrimSpace(string(t.Line)))
			return nil
		})
	}()
	l.Cleanup(cancel)
	return f
}

func (f *follower) have() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.lines)
}

func (f *follower) want(what string, want ...string) {
	f.l.Helper()
	time.Sleep(10 * time.Second) // of the bubble: it costs nothing
	if d := cmp.Diff(want, f.have()); d != "" {
		f.l.Errorf("%s: %s", what, d)
	}
}

var all = engine.LogOptions{Tail: -1}

func TestLinesOfTwoNodesAreInTheOrderOfTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, "n1", "n2")
		l.run("a", "n1", "print 1; sleep 2s; print 3; sleep 2s; print 5; sleep")
		time.Sleep(time.Second)
		l.run("b", "n2", "print 2; sleep 2s; print 4; sleep 2s; warn 6; sleep")
		time.Sleep(time.Minute)
		got, err := l.logs(t.Context(), control.LogsOf{Service: "web"}, all)
		if d := cmp.Diff([]string{"a 1", "b 2", "a 3", "b 4", "a 5", "b 6"}, got); d != "" || err != nil {
			t.Errorf("%v %s", err, d)
		}
		if got, err = l.logs(t.Context(), control.LogsOf{Service: "svc"}, engine.LogOptions{Tail: 1}); !slices.Equal(got, []string{"a 5", "b 6"}) || err != nil {
			t.Errorf("the last lines: %q, %v", got, err)
		}
		if got, err = l.logs(t.Context(), control.LogsOf{Task: "b"}, all); !slices.Equal(got, []string{"b 2", "b 4", "b 6"}) || err != nil {
			t.Errorf("one task: %q, %v", got, err)
		}
		for _, of := range []control.LogsOf{{Service: "none"}, {Task: "none"}} {
			if _, err := l.logs(t.Context(), of, all); !errdefs.IsNotFound(err) {
				t.Errorf("%+v: %v", of, err)
			}
		}
	})
}

func TestManyLinesOfManyTasks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, "n1", "n2")
		var want []string
		for i := range 40 {
			id := fmt.Sprintf("t%02d", i)
			var steps []string
			for j := range 50 {
				steps = append(steps, fmt.Sprintf("print %d", j), "sleep 100ms")
				want = append(want, fmt.Sprintf("%s %d", id, j))
			}
			l.run(id, []string{"n1", "n2"}[i%2], strings.Join(steps, "; "))
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Minute)
		got, err := l.logs(t.Context(), control.LogsOf{Service: "web"}, all)
		if err != nil {
			t.Fatal(err)
		}
		for i := 1; i < len(got); i++ {
			if i%40 != 0 && got[i] < got[i-1] {
				t.Fatalf("line %d is %q after %q", i, got[i], got[i-1])
			}
		}
		slices.Sort(got)
		slices.Sort(want)
		if d := cmp.Diff(want, got); d != "" {
			t.Error(d)
		}
	})
}

func TestFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, "n1", "n2")
		l.run("a", "n1", "print old; sleep 25s; print last; exit 0")
		time.Sleep(time.Second)
		f := l.follow(control.LogsOf{Service: "web"}, engine.LogOptions{Tail: 0})
		f.want("at first") // Tail 0: nothing of what was
		l.run("b", "n2", "print first; sleep 5s; print second; sleep")
		f.want("of a task that came", "b first", "b second")
		f.want("of a task that goes", "b first", "b second", "a last")
		l.run("c", "n1", "print third; sleep")
		f.want("after the end of a task", "b first", "b second", "a last", "c third")
		f.cancel()
		if err := <-f.done; !errors.Is(err, context.Canceled) {
			t.Errorf("a client that went: %v", err)
		}
		// The follow of one task ends with it.
		l.run("d", "n2", "print x; sleep 5s; exit 1")
		one := l.follow(control.LogsOf{Task: "d"}, all)
		time.Sleep(10 * time.Second)
		l.write(func(tx *store.Tx) {
			d, _ := store.Get[*cluster.Task](tx.Snapshot, "d")
			d = d.Clone().(*cluster.Task)
			d.Status.State = swarm.TaskStateFailed
			tx.Write(store.PutState(d))
		})
		if err := <-one.done; err != nil || !slices.Equal(one.have(), []string{"d x"}) {
			t.Errorf("one task: %v, %q", err, one.have())
		}
	})
}

func TestABrokenConnectionLosesAndDoublesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, "n1")
		l.run("a", "n1", "print 1; print 1; sleep 5s; print 2; sleep 5s; print 3; sleep 10s; print 4; sleep")
		f := l.follow(control.LogsOf{Service: "web"}, all)
		time.Sleep(2 * time.Second)
		l.cut("n1", false)
		time.Sleep(5 * time.Second)
		l.cut("n1", true)
		time.Sleep(10 * time.Second) // it writes 3 meanwhile
		if got := f.have(); len(got) != 4 || !strings.Contains(got[3], "node host-n1 (n1) is not available: no manager has a connection to it") {
			t.Errorf("while it is away: %q", got)
		}
		l.connect("n1")
		time.Sleep(20 * time.Second)
		got := f.have()
		if len(got) == 6 {
			got = slices.Delete(got, 3, 4)
		}
		if d := cmp.Diff([]string{"a 1", "a 1", "a 2", "a 3", "a 4"}, got); d != "" {
			t.Error(d)
		}
	})
}

func TestANodeThatCannotBeReachedIsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, "n1", "n2")
		l.run("a", "n1", "print here; sleep")
		l.run("b", "n2", "print there; sleep")
		gone := l.run("c", "n1", "print gone; exit 0")
		if err := l.engines["n1"].Remove(t.Context(), gone, true); err != nil {
			t.Fatal(err)
		}
		l.cut("n2", true)
		l.write(func(tx *store.Tx) { // a task of a node that was removed
			t := &cluster.Task{}
			t.ID, t.ServiceID, t.NodeID = "d", "svc", "n9"
			t.Status = swarm.TaskStatus{State: swarm.TaskStateOrphaned, ContainerStatus: &swarm.ContainerStatus{ContainerID: "x"}}
			tx.Write(store.Create(t))
		})
		l.run("e", "n2", "print there, too; sleep")
		began := time.Now()
		got, err := l.logs(t.Context(), control.LogsOf{Service: "web"}, all)
		if !slices.Equal(got, []string{"a here"}) || err == nil || err.Error() != "warning: incomplete log stream. some logs could not be retrieved for the following reasons: "+
			"node host-n2 (n2) is not available: no manager has a connection to it" {
			t.Errorf("%q, %v", got, err)
		}
		if d := time.Since(began); d > 10*time.Second {
			t.Errorf("it took %s", d)
		}
		// Followed, it is said once, whatever number of tasks the node has.
		f := l.follow(control.LogsOf{Service: "web"}, all)
		time.Sleep(20 * time.Second)
		if got := f.have(); len(got) != 2 || got[0] != "a here" || !strings.Contains(got[1], "node host-n2 (n2) is not available") {
			t.Errorf("followed: %q", got)
		}
	})
}

func TestOnlyManagersReadLogs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, "n1")
		id := l.run("a", "n1", "print secret; sleep")
		for name, c := range map[string]struct {
			peer       link.Peer
			path, body string
			status     int
		}{
			"a worker":          {link.Peer{NodeID: "n2", Role: swarm.NodeRoleWorker}, tasklog.Path, `{"TaskID":"a","ContainerID":"` + id + `"}`, 403},
			"nobody":            {link.Peer{}, tasklog.Path, `{"TaskID":"a","ContainerID":"` + id + `"}`, 403},
			"another task":      {link.Peer{Role: swarm.NodeRoleManager}, tasklog.Path, `{"TaskID":"b","ContainerID":"` + id + `"}`, 404},
			"no task":           {link.Peer{Role: swarm.NodeRoleManager}, tasklog.Path, `{"ContainerID":"` + id + `"}`, 400},
			"nonsense":          {link.Peer{Role: swarm.NodeRoleManager}, tasklog.Path, `{`, 400},
			"too much":          {link.Peer{Role: swarm.NodeRoleManager}, tasklog.Path, `{"TaskID":"` + strings.Repeat("a", 5000) + `"}`, 400},
			"unknown container": {link.Peer{Role: swarm.NodeRoleManager}, tasklog.Path, `{"TaskID":"a","ContainerID":"none"}`, 404},
			"another route":     {link.Peer{Role: swarm.NodeRoleManager}, "/containers/json", `{}`, 404},
		} {
			rt := memhttp.Dial(t, tasklog.Handler(l.engines["n1"]), c.peer)
			req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://node"+c.path, strings.NewReader(c.body))
			resp, err := rt.RoundTrip(req)
			if err != nil || resp.StatusCode != c.status {
				t.Errorf("%s: %+v, %v", name, resp, err)
			}
			if err == nil {
				resp.Body.Close()
			}
		}
		time.Sleep(time.Second) // the server hears out who sends too much
	})
}

// TestAnyBytes reads lines that are long, and lines that are no text, as they were written.
func TestAnyBytes(t *testing.T) {
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	var want [][]byte
	for i := range 40 {
		want = append(want, slices.Repeat([]byte{byte('a' + i%26)}, 64<<10), every, []byte{0}, []byte("\xff\xfe\n"), slices.Repeat([]byte{0x1b, 0, 1, 0}, 16<<10))
	}
	for name, follow := range map[string]bool{"once": false, "followed": true} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, "n1")
			l.run("t1", "n1", "sleep")
			l.run("t2", "n1", "sleep")
			link := memhttp.Dial(t, tasklog.Handler(writers{l.engines["n1"], want}), link.Peer{NodeID: "m1", Role: swarm.NodeRoleManager})
			r := &tasklog.Reader{Tasks: l.control, Reach: func(context.Context, string) (http.RoundTripper, error) { return link, nil }}
			got := map[string][][]byte{}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			err := r.TaskLogs(ctx, control.LogsOf{Service: "web"}, engine.LogOptions{Stdout: true, Follow: follow, Tail: -1}, func(bool) {}, func(line control.TaskLine) error {
				got[line.TaskID] = append(got[line.TaskID], line.Line)
				if follow && len(got["t1"]) == len(want) && len(got["t2"]) == len(want) {
					cancel()
				}
				return nil
			})
			if err != nil && !follow {
				t.Fatal(err)
			}
			for _, task := range []string{"t1", "t2"} {
				if !slices.EqualFunc(got[task], want, slices.Equal) {
					t.Errorf("%s: %d lines of %d, or others", task, len(got[task]), len(want))
				}
			}
		})
	}
}

// writers are containers that have written lines, one a second.
type writers struct {
	*fake.Engine
	lines [][]byte
}

func (w writers) Logs(_ context.Context, _ string, _ engine.LogOptions, each func(engine.LogLine) error) error {
	for i, line := range w.lines {
		if err := each(engine.LogLine{Stream: "stdout", Time: time.Unix(1700000000+int64(i), 0), Line: line}); err != nil {
			return err
		}
	}
	return nil
}
