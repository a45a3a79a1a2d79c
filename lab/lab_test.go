package lab_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"shoal.dev/shoal/lab"
	"shoal.dev/shoal/lab/images"
)

// dummyLab makes a lab of hosts whose daemon is this test binary, in a folder of its own.
func dummyLab(t *testing.T, root string, nodes int) *lab.Lab {
	t.Helper()
	need(t, nil)
	t.Setenv(dummyEnv, "1")
	l, err := lab.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	if l.Shoald, err = os.Executable(); err != nil {
		t.Fatal(err)
	}
	clone, err := lab.FindRoot()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(clone, "bin", "lab")
	if _, err := os.Stat(program); err != nil {
		unable(t, err.Error()+" (make build makes it)")
	}
	if err := os.Symlink(filepath.Join(clone, "bin"), filepath.Join(l.Root, "bin")); err != nil {
		t.Fatal(err)
	}
	l.Images = filepath.Join(root, "images")
	hello, err := images.Hello("1", "/bin/true") // any program will do: nobody runs it
	if err != nil {
		t.Fatal(err)
	}
	if err := images.Write(l.Images, hello); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Down(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if err := l.Up(t.Context(), lab.Options{Nodes: nodes}); err != nil {
		t.Fatal(err)
	}
	return l
}

// reach connects from the client to the port on which dummies listen and reads their greeting.
func reach(ctx context.Context, l *lab.Lab, n int) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	c, err := lab.Dial(ctx, lab.ClientNamespace, "tcp", l.Host(n).Addr+":9000")
	if err != nil {
		return nil, err
	}
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return nil, err
	}
	if _, err := bufio.NewReader(c).ReadString('\n'); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func mustReach(t *testing.T, l *lab.Lab, n int) {
	t.Helper()
	c, err := reach(t.Context(), l, n)
	if err != nil {
		t.Fatalf("host %d does not answer: %v", n, err)
	}
	c.Close()
}

