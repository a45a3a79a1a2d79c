package lab_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"shoal.dev/shoal/lab"
)

// dummyEnv makes the test binary stand for shoald where only the lab itself is tested.
const dummyEnv = "SHOAL_LAB_DUMMY"

func TestMain(m *testing.M) {
	if os.Getenv(dummyEnv) != "" {
		if err := dummy(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// dummy does what a shoald does as far as the lab can tell: it writes its process id, answers /_ping, listens on a
// port, and has a shim and a container, which has a cgroup and a network namespace of its own and a mount. A file in
// its data tells how often it started.
func dummy() error {
	data, err := os.ReadFile(os.Args[2])
	if err != nil {
		return err
	}
	var c struct {
		Hosts   []string `json:"hosts"`
		Data    string   `json:"data-root"`
		Run     string   `json:"exec-root"`
		PIDFile string   `json:"pidfile"`
		Cgroup  string   `json:"cgroup-parent"`
	}
	if err := json.Unmarshal(data, &c); err != nil {
		return err
	}
	starts, err := os.OpenFile(filepath.Join(c.Data, "starts"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	fmt.Fprintln(starts, "start")
	mark := filepath.Join(c.Run, "container")
	if _, err := os.Stat(mark); os.IsNotExist(err) {
		if err := dummyContainer(c.Run, c.Cgroup); err != nil {
			return err
		}
	}
	if err := os.WriteFile(c.PIDFile, fmt.Appendln(nil, os.Getpid()), 0o644); err != nil {
		return err
	}
	tcp, err := net.Listen("tcp", ":9000")
	if err != nil {
		return err
	}
	go func() {
		for {
			if c, err := tcp.Accept(); err == nil {
				fmt.Fprintln(c, "connected") // and never closed
			}
		}
	}()
	socket := strings.TrimPrefix(c.Hosts[0], "unix://")
	if err := os.RemoveAll(socket); err != nil {
		return err
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	return http.Serve(l, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
}

// dummyContainer starts what outlives a daemon, and leaves the container's process id in a file.
func dummyContainer(dir, cgroup string) error {
	mnt := filepath.Join(dir, "mnt")
	if err := os.MkdirAll(mnt, 0o755); err != nil {
		return err
	}
	if err := syscall.Mount("none", mnt, "tmpfs", 0, ""); err != nil {
		return err
	}
	shim := exec.Command("sleep", "1000")
	shim.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := shim.Start(); err != nil {
		return err
	}
	container := exec.Command("sleep", "1000")
	container.Env = []string{"PATH=/bin"} // a container has an environment of its own
	container.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: syscall.CLONE_NEWNET}
	if err := container.Start(); err != nil {
		return err
	}
	trees, err := filepath.Glob("/sys/fs/cgroup/*/cgroup.procs")
	if err != nil {
		return err
	}
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.procs"); err == nil {
		trees = []string{"/sys/fs/cgroup/cgroup.procs"} // version 2 only
	}
	for _, t := range trees {
		if strings.Contains(t, "/cpuset/") {
			continue // takes no process before it has processors
		}
		dir := filepath.Join(filepath.Dir(t), cgroup, "c1")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), fmt.Append(nil, container.Process.Pid), 0o644); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, "container"), fmt.Append(nil, container.Process.Pid), 0o644)
}

// need says that a test wants root, time and, for the lab l, everything built.
func need(t *testing.T, l *lab.Lab) {
	t.Helper()
	reason := ""
	if os.Geteuid() != 0 {
		reason = "the lab needs root"
	} else if testing.Short() {
		reason = "a lab takes its time, and -short was asked for"
	} else if l != nil {
		if err := l.CheckBuilt(); err != nil {
			reason = err.Error()
		}
	}
	if reason != "" {
		unable(t, reason)
	}
}

// unable skips a test that cannot run here, with the reason, or fails it where everything must run.
func unable(t *testing.T, reason string) {
	t.Helper()
	if os.Getenv("SHOAL_REQUIRE_LAB") != "" {
		t.Fatalf("SHOAL_REQUIRE_LAB is set, and %s", reason)
	}
	t.Skip(reason)
}

// eventually waits for a condition.
func eventually(t *testing.T, within time.Duration, what string, cond func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	if err := lab.Wait(ctx, what, cond); err != nil {
		t.Fatal(err)
	}
}
