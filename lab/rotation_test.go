package lab_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestRotation gives a swarm another root, with a node that is away and a leader that dies in the middle, and sees that
// no task notices and that old tokens are worth nothing.
func TestRotation(t *testing.T) {
	w := newWorld(t, 5)
	w.swarm(4, 3)
	w.shoal(1, "service", "create", "--quiet", "--name", "hello", "--replicas", "4", "hello:1")
	w.running(1, "hello", 4, time.Second)
	containers := func(nodes ...int) string {
		var all []string
		for _, n := range nodes {
			all = append(all, w.shoal(n, "container", "ls", "--no-trunc", "--format", "{{.ID}} {{.State}}"))
		}
		return strings.Join(all, "\n")
	}
	before := containers(1, 2, 3, 4)
	progress := func(ask int) string {
		t.Helper()
		return strings.TrimSpace(w.shoal(ask, "info", "--format", "{{.Swarm.Cluster.RootRotationInProgress}}"))
	}
	oldRoot, oldToken := w.shoal(1, "swarm", "ca"), w.shoal(1, "swarm", "join-token", "-q", "worker")

	// All are there: the client's progress bars come to an end.
	w.shoal(1, "swarm", "ca", "--rotate", "--quiet")
	root := w.shoal(1, "swarm", "ca")
	if root == oldRoot || !strings.Contains(root, "BEGIN CERTIFICATE") {
		t.Fatalf("the root after the rotation:\n%s", root)
	}
	if now := containers(1, 2, 3, 4); now != before {
		t.Errorf("the containers were\n%s\nand are\n%s", before, now)
	}
	if got := w.shoal(2, "node", "ls", "--format", "{{.TLSStatus}}"); strings.Count(got, "Ready") != 4 {
		t.Errorf("node ls says %q", got)
	}
	w.refused(5, []string{"remote CA does not match fingerprint"}, "swarm", "join", "--token", oldToken, w.Host(1).Addr+":2377")
	w.shoal(5, "swarm", "join", "--token", w.shoal(1, "swarm", "join-token", "-q", "worker"), w.Host(2).Addr+":2377")

	// A worker is away, and the leader dies.
	if err := w.Kill(t.Context(), 4); err != nil {
		t.Fatal(err)
	}
	w.nodeIs(1, 4, "Down", 30*time.Second)
	w.shoal(1, "swarm", "ca", "--rotate", "--detach")
	if got := progress(1); got != "true" {
		t.Errorf("a rotation is under way: %s", got)
	}
	leader := w.leader(1, 10*time.Second)
	if err := w.Kill(t.Context(), leader); err != nil {
		t.Fatal(err)
	}
	if err := w.Start(t.Context(), leader); err != nil {
		t.Fatal(err)
	}
	other := leader%3 + 1
	w.until(40*time.Second, "all but node4 have a certificate of the new root", func(context.Context) error {
		out, err := w.try(other, "node", "ls", "--format", "{{.Hostname}}={{.TLSStatus}}")
		if err == nil && (strings.Count(out, "=Ready") != 4 || !strings.Contains(out, "node4=Needs Rotation")) {
			err = fmt.Errorf("%s", out)
		}
		return err
	})
	if got := progress(other); got != "true" {
		t.Errorf("the rotation did not wait for node4: %s", got)
	}
	w.shoal(other, "service", "scale", "--detach", "hello=5") // and all the while changes are made
	if err := w.Start(t.Context(), 4); err != nil {
		t.Fatal(err)
	}
	w.until(40*time.Second, "the rotation ends", func(context.Context) error {
		out, err := w.try(other, "node", "ls", "--format", "{{.Hostname}}={{.Status}}={{.TLSStatus}}")
		if err == nil && (strings.Count(out, "=Ready=Ready") != 5 || progress(other) != "false") {
			err = fmt.Errorf("%s", out)
		}
		return err
	})
	if w.shoal(1, "swarm", "ca") == root {
		t.Error("the root is the same")
	}

	// Who is away and given up meets another root, is told so, and joins again.
	if err := w.Kill(t.Context(), 4); err != nil {
		t.Fatal(err)
	}
	w.shoal(other, "swarm", "ca", "--rotate", "--detach")
	w.shoal(other, "node", "rm", "--force", "node4")
	w.until(40*time.Second, "the rotation ends without node4", func(context.Context) error {
		out, err := w.try(other, "node", "ls", "--format", "{{.Hostname}}={{.TLSStatus}}")
		if err == nil && (strings.Count(out, "=Ready") != 4 || progress(other) != "false") {
			err = fmt.Errorf("%s", out)
		}
		return err
	})
	if err := w.Start(t.Context(), 4); err != nil {
		t.Fatal(err)
	}
	w.until(20*time.Second, "node4 says what to do", func(context.Context) error {
		out := w.shoal(4, "info", "--format", "{{.Swarm.LocalNodeState}} {{.Swarm.Error}}")
		for _, words := range []string{"error ", "rotated", "swarm leave", "swarm join --token"} {
			if !strings.Contains(out, words) {
				return fmt.Errorf("%s", out)
			}
		}
		return nil
	})
	w.shoal(4, "swarm", "leave")
	w.shoal(4, "swarm", "join", "--token", w.shoal(other, "swarm", "join-token", "-q", "worker"), w.Host(other).Addr+":2377")
}
