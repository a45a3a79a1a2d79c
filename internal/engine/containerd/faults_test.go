package containerd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"golang.org/x/sys/unix"

	"shoal.dev/shoal/internal/engine"
)

func (l *lab) state(t *testing.T, id string) container.State {
	t.Helper()
	i, err := l.engine.Inspect(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return *i.State
}

// A container that forks endlessly stays within its limit, and goes when it is told to.
func TestForkBomb(t *testing.T) {
	l := real(t)
	l.leaksNothing(t)
	const limit = 24
	pids := int64(limit)
	id := l.made(t, engine.Spec{Config: &container.Config{Cmd: []string{"sh", "-c", "bomb() { bomb | bomb & while :; do sleep 100 & done; }; while :; do bomb; done & while :; do sleep 1; done"}},
		HostConfig: &container.HostConfig{Resources: container.Resources{PidsLimit: &pids}}})
	if err := l.engine.Start(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if !poll(time.Minute, func() bool { return strings.Contains(l.log(t, id), "can't fork") }) {
		t.Fatalf("it has not come to its limit: %.300s", l.log(t, id))
	}
	cgroup := filepath.Join("/sys/fs/cgroup/pids", cgroupParent(l.dir), id)
	if l.engine.host.cgroup2 {
		cgroup = filepath.Join("/sys/fs/cgroup", cgroupParent(l.dir), id)
	}
	if b, err := os.ReadFile(filepath.Join(cgroup, "cgroup.procs")); err != nil || strings.Count(string(b), "\n") > limit {
		t.Errorf("%d processes, %v; the limit is %d", strings.Count(string(b), "\n"), err, limit)
	}
	// Others are not held up.
	if code, out := l.output(t, engine.Spec{Config: &container.Config{Cmd: []string{"sh", "-c", "echo fine"}}}); code != 0 || out != "fine\n" {
		t.Errorf("another container ended with %d: %s", code, out)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := l.engine.Kill(ctx, id, ""); err != nil {
		t.Error(err)
	}
	if s := l.state(t, id); s.Running || s.ExitCode != 137 {
		t.Errorf("state %+v", s)
	}
}

// The death of a shim is the death of its container, which is told as such and can run again.
func TestKilledShim(t *testing.T) {
	l := real(t)
	l.leaksNothing(t)
	id := l.made(t, engine.Spec{Config: &container.Config{Cmd: []string{"sleep", "1000"}}, HostConfig: &container.HostConfig{NetworkMode: "bridge", IpcMode: "shareable"}})
	for range 2 {
		if err := l.engine.Start(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		own := l.state(t, id).Pid
		shims := 0
		for _, pid := range l.processes(id) {
			if pid != own {
				shims++
				if err := unix.Kill(pid, unix.SIGKILL); err != nil {
					t.Fatal(err)
				}
			}
		}
		if shims != 1 {
			t.Fatalf("%d shims", shims)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		ch, err := l.engine.Wait(ctx, id, container.WaitConditionNotRunning)
		if err != nil {
			t.Fatal(err)
		}
		if r := <-ch; r.Err != nil {
			t.Fatal(r.Err)
		}
		if s := l.state(t, id); s.Running || s.ExitCode != 137 {
			t.Errorf("state %+v", s)
		}
		if !poll(10*time.Second, func() bool { return errors.Is(unix.Kill(own, 0), unix.ESRCH) }) {
			t.Error("the container's process lives")
		}
	}
}

// A runtime that is killed while it makes a container leaves an error and nothing else.
func TestKilledRuntime(t *testing.T) {
	l := real(t)
	for name, script := range map[string]string{
		"at once": "kill -9 $$",
		// As soon as it has written something down.
		"half way": `runc "$@" & until ls %s/st/runc/*/* >/dev/null 2>&1; do :; done; kill -9 $! $$`,
	} {
		t.Run(name, func(t *testing.T) {
			l.leaksNothing(t)
			if strings.Contains(script, "%s") {
				script = fmt.Sprintf(script, l.dir)
			}
			path := filepath.Join(t.TempDir(), "runc")
			mark := filepath.Join(filepath.Dir(path), "killed")
			text := "#!/bin/sh\ncase \" $* \" in *\" create \"*) [ -e " + mark + " ] || { touch " + mark + "; " + script + "; };; esac\nexec runc \"$@\"\n"
			if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
				t.Fatal(err)
			}
			l.engine.cfg.Runtime = path
			id := l.made(t, engine.Spec{Config: &container.Config{Cmd: []string{"true"}}, HostConfig: &container.HostConfig{NetworkMode: "bridge"}})
			l.engine.cfg.Runtime = "runc"
			err := l.engine.Start(t.Context(), id)
			if err == nil || !strings.Contains(err.Error(), "runc did not terminate successfully: exit status 137") {
				t.Errorf("start: %v; want who was killed", err)
			}
			if s := l.state(t, id); s.Running || s.Error == "" || s.ExitCode != 128 {
				t.Errorf("state %+v", s)
			}
			// The next start is not hindered by what the first left.
			if err := l.engine.Start(t.Context(), id); err != nil {
				t.Errorf("the second start: %v", err)
			}
			ch, err := l.engine.Wait(t.Context(), id, container.WaitConditionNotRunning)
			if err != nil {
				t.Fatal(err)
			}
			if r := <-ch; r.ExitCode != 0 {
				t.Errorf("exit code %d", r.ExitCode)
			}
		})
	}
}

// A container that writes more than any disk takes is bounded in what it keeps, and held up by nobody but itself.
func TestLogFlood(t *testing.T) {
	l := real(t)
	for _, mode := range []string{"blocking", "non-blocking"} {
		t.Run(mode, func(t *testing.T) {
			l.leaksNothing(t)
			h := logs("local", "max-size=1m", "max-file=3", "mode="+mode)
			id := l.made(t, engine.Spec{Config: &container.Config{Cmd: []string{"busybox", "yes", "and again"}}, HostConfig: &h})
			if err := l.engine.Start(t.Context(), id); err != nil {
				t.Fatal(err)
			}
			dir := filepath.Join(l.dir, "root", "containers", id)
			turns, last := 0, int64(0)
			if !poll(time.Minute, func() bool {
				found, _ := filepath.Glob(dir + "/container.log*")
				var sum int64
				for _, f := range found {
					if st, err := os.Stat(f); err == nil {
						sum += st.Size()
					}
				}
				// One file that is written, one that is compressed and the form it gets, one more, and a batch.
				if sum > 4<<20+256<<10 {
					t.Errorf("%q have %d bytes", found, sum)
				}
				if st, err := os.Stat(dir + "/container.log"); err == nil {
					if st.Size() < last {
						turns++
					}
					last = st.Size()
				}
				return turns >= 5
			}) {
				t.Errorf("the log was turned over %d times", turns)
			}
			// How many lines are read while whole files of them go is nobody's to say; but reading ends.
			err := l.engine.Logs(t.Context(), id, engine.LogOptions{Stdout: true, Tail: 3}, func(engine.LogLine) error { return nil })
			if err != nil {
				t.Error(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			if err := l.engine.Kill(ctx, id, ""); err != nil {
				t.Error(err)
			}
		})
	}
}
