package lab_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"shoal.dev/shoal/lab/images"
)

// TestEngine is one host without a swarm: images, containers, logs and exit codes, and what of them outlives a daemon.
func TestEngine(t *testing.T) {
	w := newWorld(t, 1)
	steps := []struct {
		name string
		do   func(*world)
	}{
		{"about itself", engineAbout},
		{"images", engineImages},
		{"load", engineLoad},
		{"containers", engineContainers},
		{"logs", engineLogs},
		{"death of the daemon", engineDaemonDeath},
	}
	for _, s := range steps {
		t.Run(s.name, func(t *testing.T) { s.do(w.in(t)) })
	}
}

func engineAbout(w *world) {
	status, body := w.api(1, http.MethodGet, "/_ping", "")
	if status != http.StatusOK || body != "OK" {
		w.t.Errorf("_ping: %d %q", status, body)
	}
	if got := w.shoal(1, "version", "--format", "{{.Server.APIVersion}} {{.Server.Os}}"); !strings.HasSuffix(got, " linux") {
		w.t.Errorf("version: %q", got)
	}
	if got := w.shoal(1, "info", "--format", "{{.Name}} {{.ContainersRunning}} {{.DockerRootDir}}"); got != "node1 0 "+w.Host(1).Data {
		w.t.Errorf("info: %q", got)
	}
	fi, err := os.Stat(w.Host(1).Socket)
	if err != nil {
		w.t.Fatal(err)
	}
	if p := fi.Mode().Perm(); p != 0o660 {
		w.t.Errorf("the socket has mode %o", p)
	}
}

func engineImages(w *world) {
	status, body := w.api(1, http.MethodPost, "/v1.51/images/create?fromImage=hello&tag=1", "")
	if status != http.StatusOK {
		w.t.Fatalf("%d %s", status, body)
	}
	var said []string
	for d := json.NewDecoder(strings.NewReader(body)); d.More(); {
		var m struct{ Status, ID string }
		if err := d.Decode(&m); err != nil {
			w.t.Fatalf("%v in the progress:\n%s", err, body)
		}
		said = append(said, m.Status)
	}
	if len(said) == 0 || said[0] != "Pulling from library/hello" || !slices.Contains(said, "Pull complete") ||
		said[len(said)-1] != "Status: Downloaded newer image for hello:1" {
		w.t.Errorf("the progress is not Docker's: %q", said)
	}
	if out := w.shoal(1, "pull", "hello:1"); !strings.Contains(out, "Status: Image is up to date for hello:1") {
		w.t.Errorf("a second pull says\n%s", out)
	}
	if out := w.shoal(1, "pull", "-q", "198.18.0.251:5000/hello:2"); out != "198.18.0.251:5000/hello:2" {
		w.t.Errorf("pull -q printed %q", out)
	}
	digests := map[string]string{}
	all, err := images.Read(filepath.Join(w.Root, w.Images))
	if err != nil {
		w.t.Fatal(err)
	}
	for _, i := range all {
		d, err := i.Image.Digest()
		if err != nil {
			w.t.Fatal(err)
		}
		digests[i.Name] = d.String()
	}
	if got, want := w.shoal(1, "image", "inspect", "hello:1", "--format", "{{index .RepoDigests 0}}"), "hello@"+digests["hello:1"]; got != want {
		w.t.Errorf("the digest is %q, want %q", got, want)
	}
	w.refused(1, []string{"Error response from daemon:", "nosuch"}, "pull", "nosuch:1")
	w.refused(1, []string{"Error response from daemon:", "No such image: nosuch:1"}, "image", "inspect", "nosuch:1")
	if out := w.shoal(1, "rmi", "198.18.0.251:5000/hello:2"); !strings.Contains(out, "Untagged: 198.18.0.251:5000/hello:2") || !strings.Contains(out, "Deleted: sha256:") {
		w.t.Errorf("rmi printed\n%s", out)
	}
	if out := w.shoal(1, "image", "ls", "--format", "{{.Repository}}:{{.Tag}}"); out != "hello:1" {
		w.t.Errorf("images %q", out)
	}
}

func engineLoad(w *world) {
	var tar bytes.Buffer
	if err := images.Tar(&tar, filepath.Join(w.Root, w.Images, "busybox-latest")); err != nil {
		w.t.Fatal(err)
	}
	file := filepath.Join(w.t.TempDir(), "busybox.tar")
	if err := os.WriteFile(file, tar.Bytes(), 0o644); err != nil {
		w.t.Fatal(err)
	}
	if out := w.shoal(1, "load", "-i", file); !strings.Contains(out, "Loaded image: busybox:latest") {
		w.t.Errorf("load printed %q", out)
	}
	w.shoal(1, "run", "-d", "--name", "loaded", "busybox", "echo", "it runs")
	w.shoal(1, "wait", "loaded")
	if out := w.shoal(1, "logs", "loaded"); out != "it runs" {
		w.t.Errorf("the container said %q", out)
	}
	w.shoal(1, "rm", "loaded")
}

