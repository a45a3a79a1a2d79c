package node

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/dryrun"
	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/engine/fake"
	"shoal.dev/shoal/internal/link"
	networkfake "shoal.dev/shoal/internal/network/fake"
)

// wholeEngine and wholeKernel are fakes with what a daemon wants beside the contracts.
type wholeEngine struct {
	*fake.Engine
	followed chan struct{} // has a value for each log that is followed no more
}

func (e wholeEngine) Logs(ctx context.Context, name string, o engine.LogOptions, each func(engine.LogLine) error) error {
	if o.Follow {
		defer func() { e.followed <- struct{}{} }()
	}
	return e.Engine.Logs(ctx, name, o, each)
}

func (wholeEngine) Run(ctx context.Context) error     { <-ctx.Done(); return nil }
func (wholeEngine) SetRegistries(_, _ []string) error { return nil }

type wholeKernel struct{ *networkfake.Network }

func (wholeKernel) Run(ctx context.Context) error { <-ctx.Done(); return nil }
func (wholeKernel) Close() error                  { return nil }

// daemon is a whole daemon on a machine in memory whose links are on this host's loopback.
type daemon struct {
	t    *testing.T
	id   string
	addr string // of the swarm's port
	eng  wholeEngine
	api  *httptest.Server
	stop func()

	mu    sync.Mutex
	links []net.Conn // that it opened
}

func (d *daemon) dial(ctx context.Context, addr string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err == nil {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.links = append(d.links, c)
	}
	return c, err
}

// cut breaks its links; it opens others.
func (d *daemon) cut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.links {
		c.Close()
	}
}

func newDaemon(t *testing.T) *daemon {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := &daemon{t: t, addr: l.Addr().String(), eng: wholeEngine{fake.New(), make(chan struct{}, 16)}}
	l.Close()
	d.eng.AnyImage = true
	kernel := &networkfake.Network{}
	d.eng.Sandboxes = kernel
	ctx, cancel := context.WithCancel(context.Background())
	done, ready := make(chan struct{}), make(chan http.Handler, 1)
	go func() {
		defer close(done)
		if err := RunOn(ctx, Machine{Engine: d.eng, Kernel: wholeKernel{kernel}, Dial: d.dial}, Config{DataRoot: t.TempDir()}, slog.New(slog.DiscardHandler), func(h http.Handler) { ready <- h }); err != nil && ctx.Err() == nil {
			t.Error(err)
		}
	}()
	d.api = httptest.NewServer(<-ready)
	d.stop = func() {
		d.api.CloseClientConnections()
		d.api.Close()
		cancel()
		<-done
		d.eng.Close()
	}
	return d
}

