package tasklog_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/control"
	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/link"
	"shoal.dev/shoal/internal/store"
	"shoal.dev/shoal/internal/tasklog"
)

// talkers are containers named after their tasks that each have written many lines.
type talkers int

func (talkers) Inspect(_ context.Context, name string) (*container.InspectResponse, error) {
	return &container.InspectResponse{ID: name, Config: &container.Config{Labels: map[string]string{"com.docker.swarm.task.id": name}}}, nil
}

func (n talkers) Logs(_ context.Context, _ string, _ engine.LogOptions, each func(engine.LogLine) error) error {
	line := []byte("a line of a log that is about as long as the lines of logs are wont to be, with a date\n")
	for i := range int(n) {
		if err := each(engine.LogLine{Stream: "stdout", Time: time.Unix(1700000000, int64(i)*1000), Line: line}); err != nil {
			return err
		}
	}
	return nil
}

// BenchmarkManyLines merges 10,000 lines of each of 20 tasks on one node, over TCP.
func BenchmarkManyLines(b *testing.B) {
	const tasks, lines = 20, 10_000
	s := store.New()
	store.NewLocal(s)
	_, err := s.Update(b.Context(), func(tx *store.Tx) error {
		tx.Write(store.Create(&cluster.Swarm{}))
		svc := &cluster.Service{}
		svc.ID, svc.Spec.Name = "svc", "web"
		tx.Write(store.Create(svc))
		for i := range tasks {
			t := &cluster.Task{}
			t.ID, t.ServiceID, t.NodeID = fmt.Sprint("t", i), "svc", "n1"
			t.Status = swarm.TaskStatus{State: swarm.TaskStateRunning, ContainerStatus: &swarm.ContainerStatus{ContainerID: t.ID}}
			tx.Write(store.Create(t))
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	c := control.New(nil)
	c.Activate(&control.Manager{NodeID: "m1", Store: s, ReadBarrier: func(context.Context) error { return nil }})
	h := tasklog.Handler(talkers(lines))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(w, r.WithContext(link.WithPeer(r.Context(), link.Peer{Role: swarm.NodeRoleManager})))
	}))
	b.Cleanup(srv.Close)
	to := roundTripper(func(r *http.Request) (*http.Response, error) {
		r.URL.Host = srv.Listener.Addr().String()
		return http.DefaultTransport.RoundTrip(r)
	})
	reader := &tasklog.Reader{Tasks: c, Reach: func(context.Context, string) (http.RoundTripper, error) { return to, nil }}
	for b.Loop() {
		got := 0
		err := reader.TaskLogs(b.Context(), control.LogsOf{Service: "web"}, engine.LogOptions{Stdout: true, Tail: -1}, func(bool) {}, func(control.TaskLine) error {
			got++
			return nil
		})
		if err != nil || got != tasks*lines {
			b.Fatalf("%d lines, %v", got, err)
		}
	}
	b.ReportMetric(float64(b.N)*tasks*lines/b.Elapsed().Seconds(), "lines/s")
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
