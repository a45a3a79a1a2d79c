package lab_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestRoles makes workers managers and managers workers, the leader among them, and sees that no task notices.
func TestRoles(t *testing.T) {
	w := newWorld(t, 3)
	w.swarm(3, 1)
	w.shoal(1, "service", "create", "--quiet", "--name", "hello", "--replicas", "6", "--publish", "8080:80", "hello:1")
	w.running(1, "hello", 6, time.Second)
	containers := func() string {
		var all []string
		for n := 1; n <= 3; n++ {
			all = append(all, w.shoal(n, "container", "ls", "--no-trunc", "--format", "{{.ID}} {{.State}}"))
		}
		return strings.Join(all, "\n")
	}
	before := containers()
	roles := func(ask int, want string) {
		t.Helper()
		w.until(20*time.Second, "the roles are "+want, func(context.Context) error {
			out, err := w.try(ask, "node", "ls", "--format", "{{.Hostname}}={{.ManagerStatus}}")
			if err != nil {
				return err
			}
			if got := strings.Join(strings.Fields(out), " "); got != want {
				return fmt.Errorf("they are %s", got)
			}
			return nil
		})
	}
	manages := func(n int, want string) {
		t.Helper()
		w.until(20*time.Second, fmt.Sprintf("node%d manages: %s", n, want), func(context.Context) error {
			out, err := w.try(n, "info", "--format", "{{.Swarm.ControlAvailable}}")
			if err == nil && strings.TrimSpace(out) != want {
				err = fmt.Errorf("it says %s", out)
			}
			return err
		})
	}

	w.refused(1, []string{"attempting to demote the last manager of the swarm"}, "node", "demote", "node1")
	w.shoal(1, "node", "promote", "node2", "node3")
	manages(2, "true")
	manages(3, "true")
	roles(3, "node1=Leader node2=Reachable node3=Reachable")

	// The leader hands over before it goes.
	w.shoal(1, "node", "demote", "node1")
	manages(1, "false")
	w.until(20*time.Second, "another manager leads", func(context.Context) error {
		out, err := w.try(2, "node", "ls", "--format", "{{.ManagerStatus}}")
		if err == nil && (strings.Count(out, "Leader") != 1 || strings.Count(out, "Reachable") != 1) {
			err = fmt.Errorf("they are %q", out)
		}
		return err
	})
	w.refused(1, []string{"This node is not a swarm manager"}, "node", "ls")

	// Of two managers one is dead: the other must not be left without a majority.
	if err := w.Cut(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	w.until(20*time.Second, "a change without a majority is refused", func(ctx context.Context) error {
		_, err := w.try(2, "node", "demote", "node2")
		if err == nil {
			t.Fatal("a manager was demoted without a majority")
		}
		for _, words := range []string{"does not have a leader", "can't remove manager", "did not confirm"} {
			if strings.Contains(err.Error(), words) {
				return nil
			}
		}
		return err
	})
	if err := w.Heal(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	w.until(20*time.Second, "both managers are back", func(context.Context) error {
		out, err := w.try(2, "node", "ls", "--format", "{{.Status}}")
		if err == nil && strings.Count(out, "Ready") != 3 {
			err = fmt.Errorf("they are %q", out)
		}
		return err
	})
	w.shoal(2, "node", "promote", "node1")
	manages(1, "true")
	w.running(1, "hello", 6, 10*time.Second)
	for _, line := range strings.Split(before, "\n") {
		if id := strings.Fields(line); len(id) > 0 && !strings.Contains(containers(), id[0]) && !strings.Contains(w.shoal(3, "container", "ls", "-aq", "--no-trunc"), id[0]) {
			t.Errorf("container %s ran all the time and is gone", id[0])
		}
	}
}
