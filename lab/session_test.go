package lab_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"shoal.dev/shoal/lab"
	"shoal.dev/shoal/lab/images"
)

// TestSession is a user's way through what a swarm of one manager and two workers does.
func TestSession(t *testing.T) {
	w := newWorld(t, 3)
	steps := []struct {
		name string
		do   func(*world)
	}{
		{"no swarm yet", sessionNoSwarm},
		{"a swarm", sessionSwarm},
		{"refusals of the swarm", sessionSwarmRefusals},
		{"a service", sessionService},
		{"refusals of services", sessionServiceRefusals},
		{"bad requests", sessionBadRequests},
		{"client's address", sessionClientAddress},
		{"stock client", sessionStockClient},
		{"scale", sessionScale},
		{"a task that is killed", sessionKilledTask},
		{"arguments, environment and labels", sessionSpec},
		{"remove", sessionRemove},
	}
	for _, s := range steps {
		if !t.Run(s.name, func(t *testing.T) { s.do(w.in(t)) }) {
			t.Fatal("the steps after it build on it")
		}
	}
}

func sessionNoSwarm(w *world) {
	for _, args := range [][]string{{"node", "ls"}, {"service", "ls"}, {"swarm", "join-token", "worker"}} {
		w.refused(1, []string{"Error response from daemon: This node is not a swarm manager."}, args...)
	}
	if got := w.shoal(1, "info", "--format", "{{.Swarm.LocalNodeState}}"); got != "inactive" {
		w.t.Errorf("the swarm is %q", got)
	}
	// A token is checked for its form before anybody is asked.
	w.refused(2, []string{"Error response from daemon:", "join token"}, "swarm", "join", "--token", "SWMTKN-nonsense", w.Host(1).Addr+":2377")
}

func sessionSwarm(w *world) {
	w.swarm(2, 1)
	token := w.shoal(1, "swarm", "join-token", "-q", "worker")
	begin := time.Now()
	w.refused(3, []string{"198.18.0.99:2377"}, "swarm", "join", "--token", token, "198.18.0.99:2377")
	if took := time.Since(begin); took > 40*time.Second {
		w.t.Errorf("a join to an address where nobody is took %s to give up", took)
	}
	// The token's last part is its secret, the one before the digest of the swarm's root certificate.
	parts := strings.Split(token, "-")
	if len(parts) != 4 {
		w.t.Fatalf("token %q", token)
	}
	for what, i := range map[string]int{"secret": 3, "digest": 2} {
		wrong := slices.Clone(parts)
		wrong[i] = strings.Repeat("0", len(wrong[i]))
		w.refused(3, []string{"Error response from daemon:"}, "swarm", "join", "--token", strings.Join(wrong, "-"), w.Host(1).Addr+":2377")
		if got := w.shoal(3, "info", "--format", "{{.Swarm.LocalNodeState}}"); got != "inactive" {
			w.t.Errorf("after a token with a wrong %s the host is %s", what, got)
		}
	}
	w.shoal(3, "swarm", "join", "--token", token, w.Host(1).Addr+":2377")
	for n, want := range map[int]string{1: "active true", 2: "active false", 3: "active false"} {
		if got := w.shoal(n, "info", "--format", "{{.Swarm.LocalNodeState}} {{.Swarm.ControlAvailable}}"); got != want {
			w.t.Errorf("node%d is %q, want %q", n, got, want)
		}
	}
	w.nodeIs(1, 3, "Ready", 10*time.Second)
	if got := w.shoal(1, "node", "inspect", "self", "--format", "{{.Description.Hostname}} {{.Status.Addr}} {{.ManagerStatus.Leader}}"); got != "node1 198.18.0.1 true" {
		w.t.Errorf("node inspect self: %q", got)
	}
}

func sessionSwarmRefusals(w *world) {
	w.refused(1, []string{"Error response from daemon: This node is already part of a swarm."}, "swarm", "init", "--advertise-addr", w.Host(1).Addr)
	w.refused(2, []string{"Error response from daemon: This node is already part of a swarm."}, "swarm", "init", "--advertise-addr", w.Host(2).Addr)
	for _, args := range [][]string{{"node", "ls"}, {"service", "ls"}, {"service", "create", "--name", "x", "hello:1"}} {
		w.refused(2, []string{"Error response from daemon: This node is not a swarm manager. Worker nodes can't be used to view or modify cluster state."}, args...)
	}
}

