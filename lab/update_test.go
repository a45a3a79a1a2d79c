package lab_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"shoal.dev/shoal/lab"
)

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
