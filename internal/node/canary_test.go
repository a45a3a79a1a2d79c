package node

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/agent"
	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/consensus"
	"shoal.dev/shoal/internal/control"
	"shoal.dev/shoal/internal/dispatch"
	"shoal.dev/shoal/internal/dispatch/memhttp"
	"shoal.dev/shoal/internal/dispatch/protocol"
	"shoal.dev/shoal/internal/engine/fake"
	"shoal.dev/shoal/internal/httpapi"
	"shoal.dev/shoal/internal/link"
	"shoal.dev/shoal/internal/network"
	"shoal.dev/shoal/internal/pki"
	"shoal.dev/shoal/internal/store"
	"shoal.dev/shoal/internal/tasklog"
)

// flood is everything that was written to it.
type flood struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (f *flood) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.b.Write(p)
}

func (f *flood) text() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.b.String()
}

type noNetwork struct{}

func (noNetwork) Apply(context.Context, network.Desired) error { return nil }

func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !is(); {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
		<-time.After(10 * time.Millisecond)
	}
}

// TestASecretIsNowhereToBeRead makes a secret with known bytes, which are the password of a registry too, uses it on a
// node, and looks for them in every answer of the API, in the logs at their most talkative, in the events, in what another node is sent, and on the disks of the
// manager and the node.
func TestASecretIsNowhereToBeRead(t *testing.T) {
	canary := strings.Repeat("canary-d3e9f1", 3) // a multiple of three bytes, so that it has one form in base64
	encoded := base64.StdEncoding.EncodeToString([]byte(canary))
	auth := base64.URLEncoding.EncodeToString([]byte(`{"username":"u","password":"` + canary + `"}`))
	var logged, answered flood
	log := slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
	clean := func(where, text string) {
		t.Helper()
		if strings.Contains(text, canary) || strings.Contains(text, encoded) || strings.Contains(text, auth) {
			t.Errorf("%s has the secret", where)
		}
	}
	run := func(f func(context.Context) error) (stop func()) {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { defer close(done); _ = f(ctx) }()
		stop = sync.OnceFunc(func() { cancel(); <-done })
		t.Cleanup(stop)
		return stop
	}

	// A manager with a log on the disk.
	dir, agentDir := t.TempDir(), t.TempDir()
	ca, err := pki.NewAuthority(time.Now().Add(-time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	key, csr, err := pki.NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := pki.Sign(ca, csr, "sw", "m1", swarm.NodeRoleManager, time.Hour, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	id, err := pki.NewIdentity(key, cert, ca.Cert)
	if err != nil {
		t.Fatal(err)
	}
	srv, err := link.NewServer(link.ServerConfig{ListenAddr: "127.0.0.1:0", Identity: pki.NewHolder(id), Handler: http.NotFoundHandler(), Log: log})
	if err != nil {
		t.Fatal(err)
	}
	run(srv.Run)
	s := store.New()
	cons, err := consensus.Open(consensus.Config{
		Dir: dir, NodeID: "m1", Addr: srv.Addr().String(), Layer: srv.RaftLayer(), Store: s, Key: newRaftKey(), SnapshotInterval: 20, Tuning: consensus.Tuning{SnapshotCheck: 100 * time.Millisecond}, Log: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	stopLog := run(cons.Run)
	if err := cons.Bootstrap(); err != nil {
		t.Fatal(err)
	}
	until(t, "the manager leads", cons.IsLeader)
	write := func(objects ...cluster.Object) {
		t.Helper()
		if _, err := s.Update(t.Context(), func(tx *store.Tx) error {
			for _, o := range objects {
				tx.Write(store.Create(o))
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	node := func(id string) *cluster.Node {
		n := &cluster.Node{}
		n.ID, n.Spec.Role, n.Status.State = id, swarm.NodeRoleWorker, swarm.NodeStateReady
		return n
	}
	write(&cluster.Swarm{Epoch: 1}, node("n1"), node("n2"))

	// Its API, and two nodes.
	eng := fake.New()
	t.Cleanup(eng.Close)
	eng.AnyImage = true
	eng.Door = func(_ reference.Named, a *registry.AuthConfig) error {
		if a == nil || a.Password != canary {
			return errors.New("who are you?")
		}
		return nil
	}
	c := control.New(nil)
	c.Activate(&control.Manager{NodeID: "m1", Store: s, ReadBarrier: func(context.Context) error { return nil }, Leader: func() string { return "m1" }})
	api := httpapi.New(httpapi.Config{
		Containers: eng, Images: eng, Volumes: eng, Events: eng, Usage: eng, Control: c, Log: log,
		TaskLogs: &tasklog.Reader{Tasks: c, Reach: func(context.Context, string) (http.RoundTripper, error) {
			return memhttp.Dial(t, tasklog.Handler(eng), link.Peer{NodeID: "m1", Role: swarm.NodeRoleManager}), nil
		}},
	})
	ask := func(method, path, body string) string {
		r := httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		if strings.HasPrefix(path, "/services/") {
			r.Header.Set("X-Registry-Auth", auth)
		}
		w := httptest.NewRecorder()
		api.ServeHTTP(w, r)
		fmt.Fprintln(&answered, method, path, w.Code, w.Body)
		return w.Body.String()
	}
	d := dispatch.New(dispatch.Config{Store: s, NodeID: "m1", Log: log, Leader: func() (http.RoundTripper, bool, error) { return nil, true, nil }})
	d.BecomeLeader()
	run(d.Run)
	own := memhttp.Dial(t, d.Handler(), link.Peer{SwarmID: "sw", NodeID: "n1", Role: swarm.NodeRoleWorker})
	other := memhttp.Dial(t, d.Handler(), link.Peer{SwarmID: "sw", NodeID: "n2", Role: swarm.NodeRoleWorker})
	a := agent.New(agent.Config{
		NodeID: "n1", Engine: eng, Network: noNetwork{}, StateDir: agentDir, Log: log,
		Describe: func(context.Context) swarm.NodeDescription { return swarm.NodeDescription{Hostname: "host1"} },
		Connect:  func(context.Context) (agent.Session, error) { return agent.Session{RoundTripper: own}, nil },
	})
	run(a.Run)
	var sent flood
	run(func(ctx context.Context) error {
		resp, err := protocol.Open(ctx, other, protocol.PathSession, protocol.SessionRequest{})
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		_, err = io.Copy(&sent, resp.Body)
		return err
	})

	// The secret, and what goes wrong with it.
	ask("POST", "/secrets/create", `{"Name":"pass","Labels":{"a":"b"},"Data":"`+encoded+`"}`)
	sec, ok := s.Snapshot().SecretByName("pass")
	if !ok {
		t.Fatal(answered.text())
	}
	for _, body := range []string{
		`{"Name":"pass","Data":"` + encoded + `"}`, `{"Name":"_","Data":"` + encoded + `"}`, `{"Name":"x","Data":"` + encoded, `{"Name":7,"Data":"` + encoded + `"}`,
		`{"Name":"x","Data":"` + encoded + `%"}`, `{"Name":"x","Data":"` + encoded + `","Templating":{"Name":"y"}}`, `{"Name":"x","Data":"` + encoded + `","Driver":{"Name":"y"}}`,
	} {
		ask("POST", "/secrets/create", body)
	}
	ask("POST", "/secrets/"+sec.ID+"/update?version=1", `{"Name":"pass","Data":"`+encoded+`"}`)
	ask("POST", fmt.Sprintf("/secrets/%s/update?version=%d", sec.ID, sec.Version.Index), `{"Name":"other","Data":"`+encoded+`"}`)
	ref := `{"File":{"Name":"pass","UID":"0","GID":"0","Mode":292},"SecretID":"` + sec.ID + `","SecretName":"pass"}`
	ask("POST", "/services/create", `{"Name":"web","TaskTemplate":{"ContainerSpec":{"Image":"hello:1","Args":["print","up;","sleep"],"Secrets":[`+ref+`]}}}`)
	svc, ok := s.Snapshot().ServiceByName("web")
	if !ok {
		t.Fatal(answered.text())
	}
	ask("POST", fmt.Sprintf("/services/%s/update?version=%d", svc.ID, svc.Version.Index-1), `{"Name":"web","TaskTemplate":{"ContainerSpec":{"Image":"hello:1"}}}`)
	ask("POST", fmt.Sprintf("/services/%s/update?version=%d", svc.ID, svc.Version.Index), `{"Name":"","TaskTemplate":{"ContainerSpec":{"Image":"hello:1"}}}`)
	task := &cluster.Task{ServiceName: "web"}
	task.ID, task.ServiceID, task.NodeID, task.Slot, task.DesiredState = "task1", svc.ID, "n1", 1, swarm.TaskStateRunning
	task.Status.State, task.Spec = swarm.TaskStateAssigned, svc.Spec.TaskTemplate
	write(task)
	container := ""
	until(t, "the task runs", func() bool {
		got, _ := store.Get[*cluster.Task](s.Snapshot(), "task1")
		if got.Status.ContainerStatus != nil {
			container = got.Status.ContainerStatus.ContainerID
		}
		return got.Status.State == swarm.TaskStateRunning
	})
	if got := eng.Files(container); len(got) != 1 || string(got[0].Data) != canary {
		t.Fatalf("the task has not got its secret: %v", got)
	}
	for _, path := range []string{
		"/services/" + svc.ID, "/secrets", "/secrets/pass", "/secrets/" + sec.ID, "/configs", "/services", "/services/web?insertDefaults=true", "/tasks", "/tasks/task1", "/swarm",
		"/nodes", "/nodes/n1", "/services/web/logs?stdout=1&stderr=1&details=1", "/tasks/task1/logs?stdout=1", "/containers/json?all=1", "/containers/" + container + "/json",
		"/containers/" + container + "/logs?stdout=1&stderr=1", "/events?since=1&until=" + fmt.Sprint(time.Now().Unix()), "/info", "/volumes", "/images/json",
	} {
		ask("GET", path, "")
	}
	ask("DELETE", "/secrets/pass", "")
	if !strings.Contains(answered.text(), "secret 'pass' is in use by the following service: web") {
		t.Error("the removal of a secret in use was not refused")
	}
	for i := range 60 { // so that there is a snapshot with it
		write(&cluster.Claim{ID: fmt.Sprint("filler", i)})
	}
	until(t, "there is a snapshot", func() bool { return cons.Stats().SnapshotIndex > 20 })
	for range s.Snapshot().TasksByNode("n2") {
		t.Fatal("node n2 has a task")
	}
	until(t, "node n2 heard something", func() bool { return sent.text() != "" })
	stopLog()

	clean("an answer of the API", answered.text())
	clean("a log", logged.text())
	clean("what another node was sent", sent.text())
	if logged.text() == "" {
		t.Error("nothing was logged")
	}
	files := 0
	for _, dir := range []string{dir, agentDir} {
		err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			b, err := os.ReadFile(path)
			files++
			clean(path, string(b))
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
	if files < 3 {
		t.Errorf("only %d files were looked at", files)
	}
}
