package lab_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"shoal.dev/shoal/lab"
)

// downWithin is how long a node may be dead until the swarm says so, by default (the figure).
const downWithin = 6 * time.Second

// slack is what asking takes, on a machine that does something else as well.
const slack = 2 * time.Second

// TestWorkerLoss sees a worker lose its power and come back, and lose its link and get it back.
func TestWorkerLoss(t *testing.T) {
	w := newWorld(t, 3)
	w.swarm(3, 1)
	w.shoal(1, "service", "create", "--quiet", "--name", "hello", "--replicas", "6", "--publish", "8080:80", "hello:1")
	w.running(1, "hello", 6, time.Second)

	losses := []struct {
		name       string
		lose, mend func(context.Context, int) error
	}{
		{"power", w.Kill, w.Start},
		{"link", w.Cut, w.Heal},
	}
	for _, l := range losses {
		t.Run(l.name, func(t *testing.T) {
			w := w.in(t)
			ctx := t.Context()
			before := w.running(1, "hello", 6, 10*time.Second)
			if err := l.lose(ctx, 3); err != nil {
				t.Fatal(err)
			}
			w.nodeIs(1, 3, "Down", downWithin+slack)
			w.running(1, "hello", 6, 20*time.Second, 3)
			w.askAll(lab.ClientNamespace, "http://198.18.0.2:8080", 6, 20*time.Second)
			if err := l.mend(ctx, 3); err != nil {
				t.Fatal(err)
			}
			w.nodeIs(1, 3, "Ready", 20*time.Second)
			// Nothing moves back, and what still ran there is stopped.
			w.until(20*time.Second, "no task is left on the host that came back", func(context.Context) error {
				out, err := w.try(3, "container", "ls", "-q")
				if err != nil {
					return err
				}
				if out != "" {
					return fmt.Errorf("containers %q", out)
				}
				return nil
			})
			kept := map[string]bool{}
			for _, t := range w.running(1, "hello", 6, time.Second, 3) {
				kept[t.ID] = true
			}
			for _, b := range before {
				if b.Node != "node3" && !kept[b.ID] {
					t.Errorf("task %s ran on %s all the time and was replaced", b.Name, b.Node)
				}
			}
			w.askAll(lab.ClientNamespace, "http://198.18.0.3:8080", 6, 20*time.Second)
			// The next loss finds tasks there again.
			w.shoal(1, "service", "scale", "hello=0")
			w.shoal(1, "service", "scale", "hello=6")
		})
	}
}

