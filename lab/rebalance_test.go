package lab_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestRebalance has tasks on two nodes, and a third that joins: under load, first by hand, then by the service's policy.
func TestRebalance(t *testing.T) {
	w := newWorld(t, 3)
	w.swarm(2, 1)
	w.shoal(1, "service", "create", "--quiet", "--name", "hello", "--replicas", "6", "--publish", "8080:80", "hello:1")
	w.spread("hello", "3 node1 3 node2")
	w.shoal(3, "swarm", "join", "--token", w.shoal(1, "swarm", "join-token", "-q", "worker"), w.Host(1).Addr+":2377")
	w.spread("hello", "3 node1 3 node2")
	if out := w.shoal(1, "service", "explain", "hello"); !strings.Contains(out, "\nnode3   1      0") {
		t.Errorf("node3 is not where the next task would go:\n%s", out)
	}
	w.undisturbed("rebalance", func() {
		if out := w.shoal(1, "service", "rebalance", "hello"); !strings.HasSuffix(strings.TrimSpace(out), "hello balanced") {
			t.Error(out)
		}
	})
	w.spread("hello", "2 node1 2 node2 2 node3")
	where := func() (ids []string) {
		for _, t := range w.running(1, "hello", 6, 10*time.Second) {
			ids = append(ids, t.ID+" "+t.Node)
		}
		slices.Sort(ids)
		return ids
	}
	before := where()
	w.shoal(1, "service", "rebalance", "hello")
	if after := where(); !slices.Equal(before, after) {
		t.Errorf("what was balanced was moved: %v, then %v", before, after)
	}

	w.shoal(1, "service", "update", "--quiet", "--label-add", "shoal.rebalance=auto", "hello")
	w.undisturbed("drain and return", func() {
		w.shoal(1, "node", "update", "--availability", "drain", "node3")
		w.spread("hello", "3 node1 3 node2")
		w.shoal(1, "node", "update", "--availability", "active", "node3")
		w.spread("hello", "2 node1 2 node2 2 node3")
	})
	out := w.shoal(1, "service", "inspect", "hello", "--format", "{{with .UpdateStatus}}{{.State}}{{end}}")
	if strings.Contains(out, "updating") {
		t.Errorf("the client is told of an update: %s", out)
	}
}

// spread waits until the service's running tasks are on the nodes so: "3 node1 3 node2".
func (w *world) spread(service, want string) {
	w.t.Helper()
	w.until(30*time.Second, service+" is spread "+want, func(context.Context) error {
		out, err := w.try(1, "service", "ps", service, "--filter", "desired-state=running", "--format", "{{.Node}} {{.CurrentState}}")
		if err != nil {
			return err
		}
		on := map[string]int{}
		for line := range strings.Lines(out) {
			f := strings.Fields(line)
			if len(f) > 1 && f[1] == "Running" {
				on[f[0]]++
			} else {
				return fmt.Errorf("a task is not running: %s", line)
			}
		}
		var parts []string
		for _, n := range []string{"node1", "node2", "node3"} {
			if on[n] > 0 {
				parts = append(parts, fmt.Sprint(on[n], " ", n))
			}
		}
		if got := strings.Join(parts, " "); got != want {
			return fmt.Errorf("it is %s", got)
		}
		return nil
	})
}
