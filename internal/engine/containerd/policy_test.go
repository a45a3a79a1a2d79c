package containerd

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
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

// policed are containers by name, with their restart policies.
func policed() map[string]string {
	return map[string]string{"always": "always", "halted-always": "always", "unless": "unless-stopped",
		"halted-unless": "unless-stopped", "failing": "on-failure", "plain": "no"}
}

// policySurvivor is a daemon with containers of every restart policy, two of which a user stopped.
func policySurvivor(mode string) {
	ctx := context.Background()
	e := must(Open(ctx, testConfig(os.Getenv("SHOAL_ENGINE_TEST_DIR"))))
	go func() { must(0, e.Run(ctx)) }()
	if mode == "policy-first" {
		must(e.Load(ctx, dockerArchive("busybox:test", must(busybox("survivor")))))
		for name, policy := range policed() {
			must(0, func() error {
				id, _, err := e.Create(ctx, engine.Spec{Name: name, Config: &container.Config{Image: "busybox:test", Cmd: script("sleep")},
					HostConfig: &container.HostConfig{NetworkMode: "none", RestartPolicy: container.RestartPolicy{Name: container.RestartPolicyMode(policy)}}})
				must(id, err)
				if err := e.Start(ctx, id); err != nil || !strings.HasPrefix(name, "halted") {
					return err
				}
				grace := time.Duration(0)
				return e.Stop(ctx, id, engine.StopOptions{Timeout: &grace})
			}())
		}
	}
	state := map[string]string{}
	is := func() bool {
		for name := range policed() {
			i := must(e.Inspect(ctx, name))
			state[name] = string(i.State.Status)
			if i.State.Running {
				state[name] = fmt.Sprint("running ", i.State.Pid)
			}
		}
		n := 0
		for _, s := range state {
			if strings.HasPrefix(s, "running") {
				n++
			}
		}
		return n >= 4
	}
	poll(20*time.Second, is)
	fmt.Println("STATE " + string(must(json.Marshal(state))))
	<-ctx.Done()
}

// TestPolicies kills the daemon, lets containers die meanwhile, and then "reboots": nothing runs and nothing is left
// of what a reboot takes.
func TestPolicies(t *testing.T) {
	l := real(t)
	dir, err := os.MkdirTemp("/tmp", "shoalt-p-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cleanUp(dir) })
	if err := os.Link(filepath.Join(l.dir, "shim"), filepath.Join(dir, "shim")); err != nil {
		t.Fatal(err)
	}
	daemon := func(mode string) (kill func(), pids map[string]int, state map[string]string) {
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
		for s := bufio.NewScanner(out); s.Scan(); {
			text, ok := strings.CutPrefix(s.Text(), "STATE ")
			if !ok {
				continue
			}
			if err := json.Unmarshal([]byte(text), &state); err != nil {
				t.Fatal(err)
			}
			pids = map[string]int{}
			for name, s := range state {
				if _, err := fmt.Sscanf(s, "running %d", new(int)); err == nil {
					var pid int
					_, _ = fmt.Sscanf(s, "running %d", &pid)
					pids[name], state[name] = pid, "running"
				}
			}
			return kill, pids, state
		}
		t.Fatalf("%s ended without a state", mode)
		return nil, nil, nil
	}
	kill, pids, state := daemon("policy-first")
	want := map[string]string{"always": "running", "halted-always": "exited", "unless": "running", "halted-unless": "exited", "failing": "running", "plain": "running"}
	if d := cmp.Diff(want, state); d != "" {
		t.Errorf("at first (-want +got):\n%s", d)
	}
	kill()
	for _, pid := range pids {
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Error(err)
		}
	}
	kill, _, state = daemon("policy-second")
	want = map[string]string{"always": "running", "halted-always": "running", "unless": "running", "halted-unless": "exited", "failing": "running", "plain": "exited"}
	if d := cmp.Diff(want, state); d != "" {
		t.Errorf("after the daemon was away (-want +got):\n%s", d)
	}
	kill()
	endAll(dir)
	if err := os.RemoveAll(filepath.Join(dir, "st")); err != nil {
		t.Fatal(err)
	}
	_, _, state = daemon("policy-third")
	if d := cmp.Diff(want, state); d != "" {
		t.Errorf("after a reboot (-want +got):\n%s", d)
	}
}
