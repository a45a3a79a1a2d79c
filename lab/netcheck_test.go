package lab_test

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// networksAgree sees that records, agents and kernels agree on the swarm's networks. A test that has made networks defers
// it.
func (w *world) networksAgree(at int) {
	w.t.Helper()
	if w.t.Failed() {
		return // its logs say more
	}
	if out, err := w.try(at, "network", "check"); err != nil {
		w.t.Errorf("network check at the end: %v\n%s", err, out)
	}
}

// TestNetworkCheck sees that what others break on a host is named and repaired, and that a host that does not answer is.
func TestNetworkCheck(t *testing.T) {
	w := newWorld(t, 2)
	w.swarm(2, 1)
	w.shoal(1, "network", "create", "--driver", "overlay", "shop")
	w.shoal(1, "service", "create", "--detach", "--name", "web", "--mode", "global", "--network", "shop", "--publish", "8080:8080", "hello:1")
	w.running(1, "web", 2, 30*time.Second)
	out := ""
	w.until(20*time.Second, "all agree", func(context.Context) (err error) {
		out, err = w.try(1, "network", "check")
		return err
	})
	for _, line := range []string{"ingress node1 ok", "ingress node2 ok", "shop node1 ok", "shop node2 ok"} {
		if !strings.Contains(strings.Join(strings.Fields(out), " "), line) {
			t.Errorf("%q is not in\n%s", line, out)
		}
	}
	if out := w.shoal(1, "network", "check", "shop"); strings.Contains(out, "ingress") {
		t.Errorf("the check of one network has another: %s", out)
	}
	w.refused(1, []string{"network gone not found"}, "network", "check", "gone")

	// The daemon looks by itself every 5 s: it may be faster.
	w.until(30*time.Second, "a ruleset that was flushed is named", func(ctx context.Context) error {
		if out, err := exec.CommandContext(ctx, "ip", "netns", "exec", w.Host(2).Namespace, "nft", "flush", "ruleset").CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		out, err := w.try(1, "network", "check")
		if err == nil {
			return errors.New("nothing was found")
		}
		if !strings.Contains(out, "ruleset") {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	w.networksAgree(1)

	if err := w.Freeze(2); err != nil {
		t.Fatal(err)
	}
	out, err := w.try(1, "network", "check")
	if err := w.Thaw(2); err != nil {
		t.Fatal(err)
	}
	if joined := strings.Join(strings.Fields(out), " "); !strings.Contains(joined, "node2 does not answer:") && !strings.Contains(joined, "node2 is down") {
		t.Errorf("of a frozen daemon: %v %s", err, out)
	}
	w.nodeIs(1, 2, "Ready", 30*time.Second)
	w.until(20*time.Second, "all agree again", func(context.Context) error {
		out, err := w.try(1, "network", "check")
		if err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		return err
	})
}
