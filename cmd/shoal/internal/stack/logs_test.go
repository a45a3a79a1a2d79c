package stack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"
)

// written has logs of services by their IDs; a line begins with its stream.
type written struct {
	client.APIClient
	lines map[string][]string
	stays bool // the stream does not end by itself
}

type body struct {
	io.Reader
	close func()
}

func (b body) Close() error { b.close(); return nil }

func (w written) ServiceLogs(ctx context.Context, id string, _ client.ServiceLogsOptions) (client.ServiceLogsResult, error) {
	lines, ok := w.lines[id]
	if !ok {
		return nil, errors.New("no such service")
	}
	r, pw := io.Pipe()
	stop := context.AfterFunc(ctx, func() { pw.CloseWithError(ctx.Err()) })
	go func() {
		for _, l := range lines {
			kind, text := stdcopy.Stdout, l
			if rest, is := strings.CutPrefix(l, "!"); is {
				kind, text = stdcopy.Stderr, rest
			}
			at, rest, _ := strings.Cut(text, " ")
			msg := fmt.Sprintf("2026-01-01T00:00:%sZ com.docker.swarm.node.id=n,com.docker.swarm.task.id=%s1 %s\n", at, id, rest)
			head := []byte{byte(kind), 0, 0, 0, 0, 0, 0, byte(len(msg))}
			if _, err := pw.Write(append(head, msg...)); err != nil {
				return
			}
		}
		if !w.stays {
			pw.Close()
		}
	}()
	return body{r, func() { stop(); r.Close() }}, nil
}

func (w written) TaskInspect(_ context.Context, id string, _ client.TaskInspectOptions) (client.TaskInspectResult, error) {
	return client.TaskInspectResult{Task: swarm.Task{ID: id, Slot: 1}}, nil
}

func service(id string) swarm.Service {
	s := swarm.Service{ID: id}
	s.Spec.Name = "shop_" + id
	return s
}

func TestLogsByTime(t *testing.T) {
	api := written{lines: map[string][]string{"a": {"01 one", "!03 three  with spaces", "05 five"}, "b": {"02 two", "04 four"}, "c": nil}}
	of := map[string]swarm.Service{}
	for id := range api.lines {
		of["shop_"+id] = service(id)
	}
	var out, errs strings.Builder
	p := &printer{api: api, out: &out, err: &errs, width: 6, tasks: map[string]string{}, colour: map[string]string{"shop_b": "33"}}
	var order []string
	err := logs(t.Context(), api, of, client.ServiceLogsOptions{}, func(ctx context.Context, l line) error {
		order = append(order, strings.Fields(l.text)[0])
		return p.print(ctx, l)
	})
	if err != nil || !slices.Equal(order, []string{"one", "two", "three", "four", "five"}) {
		t.Errorf("%v, %v", order, err)
	}
	if want := "shop_a.1  | one\n\x1b[33mshop_b.1  |\x1b[0m two\n\x1b[33mshop_b.1  |\x1b[0m four\nshop_a.1  | five\n"; out.String() != want {
		t.Errorf("printed\n%q, want\n%q", out.String(), want)
	}
	if want := "shop_a.1  | three  with spaces\n"; errs.String() != want {
		t.Errorf("printed to stderr %q, want %q", errs.String(), want)
	}
}

// What cannot be read of one service is said, after the lines of the others.
func TestLogsOfSome(t *testing.T) {
	api := written{lines: map[string][]string{"a": {"01 one"}}}
	terminal := service("a")
	terminal.Spec.Name, terminal.Spec.TaskTemplate.ContainerSpec = "tty", &swarm.ContainerSpec{TTY: true}
	n := 0
	err := logs(t.Context(), api, map[string]swarm.Service{"shop_a": service("a"), "gone": service("gone"), "tty": terminal}, client.ServiceLogsOptions{},
		func(context.Context, line) error { n++; return nil })
	if n != 1 || err == nil || !strings.Contains(err.Error(), "service shop_gone: no such service") || !strings.Contains(err.Error(), "service tty: its tasks have terminals") {
		t.Errorf("%d lines, %v", n, err)
	}
}

// A log that is followed comes as it is written, and ends, with all that reads it, when its reader goes.
func TestFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := written{lines: map[string][]string{"a": {"01 one"}, "b": {"02 two"}}, stays: true}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		n := 0
		err := logs(ctx, api, map[string]swarm.Service{"a": service("a"), "b": service("b")}, client.ServiceLogsOptions{Follow: true}, func(context.Context, line) error {
			if n++; n == 2 {
				cancel()
			}
			return nil
		})
		if n != 2 || !errors.Is(err, context.Canceled) {
			t.Errorf("%d lines, %v", n, err)
		}
	})
}
