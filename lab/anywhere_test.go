package lab_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestAnywhere reaches a container on one node through the managers of others, with both clients, and loses the leader in
// the middle.
func TestAnywhere(t *testing.T) {
	w := newWorld(t, 4)
	w.swarm(4, 3)
	w.shoal(1, "service", "create", "--quiet", "--name", "web", "--constraint", "node.hostname==node4", "busybox", "sh", "-c", "echo hello; exec sleep 1000")
	w.running(1, "web", 1, 20*time.Second)
	steps := []struct {
		name string
		do   func(*world)
	}{
		{"by its name", anywhereByName},
		{"a node by its name", anywhereByNode},
		{"the whole swarm", anywhereSwarm},
		{"how long it takes", anywhereTime},
		{"the leader is killed", anywhereLeaderLoss},
		{"the node is killed", anywhereNodeLoss},
	}
	for _, s := range steps {
		if !t.Run(s.name, func(t *testing.T) { s.do(w.in(t)) }) {
			t.Fatal("the steps after it build on it")
		}
	}
}

func anywhereByName(w *world) {
	task := w.shoal(1, "service", "ps", "-q", "--no-trunc", "web")
	for n := 1; n <= 3; n++ {
		for _, name := range []string{"web.1", "web.1." + task, task, task[:12]} {
			if got := w.shoal(n, "exec", name, "echo", "there"); got != "there" {
				w.t.Errorf("node%d, exec in %s: %q", n, name, got)
			}
			if got := w.shoal(n, "logs", name); got != "hello" {
				w.t.Errorf("node%d, logs of %s: %q", n, name, got)
			}
		}
		if got, ok := w.docker(n, "exec", "-t", "web.1."+task, "tty"); ok && got != "/dev/pts/0" {
			w.t.Errorf("node%d, the stock client's terminal is %q", n, got)
		}
	}
	anywhereTerminal(w)
	// Docker's inspect of a task's ID is the task's.
	if got := w.shoal(2, "inspect", "--format", "{{.DesiredState}}", task); got != "running" {
		w.t.Errorf("inspect of the task: %q", got)
	}
	file := filepath.Join(w.t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("carried\n"), 0o644); err != nil {
		w.t.Fatal(err)
	}
	w.shoal(2, "cp", file, "web.1:/tmp/there")
	if got := w.shoal(3, "exec", "web.1", "cat", "/tmp/there"); got != "carried" {
		w.t.Errorf("the file that was copied has %q", got)
	}
	w.shoal(3, "cp", "web.1:/tmp/there", file+"2")
	if data, err := os.ReadFile(file + "2"); err != nil || string(data) != "carried\n" {
		w.t.Errorf("it comes back as %q, %v", data, err)
	}
	if got := w.shoal(2, "top", "web.1"); !strings.Contains(got, "sleep 1000") {
		w.t.Errorf("top: %s", got)
	}
	if got := w.shoal(2, "stats", "--no-stream", "--format", "{{.Name}}", "web.1"); got != "web.1."+task {
		w.t.Errorf("stats: %q", got)
	}
	w.refused(2, []string{"No such container: web.2"}, "exec", "web.2", "true")
	var failed interface{ ExitCode() int }
	if _, err := w.try(2, "exec", "web.1", "sh", "-c", "exit 7"); err == nil || errors.As(err, &failed) && failed.ExitCode() != 7 {
		w.t.Errorf("the exit code of an exec: %v", err)
	}
}

// anywhereTerminal has the stock client attach a terminal of its own size to a command on another node.
func anywhereTerminal(w *world) {
	script, err := exec.LookPath("script")
	docker, derr := exec.LookPath("docker")
	if err != nil || derr != nil {
		return
	}
	line := "stty cols 91 rows 17; " + docker + " -H unix://" + w.Host(2).Socket + " exec -it web.1 sh -c 'until [ \"$(stty size)\" = \"17 91\" ]; do sleep 0.1; done; tty; echo done'"
	ctx, cancel := context.WithTimeout(w.t.Context(), 20*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, script, "-qec", line, "/dev/null").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "/dev/pts/") || !strings.Contains(string(out), "done") {
		w.t.Errorf("exec -it of the stock client: %q, %v", out, err)
	}
}

func anywhereByNode(w *world) {
	for n := 1; n <= 3; n++ {
		if got := w.shoal(n, "--node", "node4", "ps", "--format", "{{.Image}}"); !strings.HasPrefix(got, "busybox") {
			w.t.Errorf("node%d, the containers of node4: %q", n, got)
		}
		if got := w.shoal(n, "--node", "node4", "info", "--format", "{{.Name}}"); got != "node4" {
			w.t.Errorf("node%d: the node is %q", n, got)
		}
	}
	w.shoal(1, "--node", "node4", "run", "-d", "--name", "alone", "busybox", "sleep", "1000")
	if got := w.shoal(4, "exec", "alone", "echo", "here"); got != "here" {
		w.t.Errorf("what was run from elsewhere says %q", got)
	}
	w.shoal(3, "--node", "node4", "rm", "-f", "alone")
	w.refused(1, []string{"node nobody not found"}, "--node", "nobody", "ps")
	w.refused(4, []string{"This node is not a swarm manager."}, "--node", "node1", "ps")
}

