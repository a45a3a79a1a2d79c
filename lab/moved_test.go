package lab_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"shoal.dev/shoal/lab"
)

// readdressed gives host n another address in place of its own.
func (w *world) readdressed(n int, addr string) {
	w.t.Helper()
	for _, args := range [][]string{{"addr", "del", w.Host(n).Addr + "/24", "dev", "eth0"}, {"addr", "add", addr + "/24", "dev", "eth0"}} {
		if out, err := w.Command(w.t.Context(), n, append([]string{"ip"}, args...)...).CombinedOutput(); err != nil {
			w.t.Fatalf("ip %v: %v: %s", args, err, out)
		}
	}
}

// stopDaemon kills the daemon of host n and nothing else.
func (w *world) stopDaemon(n int) {
	w.t.Helper()
	pid, err := w.DaemonPID(n)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		w.t.Fatal(err)
	}
	w.until(10*time.Second, "the daemon is gone", func(context.Context) error {
		if _, err := w.DaemonPID(n); err == nil {
			return errors.New("it is there")
		}
		return nil
	})
}

// TestAManagerMoves changes the addresses of managers: of one that is told while it runs, of one whose daemon comes up with
// its old address gone, and of the leader, which has both for a while. Each is found again without leaving.
func TestAManagerMoves(t *testing.T) {
	w := newWorld(t, 4)
	w.swarm(4, 3)
	w.shoal(1, "service", "create", "--quiet", "--name", "hello", "--replicas", "4", "--publish", "8080:80", "hello:1")
	w.running(1, "hello", 4, 30*time.Second)
	containers := func() string {
		var all []string
		for n := 1; n <= 4; n++ {
			all = append(all, w.shoal(n, "container", "ls", "--no-trunc", "--format", "{{.ID}} {{.State}}"))
		}
		return strings.Join(all, "\n")
	}
	found := func(n int, addr string) {
		t.Helper()
		for at := 1; at <= 3; at++ {
			w.until(30*time.Second, fmt.Sprintf("node%d sees node%d at %s", at, n, addr), func(context.Context) error {
				out, err := w.try(at, "node", "inspect", w.Host(n).Name, "--format", "{{.ManagerStatus.Addr}} {{.ManagerStatus.Reachability}} {{.Status.Addr}} {{.Status.State}}")
				if want := addr + ":2377 reachable " + addr + " ready"; err == nil && strings.TrimSpace(out) != want {
					err = fmt.Errorf("it is %s", out)
				}
				return err
			})
		}
		if got := strings.TrimSpace(w.shoal(n, "info", "--format", "{{.Swarm.NodeAddr}}")); got != addr {
			t.Errorf("node%d says that it is at %s", n, got)
		}
		for _, host := range []string{addr, w.Host(4).Addr} {
			w.askAll(lab.ClientNamespace, "http://"+host+":8080/", 4, 30*time.Second)
		}
	}
	w.refused(2, []string{"is not found at 198.18.0.99:2377, so its address is not changed"}, "swarm", "update", "--advertise-addr", "198.18.0.99")
	w.refused(4, []string{"This node is not a swarm manager"}, "swarm", "update", "--advertise-addr", "198.18.0.99")

	// The address went while the daemon runs.
	w.readdressed(2, "198.18.0.72")
	if out := w.shoal(2, "swarm", "update", "--advertise-addr", "198.18.0.72"); !strings.Contains(out, "new address") {
		t.Errorf("it says %s", out)
	}
	found(2, "198.18.0.72")

	// It went while the daemon was off. The interface's name does as well.
	w.stopDaemon(3)
	w.readdressed(3, "198.18.0.73")
	if err := w.Start(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	w.shoal(3, "swarm", "update", "--advertise-addr", "eth0")
	found(3, "198.18.0.73")

	// A leader that moves while it still has both addresses costs no task.
	w.running(1, "hello", 4, 30*time.Second)
	before := containers()
	leader := w.leader(1, 10*time.Second)
	to := map[int]string{1: "198.18.0.81", 2: "198.18.0.82", 3: "198.18.0.83"}[leader]
	for _, args := range [][]string{{"addr", "add", to + "/24", "dev", "eth0"}} {
		if out, err := w.Command(t.Context(), leader, append([]string{"ip"}, args...)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %v: %v: %s", args, err, out)
		}
	}
	w.shoal(leader, "swarm", "update", "--advertise-addr", to)
	found(leader, to)

	if now := containers(); now != before {
		t.Errorf("the containers were\n%s\nand are\n%s", before, now)
	}
	w.shoal(2, "service", "scale", "hello=5")
	w.running(3, "hello", 5, 30*time.Second)
}
