package lab_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"shoal.dev/shoal/lab"
)

// world is a lab with real daemons, and the patience of a test with it.
type world struct {
	*lab.Lab
	t *testing.T
}

// newWorld makes a lab for one test. A test that fails shows the ends of the daemons' logs. SHOAL_KEEP_LAB leaves the
// lab of a failed test for a look.
func newWorld(t *testing.T, nodes int) *world {
	t.Helper()
	root, err := lab.FindRoot()
	if err != nil {
		t.Fatal(err)
	}
	l, err := lab.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	need(t, l)
	w := &world{l, t}
	t.Cleanup(func() {
		if t.Failed() {
			w.showLogs()
			if os.Getenv("SHOAL_KEEP_LAB") != "" {
				return
			}
		}
		if err := l.Down(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if err := l.Up(t.Context(), lab.Options{Nodes: nodes, LogLevel: "debug"}); err != nil {
		t.Fatal(err)
	}
	return w
}

// in is the world of a subtest.
func (w *world) in(t *testing.T) *world { return &world{w.Lab, t} }

func (w *world) showLogs() {
	hosts, err := w.Hosts()
	if err != nil {
		w.t.Log(err)
	}
	for _, h := range hosts {
		data, err := os.ReadFile(h.Log)
		if err != nil {
			w.t.Log(err)
			continue
		}
		w.t.Logf("The end of %s:\n%s", h.Log, data[max(0, len(data)-6000):])
	}
}

// try runs bin/shoal against host n, for a minute at most.
func (w *world) try(n int, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	return w.Shoal(ctx, n, args...)
}

// shoal is try that must succeed.
func (w *world) shoal(n int, args ...string) string {
	w.t.Helper()
	out, err := w.try(n, args...)
	if err != nil {
		w.t.Fatalf("on node%d: %v", n, err)
	}
	return out
}

// refused runs what must fail with all of the words.
func (w *world) refused(n int, words []string, args ...string) {
	w.t.Helper()
	out, err := w.try(n, args...)
	var failed *lab.ClientError
	if !errors.As(err, &failed) {
		w.t.Errorf("on node%d, shoal %s: not refused: %v\n%s", n, strings.Join(args, " "), err, out)
		return
	}
	for _, word := range words {
		if !strings.Contains(failed.Output, word) {
			w.t.Errorf("on node%d, shoal %s: %q is not in the refusal:\n%s", n, strings.Join(args, " "), word, failed.Output)
		}
	}
	if strings.Contains(failed.Output, "docker ") {
		w.t.Errorf("the refusal speaks of docker:\n%s", failed.Output)
	}
}

// until waits until cond returns nil.
func (w *world) until(within time.Duration, what string, cond func(context.Context) error) {
	w.t.Helper()
	eventually(w.t, within, what, cond)
}

// swarm makes a swarm: host 1 and the next managers-1 as managers, the rest as workers.
func (w *world) swarm(nodes, managers int) {
	w.t.Helper()
	first := w.Host(1).Addr
	w.shoal(1, "swarm", "init", "--advertise-addr", first)
	for n := 2; n <= nodes; n++ {
		role := "worker"
		if n <= managers {
			role = "manager"
		}
		token := w.shoal(1, "swarm", "join-token", "-q", role)
		w.shoal(n, "swarm", "join", "--token", token, first+":2377")
	}
	w.until(20*time.Second, "all nodes are ready", func(context.Context) error {
		nodes_, err := w.nodes(1)
		if err != nil {
			return err
		}
		if len(nodes_) != nodes {
			return fmt.Errorf("%d nodes", len(nodes_))
		}
		reachable := 0
		for _, n := range nodes_ {
			if n.status != "Ready" {
				return fmt.Errorf("%s is %s", n.name, n.status)
			}
			if n.manager == "Leader" || n.manager == "Reachable" {
				reachable++
			}
		}
		if reachable != managers {
			return fmt.Errorf("%d managers are reachable", reachable)
		}
		return nil
	})
}

// node is a line of `node ls`.
type node struct{ name, status, manager string }

func (w *world) nodes(at int) ([]node, error) {
	out, err := w.try(at, "node", "ls", "--format", "{{.Hostname}}|{{.Status}}|{{.ManagerStatus}}")
	if err != nil {
		return nil, err
	}
	var all []node
	for line := range strings.Lines(out) {
		f := strings.Split(strings.TrimSpace(line), "|")
		if len(f) != 3 {
			return nil, fmt.Errorf("node ls printed %q", line)
		}
		all = append(all, node{f[0], f[1], f[2]})
	}
	return all, nil
}

// nodeIs waits until host n has a status, as host at sees it.
func (w *world) nodeIs(at, n int, status string, within time.Duration) {
	w.t.Helper()
	name := w.Host(n).Name
	w.until(within, name+" is "+status, func(context.Context) error {
		all, err := w.nodes(at)
		if err != nil {
			return err
		}
		for _, o := range all {
			if o.name == name && o.status == status {
				return nil
			}
		}
		return fmt.Errorf("nodes %v", all)
	})
}

// leader is the number of the host that leads the managers, as host at sees it.
func (w *world) leader(at int, within time.Duration) int {
	w.t.Helper()
	leader := 0
	w.until(within, "there is a leader", func(context.Context) error {
		all, err := w.nodes(at)
		if err != nil {
			return err
		}
		for _, o := range all {
			if o.manager == "Leader" {
				_, err := fmt.Sscanf(o.name, "node%d", &leader)
				return err
			}
		}
		return fmt.Errorf("nodes %v", all)
	})
	return leader
}

// runningTasks are the tasks of a service that shall run and do.
func (w *world) runningTasks(ctx context.Context, at int, service string) ([]lab.Task, error) {
	all, err := w.Tasks(ctx, at, service)
	if err != nil {
		return nil, err
	}
	var on []lab.Task
	for _, t := range all {
		if t.Desired == "Running" && strings.HasPrefix(t.State, "Running") {
			on = append(on, t)
		}
	}
	return on, nil
}

// running waits until exactly count tasks of a service run, none on the hosts that are named as lost, each in a slot of
// its own.
func (w *world) running(at int, service string, count int, within time.Duration, lost ...int) []lab.Task {
	w.t.Helper()
	var on []lab.Task
	w.until(within, fmt.Sprintf("%d tasks of %s run", count, service), func(ctx context.Context) error {
		var err error
		if on, err = w.runningTasks(ctx, at, service); err != nil {
			return err
		}
		slots := map[string]bool{}
		for _, t := range on {
			slots[t.Name] = true
			for _, n := range lost {
				if t.Node == w.Host(n).Name {
					return fmt.Errorf("%s is on %s", t.Name, t.Node)
				}
			}
		}
		if len(on) != count || len(slots) != count {
			return fmt.Errorf("%d run, in %d slots", len(on), len(slots))
		}
		return nil
	})
	return on
}

// answer is what a task of the image hello said.
type answer map[string]string

// ask asks a URL from a namespace over a new connection.
func (w *world) ask(namespace, url string) (answer, error) {
	c := lab.HTTPClient(namespace, 3*time.Second)
	resp, err := c.Get(url)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s: %s", url, resp.Status, body)
	}
	a := answer{}
	for line := range strings.Lines(string(body)) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), ": "); ok {
			a[k] = v
		}
	}
	return a, nil
}