// ask asks the daemon's API as the node that is named, "" for its own, with further headers: a name, a value.
func (d *daemon) ask(method, path string, body any, node string, headers ...string) (int, string) {
	d.t.Helper()
	var in io.Reader
	if s, raw := body.(string); raw {
		in = strings.NewReader(s)
	} else if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			d.t.Fatal(err)
		}
		in = bytes.NewReader(b)
	}
	ctx, cancel := context.WithTimeout(d.t.Context(), 30*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, d.api.URL+path, in)
	if err != nil {
		d.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	if node != "" {
		r.Header.Set(NodeHeader, node)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	out, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(out)
}

func (d *daemon) must(method, path string, body any) string {
	d.t.Helper()
	status, out := d.ask(method, path, body, "")
	if status >= 300 || status == 0 {
		d.t.Fatalf("%s %s: %d %s", method, path, status, out)
	}
	return out
}

// hijack sends a request that takes its connection over and returns the connection, after the head of the answer.
func (d *daemon) hijack(path, body string) (net.Conn, *bufio.Reader) {
	d.t.Helper()
	c, err := net.Dial("tcp", d.api.Listener.Addr().String())
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", path, len(body), body)
	br := bufio.NewReader(c)
	resp, err := http.ReadResponse(br, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		d.t.Fatalf("%s: %v, %+v", path, err, resp)
	}
	return c, br
}

// newSwarmOfThree has two managers, of which the first leads, and a worker, in this order, and a service web whose only task is on the worker.
func newSwarmOfThree(t *testing.T) (ds []*daemon, task swarm.Task) {
	t.Helper()
	for range 3 {
		ds = append(ds, newDaemon(t))
	}
	t.Cleanup(func() {
		for _, d := range ds {
			d.stop()
		}
	})
	ds[0].must("POST", "/swarm/init", swarm.InitRequest{ListenAddr: ds[0].addr, AdvertiseAddr: ds[0].addr})
	var sw swarm.Swarm
	if err := json.Unmarshal([]byte(ds[0].must("GET", "/swarm", nil)), &sw); err != nil {
		t.Fatal(err)
	}
	for i, token := range []string{sw.JoinTokens.Manager, sw.JoinTokens.Worker} {
		ds[i+1].must("POST", "/swarm/join", swarm.JoinRequest{ListenAddr: ds[i+1].addr, AdvertiseAddr: ds[i+1].addr, RemoteAddrs: []string{ds[0].addr}, JoinToken: token})
	}
	for _, d := range ds {
		var info struct{ Swarm swarm.Info }
		if err := json.Unmarshal([]byte(d.must("GET", "/info", nil)), &info); err != nil {
			t.Fatal(err)
		}
		d.id = info.Swarm.NodeID
	}
	one := uint64(1)
	spec := swarm.ServiceSpec{Mode: swarm.ServiceMode{Replicated: &swarm.ReplicatedService{Replicas: &one}}}
	spec.Name = "web"
	spec.TaskTemplate.ContainerSpec = &swarm.ContainerSpec{Image: "hello:1", Args: strings.Fields("print hello; sleep")}
	spec.TaskTemplate.Placement = &swarm.Placement{Constraints: []string{"node.role==worker"}}
	ds[0].must("POST", "/services/create", spec)
	until(t, "the task runs", func() bool {
		_, out := ds[0].ask("GET", "/tasks", nil, "")
		var tasks []swarm.Task
		if json.Unmarshal([]byte(out), &tasks) != nil || len(tasks) != 1 {
			return false
		}
		task = tasks[0]
		return task.Status.State == swarm.TaskStateRunning
	})
	return ds, task
}

func TestAnyManagerReachesTheContainersOfAnyNode(t *testing.T) {
	ds, task := newSwarmOfThree(t)
	m1, m2, w := ds[0], ds[1], ds[2]
	id := task.Status.ContainerStatus.ContainerID
	name := "web.1." + task.ID

	t.Run("names", func(t *testing.T) {
		for _, d := range []*daemon{m1, m2} {
			for _, ref := range []string{"web.1", name, id, id[:12]} {
				var got container.InspectResponse
				status, out := d.ask("GET", "/v1.51/containers/"+ref+"/json", nil, "")
				if err := json.Unmarshal([]byte(out), &got); err != nil || status != 200 || got.ID != id || got.Name != "/"+name {
					t.Errorf("inspect of %s: %d %.200s", ref, status, out)
				}
			}
			for _, ref := range []string{"web.1", task.ID, task.ID[:12]} {
				if status, out := d.ask("GET", "/containers/"+ref+"/logs?stdout=1", nil, ""); status != 200 || !strings.Contains(out, "hello") {
					t.Errorf("logs of %s: %d %q", ref, status, out)
				}
			}
		}
		for ref, want := range map[string]string{"web.2": "No such container: web.2", "web.1.nothing": "No such container", id[:6]: "No such container: " + id[:6], task.ID: "No such container"} {
			if status, out := m1.ask("GET", "/containers/"+ref+"/json", nil, ""); status != 404 || !strings.Contains(out, want) {
				t.Errorf("inspect of %s: %d %s", ref, status, out)
			}
		}
		// A container of the node itself comes first.
		spec := engine.Spec{Name: "web.1", Config: &container.Config{Image: "hello:1"}, HostConfig: &container.HostConfig{NetworkMode: "none"}}
		if err := m2.eng.Pull(t.Context(), "hello:1", engine.PullOptions{}, nil); err != nil {
			t.Fatal(err)
		}
		own, _, err := m2.eng.Create(t.Context(), spec)
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := m2.eng.Remove(t.Context(), own, true); err != nil {
				t.Error(err)
			}
		}()
		if _, out := m2.ask("GET", "/containers/web.1/json", nil, ""); !strings.Contains(out, own) {
			t.Errorf("the container of this node is not the one that its name means: %.200s", out)
		}
	})

	t.Run("exec", func(t *testing.T) {
		for i, d := range []*daemon{m1, m2} {
			var created container.ExecCreateResponse
			out := d.must("POST", "/containers/web.1/exec", container.ExecCreateRequest{Cmd: []string{"cat"}, AttachStdin: true, AttachStdout: true})
			if err := json.Unmarshal([]byte(out), &created); err != nil {
				t.Fatal(err)
			}
			other := ds[1-i] // has never heard of it
			c, br := other.hijack("/v1.51/exec/"+created.ID+"/start", `{}`)
			if status, out := d.ask("POST", "/exec/"+created.ID+"/resize?h=1&w=1", nil, ""); status != 200 {
				t.Errorf("resize: %d %s", status, out)
			}
			fmt.Fprint(c, "far away")
			if err := c.(*net.TCPConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if said, err := io.ReadAll(br); err != nil || string(said[8:]) != "far away" {
				t.Errorf("exec said %q, %v", said, err)
			}
			var ended container.ExecInspectResponse
			if err := json.Unmarshal([]byte(d.must("GET", "/exec/"+created.ID+"/json", nil)), &ended); err != nil || ended.ID != created.ID || ended.ExitCode == nil || *ended.ExitCode != 0 {
				t.Errorf("the exec: %+v, %v", ended, err)
			}
		}
		if status, out := m1.ask("POST", "/containers/web.1/exec", "{}", ""); status != 400 || !strings.Contains(out, "No exec command specified") {
			t.Errorf("a bad exec: %d %s", status, out)
		}
		if status, out := m1.ask("GET", "/exec/00."+w.id+"/json", nil, ""); status != 404 || !strings.Contains(out, "No such exec instance") {
			t.Errorf("no exec: %d %s", status, out)
		}
		if status, out := m1.ask("GET", "/exec/00.gone/json", nil, ""); status != 503 || !strings.Contains(out, "node gone is not available") {
			t.Errorf("an exec of no node: %d %s", status, out)
		}
	})

	t.Run("a node by name", func(t *testing.T) {
		for _, d := range []*daemon{m1, m2} {
			for node, of := range map[string]*daemon{w.id: w, w.id[:8]: w, m1.id: m1, m2.id: m2} {
				var info struct{ Swarm swarm.Info }
				status, out := d.ask("GET", "/info", nil, node)
				if err := json.Unmarshal([]byte(out), &info); err != nil || status != 200 || info.Swarm.NodeID != of.id {
					t.Errorf("info of %s: %d %.300s", node, status, out)
				}
			}
			if status, out := d.ask("GET", "/containers/json", nil, "nobody"); status != 404 || !strings.Contains(out, "node nobody not found") {
				t.Errorf("a node that is not there: %d %s", status, out)
			}
		}
		// A change of the swarm through a manager that follows goes on to the one that leads.
		if status, out := m1.ask("POST", "/configs/create", map[string]any{"Name": "c1", "Data": "eA=="}, m2.id); status != 201 {
			t.Errorf("a change through another manager: %d %s", status, out)
		}
	})

	t.Run("dry runs", func(t *testing.T) {
		var tried struct{ ID string }
		if _, out := m1.ask("POST", "/shoal/v1/dryruns", nil, m2.id); json.Unmarshal([]byte(out), &tried) != nil || tried.ID == "" {
			t.Fatal(out)
		}
		dry := func(method, path, body, node string) (int, string) {
			return m1.ask(method, path, body, node, dryrun.Header, tried.ID)
		}
		if status, out := dry("POST", "/configs/create", `{"Name":"tried","Data":"eA=="}`, m2.id); status != 201 {
			t.Errorf("a change that is tried on another manager: %d %s", status, out)
		}
		if out := m1.must("GET", "/configs", nil); strings.Contains(out, "tried") {
			t.Error("what was tried was done")
		}
		for _, node := range []string{"", w.id} {
			if status, out := dry("DELETE", "/containers/web.1?force=1", "", node); status < 400 {
				t.Errorf("a container is removed in a dry run: %d %s", status, out)
			}
		}
		if status, out := m1.ask("GET", "/containers/web.1/json", nil, ""); status != 200 {
			t.Errorf("the container after that: %d %s", status, out)
		}
	})

	t.Run("workers may not", func(t *testing.T) {
		if status, out := w.ask("GET", "/containers/json", nil, m1.id); status != 503 || !strings.Contains(out, "This node is not a swarm manager.") {
			t.Errorf("a worker asks for a manager's containers: %d %s", status, out)
		}
		if status, out := w.ask("GET", "/containers/nothing.1/json", nil, ""); status != 404 || !strings.Contains(out, "No such container: nothing.1") {
			t.Errorf("a worker asks for a task elsewhere: %d %s", status, out)
		}
	})

	t.Run("cancellation", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		r, _ := http.NewRequestWithContext(ctx, "GET", m2.api.URL+"/containers/web.1/logs?stdout=1&follow=1", nil)
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if _, err := io.ReadFull(resp.Body, make([]byte, 14)); err != nil { // "hello"
			t.Fatal(err)
		}
		cancel()
		select {
		case <-w.eng.followed:
		case <-time.After(20 * time.Second):
			t.Error("the log is still followed on its node")
		}
	})
}