func engineContainers(w *world) {
	w.refused(1, []string{"No such container: nothing"}, "inspect", "--type", "container", "nothing")
	id := w.shoal(1, "create", "--name", "one", "--label", "a=b", "busybox", "sh", "-c", "trap 'exit 3' TERM; while :; do sleep 0.1; done")
	if len(id) != 64 {
		w.t.Fatalf("create printed %q", id)
	}
	w.refused(1, []string{"Error response from daemon: Conflict.", `The container name "/one" is already in use`}, "create", "--name", "one", "busybox")
	w.refused(1, []string{"is not running"}, "kill", "one")
	w.shoal(1, "start", "one")
	for filter, want := range map[string]string{"status=running": "one", "label=a=b": "one", "name=on": "one", "status=exited": "", "label=a=c": ""} {
		if got := w.shoal(1, "ps", "-a", "--filter", filter, "--format", "{{.Names}}"); got != want {
			w.t.Errorf("ps --filter %s: %q, want %q", filter, got, want)
		}
	}
	w.refused(1, []string{"Error response from daemon:", "is running"}, "rm", "one")
	w.shoal(1, "stop", "one")
	if got := w.shoal(1, "wait", id[:12]); got != "3" {
		w.t.Errorf("it ended with %q", got)
	}
	if got := w.shoal(1, "inspect", "one", "--format", "{{.State.Status}} {{.State.ExitCode}}"); got != "exited 3" {
		w.t.Errorf("its state is %q", got)
	}
	w.shoal(1, "start", "one")
	w.shoal(1, "kill", "-s", "KILL", "one")
	if got := w.shoal(1, "wait", "one"); got != "137" {
		w.t.Errorf("killed, it ended with %q", got)
	}
	w.shoal(1, "rm", "one")
	w.shoal(1, "run", "-d", "--name", "two", "busybox", "sleep", "1000")
	w.shoal(1, "rm", "-f", "two")
	if got := w.shoal(1, "ps", "-aq"); got != "" {
		w.t.Errorf("containers are left: %q", got)
	}
}

func engineLogs(w *world) {
	w.shoal(1, "run", "-d", "--name", "talk", "busybox", "sh", "-c", "for i in 1 2 3; do echo line $i; done; echo problem >&2; sleep 1.5; echo line 4; sleep 1000")
	w.until(20*time.Second, "it has said everything", func(context.Context) error {
		out, err := w.try(1, "logs", "talk")
		if err != nil {
			return err
		}
		if out != "line 1\nline 2\nline 3\nline 4" {
			return fmt.Errorf("it said %q", out)
		}
		return nil
	})
	if got := w.shoal(1, "logs", "--tail", "2", "talk"); got != "line 4" && got != "line 3\nline 4" { // the other line may be the error
		w.t.Errorf("the last two lines are %q", got)
	}
	var late string
	for line := range strings.Lines(w.shoal(1, "logs", "-t", "talk")) {
		at, text, _ := strings.Cut(strings.TrimSpace(line), " ")
		if _, err := time.Parse(time.RFC3339Nano, at); err != nil {
			w.t.Errorf("time stamp: %v", err)
		}
		if text == "line 4" {
			late = at
		}
	}
	if got := w.shoal(1, "logs", "--since", late, "talk"); got != "line 4" {
		w.t.Errorf("since %s it said %q", late, got)
	}
	if got := w.shoal(1, "logs", "--until", late, "--tail", "1", "talk"); strings.Contains(got, "line 4") && strings.Contains(got, "line 1") {
		w.t.Errorf("the last line until %s is %q", late, got)
	}
	// Following ends when the container does.
	followed := make(chan string, 1)
	go func() {
		out, err := w.Shoal(w.t.Context(), 1, "logs", "-f", "--tail", "1", "talk")
		followed <- fmt.Sprint(out, err)
	}()
	w.shoal(1, "kill", "talk")
	if got := <-followed; !strings.HasSuffix(got, "<nil>") {
		w.t.Errorf("following said %q", got)
	}
	w.shoal(1, "rm", "talk")
}

// engineDaemonDeath kills the daemon with a container that ends while it is away and one that goes on.
func engineDaemonDeath(w *world) {
	w.shoal(1, "run", "-d", "--name", "ends", "busybox", "sh", "-c", "echo before; while [ ! -e /tmp/end ]; do sleep 0.05; done; echo after; exit 7")
	w.shoal(1, "run", "-d", "--name", "goes-on", "busybox", "sh", "-c", "while :; do echo tick; sleep 0.1; done")
	inside := w.shoal(1, "inspect", "ends", "--format", "{{.State.Pid}}")
	if err := syscall.Kill(daemonPID(w.t, w.Lab, 1), syscall.SIGKILL); err != nil {
		w.t.Fatal(err)
	}
	w.until(10*time.Second, "the daemon is gone", func(context.Context) error {
		if _, err := w.DaemonPID(1); err == nil {
			return errors.New("it is there")
		}
		return nil
	})
	if err := os.WriteFile(filepath.Join("/proc", inside, "root", "tmp", "end"), nil, 0o644); err != nil {
		w.t.Fatal(err)
	}
	w.until(10*time.Second, "the container has ended", func(context.Context) error {
		if _, err := os.Stat(filepath.Join("/proc", inside, "exe")); err == nil {
			return errors.New("it runs")
		}
		return nil
	})
	if err := w.Start(w.t.Context(), 1); err != nil {
		w.t.Fatal(err)
	}
	w.until(10*time.Second, "the exit code is known", func(context.Context) error {
		got, err := w.try(1, "inspect", "ends", "--format", "{{.State.Status}} {{.State.ExitCode}}")
		if err == nil && got != "exited 7" {
			err = fmt.Errorf("it is %q", got)
		}
		return err
	})
	if got := w.shoal(1, "logs", "ends"); got != "before\nafter" {
		w.t.Errorf("its log is %q", got)
	}
	if got := w.shoal(1, "inspect", "goes-on", "--format", "{{.State.Status}}"); got != "running" {
		w.t.Errorf("the other one is %s", got)
	}
	lines := strings.Count(w.shoal(1, "logs", "goes-on"), "tick")
	w.until(10*time.Second, "the other one is still heard", func(context.Context) error {
		out, err := w.try(1, "logs", "goes-on")
		if err == nil && strings.Count(out, "tick") <= lines {
			err = errors.New("nothing new")
		}
		return err
	})
	w.shoal(1, "rm", "-f", "ends", "goes-on")
}
