package node

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/control"
	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/engine/fake"
	"shoal.dev/shoal/internal/link"
	"shoal.dev/shoal/internal/pki"
	"shoal.dev/shoal/internal/store"
	"shoal.dev/shoal/internal/tasklog"
)

// TestLogsReachAManagerThroughAnother has a worker with a link to m2 only, and asks m1 for the log of its task, over
// real links.
func TestLogsReachAManagerThroughAnother(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	ca, err := pki.NewAuthority(time.Now().Add(-time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	identity := func(id string, role swarm.NodeRole) *pki.Holder {
		key, csr, err := pki.NewRequest()
		if err != nil {
			t.Fatal(err)
		}
		cert, err := pki.Sign(ca, csr, "sw", id, role, time.Hour, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		i, err := pki.NewIdentity(key, cert, ca.Cert)
		if err != nil {
			t.Fatal(err)
		}
		return pki.NewHolder(i)
	}
	eng := fake.New()
	t.Cleanup(eng.Close)
	eng.AnyImage = true
	if err := eng.Pull(t.Context(), "hello:1", engine.PullOptions{}, nil); err != nil {
		t.Fatal(err)
	}
	id, _, err := eng.Create(t.Context(), engine.Spec{
		Config:     &container.Config{Image: "hello:1", Cmd: strings.Fields("print hello; sleep"), Labels: map[string]string{"com.docker.swarm.task.id": "t1"}},
		HostConfig: &container.HostConfig{NetworkMode: "none"},
	})
	if err == nil {
		err = eng.Start(t.Context(), id)
	}
	if err != nil {
		t.Fatal(err)
	}

	s := store.New()
	store.NewLocal(s)
	if _, err := s.Update(t.Context(), func(tx *store.Tx) error {
		tx.Write(store.Create(&cluster.Swarm{}))
		for _, n := range []string{"m1", "m2", "w1", "w2"} {
			node := &cluster.Node{}
			node.ID, node.Spec.Role = n, swarm.NodeRoleWorker
			if n[0] == 'm' {
				node.Spec.Role = swarm.NodeRoleManager
			}
			tx.Write(store.Create(node))
		}
		task := &cluster.Task{}
		task.ID, task.NodeID, task.Spec.ContainerSpec = "t1", "w1", &swarm.ContainerSpec{}
		task.Status = swarm.TaskStatus{State: swarm.TaskStateRunning, ContainerStatus: &swarm.ContainerStatus{ContainerID: id}}
		tx.Write(store.Create(task))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	managers := map[string]*manager{}
	var peers []swarm.Peer
	for _, name := range []string{"m1", "m2"} {
		holder := identity(name, swarm.NodeRoleManager)
		m := &manager{st: &state{NodeID: name}, store: s, log: log, peers: newPeers(holder, nil, nil, log)}
		mux := http.NewServeMux()
		m.routeNodes(mux)
		if m.server, err = link.NewServer(link.ServerConfig{ListenAddr: "127.0.0.1:0", Identity: holder, Handler: mux, Log: log}); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- m.server.Run(ctx) }()
		t.Cleanup(func() { m.peers.close(); cancel(); <-done })
		managers[name] = m
		peers = append(peers, swarm.Peer{NodeID: name, Addr: m.server.Addr().String()})
	}
	worker := identity("w1", swarm.NodeRoleWorker)
	l, err := link.Dial(t.Context(), peers[1].Addr, link.DialConfig{Identity: worker, Handler: tasklog.Handler(eng), Log: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	linked := func() bool { _, ok := managers["m2"].server.Link("w1"); return ok }
	for deadline := time.Now().Add(10 * time.Second); !linked(); {
		if time.Now().After(deadline) {
			t.Fatal("the worker's link is not known")
		}
		<-time.After(5 * time.Millisecond)
	}

	c := control.New(nil)
	c.Activate(&control.Manager{NodeID: "m1", Store: s, ReadBarrier: func(context.Context) error { return nil }})
	for _, asked := range []string{"m1", "m2"} {
		r := &tasklog.Reader{Tasks: c, Reach: func(ctx context.Context, node string) (http.RoundTripper, error) {
			return managers[asked].reach(ctx, node, peers)
		}}
		var got []string
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		err := r.TaskLogs(ctx, control.LogsOf{Task: "t1"}, engine.LogOptions{Stdout: true, Follow: true, Tail: -1}, func(bool) {}, func(l control.TaskLine) error {
			got = append(got, l.NodeID+" "+string(l.Line))
			return io.EOF // enough
		})
		cancel()
		if err != io.EOF || len(got) != 1 || got[0] != "w1 hello\n" {
			t.Errorf("%s: %q, %v", asked, got, err)
		}
	}
	if _, err := managers["m1"].reach(t.Context(), "w2", peers); err == nil || !strings.Contains(err.Error(), "none of the 2 managers that were asked has a connection to it") {
		t.Errorf("a node without a link: %v", err)
	}
	if _, err := managers["m1"].reach(t.Context(), "gone", peers); err == nil || !strings.Contains(err.Error(), "not part of the swarm any more") {
		t.Errorf("a node that was removed: %v", err)
	}
	// A worker reaches no other node through a manager, and a manager reaches nothing but the log.
	for _, path := range []string{relayPrefix + "w1" + tasklog.Path, pathLinked} {
		resp, err := l.Client().Post("http://manager"+path, "application/json", strings.NewReader(`{"NodeID":"w1"}`))
		if err != nil || resp.StatusCode != http.StatusForbidden {
			t.Errorf("a worker asks %s: %+v, %v", path, resp, err)
		}
	}
	to, err := managers["m1"].peers.to(t.Context(), peers[1].Addr)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := to.Client().Get("http://manager" + relayPrefix + "w1/containers/json")
	if err != nil || resp.StatusCode != http.StatusNotFound {
		t.Errorf("another route of the node: %+v, %v", resp, err)
	}
}
