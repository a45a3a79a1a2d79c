package lab_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"shoal.dev/shoal/lab"
)

// refusals is how often in a row a connection may be refused before it counts. A task counts as running when it was
// started, and until there are health checks nobody knows that it does not listen yet: a client that is sent there in
// those milliseconds is refused, as with Docker, and comes to another task when it tries again. Anything else, such as
// a connection that is lost, counts at once.
const refusals = 20

// load asks the published port from outside, through all hosts in turn and each time over a new connection, until the
// returned function is called, which says how often it was answered and what went wrong first.
func (w *world) load(nodes int) (stop func() (answers int64, err error)) {
	ctx, cancel := context.WithCancel(w.t.Context())
	var asked atomic.Int64
	failed := make(chan error, 1)
	go func() {
		defer close(failed)
		for ctx.Err() == nil {
			n := int(asked.Add(1))%nodes + 1
			_, err := w.ask(lab.ClientNamespace, fmt.Sprintf("http://%s:8080", w.Host(n).Addr))
			for try := 0; errors.Is(err, syscall.ECONNREFUSED) && try < refusals; try++ {
				_, err = w.ask(lab.ClientNamespace, fmt.Sprintf("http://%s:8080", w.Host(n).Addr))
			}
			if err != nil {
				failed <- fmt.Errorf("through node%d: %w", n, err)
				return
			}
		}
	}()
	return func() (int64, error) {
		cancel()
		return asked.Load(), <-failed
	}
}

// undisturbed does something under load; no request may fail meanwhile.
func (w *world) undisturbed(what string, do func()) {
	w.t.Helper()
	stop := w.load(3)
	do()
	answers, err := stop()
	if err != nil {
		w.t.Errorf("%s: after %d answers: %v", what, answers, err)
	}
	if answers < 20 {
		w.t.Errorf("%s: only %d requests were made", what, answers)
	}
}

// version waits until all tasks of the service answer with the version.
func (w *world) version(version string, tasks int) {
	w.t.Helper()
	for task, a := range w.askAll(lab.ClientNamespace, "http://198.18.0.2:8080", tasks, 20*time.Second) {
		if a["version"] != version {
			w.t.Errorf("task %s has version %s, want %s", task, a["version"], version)
		}
	}
}

// updateIs waits until the state and message of the service's update begin with the text.
func (w *world) updateIs(service, text string, within time.Duration) {
	w.t.Helper()
	w.until(within, service+" is "+text, func(context.Context) error {
		out, err := w.try(1, "service", "inspect", service, "--format", "{{with .UpdateStatus}}{{.State}}: {{.Message}}{{end}}")
		if err == nil && !strings.HasPrefix(out, text) {
			err = fmt.Errorf("it is %s", out)
		}
		return err
	})
}

// TestRollingUpdate updates a service under load, forth, back, and to what does not work.
func TestRollingUpdate(t *testing.T) {
	w := newWorld(t, 3)
	w.swarm(3, 1)
	w.shoal(1, "service", "create", "--quiet", "--name", "hello", "--replicas", "6", "--publish", "8080:80",
		"--update-order", "start-first", "--update-parallelism", "2", "--update-monitor", "1s",
		"--rollback-order", "start-first", "--rollback-parallelism", "3", "--rollback-monitor", "1s", "hello:1")
	w.version("1", 6)

	w.undisturbed("update, start first", func() {
		out, ok := w.docker(1, "service", "update", "--image", "hello:2", "hello")
		if !ok {
			out = w.shoal(1, "service", "update", "--image", "hello:2", "hello")
		}
		if !strings.Contains(out, "converged") {
			t.Errorf("the client does not say that the service has converged:\n%s", out)
		}
	})
	w.updateIs("hello", "completed: update completed", 10*time.Second)
	w.version("2", 6)

	w.undisturbed("rollback", func() {
		if _, ok := w.docker(1, "service", "rollback", "hello"); !ok {
			w.shoal(1, "service", "rollback", "hello")
		}
	})
	w.updateIs("hello", "rollback_completed: rollback completed", 10*time.Second)
	w.version("1", 6)

	w.undisturbed("update, stop first", func() {
		w.shoal(1, "service", "update", "--quiet", "--update-order", "stop-first", "--image", "hello:2", "hello")
	})
	w.version("2", 6)

	before := w.running(1, "hello", 6, time.Second)
	w.undisturbed("a version that is not there", func() {
		w.shoal(1, "service", "update", "-d", "--update-order", "start-first", "--image", "hello:nope", "hello")
		w.updateIs("hello", "paused: update paused due to failure or early termination of task ", 20*time.Second)
	})
	w.version("2", 6)
	w.undisturbed("the way back from it", func() {
		w.shoal(1, "service", "update", "--quiet", "--update-failure-action", "rollback", "--image", "hello:2", "hello")
	})
	w.undisturbed("a version that is not there, with rollback", func() {
		w.shoal(1, "service", "update", "-d", "--image", "hello:nope", "hello")
		w.updateIs("hello", "rollback_completed: rollback completed", 30*time.Second)
	})
	w.version("2", 6)
	kept := map[string]bool{}
	for _, task := range w.running(1, "hello", 6, 10*time.Second) {
		kept[task.ID] = true
	}
	lost := 0
	for _, b := range before {
		if !kept[b.ID] {
			lost++
		}
	}
	if lost == len(before) {
		t.Error("none of the tasks that ran before the bad updates runs after them")
	}

	w.undisturbed("force", func() { w.shoal(1, "service", "update", "--quiet", "--force", "hello") })
	for _, task := range w.running(1, "hello", 6, 10*time.Second) {
		if kept[task.ID] {
			t.Errorf("task %s was not restarted by force", task.Name)
		}
	}
	after := w.running(1, "hello", 6, time.Second)
	w.shoal(1, "service", "update", "--quiet", "--label-add", "a=b", "--replicas", "7", "hello")
	kept = map[string]bool{}
	for _, task := range w.running(1, "hello", 7, 10*time.Second) {
		kept[task.ID] = true
	}
	for _, b := range after {
		if !kept[b.ID] {
			t.Errorf("task %s was replaced for a label", b.Name)
		}
	}
	w.refused(1, []string{"other flags may not be combined with --rollback"}, "service", "update", "--rollback", "--image", "hello:1", "hello")
	w.shoal(1, "service", "create", "-d", "--name", "new", "--replicas", "0", "hello:1")
	w.refused(1, []string{"does not have a previous spec"}, "service", "rollback", "new")
}