// containerPID is the process id of the dummy's container on a host.
func containerPID(t *testing.T, h lab.Host) int {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(h.Run, "container"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(string(data))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

func running(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(stat), ") Z ")
}

func starts(t *testing.T, h lab.Host) int {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(h.Data, "starts"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(data), "\n")
}

func interfaces(t *testing.T) []string {
	t.Helper()
	all, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, i := range all {
		names = append(names, i.Name)
	}
	return names
}

// labNamespaces lists what a lab has made.
func labNamespaces(t *testing.T) []string {
	t.Helper()
	names, err := filepath.Glob("/run/netns/shoal-*")
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestLab(t *testing.T) {
	before := interfaces(t)
	l := dummyLab(t, t.TempDir(), 2)
	ctx := t.Context()
	one, two := l.Host(1), l.Host(2)

	t.Run("names", func(t *testing.T) {
		if d := cmp.Diff(before, interfaces(t)); d != "" {
			t.Errorf("the machine's own interfaces changed:\n%s", d)
		}
		for _, h := range []lab.Host{one, two} {
			out, err := l.Command(ctx, h.N, "sh", "-c", "hostname; ip -4 -o addr show eth0; ip route; cat /proc/sys/net/ipv4/ip_forward").CombinedOutput()
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			for _, w := range []string{h.Name + "\n", h.Addr + "/24"} {
				if !strings.Contains(string(out), w) {
					t.Errorf("%q is not in\n%s", w, out)
				}
			}
			if strings.Contains(string(out), "default") {
				t.Errorf("a route to the outside:\n%s", out)
			}
			if !strings.HasSuffix(string(out), "\n0\n") {
				t.Errorf("it forwards before its daemon says so:\n%s", out)
			}
			pid, err := l.DaemonPID(h.N)
			if err != nil {
				t.Fatal(err)
			}
			if !running(pid) {
				t.Errorf("the daemon of %s is not process %d", h.Name, pid)
			}
			mustReach(t, l, h.N)
		}
	})

	t.Run("registry", func(t *testing.T) {
		all, err := images.Read(l.Images)
		if err != nil {
			t.Fatal(err)
		}
		want, err := all[0].Image.Digest()
		if err != nil {
			t.Fatal(err)
		}
		c := lab.HTTPClient(one.Namespace, 5*time.Second)
		for _, repo := range []string{"hello", "library/hello"} {
			resp, err := c.Get("http://" + lab.Registry + "/v2/" + repo + "/manifests/1")
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if got := resp.Header.Get("Docker-Content-Digest"); resp.StatusCode != http.StatusOK || got != want.String() {
				t.Errorf("%s: %s, digest %q, want %s", repo, resp.Status, got, want)
			}
		}
	})

	t.Run("cut and heal", func(t *testing.T) {
		pid := containerPID(t, two)
		if err := l.Cut(ctx, 2); err != nil {
			t.Fatal(err)
		}
		if c, err := reach(ctx, l, 2); err == nil {
			c.Close()
			t.Error("it is reached over a cut link")
		}
		if !running(pid) {
			t.Error("the cut has ended the container")
		}
		if s := state(t, l, 2); s != "cut" {
			t.Errorf("state %q", s)
		}
		if err := l.Heal(ctx, 2); err != nil {
			t.Fatal(err)
		}
		// The neighbours' addresses, asked for in vain while the link was cut, are asked for again after a second.
		eventually(t, 20*time.Second, "it is reached again", func(ctx context.Context) error {
			c, err := reach(ctx, l, 2)
			if err == nil {
				c.Close()
			}
			return err
		})
	})

	t.Run("only the daemon dies", func(t *testing.T) {
		pid, container := daemonPID(t, l, 2), containerPID(t, two)
		if err := l.Start(ctx, 2); err == nil {
			t.Error("a host that runs can be started")
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, 5*time.Second, "the daemon is gone", func(context.Context) error {
			if running(pid) {
				return errors.New("it runs")
			}
			return nil
		})
		if s := state(t, l, 2); s != "daemon dead" {
			t.Errorf("state %q", s)
		}
		if err := l.Start(ctx, 2); err != nil {
			t.Fatal(err)
		}
		if !running(container) || containerPID(t, two) != container {
			t.Error("the container has not outlived its daemon")
		}
	})

	t.Run("power", func(t *testing.T) {
		pid, container, before := daemonPID(t, l, 2), containerPID(t, two), starts(t, two)
		conn, err := reach(ctx, l, 2)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := l.Kill(ctx, 2); err != nil {
			t.Fatal(err)
		}
		if running(pid) || running(container) {
			t.Error("processes have outlived the loss of power")
		}
		// A peer hears nothing: neither an end nor a reset, only silence.
		if err := conn.SetReadDeadline(time.Now().Add(700 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("the peer heard of the loss: %v", err)
		}
		if mounts, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(mounts), two.Run) {
			t.Errorf("mounts are left (%v)", err)
		}
		if left, _ := filepath.Glob("/sys/fs/cgroup/*/shoal-lab/node2"); len(left) > 0 {
			t.Errorf("cgroups are left: %q", left)
		}
		if s := state(t, l, 2); s != "off" {
			t.Errorf("state %q", s)
		}
		for what, do := range map[string]func(context.Context, int) error{"killed": l.Kill, "cut": l.Cut, "healed": l.Heal} {
			if do(ctx, 2) == nil {
				t.Errorf("a host without power can be %s", what)
			}
		}
		mustReach(t, l, 1)
		if err := l.Start(ctx, 2); err != nil {
			t.Fatal(err)
		}
		mustReach(t, l, 2)
		if got := starts(t, two); got != before+1 {
			t.Errorf("%d starts are in the data, want %d", got, before+1)
		}
		if containerPID(t, two) == container {
			t.Error("what a reboot clears is still there")
		}
	})

	t.Run("hosts that there are not", func(t *testing.T) {
		for _, n := range []int{0, 3, -1} {
			if err := l.Kill(ctx, n); err == nil || !strings.Contains(err.Error(), "hosts 1 to 2") {
				t.Errorf("kill %d: %v", n, err)
			}
		}
	})

	t.Run("down", func(t *testing.T) {
		pids := []int{daemonPID(t, l, 1), containerPID(t, one), containerPID(t, two)}
		// What a lab that was only half made leaves, under a name that this one does not have.
		if out, err := exec.Command("ip", "netns", "add", "shoal-node77").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		for range 2 { // the second has nothing to do
			if err := l.Down(ctx); err != nil {
				t.Fatal(err)
			}
			if left := labNamespaces(t); len(left) > 0 {
				t.Errorf("namespaces are left: %q", left)
			}
			for _, pid := range pids {
				if running(pid) {
					t.Errorf("process %d is left", pid)
				}
			}
			for _, pattern := range []string{"/sys/fs/cgroup/*/shoal-lab", "/run/shoal-lab/*/*", l.Dir()} {
				if left, _ := filepath.Glob(pattern); len(left) > 0 {
					t.Errorf("files are left: %q", left)
				}
			}
		}
		if d := cmp.Diff(before, interfaces(t)); d != "" {
			t.Errorf("the machine's own interfaces changed:\n%s", d)
		}
		if err := l.Kill(ctx, 1); err == nil || !strings.Contains(err.Error(), "make lab") {
			t.Errorf("kill without a lab: %v", err)
		}
	})
}

// TestDeepClone sees that the sockets work in a clone whose path is longer than the address of a socket may be, and
// that a lab of another clone is replaced.
func TestDeepClone(t *testing.T) {
	first := dummyLab(t, t.TempDir(), 1)
	pid := daemonPID(t, first, 1)
	deep := filepath.Join(t.TempDir(), strings.Repeat("d/", 20), strings.Repeat("e", 80))
	if err := os.MkdirAll(deep, 0o755); err != nil {
		t.Fatal(err)
	}
	l := dummyLab(t, deep, 1)
	if running(pid) {
		t.Error("the daemon of the lab before still runs")
	}
	if _, err := os.Stat(first.Dir()); !os.IsNotExist(err) {
		t.Errorf("the folder of the lab before is left: %v", err)
	}
	// As a user would reach it: by a path relative to the clone.
	c := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", ".lab/node1/shoal.sock")
	}}}
	t.Chdir(l.Root)
	resp, err := c.Get("http://localhost/_ping")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("%s, %v", resp.Status, err)
	}
}

