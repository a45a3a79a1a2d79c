package lab_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"shoal.dev/shoal/lab"
)

// TestForceNewCluster loses two of three managers for good and makes the third a swarm of its own: every object is there,
// no task of the survivor or of the worker is restarted, a new manager joins, and of the lost ones the one that comes
// back is a worker.
func TestForceNewCluster(t *testing.T) {
	w := newWorld(t, 5)
	w.swarm(4, 3) // node5 joins later
	ctx := t.Context()
	w.shoal(1, "config", "create", "greeting", "/etc/hostname")
	w.shoal(1, "network", "create", "-d", "overlay", "inner")
	w.shoal(1, "service", "create", "--quiet", "--name", "hello", "--replicas", "8", "--publish", "8080:80", "--network", "inner", "hello:1")
	w.running(1, "hello", 8, 30*time.Second)
	objects := func(at int) string {
		return w.shoal(at, "service", "ls", "--format", "{{.ID}} {{.Name}} {{.Mode}}") + w.shoal(at, "config", "ls", "-q") +
			w.shoal(at, "network", "ls", "-q", "--no-trunc", "--filter", "scope=swarm") + w.shoal(at, "swarm", "join-token", "-q", "worker") + w.shoal(at, "swarm", "join-token", "-q", "manager")
	}
	containers := func(n int) string {
		return w.shoal(n, "container", "ls", "--no-trunc", "--format", "{{.ID}}")
	}
	had, onManager, onWorker, onLost := objects(1), containers(1), containers(4), containers(3)

	w.refused(1, []string{"--force-new-cluster is for one that has lost it"}, "swarm", "init", "--force-new-cluster")
	w.refused(4, []string{"This node is not a swarm manager"}, "swarm", "init", "--force-new-cluster")
	for _, n := range []int{2, 3} {
		if err := w.Kill(ctx, n); err != nil {
			t.Fatal(err)
		}
	}
	w.until(40*time.Second, "changes are refused", func(context.Context) error {
		_, err := w.try(1, "service", "scale", "-d", "hello=9")
		if err == nil {
			return errors.New("it was accepted")
		}
		if !strings.Contains(err.Error(), "does not have a leader") {
			return err
		}
		return nil
	})
	begin := time.Now()
	w.shoal(1, "swarm", "init", "--force-new-cluster")
	w.shoal(1, "service", "update", "-d", "--label-add", "recovered=yes", "hello")
	t.Logf("a change was accepted %s after the command", time.Since(begin).Round(10*time.Millisecond))
	if now := objects(1); now != had {
		t.Errorf("the objects were\n%s\nand are\n%s", had, now)
	}
	if now := w.leader(1, time.Second); now != 1 {
		t.Errorf("node%d leads", now)
	}
	// The worker finds the new swarm, and the tasks of the lost ones run elsewhere.
	w.nodeIs(1, 4, "Ready", 20*time.Second)
	w.nodeIs(1, 2, "Down", 30*time.Second)
	w.nodeIs(1, 3, "Down", 30*time.Second)
	w.running(1, "hello", 8, 40*time.Second, 2, 3)
	for n, before := range map[int]string{1: onManager, 4: onWorker} {
		now := containers(n)
		for _, id := range strings.Fields(before) {
			if !strings.Contains(now, id) {
				t.Errorf("node%d: container %s ran all the time and is gone", n, id)
			}
		}
	}
	w.askAll(lab.ClientNamespace, "http://198.18.0.1:8080", 8, 30*time.Second)

	// A new manager joins, and the survivor's state is its state.
	w.shoal(5, "swarm", "join", "--token", w.shoal(1, "swarm", "join-token", "-q", "manager"), w.Host(1).Addr+":2377")
	w.until(20*time.Second, "there are two managers", func(context.Context) error {
		out, err := w.try(5, "node", "ls", "--format", "{{.Hostname}}={{.ManagerStatus}}")
		if err == nil && (!strings.Contains(out, "node1=Leader") || !strings.Contains(out, "node5=Reachable")) {
			err = fmt.Errorf("they are %q", out)
		}
		return err
	})
	if now := objects(5); now != had {
		t.Errorf("at the new manager the objects are\n%s\nand were\n%s", now, had)
	}

	// The lost managers come back together, a majority of the old swarm: they cannot bring it back, and become workers.
	for _, n := range []int{2, 3} {
		if err := w.Start(ctx, n); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range []int{2, 3} {
		w.nodeIs(1, n, "Ready", 60*time.Second)
		w.until(40*time.Second, fmt.Sprintf("node%d is a worker", n), func(context.Context) error {
			out, err := w.try(n, "info", "--format", "{{.Swarm.ControlAvailable}}")
			if err == nil && strings.TrimSpace(out) != "false" {
				err = fmt.Errorf("it says %s", out)
			}
			return err
		})
	}
	if now := objects(1); now != had {
		t.Errorf("after the return of a lost manager the objects are\n%s\nand were\n%s", now, had)
	}
	w.until(20*time.Second, "what node3 ran and others run now has ended there", func(context.Context) error {
		now := containers(3)
		for _, id := range strings.Fields(onLost) {
			if strings.Contains(now, id) {
				return fmt.Errorf("it still runs container %s", id)
			}
		}
		return nil
	})
	w.running(1, "hello", 8, 20*time.Second)
}
