package httpapi_test

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"

	"shoal.dev/shoal/internal/httpapi/apitest"
)

func TestTaskLogs(t *testing.T) {
	s := apitest.NewSwarm()
	s.Active = true
	h := handler(apitest.NewEngine(), s)
	c, ctx := dial(t, h)
	for _, spec := range []swarm.ServiceSpec{
		{Annotations: swarm.Annotations{Name: "web"}, TaskTemplate: swarm.TaskSpec{ContainerSpec: &swarm.ContainerSpec{Image: "hello:1"}}},
		{Annotations: swarm.Annotations{Name: "term"}, TaskTemplate: swarm.TaskSpec{ContainerSpec: &swarm.ContainerSpec{Image: "hello:1", TTY: true}}},
	} {
		if _, err := c.ServiceCreate(ctx, client.ServiceCreateOptions{Spec: spec}); err != nil {
			t.Fatal(err)
		}
	}
	logs, err := c.ServiceLogs(ctx, "web", client.ServiceLogsOptions{ShowStdout: true, ShowStderr: true, Details: true, Timestamps: true})
	if err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	if _, err := stdcopy.StdCopy(&out, &errs, logs); err != nil {
		t.Fatal(err)
	}
	const attrs = "com.docker.swarm.node.id=node1id,com.docker.swarm.service.id=webid,com.docker.swarm.task.id=webidtask1 "
	if got, want := out.String(), "2023-11-14T22:13:20.000000000Z "+attrs+"hello from web\n"; got != want {
		t.Errorf("stdout %q, want %q", got, want)
	}
	if got, want := errs.String(), "2023-11-14T22:13:20.000000001Z "+attrs+"a complaint\n"; got != want {
		t.Errorf("stderr %q, want %q", got, want)
	}
	task, err := c.TaskLogs(ctx, "termidtask1", client.TaskLogsOptions{ShowStdout: true})
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(task); err != nil || string(b) != "hello from term\n" {
		t.Errorf("a terminal's log: %q, %v", b, err)
	}
	for _, c := range []struct {
		path    string
		status  int
		message string
	}{
		{"/services/web/logs", 400, "Bad parameters: you must choose at least one stream"},
		{"/tasks/x/logs", 400, "Bad parameters: you must choose at least one stream"},
		{"/services/none/logs?stdout=1", 404, "service none not found"},
		{"/tasks/none/logs?stdout=1", 404, "task none not found"},
		{"/services/web/logs?stdout=1&since=x", 400, `invalid value for "since"`},
	} {
		if w := ask(t, h, "GET", c.path, "", ""); w.Code != c.status || !strings.HasPrefix(messageOf(t, w), c.message) {
			t.Errorf("%s answers %d %s", c.path, w.Code, w.Body)
		}
	}
}
