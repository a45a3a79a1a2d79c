package lab_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// motto is what the version with the tag shoal_next writes into a field that this one does not know.
const motto = "a field of the next version"

// buildNext builds the daemon of the next version beside that of this one, where it finds the shim.
func buildNext(t *testing.T) string {
	t.Helper()
	path, err := filepath.Abs("../bin/shoald-next")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-buildvcs=false", "-tags", "shoal_next", "-o", path, "../cmd/shoald")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return path
}

// replaceDaemon ends a host's daemon and starts another version in its place, as an upgrade does: the host stays up.
func (w *world) replaceDaemon(n int, daemon string) error {
	w.t.Helper()
	pid, err := w.DaemonPID(n)
	if err != nil {
		return err
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		return err
	}
	w.until(20*time.Second, fmt.Sprintf("the daemon of node%d ends", n), func(context.Context) error {
		if now, err := w.DaemonPID(n); err == nil && now == pid {
			return fmt.Errorf("it runs")
		}
		return nil
	})
	if err := os.WriteFile(filepath.Join(w.Host(n).Dir, "daemon"), []byte(daemon), 0o644); err != nil {
		return err
	}
	return w.Start(w.t.Context(), n)
}

// level is the swarm's feature level as host n sees it.
func (w *world) level(n int) (int, error) {
	out, err := w.try(n, "swarm", "health", "--format", "json")
	if err != nil {
		return 0, err
	}
	var h struct{ Level int }
	return h.Level, json.Unmarshal([]byte(out), &h)
}

// hasMotto says whether the swarm's records have what the next version writes.
func (w *world) hasMotto(n int) bool {
	w.t.Helper()
	file := filepath.Join(w.t.TempDir(), "backup")
	w.shoal(n, "swarm", "backup", file)
	data, err := os.ReadFile(file)
	if err != nil {
		w.t.Fatal(err)
	}
	return bytes.Contains(data, []byte(motto))
}

// TestUpgrade takes a swarm to the next version, one manager after the other: the leader first, or last. What the next
// version adds is held back until every manager has it, no container stops, and a manager of the old version does not
// come in afterwards.
func TestUpgrade(t *testing.T) {
	next := buildNext(t)
	today, err := filepath.Abs("../bin/shoald")
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, 4)
	w.swarm(3, 3)
	w.shoal(1, "service", "create", "--quiet", "--name", "hello", "--replicas", "3", "hello:1")
	w.running(1, "hello", 3, time.Second)
	containers := func() string {
		var all []string
		for n := 1; n <= 3; n++ {
			all = append(all, w.shoal(n, "container", "ls", "--no-trunc", "--format", "{{.ID}} {{.State}}"))
		}
		return strings.Join(all, "\n")
	}
	before := containers()
	order := []int{1, 2, 3} // node1 leads
	if leader := w.leader(1, 10*time.Second); leader != 1 {
		order = []int{leader, leader%3 + 1, (leader+1)%3 + 1}
	}
	// First the other way round and back: the followers are newer than the leader, and then nobody is.
	for i, n := range order[1:] {
		if err := w.replaceDaemon(n, next); err != nil {
			t.Fatal(err)
		}
		w.nodeIs(order[0], n, "Ready", 20*time.Second)
		w.shoal(n, "service", "create", "--quiet", "--detach", "--replicas", "0", "--name", fmt.Sprintf("mixed%d", i), "hello:1")
	}
	w.shoal(1, "swarm", "update", "--task-history-limit", "7")
	if l, err := w.level(order[1]); err != nil || l != 1 || w.hasMotto(order[1]) {
		t.Errorf("with a manager of the old version the level is %d, %v", l, err)
	}
	if err := w.replaceDaemon(order[1], today); err != nil {
		t.Fatalf("going back while the level is the old one: %v", err)
	}
	// Then the leader, and who is left.
	for _, n := range order[:2] {
		if l, err := w.level(order[2]); err != nil || l != 1 {
			t.Errorf("before node%d has the next version the level is %d, %v", n, l, err)
		}
		if err := w.replaceDaemon(n, next); err != nil {
			t.Fatal(err)
		}
		w.nodeIs(order[2], n, "Ready", 20*time.Second)
	}
	w.until(20*time.Second, "the swarm has the next level", func(context.Context) error {
		l, err := w.level(order[2])
		if err == nil && (l != 2 || !w.hasMotto(order[2])) {
			err = fmt.Errorf("it is %d", l)
		}
		return err
	})
	if now := containers(); now != before {
		t.Errorf("the containers were\n%s\nand are\n%s", before, now)
	}
	if got := w.shoal(2, "swarm", "health", "--format", "{{.Status}}"); strings.TrimSpace(got) != "ok" {
		t.Errorf("the swarm is %s", got)
	}
	if got := w.shoal(3, "service", "ls", "-q"); len(strings.Fields(got)) != 3 {
		t.Errorf("services %q", got)
	}
	// The old version is refused as a manager, taken as a worker, not promoted, and does not come back by a downgrade.
	first := w.Host(order[0]).Addr + ":2377"
	w.refused(4, []string{"knows feature level 1", "level 2", "install a newer version"}, "swarm", "join", "--token", w.shoal(1, "swarm", "join-token", "-q", "manager"), first)
	w.shoal(4, "swarm", "join", "--token", w.shoal(1, "swarm", "join-token", "-q", "worker"), first)
	w.nodeIs(1, 4, "Ready", 20*time.Second)
	w.refused(1, []string{"cannot become a manager", "level 2"}, "node", "promote", "node4")
	_ = w.replaceDaemon(order[1], today) // it ends soon, before it answers or after
	w.until(20*time.Second, "the old version does not run", func(context.Context) error {
		if pid, err := w.DaemonPID(order[1]); err == nil {
			return fmt.Errorf("process %d", pid)
		}
		log, err := os.ReadFile(w.Host(order[1]).Log)
		if err == nil && !bytes.Contains(log, []byte("older than the swarm")) {
			err = fmt.Errorf("its log does not say why")
		}
		return err
	})
}