// askAll asks a URL from a namespace until count different tasks have answered, and returns the answers by hostname.
func (w *world) askAll(namespace, url string, count int, within time.Duration) map[string]answer {
	w.t.Helper()
	seen := map[string]answer{}
	w.until(within, fmt.Sprintf("%d tasks answer on %s", count, url), func(context.Context) error {
		clear(seen)
		for range 20 * count {
			a, err := w.ask(namespace, url)
			if err != nil {
				return err
			}
			seen[a["hostname"]] = a
		}
		if len(seen) != count {
			return fmt.Errorf("%d have", len(seen))
		}
		return nil
	})
	return seen
}

// api sends a request to the Engine API of host n as it stands and returns the status and the body.
func (w *world) api(n int, method, path, body string) (int, string) {
	w.t.Helper()
	socket := w.Host(n).Socket
	c := http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true, ExpectContinueTimeout: 10 * time.Second,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}
	req, err := http.NewRequestWithContext(w.t.Context(), method, "http://localhost"+path, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	if len(body) > 1<<20 { // a server that refuses a body closes the connection on whoever is still sending it
		req.Header.Set("Expect", "100-continue")
	}
	resp, err := c.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		w.t.Fatal(err)
	}
	return resp.StatusCode, string(data)
}

// docker runs the stock client against host n; ok is false if there is none on this machine.
func (w *world) docker(n int, args ...string) (out string, ok bool) {
	w.t.Helper()
	program, err := exec.LookPath("docker")
	if err != nil {
		return "", false
	}
	cmd := exec.CommandContext(w.t.Context(), program, args...)
	cmd.Env = append(os.Environ(), "DOCKER_HOST=unix://"+w.Host(n).Socket, "DOCKER_CONFIG="+filepath.Join(w.Dir(), "client"))
	data, err := cmd.CombinedOutput()
	if err != nil {
		w.t.Fatalf("docker %s: %v\n%s", strings.Join(args, " "), err, data)
	}
	return strings.TrimSpace(string(data)), true
}