// TestManagerLoss sees the leader of three managers die and come back, a majority die, and all of them.
func TestManagerLoss(t *testing.T) {
	w := newWorld(t, 3)
	w.swarm(3, 3)
	ctx := t.Context()
	// Writing and reading works through any of them.
	for n := 1; n <= 3; n++ {
		w.shoal(n, "service", "create", "-d", "--replicas", "0", "--name", fmt.Sprintf("at%d", n), "hello:1")
		for m := 1; m <= 3; m++ {
			if out := w.shoal(m, "service", "ls", "--format", "{{.Name}}"); !strings.Contains(out, fmt.Sprintf("at%d", n)) {
				t.Errorf("node%d does not show at once what node%d has written:\n%s", m, n, out)
			}
		}
	}
	w.shoal(1, "service", "create", "--quiet", "--name", "hello", "--replicas", "3", "--publish", "8080:80", "hello:1")

	t.Run("leader", func(t *testing.T) {
		w := w.in(t)
		lost := w.leader(1, 10*time.Second)
		other := lost%3 + 1
		begin := time.Now()
		if err := w.Kill(ctx, lost); err != nil {
			t.Fatal(err)
		}
		w.until(20*time.Second, "a change is accepted", func(context.Context) error {
			_, err := w.try(other, "service", "create", "-d", "--replicas", "0", "--name", "after", "hello:1")
			if err != nil && strings.Contains(err.Error(), "conflicts") {
				return nil // an earlier one got through after all
			}
			return err
		})
		t.Logf("a change was accepted %s after the leader's death", time.Since(begin).Round(10*time.Millisecond))
		w.nodeIs(other, lost, "Down", 20*time.Second)
		w.running(other, "hello", 3, 30*time.Second, lost)
		if err := w.Start(ctx, lost); err != nil {
			t.Fatal(err)
		}
		w.nodeIs(other, lost, "Ready", 30*time.Second)
		w.until(20*time.Second, "it knows what happened without it", func(context.Context) error {
			out, err := w.try(lost, "service", "ls", "--format", "{{.Name}}")
			if err != nil {
				return err
			}
			if !strings.Contains(out, "after") {
				return fmt.Errorf("services %q", out)
			}
			return nil
		})
		w.running(lost, "hello", 3, 10*time.Second)
	})

	t.Run("majority", func(t *testing.T) {
		w := w.in(t)
		for _, n := range []int{2, 3} {
			if err := w.Kill(ctx, n); err != nil {
				t.Fatal(err)
			}
		}
		w.until(40*time.Second, "changes are refused", func(context.Context) error {
			_, err := w.try(1, "service", "scale", "-d", "hello=4")
			var failed *lab.ClientError
			switch {
			case err == nil:
				return errors.New("it was accepted")
			case errors.As(err, &failed) && strings.Contains(failed.Output, "does not have a leader") &&
				strings.Contains(failed.Output, "(1 of 3 managers can be reached from here; 2 are needed)"):
				return nil
			}
			return err
		})
		// What the survivor knows can still be asked for, and says that it may be old.
		out, err := w.Command(ctx, 1, "bin/shoal", "-H", "unix://"+w.Host(1).Socket, "service", "ls", "--format", "{{.Name}}").CombinedOutput()
		if err != nil || !strings.Contains(string(out), "hello") || strings.Count(string(out), "WARNING: the swarm has no leader") != 1 {
			t.Errorf("service ls without a majority: %v\n%s", err, out)
		}
		for _, n := range []int{2, 3} {
			if err := w.Start(ctx, n); err != nil {
				t.Fatal(err)
			}
		}
		w.leader(1, 30*time.Second)
		w.running(1, "hello", 3, 40*time.Second)
		out, err = w.Command(ctx, 1, "bin/shoal", "-H", "unix://"+w.Host(1).Socket, "service", "ls", "-q").CombinedOutput()
		if err != nil || strings.Contains(string(out), "WARNING") {
			t.Errorf("service ls with a majority: %v\n%s", err, out)
		}
	})

	t.Run("all", func(t *testing.T) {
		w := w.in(t)
		before := w.shoal(1, "service", "ls", "-q")
		for n := 1; n <= 3; n++ {
			if err := w.Kill(ctx, n); err != nil {
				t.Fatal(err)
			}
		}
		for n := 1; n <= 3; n++ {
			if err := w.Start(ctx, n); err != nil {
				t.Fatal(err)
			}
		}
		w.leader(2, 30*time.Second)
		if d := cmp.Diff(before, w.shoal(2, "service", "ls", "-q")); d != "" {
			t.Errorf("the services are not what they were:\n%s", d)
		}
		w.running(2, "hello", 3, 40*time.Second)
		w.askAll(lab.ClientNamespace, "http://198.18.0.1:8080", 3, 20*time.Second)
	})
}

// TestDaemonDeath sees that tasks outlive the daemons, and that nothing is started twice or moved for it.
func TestDaemonDeath(t *testing.T) {
	w := newWorld(t, 2)
	w.swarm(2, 1)
	w.shoal(1, "service", "create", "--quiet", "--name", "hello", "--replicas", "4", "--publish", "8080:80", "hello:1")
	before := w.running(1, "hello", 4, time.Second)
	seen := w.askAll(lab.ClientNamespace, "http://198.18.0.1:8080", 4, 20*time.Second)
	for _, n := range []int{2, 1} {
		if err := syscall.Kill(daemonPID(t, w.Lab, n), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		// Who asks meets the same tasks while the daemon is away.
		for range 20 {
			if a, err := w.ask(lab.ClientNamespace, fmt.Sprintf("http://198.18.0.%d:8080", n)); err != nil || seen[a["hostname"]] == nil {
				t.Fatalf("without its daemon node%d does not answer as before: %v, %v", n, a["hostname"], err)
			}
		}
		w.until(10*time.Second, "the daemon is gone", func(context.Context) error {
			if _, err := w.DaemonPID(n); err == nil {
				return errors.New("it is there")
			}
			return nil
		})
		if err := w.Start(t.Context(), n); err != nil {
			t.Fatal(err)
		}
		w.nodeIs(1, n, "Ready", 20*time.Second)
		after := w.running(1, "hello", 4, 20*time.Second)
		same := map[string]bool{}
		for _, a := range after {
			same[a.ID] = true
		}
		for _, b := range before {
			if !same[b.ID] {
				t.Errorf("task %s on %s was replaced for the death of the daemon on node%d", b.Name, b.Node, n)
			}
		}
	}
}