func sessionService(w *world) {
	if out := w.shoal(1, "service", "create", "-d", "--name", "hello", "--replicas", "3", "--publish", "8080:80", "hello:1"); len(out) != 25 {
		w.t.Errorf("service create printed %q, not an ID", out)
	}
	on := map[string]int{}
	for _, t := range w.running(1, "hello", 3, 30*time.Second) {
		on[t.Node]++
	}
	if d := cmp.Diff(map[string]int{"node1": 1, "node2": 1, "node3": 1}, on); d != "" {
		w.t.Errorf("the tasks are not spread:\n%s", d)
	}
	if got := w.shoal(1, "service", "ls", "--format", "{{.Name}} {{.Mode}} {{.Replicas}} {{.Image}} {{.Ports}}"); got != "hello replicated 3/3 hello:1 *:8080->80/tcp" {
		w.t.Errorf("service ls: %q", got)
	}
	all, err := images.Read(filepath.Join(w.Root, w.Images))
	if err != nil {
		w.t.Fatal(err)
	}
	for _, i := range all {
		if i.Name != "hello:1" {
			continue
		}
		digest, err := i.Image.Digest()
		if err != nil {
			w.t.Fatal(err)
		}
		if got, want := w.shoal(1, "service", "inspect", "hello", "--format", "{{.Spec.TaskTemplate.ContainerSpec.Image}}"), "hello:1@"+digest.String(); got != want {
			w.t.Errorf("the image is %q, not pinned as %q", got, want)
		}
	}
	// One that the command itself waits for.
	if out := w.shoal(1, "service", "create", "--quiet", "--name", "waits", "--replicas", "2", "busybox", "sleep", "1000"); len(out) != 25 {
		w.t.Errorf("service create printed %q, not an ID", out)
	}
	w.running(1, "waits", 2, time.Second)
	w.shoal(1, "service", "rm", "waits")
}

func sessionServiceRefusals(w *world) {
	before := w.shoal(1, "service", "ls", "-q")
	w.refused(1, []string{"Error response from daemon:", "name conflicts with an existing object"}, "service", "create", "--name", "hello", "hello:1")
	w.refused(1, []string{"Error response from daemon:", "port '8080' is already in use by service 'hello'"}, "service", "create", "--name", "other", "--publish", "8080:80", "hello:1")
	w.refused(1, []string{"no such service: nothing"}, "service", "ps", "nothing")
	w.refused(1, []string{"nosuch"}, "image", "pull", "nosuch:1")
	if after := w.shoal(1, "service", "ls", "-q"); after != before {
		w.t.Errorf("a refusal has left something: services %q, before %q", after, before)
	}
	// The name of the one whose port was taken is free.
	w.shoal(1, "service", "create", "-d", "--name", "other", "--replicas", "0", "hello:1")
	w.shoal(1, "service", "rm", "other")
}

func sessionBadRequests(w *world) {
	const create = "/v1.51/services/create"
	spec := func(replicas string) string {
		return `{"Name":"bad","TaskTemplate":{"ContainerSpec":{"Image":"hello:1"}},"Mode":{"Replicated":{"Replicas":` + replicas + `}}}`
	}
	tests := []struct {
		name, method, path, body string
		status                   int
		words                    string
	}{
		{"malformed", http.MethodPost, create, "{", http.StatusBadRequest, "message"},
		{"wrong type", http.MethodPost, create, `{"Name":1}`, http.StatusBadRequest, "message"},
		{"no body", http.MethodPost, create, "", http.StatusBadRequest, "message"},
		{"negative replicas", http.MethodPost, create, spec("-1"), http.StatusBadRequest, "message"},
		{"no image", http.MethodPost, create, `{"Name":"bad","TaskTemplate":{"ContainerSpec":{}}}`, http.StatusBadRequest, "image"},
		{"bad name", http.MethodPost, create, `{"Name":"b a d","TaskTemplate":{"ContainerSpec":{"Image":"hello:1"}}}`, http.StatusBadRequest, "name"},
		{"too large", http.MethodPost, create, `{"Name":"` + strings.Repeat("x", 4<<20) + `"}`, http.StatusRequestEntityTooLarge, "message"},
		{"unknown route", http.MethodGet, "/v1.51/nothing", "", http.StatusNotFound, "page not found"},
		{"version too new", http.MethodGet, "/v1.999/info", "", http.StatusBadRequest, "too new"},
		{"version too old", http.MethodGet, "/v1.1/info", "", http.StatusBadRequest, "too old"},
		{"unknown service", http.MethodGet, "/v1.51/services/nothing", "", http.StatusNotFound, "service nothing not found"},
		{"unknown node", http.MethodGet, "/v1.51/nodes/nothing", "", http.StatusNotFound, "node nothing not found"},
		{"not here", http.MethodGet, "/v1.51/plugins", "", http.StatusNotImplemented, "listing plugins is not supported"},
	}
	before := w.shoal(1, "service", "ls", "-q")
	for _, tt := range tests {
		w.t.Run(tt.name, func(t *testing.T) {
			status, body := w.in(t).api(1, tt.method, tt.path, tt.body)
			if status != tt.status || !strings.Contains(body, tt.words) {
				t.Errorf("status %d, want %d with %q:\n%s", status, tt.status, tt.words, body)
			}
		})
	}
	if after := w.shoal(1, "service", "ls", "-q"); after != before {
		w.t.Errorf("a bad request has left something: services %q, before %q", after, before)
	}
}