// TestFailedStart sees that a daemon that does not start is reported with the end of its log, and that what is half
// made goes.
func TestFailedStart(t *testing.T) {
	need(t, nil)
	l, err := lab.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	l.Shoald = filepath.Join(l.Root, "broken")
	if err := os.WriteFile(l.Shoald, []byte("#!/bin/sh\necho no room on the moon\nexit 3\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Down(context.Background()); err != nil {
			t.Error(err)
		}
		if left := labNamespaces(t); len(left) > 0 {
			t.Errorf("namespaces are left: %q", left)
		}
	})
	clone, err := lab.FindRoot()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(clone, "bin"), filepath.Join(l.Root, "bin")); err != nil {
		t.Fatal(err)
	}
	l.Images = filepath.Join(clone, "bin", "images")
	err = l.Up(t.Context(), lab.Options{Nodes: 1})
	if err == nil {
		t.Fatal("a lab whose daemon ends is up")
	}
	for _, w := range []string{"exit status 3", "no room on the moon", "shoald.log"} {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q is not in the error:\n%v", w, err)
		}
	}
}

func daemonPID(t *testing.T, l *lab.Lab, n int) int {
	t.Helper()
	pid, err := l.DaemonPID(n)
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

func state(t *testing.T, l *lab.Lab, n int) string {
	t.Helper()
	all, err := l.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return all[n-1].State
}
