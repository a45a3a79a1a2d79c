package httpapi_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/httpapi/apitest"
)

// running has a container "a" that runs.
func running(t *testing.T, e *apitest.Engine, tty bool, o ...client.Opt) *client.Client {
	t.Helper()
	c, ctx := dial(t, handler(e, apitest.NewSwarm()), o...)
	if _, err := c.ContainerCreate(ctx, client.ContainerCreateOptions{Name: "a", Config: &container.Config{Image: "hello:1", Tty: tty}}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.ContainerStart(ctx, "a", client.ContainerStartOptions{}); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestClientExec(t *testing.T) {
	for _, version := range []string{"1.56", "1.44"} {
		t.Run(version, func(t *testing.T) {
			e := apitest.NewEngine()
			c, ctx := running(t, e, false, client.WithAPIVersion(version)), t.Context()
			x, err := c.ExecCreate(ctx, "a", client.ExecCreateOptions{Cmd: []string{"echo", "hi"}, AttachStdout: true, AttachStderr: true, User: "fish", Env: []string{"A=b"}, WorkingDir: "/tmp", Privileged: true})
			if err != nil {
				t.Fatal(err)
			}
			if r := e.Execs[x.ID].Request; r.User != "fish" || r.WorkingDir != "/tmp" || !r.Privileged || len(r.Env) != 1 {
				t.Errorf("the engine got %+v", r)
			}
			conn, err := c.ExecAttach(ctx, x.ID, client.ExecAttachOptions{})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if media, ok := conn.MediaType(); !ok || media != "application/vnd.docker.multiplexed-stream" {
				t.Errorf("media type %q", media)
			}
			var out, errOut bytes.Buffer
			if _, err := stdcopy.StdCopy(&out, &errOut, conn.Reader); err != nil {
				t.Fatal(err)
			}
			if out.String() != "echo hi\n" || errOut.String() != "warned\n" {
				t.Errorf("%q, %q", out.String(), errOut.String())
			}
			i, err := c.ExecInspect(ctx, x.ID, client.ExecInspectOptions{})
			if err != nil || i.ExitCode != 3 || i.Running {
				t.Errorf("inspect %+v, %v", i, err)
			}
			if _, err := c.ExecStart(ctx, x.ID, client.ExecStartOptions{Detach: true}); !errdefs.IsConflict(err) {
				t.Errorf("second start: %v", err)
			}
			if _, err := c.ExecResize(ctx, x.ID, client.ExecResizeOptions{Height: 24, Width: 80}); err != nil || e.Execs[x.ID].Size != [2]uint{24, 80} {
				t.Errorf("resize: %v, %v", e.Execs[x.ID].Size, err)
			}
		})
	}
}

// TestClientExecInput ends one direction of the connection before the other.
func TestClientExecInput(t *testing.T) {
	c, ctx := running(t, apitest.NewEngine(), false), t.Context()
	x, err := c.ExecCreate(ctx, "a", client.ExecCreateOptions{Cmd: []string{"cat"}, AttachStdin: true, AttachStdout: true, TTY: true})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := c.ExecAttach(ctx, x.ID, client.ExecAttachOptions{TTY: true, ConsoleSize: client.ConsoleSize{Height: 5, Width: 6}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	input := strings.Repeat("0123456789abcde\n", 1<<16)
	sent := make(chan error, 1)
	go func() {
		_, err := io.WriteString(conn.Conn, input)
		if cerr := conn.CloseWrite(); err == nil {
			err = cerr
		}
		sent <- err
	}()
	got, err := io.ReadAll(conn.Reader)
	if err != nil || string(got) != input {
		t.Errorf("%d of %d bytes came back, %v", len(got), len(input), err)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
}

func TestClientExecMissing(t *testing.T) {
	c, ctx := running(t, apitest.NewEngine(), false), t.Context()
	x, err := c.ExecCreate(ctx, "a", client.ExecCreateOptions{Cmd: []string{"missing"}, AttachStdout: true})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := c.ExecAttach(ctx, x.ID, client.ExecAttachOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var out bytes.Buffer
	if _, err := stdcopy.StdCopy(&out, io.Discard, conn.Reader); err != nil {
		t.Fatal(err)
	}
	want := `OCI runtime exec failed: exec failed: unable to start container process: exec: "missing": executable file not found in $PATH: unknown` + "\r\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Error(diff)
	}
	if i, err := c.ExecInspect(ctx, x.ID, client.ExecInspectOptions{}); err != nil || i.ExitCode != 127 {
		t.Errorf("inspect %+v, %v", i, err)
	}
	// Detached there is no stream: the error is an ordinary answer.
	x, err = c.ExecCreate(ctx, "a", client.ExecCreateOptions{Cmd: []string{"missing"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err = c.ExecStart(ctx, x.ID, client.ExecStartOptions{Detach: true}); err == nil || !strings.Contains(err.Error(), "executable file not found in $PATH") {
		t.Errorf("detached: %v", err)
	}
	if _, err = c.ExecCreate(ctx, "b", client.ExecCreateOptions{Cmd: []string{"x"}}); !errdefs.IsNotFound(err) {
		t.Errorf("exec in no container: %v", err)
	}
	if _, err := c.ExecAttach(ctx, "nothing", client.ExecAttachOptions{}); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("start of nothing: %v", err)
	}
}

func TestClientAttach(t *testing.T) {
	for _, tty := range []bool{false, true} {
		t.Run(fmt.Sprint("tty ", tty), func(t *testing.T) {
			e := apitest.NewEngine()
			e.Lines = []engine.LogLine{{Stream: "stdout", Line: []byte("out\n")}, {Stream: "stderr", Line: []byte("err\n")}}
			c, ctx := running(t, e, tty), t.Context()
			conn, err := c.ContainerAttach(ctx, "a", client.ContainerAttachOptions{Stream: true, Stdin: true, Stdout: true, Stderr: true})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := io.WriteString(conn.Conn, "typed"); err != nil {
				t.Fatal(err)
			}
			if err := conn.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			var out, errOut bytes.Buffer
			if tty {
				_, err = io.Copy(&out, conn.Reader)
			} else {
				_, err = stdcopy.StdCopy(&out, &errOut, conn.Reader)
			}
			want := []string{"out\ntyped", "err\n"}
			if tty {
				want = []string{"out\nerr\ntyped", ""}
			}
			if diff := cmp.Diff(want, []string{out.String(), errOut.String()}); diff != "" || err != nil {
				t.Errorf("%v: %s", err, diff)
			}
			if _, err := c.ContainerResize(ctx, "a", client.ContainerResizeOptions{Height: 24, Width: 80}); err != nil || e.ByName["a"].Size != [2]uint{24, 80} {
				t.Errorf("resize: %v, %v", e.ByName["a"].Size, err)
			}
			if _, err := c.ContainerAttach(ctx, "a", client.ContainerAttachOptions{Stream: true, DetachKeys: "bad"}); err == nil || !strings.Contains(err.Error(), "400") {
				t.Errorf("bad detach keys: %v", err)
			}
		})
	}
}

// TestPlainHijack is a client of the time before the upgrade, which sends input with its request.
func TestPlainHijack(t *testing.T) {
	e := apitest.NewEngine()
	h := handler(e, apitest.NewSwarm())
	address := strings.TrimPrefix(serve(t, h), "unix://")
	for _, path := range []string{"/containers/create?name=a", "/containers/a/start"} {
		body := ""
		if strings.Contains(path, "create") {
			body = `{"Image":"hello:1"}`
		}
		if w := ask(t, h, "POST", path, js, body); w.Code >= 300 {
			t.Fatalf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	conn, err := net.Dial("unix", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, "POST /v1.24/containers/a/attach?stdin=1&stream=1&stdout=1 HTTP/1.1\r\nHost: x\r\n\r\nearly"); err != nil {
		t.Fatal(err)
	}
	if err := conn.(*net.UnixConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "application/vnd.docker.raw-stream" || resp.Header.Get("Api-Version") == "" {
		t.Fatalf("%+v, %v", resp, err)
	}
	var out bytes.Buffer
	if _, err := stdcopy.StdCopy(&out, io.Discard, resp.Body); err != nil || out.String() != "early" {
		t.Errorf("%q, %v", out.String(), err)
	}
}
