package containerd

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"

	"shoal.dev/shoal/internal/engine"
)

// awaitHealth waits until a container's health is want.
func (l *lab) awaitHealth(t *testing.T, id string, want container.HealthStatus) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for got := container.HealthStatus(""); got != want; {
		var err error
		if got, err = l.engine.WaitHealth(ctx, id, got); err != nil {
			i, _ := l.engine.Inspect(t.Context(), id)
			t.Fatalf("never %s: %v; %+v", want, err, i.State.Health)
		}
	}
}

// commands are the command lines of the processes of a container.
func commands(t *testing.T, id string) string {
	t.Helper()
	var all []string
	procs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range procs {
		if cg, _ := os.ReadFile(p + "/cgroup"); strings.Contains(string(cg), id) {
			b, _ := os.ReadFile(p + "/cmdline")
			all = append(all, strings.ReplaceAll(string(b), "\x00", " "))
		}
	}
	return strings.Join(all, "\n")
}

func TestHealthFollowsTheContainer(t *testing.T) {
	l := real(t)
	id := l.up(t, engine.Spec{Config: &container.Config{User: "fish", WorkingDir: "/tmp", Env: []string{"A=b"},
		Healthcheck: &container.HealthConfig{Test: []string{"CMD-SHELL", "test -e ok && echo $A $(id -un) $(pwd)"}, Interval: 100 * time.Millisecond, Retries: 1}}},
		"while :; do sleep 1; done")
	l.awaitHealth(t, id, container.Unhealthy)
	sh := func(cmd string) {
		t.Helper()
		if out, code := l.run(t, id, container.ExecCreateRequest{User: "root", Cmd: []string{"sh", "-c", cmd}}, engine.ExecStart{}, nil); code != 0 {
			t.Fatalf("%s: %s", cmd, out)
		}
	}
	sh("touch /tmp/ok")
	l.awaitHealth(t, id, container.Healthy)
	i, err := l.engine.Inspect(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	// As the container's user, in its folder, with its environment.
	if r := i.State.Health.Log[len(i.State.Health.Log)-1]; r.Output != "b fish /tmp\n" {
		t.Errorf("output %q", r.Output)
	}
	sh("rm /tmp/ok")
	l.awaitHealth(t, id, container.Unhealthy)
	if n := len(l.engine.execs.Of(id)); n > 1 {
		t.Errorf("%d probes are kept", n)
	}
}

// A probe that hangs is killed with all that it started, and neither the engine nor its container waits for it.
func TestHealthProbeHangs(t *testing.T) {
	l := real(t)
	id := l.up(t, engine.Spec{Config: &container.Config{Healthcheck: &container.HealthConfig{
		Test:     []string{"CMD-SHELL", "trap '' TERM HUP; sleep 4711 & (sleep 4712; sleep 4713); echo"},
		Interval: 100 * time.Millisecond, Timeout: 500 * time.Millisecond, Retries: 2}}}, "sleep 4700")
	if !poll(10*time.Second, func() bool { return strings.Contains(commands(t, id), "4712") }) {
		t.Fatal("the probe never ran")
	}
	l.awaitHealth(t, id, container.Unhealthy)
	l.engine.probes.Stop(id)
	if !poll(10*time.Second, func() bool { return !strings.Contains(commands(t, id), "471") }) {
		t.Errorf("the probes left processes:\n%s", commands(t, id))
	}
	if !strings.Contains(commands(t, id), "sleep 4700") {
		t.Error("the container was killed with its probe")
	}
	if !poll(10*time.Second, func() bool { left, _ := os.ReadDir(l.engine.cfg.probesDir()); return len(left) == 0 }) {
		t.Error("a mark of the probe is left")
	}
	if left, _ := os.ReadDir(filepath.Join(l.engine.cfg.State, "e")); len(left) != 0 {
		t.Errorf("%d folders for streams are left", len(left))
	}
}

// healthSurvivor is a daemon with a container whose probe takes long once it was healthy.
func healthSurvivor(mode string) {
	ctx := context.Background()
	RedirectLogs(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})))
	e := must(Open(ctx, testConfig(os.Getenv("SHOAL_ENGINE_TEST_DIR"))))
	go func() { must(0, e.Run(ctx)) }()
	if mode == "health-first" {
		must(e.Load(ctx, dockerArchive("busybox:test", must(busybox("survivor")))))
		id, _, err := e.Create(ctx, engine.Spec{Name: "probed", HostConfig: &container.HostConfig{NetworkMode: "none"}, Config: &container.Config{
			Image: "busybox:test", Cmd: script("sleep"), Healthcheck: &container.HealthConfig{
				Test: []string{"CMD-SHELL", "test ! -e /tmp/slow && exit; rm /tmp/slow; sleep 4711"}, Interval: 100 * time.Millisecond, Timeout: time.Minute}}})
		must(id, err)
		must(id, e.Start(ctx, id))
		for s := container.HealthStatus(""); s != container.Healthy; {
			s = must(e.WaitHealth(ctx, "probed", s))
		}
		ex := must(e.CreateExec(ctx, "probed", container.ExecCreateRequest{Cmd: []string{"touch", "/tmp/slow"}}))
		must(0, e.StartExec(ctx, ex, engine.ExecStart{Detach: true}))
	}
	i := must(e.Inspect(ctx, "probed"))
	fmt.Println("STATE", i.ID, i.State.Health.Status, i.State.Health.FailingStreak)
	last := i.State.Health.Log[len(i.State.Health.Log)-1].Start
	if poll(20*time.Second, func() bool {
		log := must(e.Inspect(ctx, "probed")).State.Health.Log
		return log[len(log)-1].Start.After(last)
	}) {
		fmt.Println("PROBED")
	}
	<-ctx.Done()
}

// A daemon that is killed while it probes leaves no process to the next one, which goes on probing. The health stays
// what it was.
func TestHealthSurvivesKill(t *testing.T) {
	l := real(t)
	dir, err := os.MkdirTemp("/tmp", "shoalt-h-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cleanUp(dir) })
	if err := os.Link(filepath.Join(l.dir, "shim"), filepath.Join(dir, "shim")); err != nil {
		t.Fatal(err)
	}
	daemon := func(mode string) (kill func(), line func(prefix string) string) {
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
		kill = func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }
		t.Cleanup(kill)
		s := bufio.NewScanner(out)
		return kill, func(prefix string) string {
			said := ""
			for s.Scan() {
				said = s.Text()
				if text, ok := strings.CutPrefix(s.Text(), prefix); ok {
					return strings.TrimSpace(text)
				}
			}
			t.Fatalf("%s ended without %s: %s", mode, prefix, said)
			return ""
		}
	}
	kill, line := daemon("health-first")
	id, _, _ := strings.Cut(line("STATE"), " ")
	if !poll(20*time.Second, func() bool { return strings.Contains(commands(t, id), "sleep 4711") }) {
		t.Fatal("the slow probe never ran")
	}
	kill()
	_, line = daemon("health-second")
	if got := line("STATE"); got != id+" healthy 0" {
		t.Errorf("the second daemon found %q", got)
	}
	line("PROBED")
	if !poll(20*time.Second, func() bool { return !strings.Contains(commands(t, id), "sleep 4711") }) {
		t.Errorf("the first daemon's probe runs on:\n%s", commands(t, id))
	}
}