func TestAStreamFromANodeThatDiesEndsWithTheReason(t *testing.T) {
	ds, _ := newSwarmOfThree(t)
	m1, w := ds[0], ds[2]
	var created container.ExecCreateResponse
	if err := json.Unmarshal([]byte(m1.must("POST", "/containers/web.1/exec", container.ExecCreateRequest{Cmd: strings.Fields("print here ; sleep"), AttachStdout: true})), &created); err != nil {
		t.Fatal(err)
	}
	_, br := m1.hijack("/v1.51/exec/"+created.ID+"/start", `{}`)
	if _, err := io.ReadFull(br, make([]byte, 13)); err != nil {
		t.Fatal(err)
	}
	r, _ := http.NewRequestWithContext(t.Context(), "GET", m1.api.URL+"/containers/web.1/logs?stdout=1&follow=1", nil)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	w.cut()
	if said, _ := io.ReadAll(br); !strings.Contains(string(said), "the stream broke off: the link to node "+w.id) {
		t.Errorf("the exec ends with %q", said)
	}
	if _, err := io.ReadAll(resp.Body); err == nil {
		t.Error("the log that is followed ends as if it were whole")
	}
}

func TestANodesAPIIsForManagers(t *testing.T) {
	n := &Node{}
	for who, ctx := range map[string]context.Context{
		"nobody":   t.Context(),
		"a worker": link.WithPeer(t.Context(), link.Peer{NodeID: "w1", Role: swarm.NodeRoleWorker}),
	} {
		rec := httptest.NewRecorder()
		n.serveManagers().ServeHTTP(rec, httptest.NewRequestWithContext(ctx, "GET", enginePrefix+"/containers/json", nil))
		if rec.Code != http.StatusForbidden {
			t.Errorf("%s is answered %d %s", who, rec.Code, rec.Body)
		}
	}
}
