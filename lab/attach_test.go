package lab_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestPlainContainersOnOverlayNetworks starts containers without a service on an attachable network, on a manager and on
// workers: names lead both ways, addresses are the swarm's, and they outlive the daemon, the only manager and the host.
func TestPlainContainersOnOverlayNetworks(t *testing.T) {
	w := newWorld(t, 3)
	w.swarm(3, 1)
	w.shoal(1, "network", "create", "--driver", "overlay", "--attachable", "--subnet", "10.30.0.0/24", "--ip-range", "10.30.0.128/25", "team")
	w.shoal(1, "network", "create", "--driver", "overlay", "closed")
	w.shoal(1, "service", "create", "--detach", "--name", "web", "--replicas", "2", "--network", "team", "hello:1")
	w.running(1, "web", 2, 30*time.Second)

	run := func(n int, name string, args ...string) {
		t.Helper()
		w.shoal(n, append(append([]string{"run", "-d", "--name", name, "--network", "team"}, args...), "busybox:latest", "sleep", "1000")...)
	}
	reaches := func(n int, from, to string) {
		t.Helper()
		w.until(20*time.Second, fmt.Sprintf("%s on node%d reaches %s", from, n, to), func(context.Context) error {
			_, err := w.try(n, "exec", from, "ping", "-c", "1", "-W", "1", to)
			return err
		})
	}
	address := func(n int, name string) string {
		t.Helper()
		return strings.TrimSpace(w.shoal(n, "inspect", name, "--format", "{{.NetworkSettings.Networks.team.IPAddress}}"))
	}
	run(1, "one")
	run(2, "two", "--network-alias", "zwei")
	run(3, "three", "--ip", "10.30.0.77", "--restart", "always")
	if got := address(3, "three"); got != "10.30.0.77" {
		t.Errorf("three has %s", got)
	}
	reaches(1, "one", "two")
	reaches(1, "one", "zwei")
	reaches(2, "two", "three")
	reaches(3, "three", "one")
	reaches(3, "three", "tasks.web")
	w.shoal(2, "exec", "two", "wget", "-q", "-O", "/dev/null", "http://web/")
	w.shoal(2, "exec", "two", "ping", "-c", "1", "-W", "2", "198.18.0.1") // the way out

	w.refused(2, []string{"Could not attach to network closed: rpc error: code = PermissionDenied desc = network closed not manually attachable"},
		"run", "--rm", "--network", "closed", "busybox:latest", "true")
	w.refused(3, []string{"network nowhere not found"}, "run", "--rm", "--network", "nowhere", "busybox:latest", "true")
	w.refused(2, []string{"Could not attach to network team: Address already in use"}, "run", "--rm", "--network", "team", "--ip", "10.30.0.77", "busybox:latest", "true")
	w.refused(1, []string{"is in use by"}, "network", "rm", "team")
	if out := w.shoal(1, "node", "ps", "self", "--format", "{{.Name}}"); strings.Contains(out, "one") {
		t.Errorf("node ps lists attachments: %s", out)
	}

	// A container of the network bridge comes and goes.
	w.shoal(2, "run", "-d", "--name", "guest", "busybox:latest", "sleep", "1000")
	w.shoal(2, "network", "connect", "--alias", "visitor", "team", "guest")
	reaches(1, "one", "visitor")
	reaches(2, "guest", "three")
	w.shoal(2, "network", "disconnect", "team", "guest")
	w.until(10*time.Second, "the guest's name goes", func(context.Context) error {
		if out, err := w.try(1, "exec", "one", "nslookup", "visitor", "127.0.0.11"); err == nil {
			return fmt.Errorf("%s", out)
		}
		return nil
	})

	was := address(2, "two")
	if err := w.KillDaemon(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	if err := w.Start(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	reaches(3, "three", "two")
	reaches(2, "two", "three")
	if now := address(2, "two"); now != was {
		t.Errorf("after the daemon's restart two has %s instead of %s", now, was)
	}

	// Without any manager, what runs goes on, also through a restart of its container.
	if err := w.Kill(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	reaches(2, "two", "three")
	w.shoal(2, "restart", "-t", "0", "two")
	reaches(2, "two", "three")
	if now := address(2, "two"); now != was {
		t.Errorf("restarted without a manager, two has %s instead of %s", now, was)
	}
	if err := w.Start(t.Context(), 1); err != nil {
		t.Fatal(err)
	}

	// A host that comes back starts its container once it reaches the swarm.
	if err := w.Kill(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	if err := w.Start(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	w.until(60*time.Second, "three runs again", func(context.Context) error {
		out, err := w.try(3, "ps", "-q", "--filter", "name=three")
		if err == nil && strings.TrimSpace(out) == "" {
			err = fmt.Errorf("it does not run")
		}
		return err
	})
	reaches(2, "two", "three")

	w.shoal(1, "service", "rm", "web")
	w.shoal(2, "rm", "-f", "two", "guest")
	w.shoal(3, "rm", "-f", "three")
	_, _ = w.try(1, "rm", "-f", "one") // it had no restart policy
	w.shoal(1, "network", "rm", "team")
}
