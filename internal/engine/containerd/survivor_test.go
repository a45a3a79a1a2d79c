package containerd

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"
	"golang.org/x/sys/unix"

	"shoal.dev/shoal/internal/engine"
)

// report is what a second daemon tells of what it found.
type report struct {
	Name    string
	Status  string
	Code    int
	At      time.Time
	Error   string
	OOM     bool
	Lines   []string
	Waited  bool // the daemon saw it run and then end
	IP      string
	Removed string // why it could not be removed
}

// survivor is the other side of TestSurvivesKill: a daemon in a process of its own, since that is what is killed.
func survivor(mode string) {
	ctx, cancel := context.WithCancel(context.Background())
	RedirectLogs(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})))
	e := must(Open(ctx, testConfig(os.Getenv("SHOAL_ENGINE_TEST_DIR"))))
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	if mode == "first" {
		must(e.Load(ctx, dockerArchive("busybox:test", must(busybox("survivor")))))
		run := func(name, net string, steps ...string) {
			id, _, err := e.Create(ctx, engine.Spec{Name: name, Config: &container.Config{Image: "busybox:test", Cmd: script(steps...)},
				HostConfig: &container.HostConfig{NetworkMode: container.NetworkMode(net)}})
			must(id, err)
			must(id, e.Start(ctx, id))
		}
		run("meanwhile", "none", "print one", "sleep 700ms", "warn two", "sleep 300ms", "exit 7")
		run("later", "bridge", "print a", "sleep 4s", "print b", "exit 8")
		run("gone", "none", "sleep")
		secret := must(func() (string, error) {
			id, _, err := e.Create(ctx, engine.Spec{Name: "secret", Config: &container.Config{Image: "busybox:test", Cmd: []string{"sh", "-c", "sleep 4; cat /run/secrets/pass"}},
				HostConfig: &container.HostConfig{NetworkMode: "none"}, Files: []engine.File{{Target: "/run/secrets/pass", Mode: 0o400, Data: []byte("hunter2\n")}}})
			return id, err
		}())
		must(secret, e.Start(ctx, secret))
		i := must(e.Inspect(ctx, "gone"))
		fmt.Println("READY", i.State.Pid)
		<-ctx.Done()
	}
	var all []report
	for _, name := range []string{"meanwhile", "later", "gone", "secret"} {
		i := must(e.Inspect(ctx, name))
		r := report{Name: name, Waited: i.State.Running}
		if n := i.NetworkSettings.Networks["bridge"]; n != nil {
			r.IP = n.IPAddress.String()
		}
		must(0, (<-must(e.Wait(ctx, name, container.WaitConditionNotRunning))).Err)
		i = must(e.Inspect(ctx, name))
		r.Status, r.Code, r.Error, r.OOM = string(i.State.Status), i.State.ExitCode, i.State.Error, i.State.OOMKilled
		r.At = must(time.Parse(time.RFC3339Nano, i.State.FinishedAt))
		must(0, e.Logs(ctx, name, engine.LogOptions{Stdout: true, Stderr: true, Tail: -1}, func(l engine.LogLine) error {
			r.Lines = append(r.Lines, l.Stream+" "+strings.TrimSpace(string(l.Line)))
			return nil
		}))
		if err := e.Remove(ctx, name, false); err != nil {
			r.Removed = err.Error()
		}
		all = append(all, r)
	}
	cancel()
	must(0, <-done)
	fmt.Println("REPORT " + string(must(json.Marshal(all))))
}

func TestSurvivesKill(t *testing.T) {
	l := real(t)
	dir, err := os.MkdirTemp("/tmp", "shoalt-k-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cleanUp(dir) })
	if err := os.Link(filepath.Join(l.dir, "shim"), filepath.Join(dir, "shim")); err != nil {
		t.Fatal(err)
	}
	daemon := func(mode string) (*exec.Cmd, *bufio.Scanner) {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "SHOAL_ENGINE_TEST="+mode, "SHOAL_ENGINE_TEST_DIR="+dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		return cmd, bufio.NewScanner(out)
	}
	line := func(s *bufio.Scanner, prefix string) string {
		t.Helper()
		for s.Scan() {
			if rest, ok := strings.CutPrefix(s.Text(), prefix+" "); ok {
				return rest
			}
		}
		t.Fatalf("the daemon ended without %s", prefix)
		return ""
	}
	first, out := daemon("first")
	var pid int
	if _, err := fmt.Sscan(line(out, "READY"), &pid); err != nil {
		t.Fatal(err)
	}
	_ = first.Process.Kill()
	_ = first.Wait()
	killed := time.Now()
	if err := unix.Kill(pid, unix.SIGKILL); err != nil { // a program that ends by itself, badly
		t.Fatal(err)
	}
	// The first container ends while there is no daemon: its exit record appears.
	exits := filepath.Join(dir, "root", "containers", "*", "exit.json")
	if !poll(30*time.Second, func() bool { found, _ := filepath.Glob(exits); return len(found) == 2 }) {
		t.Fatal("no exit record appeared")
	}
	_, out = daemon("second")
	var got []report
	if err := json.Unmarshal([]byte(line(out, "REPORT")), &got); err != nil {
		t.Fatal(err)
	}
	for i := range got {
		if got[i].At.Before(killed.Add(-5*time.Second)) || got[i].At.After(time.Now()) {
			t.Errorf("%s ended at %s", got[i].Name, got[i].At)
		}
		if got[i].Name != "later" && got[i].Name != "secret" && got[i].At.After(killed.Add(3*time.Second)) {
			t.Errorf("%s is said to have ended at %s, which is when it was looked for", got[i].Name, got[i].At)
		}
		got[i].At = time.Time{}
	}
	want := []report{
		{Name: "meanwhile", Status: "exited", Code: 7, Lines: []string{"stdout one", "stderr two"}},
		{Name: "later", Status: "exited", Code: 8, Waited: true, IP: "172.18.0.2", Lines: []string{"stdout a", "stdout b"}},
		{Name: "gone", Status: "exited", Code: 137},
		{Name: "secret", Status: "exited", Lines: []string{"stdout hunter2"}, Waited: true},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("second daemon (-want +got):\n%s", d)
	}
}
