package lab_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// requests is how many requests are made of a service in a row while its tasks change.
const requests = 200

// TestNetworks puts services on overlay networks that a manager makes which does not lead: their names and virtual
// addresses lead to their tasks on every node, other networks' do not; while tasks go, no request is lost; a node that
// dies takes its own tasks along and nothing else; and what was made is removed.
func TestNetworks(t *testing.T) {
	w := newWorld(t, 3)
	w.swarm(3, 3)
	defer w.networksAgree(1)
	follower := w.leader(1, 10*time.Second)%3 + 1
	w.shoal(follower, "network", "create", "--driver", "overlay", "shop")
	w.shoal(follower, "network", "create", "--driver", "overlay", "--internal", "vault")
	w.refused(follower, []string{"network with name shop already exists"}, "network", "create", "--driver", "overlay", "shop")

	w.shoal(1, "service", "create", "--detach", "--name", "web", "--replicas", "4", "--network", "name=shop,alias=www", "hello:1")
	w.shoal(1, "service", "create", "--detach", "--name", "probe", "--mode", "global", "--network", "shop", "busybox:latest", "sleep", "1000")
	w.shoal(1, "service", "create", "--detach", "--name", "safe", "--network", "vault", "busybox:latest", "sleep", "1000")
	w.running(1, "web", 4, 30*time.Second)
	w.running(1, "safe", 1, 30*time.Second)
	// in runs a script in a container of a service on a host.
	in := func(n int, service, script string) (string, error) {
		id, err := w.try(n, "container", "ls", "-q", "--filter", "label=com.docker.swarm.service.name="+service)
		if err != nil {
			return "", err
		}
		if id = strings.TrimSpace(id); id == "" || strings.Contains(id, "\n") {
			return "", fmt.Errorf("node%d has these containers of %s: %q", n, service, id)
		}
		return w.try(n, "exec", id, "sh", "-c", script)
	}
	// answers are how many different tasks answer at a name.
	answers := func(n int, name string) (int, error) {
		out, err := in(n, "probe", "for i in $(seq 40); do wget -q -O - http://"+name+"/ || exit 1; done")
		who := map[string]bool{}
		for line := range strings.Lines(out) {
			if h, ok := strings.CutPrefix(line, "hostname: "); ok {
				who[h] = true
			}
		}
		return len(who), err
	}
	reaches := func(n int, name string, want int) {
		t.Helper()
		w.until(20*time.Second, fmt.Sprintf("from node%d, %d tasks answer at %s", n, want, name), func(context.Context) error {
			got, err := answers(n, name)
			if err == nil && got != want {
				err = fmt.Errorf("%d do", got)
			}
			return err
		})
	}
	for n := 1; n <= 3; n++ {
		for _, name := range []string{"web", "www", "tasks.web"} {
			reaches(n, name, 4)
		}
	}
	vip := strings.TrimSpace(w.shoal(1, "service", "inspect", "web", "--format", "{{range .Endpoint.VirtualIPs}}{{.Addr.Addr}}{{end}}"))
	for n := 1; n <= 3; n++ {
		if out, err := in(n, "safe", "nslookup web 127.0.0.11; wget -q -O - http://"+vip+"/"); err == nil || strings.Contains(out, "hostname") {
			if !strings.Contains(fmt.Sprint(err), "has these containers") {
				t.Errorf("a task of another network reaches the service: %s %v", out, err)
			}
		}
	}

	lost := func(n int) chan error {
		done := make(chan error, 1)
		go func() {
			out, err := in(n, "probe", fmt.Sprintf("for i in $(seq %d); do wget -q -O /dev/null http://web/ || echo lost $i; done", requests))
			if err == nil && strings.Contains(out, "lost") {
				err = errors.New(out)
			}
			done <- err
		}()
		return done
	}
	load := lost(2)
	w.shoal(1, "service", "scale", "--detach", "web=1")
	if err := <-load; err != nil {
		t.Errorf("requests while tasks go: %v", err)
	}
	w.running(1, "web", 1, 20*time.Second)
	w.shoal(1, "service", "scale", "--detach", "web=6")
	w.running(1, "web", 6, 20*time.Second)
	reaches(1, "web", 6)

	if err := w.Kill(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	at := 1
	w.nodeIs(at, 3, "Down", 30*time.Second)
	w.running(at, "web", 6, 30*time.Second, 3)
	reaches(1, "web", 6)
	reaches(2, "web", 6)
	if err := w.Start(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	w.nodeIs(at, 3, "Ready", 30*time.Second)
	reaches(3, "web", 6)

	w.refused(follower, []string{"is in use by service"}, "network", "rm", "shop")
	w.shoal(1, "service", "rm", "web", "probe", "safe")
	w.shoal(2, "network", "rm", "shop", "vault")
	w.until(30*time.Second, "no node has a part of the networks", func(context.Context) error {
		for n := 1; n <= 3; n++ {
			left, err := filepath.Glob(filepath.Join(w.Host(n).Run, "netns", "net-*"))
			if err != nil {
				return err
			}
			if len(left) > 0 {
				return fmt.Errorf("node%d has %v", n, left)
			}
			if _, err := os.Stat(w.Host(n).Run); err != nil {
				return err
			}
		}
		return nil
	})
}