func anywhereSwarm(w *world) {
	w.shoal(2, "run", "-d", "--name", "own", "busybox", "sleep", "1000")
	got := w.shoal(1, "ps", "--swarm", "--format", "{{.Node}} {{.Names}}")
	if lines := strings.Split(got, "\n"); len(lines) != 2 || lines[0] != "node2 own" || !strings.HasPrefix(lines[1], "node4 web.1.") {
		w.t.Errorf("ps --swarm:\n%s", got)
	}
	if got := w.shoal(1, "ps", "--swarm"); !strings.HasPrefix(got, "NODE ") {
		w.t.Errorf("ps --swarm:\n%s", got)
	}
	begun := fmt.Sprint(time.Now().Unix() - 60)
	w.shoal(2, "rm", "-f", "own")
	w.shoal(3, "exec", "web.1", "true")
	events := w.shoal(1, "events", "--swarm", "--since", begun, "--until", fmt.Sprint(time.Now().Unix()+1), "--format", "{{.TimeNano}} {{.Action}} {{.Actor.Attributes.node}}")
	lines := strings.Split(events, "\n")
	for _, want := range []string{"destroy node2", "exec_start: true node4"} {
		if !slices.ContainsFunc(lines, func(l string) bool { return strings.HasSuffix(l, " "+want) }) {
			w.t.Errorf("%s is not in the events:\n%s", want, events)
		}
	}
	if !slices.IsSorted(lines) {
		w.t.Errorf("the events are not in the order of time:\n%s", events)
	}
	if got := w.shoal(2, "top", "--no-stream", "--format", "{{range .Tasks}}{{.Node}} {{.Memory}}{{end}} {{len .Nodes}}"); !strings.HasPrefix(got, "node4 ") || strings.HasPrefix(got, "node4 0 ") || !strings.HasSuffix(got, " 4") {
		w.t.Errorf("top: %q", got)
	}
}

// anywhereTime prints what the way to another node costs; bench has the figures of a quiet machine.
func anywhereTime(w *world) {
	id := w.shoal(4, "ps", "-q")
	took := func(at int, name string) time.Duration {
		var all []time.Duration
		for range 7 {
			began := time.Now()
			w.shoal(at, "exec", name, "true")
			all = append(all, time.Since(began))
		}
		slices.Sort(all)
		return all[len(all)/2]
	}
	here, there := took(4, id), took(2, "web.1")
	w.t.Logf("an exec on its own node takes %s, through a manager %s", here, there)
}

// anywhereLeaderLoss kills the leader while a log is followed and a command runs, through another manager: they go on, or
// end with an error where the node's connection was to the one that died.
func anywhereLeaderLoss(w *world) {
	leader := w.leader(2, 10*time.Second)
	at := leader%3 + 1
	type end struct {
		out string
		err error
	}
	run := func(args ...string) <-chan end {
		ch := make(chan end, 1)
		go func() {
			out, err := w.try(at, args...)
			ch <- end{out, err}
		}()
		return ch
	}
	command := run("exec", "web.1", "sh", "-c", "echo begun; touch /tmp/begun; sleep 4; echo done")
	logs := run("logs", "-f", "web.1")
	file := filepath.Join(w.t.TempDir(), "log")
	service := w.followInto(file, at, "service", "logs", "--raw", "-f", "web")
	said := func(want string) {
		w.until(20*time.Second, "the log has no gap and no line twice", func(context.Context) error {
			data, err := os.ReadFile(file)
			if err == nil && string(data) != want {
				err = fmt.Errorf("it is %q, want %q", data, want)
			}
			return err
		})
	}
	said("hello\n")
	w.until(10*time.Second, "the command runs", func(context.Context) error {
		_, err := w.try(4, "exec", w.shoal(4, "ps", "-q"), "test", "-e", "/tmp/begun")
		return err
	})
	if err := w.Kill(w.t.Context(), leader); err != nil {
		w.t.Fatal(err)
	}
	e := <-command
	if whole := strings.HasSuffix(e.out, "done"); whole != (e.err == nil) {
		w.t.Errorf("the exec ended silently: %q, %v", e.out, e.err)
	}
	w.t.Logf("the exec: %q, %v", e.out, e.err)
	// It can be said again, whoever leads.
	w.until(20*time.Second, "the container can be reached again", func(context.Context) error {
		_, err := w.try(at, "exec", "web.1", "true")
		return err
	})
	w.shoal(at, "exec", "web.1", "sh", "-c", "echo goodbye >/proc/1/fd/1")
	said("hello\ngoodbye\n")
	// A task follows another while a leader is new.
	w.shoal(at, "service", "update", "--quiet", "--force", "web")
	said("hello\ngoodbye\nhello\n")
	w.shoal(at, "service", "rm", "web")
	if err := <-service; err != nil {
		w.t.Errorf("the end of the service's log: %v", err)
	}
	said("hello\ngoodbye\nhello\n")
	l := <-logs
	if strings.HasSuffix(l.out, "goodbye") != (l.err == nil) {
		w.t.Errorf("the log that was followed ended silently: %q, %v", l.out, l.err)
	}
	if err := w.Start(w.t.Context(), leader); err != nil {
		w.t.Fatal(err)
	}
	w.nodeIs(at, leader, "Ready", 20*time.Second)
}

// followInto runs shoal with its output in a file.
func (w *world) followInto(file string, n int, args ...string) <-chan error {
	w.t.Helper()
	f, err := os.Create(file)
	if err != nil {
		w.t.Fatal(err)
	}
	cmd := exec.CommandContext(w.t.Context(), filepath.Join(w.Root, "bin", "shoal"), append([]string{"-H", "unix://" + w.Host(n).Socket}, args...)...)
	cmd.Stdout = f
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		ended <- cmd.Wait()
		f.Close()
	}()
	return ended
}

func anywhereNodeLoss(w *world) {
	if err := w.Kill(w.t.Context(), 4); err != nil {
		w.t.Fatal(err)
	}
	w.nodeIs(1, 4, "Down", downWithin+slack)
	w.refused(1, []string{"node node4 is not available"}, "--node", "node4", "ps")
	if out := w.shoal(1, "ps", "--swarm"); strings.Contains(out, "node4") {
		w.t.Errorf("ps --swarm:\n%s", out)
	}
}
