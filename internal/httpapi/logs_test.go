package httpapi_test

import (
	"io"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/httpapi/apitest"
)

func TestClientLogDetails(t *testing.T) {
	e := apitest.NewEngine()
	e.Lines = []engine.LogLine{
		{Stream: "stdout", Time: time.Unix(1, 0), Line: []byte("a\n"), Attrs: map[string]string{"tag": "x/y", "colour": "red & blue"}},
		{Stream: "stdout", Time: time.Unix(2, 0), Line: []byte("b\n")},
	}
	c := running(t, e, true)
	for details, want := range map[bool]string{true: "colour=red+%26+blue,tag=x%2Fy a\n b\n", false: "a\nb\n"} {
		r, err := c.ContainerLogs(t.Context(), "a", client.ContainerLogsOptions{ShowStdout: true, Details: details})
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if string(b) != want || err != nil {
			t.Errorf("details %v: %q, %v; want %q", details, b, err, want)
		}
		r.Close()
	}
}

func TestClientNoLog(t *testing.T) {
	c, ctx := dial(t, handler(apitest.NewEngine(), apitest.NewSwarm()))
	if _, err := c.ContainerCreate(ctx, client.ContainerCreateOptions{Name: "a", Config: &container.Config{Image: "hello:1"},
		HostConfig: &container.HostConfig{LogConfig: container.LogConfig{Type: "none"}}}); err != nil {
		t.Fatal(err)
	}
	_, err := c.ContainerLogs(ctx, "a", client.ContainerLogsOptions{ShowStdout: true})
	const want = "Error response from daemon: configured logging driver does not support reading"
	if !errdefs.IsNotImplemented(err) || err.Error() != want {
		t.Errorf("error = %v; want %q", err, want)
	}
}