func sessionClientAddress(w *world) {
	for n := 1; n <= 3; n++ {
		h := w.Host(n)
		for task, a := range w.askAll(lab.ClientNamespace, "http://"+h.Addr+":8080", 3, 20*time.Second) {
			if a["client"] != lab.ClientAddr {
				w.t.Errorf("through %s, task %s saw the client as %s", h.Name, task, a["client"])
			}
		}
		// From the host itself, by its address, by that of the loopback, and by another host's.
		for _, addr := range []string{h.Addr, "127.0.0.1", w.Host(n%3 + 1).Addr} {
			w.askAll(h.Namespace, "http://"+addr+":8080", 3, 20*time.Second)
		}
	}
}

func sessionStockClient(w *world) {
	for _, args := range [][]string{
		{"service", "ls", "--format", "{{json .}}"},
		{"node", "ls", "--format", "{{.ID}} {{.Hostname}} {{.Status}} {{.Availability}} {{.ManagerStatus}}"},
		{"service", "ps", "hello", "--no-trunc", "--format", "{{.ID}} {{.Name}} {{.Node}} {{.DesiredState}}"},
		{"service", "inspect", "hello"},
		{"node", "inspect", "self"},
		{"container", "ls", "-a", "--no-trunc", "--format", "{{.ID}} {{.Image}} {{.Names}} {{.Labels}}"},
		{"image", "ls", "-a", "-q", "--no-trunc"}, // without -a, from 29 on the client leaves out what has no tag
	} {
		theirs, ok := w.docker(1, args...)
		if !ok {
			w.t.Skip("there is no docker client on this machine")
		}
		if d := cmp.Diff(w.shoal(1, args...), theirs); d != "" {
			w.t.Errorf("%s: docker (+) shows another thing than shoal (-):\n%s", strings.Join(args, " "), d)
		}
	}
	w.docker(1, "service", "create", "-d", "--name", "stock", "--replicas", "2", "busybox", "sleep", "1000")
	w.running(1, "stock", 2, 20*time.Second)
	w.docker(1, "service", "rm", "stock")
}

// sessionScale sees tasks come and go, and that a client notices nothing of it.
func sessionScale(w *world) {
	w.shoal(1, "service", "scale", "hello=6")
	w.running(1, "hello", 6, time.Second)
	w.askAll(lab.ClientNamespace, "http://198.18.0.2:8080", 6, 20*time.Second)
	ctx, stop := context.WithCancel(w.t.Context())
	var asked atomic.Int64
	failed := make(chan error, 1)
	go func() {
		defer close(failed)
		for ctx.Err() == nil {
			if _, err := w.ask(lab.ClientNamespace, fmt.Sprintf("http://198.18.0.%d:8080", asked.Add(1)%3+1)); err != nil {
				failed <- err
				return
			}
		}
	}()
	w.shoal(1, "service", "scale", "hello=2")
	left := w.running(1, "hello", 2, 30*time.Second)
	w.askAll(lab.ClientNamespace, "http://198.18.0.3:8080", 2, 20*time.Second)
	stop()
	if err := <-failed; err != nil {
		w.t.Errorf("after %d answers, while tasks were removed: %v", asked.Load(), err)
	}
	if asked.Load() < 20 {
		w.t.Errorf("only %d were asked while tasks were removed", asked.Load())
	}
	w.shoal(1, "service", "scale", "-d", "hello=0")
	w.running(1, "hello", 0, 30*time.Second)
	w.until(20*time.Second, "nobody answers any more", func(context.Context) error {
		if a, err := w.ask(lab.ClientNamespace, "http://198.18.0.1:8080"); err == nil {
			return fmt.Errorf("%s answers", a["hostname"])
		}
		return nil
	})
	w.shoal(1, "service", "scale", "hello=3")
	if now := w.running(1, "hello", 3, time.Second); len(left) != 2 || len(now) != 3 {
		w.t.Errorf("%d and %d tasks", len(left), len(now))
	}
}

