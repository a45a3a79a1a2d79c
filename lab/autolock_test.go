package lab_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"
)

// unlock gives a key to the manager on host n.
func (w *world) unlock(n int, key string) (string, error) {
	cmd := w.Command(w.t.Context(), n, "bin/shoal", "-H", "unix://"+w.Host(n).Socket, "swarm", "unlock")
	cmd.Stdin = strings.NewReader(key + "\n")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestAutolock locks three managers. One that is off while the key is rotated needs the old key once and then the new
// one; one that is demoted needs none; and switching it off reaches the one that was away, too.
func TestAutolock(t *testing.T) {
	w := newWorld(t, 3)
	w.swarm(3, 3)
	state := func(n int) string {
		return strings.TrimSpace(w.shoal(n, "info", "--format", "{{.Swarm.LocalNodeState}}"))
	}
	restart := func(n int) {
		t.Helper()
		w.stopDaemon(n)
		if err := w.Start(t.Context(), n); err != nil {
			t.Fatal(err)
		}
	}
	active := func(n int) {
		t.Helper()
		w.until(20*time.Second, fmt.Sprintf("node%d is a manager again", n), func(context.Context) error {
			_, err := w.nodes(n)
			return err
		})
	}
	w.shoal(1, "service", "create", "--quiet", "--name", "hello", "--replicas", "3", "hello:1")
	tasks := w.running(1, "hello", 3, 30*time.Second)
	w.shoal(2, "swarm", "update", "--autolock=true")
	old := strings.TrimSpace(w.shoal(3, "swarm", "unlock-key", "-q"))
	w.until(10*time.Second, "node3 comes up locked", func(context.Context) error {
		restart(3)
		if s := state(3); s != "locked" {
			return fmt.Errorf("it is %s", s)
		}
		return nil
	})
	w.refused(3, []string{`Swarm is encrypted and needs to be unlocked before it can be used. Please use "shoal swarm unlock" to unlock it.`}, "node", "ls")
	key := strings.TrimSpace(w.shoal(1, "swarm", "unlock-key", "--rotate", "-q"))
	if out, err := w.unlock(3, key); err == nil {
		t.Errorf("the new key opens a disk that has not heard of it: %s", out)
	}
	if out, err := w.unlock(3, old); err != nil {
		t.Fatalf("the old key: %v: %s", err, out)
	}
	active(3)
	w.until(20*time.Second, "node3 has taken up the new key", func(context.Context) error {
		restart(3)
		out, err := w.unlock(3, old)
		if err == nil {
			return fmt.Errorf("the old one opens: %s", out)
		}
		return nil
	})
	if out, err := w.unlock(3, key); err != nil {
		t.Fatalf("the new key: %v: %s", err, out)
	}
	active(3)

	w.shoal(1, "node", "demote", w.Host(2).Name)
	w.until(20*time.Second, "node2 is a worker", func(context.Context) error {
		if w.shoal(2, "info", "--format", "{{.Swarm.ControlAvailable}}") != "false" {
			return fmt.Errorf("it is a manager")
		}
		return nil
	})
	restart(2)
	if s := state(2); s != "active" {
		t.Errorf("the worker is %s", s)
	}
	w.shoal(1, "node", "promote", w.Host(2).Name)
	active(2)
	w.until(20*time.Second, "the promoted node2 is locked", func(context.Context) error {
		restart(2)
		if s := state(2); s != "locked" {
			active(2)
			return fmt.Errorf("it is %s", s)
		}
		return nil
	})
	// Off for the one that is locked meanwhile, too.
	w.shoal(1, "swarm", "update", "--autolock=false")
	if out, err := w.unlock(2, key); err != nil {
		t.Fatalf("the key of before: %v: %s", err, out)
	}
	active(2)
	w.until(20*time.Second, "node2 needs no key", func(context.Context) error {
		restart(2)
		if s := state(2); s != "active" {
			_, err := w.unlock(2, key)
			return fmt.Errorf("it is %s (%v)", s, err)
		}
		return nil
	})
	ids := map[string]bool{}
	for _, k := range tasks {
		ids[k.ID] = true
	}
	for _, k := range w.running(1, "hello", 3, 30*time.Second) {
		if !ids[k.ID] {
			t.Errorf("%s was restarted: %s on %s", k.Name, k.ID, k.Node)
		}
	}
}
