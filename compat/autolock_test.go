package compat

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"shoal.dev/shoal/lab"
)

const lockedWords = `Swarm is encrypted and needs to be unlocked before it can be used. Please use "docker swarm unlock" to unlock it.`

// again ends a host's daemon and starts it.
func again(t *testing.T, s *lab.Solo, sig syscall.Signal) {
	t.Helper()
	if err := s.Signal(sig); err != nil {
		t.Fatal(err)
	}
	eventually(t, "shoald ends", func() error {
		c, err := net.Dial("unix", s.Socket)
		if err != nil {
			return nil
		}
		return errors.Join(errors.New("it answers"), c.Close())
	})
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// unlock runs `docker swarm unlock` with a key on its standard input.
func unlock(t *testing.T, s *lab.Solo, key string) (string, error) {
	t.Helper()
	all := s.Command(filepath.Join("..", "bin", "clients", "docker"), "-H", "unix://"+s.Socket, "swarm", "unlock")
	cmd := exec.CommandContext(t.Context(), all[0], all[1:]...)
	cmd.Env, cmd.Stdin = append(os.Environ(), "DOCKER_CONFIG="+t.TempDir()), strings.NewReader(key+"\n")
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// TestAutolock locks a manager with the stock client, restarts and kills its daemon, and unlocks it: its tasks run on and
// its host's own containers work meanwhile, nothing of the swarm does.
func TestAutolock(t *testing.T) {
	l := open(t)
	built(t, l, "docker")
	s := solo(t, l, nil)
	out := must(t, s, "swarm", "init", "--autolock")
	key := ""
	for f := range strings.FieldsSeq(out) {
		if strings.HasPrefix(f, "SWMKEY-1-") {
			key = f
		}
	}
	if got := must(t, s, "swarm", "unlock-key", "-q"); key == "" || got != key {
		t.Fatalf("init printed %q, the key is %q", out, got)
	}
	must(t, s, "service", "create", "--detach=false", "--quiet", "--name", "web", "hello:1")
	must(t, s, "run", "-d", "--name", "plain", "hello:1")
	running := must(t, s, "ps", "-q", "--no-trunc")

	isLocked := func() {
		t.Helper()
		if got := must(t, s, "info", "--format", "{{.Swarm.LocalNodeState}} {{.Swarm.ControlAvailable}}"); got != "locked false" {
			t.Errorf("info: %s", got)
		}
		if got := must(t, s, "info"); !strings.Contains(got, "Swarm: locked") {
			t.Errorf("info does not say that the swarm is locked:\n%s", got)
		}
		for _, args := range [][]string{
			{"node", "ls"}, {"service", "ls"}, {"service", "create", "hello:1"}, {"swarm", "update", "--autolock=false"}, {"swarm", "unlock-key"},
			{"stack", "ls"}, {"secret", "ls"}, {"swarm", "join-token", "worker"}, {"node", "update", "--availability", "drain", "self"},
		} {
			if out, err := client(t, s, append([]string{"-H", "unix://" + s.Socket}, args...)...); err == nil || !strings.Contains(out, lockedWords) {
				t.Errorf("docker %v: %v: %s", args, err, out)
			}
		}
		if now := must(t, s, "ps", "-q", "--no-trunc"); now != running {
			t.Errorf("running were\n%s\nand are\n%s", running, now)
		}
		must(t, s, "exec", "plain", "/hello", "-h")
		must(t, s, "run", "--rm", "busybox", "true")
	}
	again(t, s, syscall.SIGTERM)
	isLocked()
	if out, err := unlock(t, s, "SWMKEY-1-"+strings.Repeat("A", 43)); err == nil || !strings.Contains(out, "swarm could not be unlocked: invalid key provided") {
		t.Errorf("the wrong key: %v: %s", err, out)
	}
	if out, err := unlock(t, s, "sesame"); err == nil || !strings.Contains(out, "invalid key string") {
		t.Errorf("no key: %v: %s", err, out)
	}
	isLocked()
	if out, err := unlock(t, s, key); err != nil {
		t.Fatalf("the key: %v: %s", err, out)
	}
	works := func() {
		t.Helper()
		if got := must(t, s, "node", "ls", "--format", "{{.ManagerStatus}}"); got != "Leader" {
			t.Errorf("unlocked, the node is %q", got)
		}
		eventually(t, "the service has its task", func() error {
			if got := must(t, s, "service", "ls", "--format", "{{.Replicas}}"); got != "1/1" {
				return fmt.Errorf("it has %s", got)
			}
			return nil
		})
		if now := must(t, s, "ps", "-q", "--no-trunc"); now != running {
			t.Errorf("running were\n%s\nand are\n%s", running, now)
		}
	}
	works()
	// A rotated key is the only one that opens, also after a death in the same moment.
	next := must(t, s, "swarm", "unlock-key", "--rotate", "-q")
	eventually(t, "the old key is worth nothing", func() error {
		again(t, s, syscall.SIGKILL)
		if out, err := unlock(t, s, key); err == nil {
			return fmt.Errorf("it opens: %s", out)
		}
		return nil
	})
	isLocked()
	if out, err := unlock(t, s, next); err != nil {
		t.Fatalf("the new key: %v: %s", err, out)
	}
	works()
	if out, err := unlock(t, s, next); err == nil || !strings.Contains(out, "swarm is not locked") {
		t.Errorf("unlocked twice: %v: %s", err, out)
	}
	// Switched off.
	must(t, s, "swarm", "update", "--autolock=false")
	eventually(t, "a restart needs no key", func() error {
		again(t, s, syscall.SIGTERM)
		if got := must(t, s, "info", "--format", "{{.Swarm.LocalNodeState}}"); got != "active" {
			_, err := unlock(t, s, next)
			return fmt.Errorf("it is %s (%v)", got, err)
		}
		return nil
	})
	works()
	// A locked node can be given up.
	must(t, s, "swarm", "update", "--autolock=true")
	eventually(t, "it is locked again", func() error {
		again(t, s, syscall.SIGTERM)
		if got := must(t, s, "info", "--format", "{{.Swarm.LocalNodeState}}"); got != "locked" {
			return fmt.Errorf("it is %s", got)
		}
		return nil
	})
	if out, err := client(t, s, "-H", "unix://"+s.Socket, "swarm", "leave"); err == nil || !strings.Contains(out, "Please unlock it first or use `--force`") {
		t.Errorf("leaving: %v: %s", err, out)
	}
	must(t, s, "swarm", "leave", "--force")
	must(t, s, "swarm", "init")
}