func sessionKilledTask(w *world) {
	before := w.running(1, "hello", 3, 10*time.Second)
	victim := before[0]
	var host int
	if _, err := fmt.Sscanf(victim.Node, "node%d", &host); err != nil {
		w.t.Fatal(err)
	}
	id := w.shoal(host, "container", "ls", "-q", "--filter", "label=com.docker.swarm.task.id="+victim.ID)
	if id == "" {
		w.t.Fatalf("no container of task %s on %s", victim.ID, victim.Node)
	}
	w.shoal(host, "container", "kill", id)
	w.until(30*time.Second, "another task is in its place", func(ctx context.Context) error {
		on, err := w.runningTasks(ctx, 1, "hello")
		if err != nil {
			return err
		}
		for _, t := range on {
			if t.ID == victim.ID {
				return errors.New("it is still thought to run")
			}
		}
		if len(on) != 3 {
			return fmt.Errorf("%d run", len(on))
		}
		return nil
	})
	all, err := w.Tasks(w.t.Context(), 1, "hello")
	if err != nil {
		w.t.Fatal(err)
	}
	for _, t := range all {
		if t.ID == victim.ID && (!strings.HasPrefix(t.State, "Failed") || !strings.Contains(t.Error, "137")) {
			w.t.Errorf("the history says %q, %q", t.State, t.Error)
		}
	}
	w.askAll(lab.ClientNamespace, "http://198.18.0.1:8080", 3, 20*time.Second)
}

func sessionSpec(w *world) {
	w.shoal(1, "service", "create", "--quiet", "--name", "spec", "--env", "COLOUR=blue", "--label", "a=b", "--container-label", "c=d",
		"--restart-condition", "none", "busybox", "sh", "-c", `echo "$COLOUR $0 $1"; sleep 1000`, "one", "two words")
	on := w.running(1, "spec", 1, time.Second)
	var host int
	if _, err := fmt.Sscanf(on[0].Node, "node%d", &host); err != nil {
		w.t.Fatal(err)
	}
	id := w.shoal(host, "container", "ls", "-q", "--filter", "label=c=d")
	if got := w.shoal(host, "logs", id); got != "blue one two words" {
		w.t.Errorf("the container said %q", got)
	}
	if got := w.shoal(1, "service", "inspect", "spec", "--format", "{{.Spec.Labels}}"); got != "map[a:b]" {
		w.t.Errorf("labels %q", got)
	}
	w.shoal(1, "service", "rm", "spec")
}

func sessionRemove(w *world) {
	if got := w.shoal(1, "service", "rm", "hello"); got != "hello" {
		w.t.Errorf("service rm printed %q", got)
	}
	w.refused(1, []string{"no such service: hello"}, "service", "ps", "hello")
	for n := 1; n <= 3; n++ {
		w.until(20*time.Second, fmt.Sprintf("no container is left on node%d", n), func(context.Context) error {
			out, err := w.try(n, "container", "ls", "-aq")
			if err != nil {
				return err
			}
			if out != "" {
				return fmt.Errorf("there are %q", out)
			}
			return nil
		})
		if a, err := w.ask(lab.ClientNamespace, "http://"+w.Host(n).Addr+":8080"); err == nil {
			w.t.Errorf("%s still answers on node%d", a["hostname"], n)
		}
	}
	// Its name and its port are free.
	w.shoal(1, "service", "create", "--quiet", "--name", "hello", "--publish", "8080:80", "hello:2")
	for _, a := range w.askAll(lab.ClientNamespace, "http://198.18.0.3:8080", 1, 20*time.Second) {
		if a["version"] != "2" {
			w.t.Errorf("version %q answers", a["version"])
		}
	}
}
