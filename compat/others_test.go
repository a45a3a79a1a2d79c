package compat

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"shoal.dev/shoal/lab"
)

// TestDockerPy runs testdata/dockerpy.py, which asserts itself, with Debian's docker-py in a host's network.
func TestDockerPy(t *testing.T) { dockerPy(t, open(t), "testdata/dockerpy.py") }

// dockerPy runs a program with Debian's docker-py against a host of its own.
func dockerPy(t *testing.T, l *lab.Lab, program string) {
	t.Helper()
	const python = "/usr/bin/python3" // Debian's, which has Debian's docker-py
	if out, err := exec.CommandContext(t.Context(), python, "-c", "import docker").CombinedOutput(); err != nil {
		unable(t, "there is no docker-py (make prereqs installs python3-docker): %v %s", err, out)
	}
	s := solo(t, l, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	args := s.Command(python, program)
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "DOCKER_HOST=unix://"+s.Socket, "REGISTRY="+s.Registry, "HOME="+t.TempDir())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestCompose takes an application of three services up, looks at it and takes it down.
func TestCompose(t *testing.T) {
	l := open(t)
	built(t, l, "docker")
	t.Run("v1", func(t *testing.T) {
		program, err := exec.LookPath("docker-compose")
		if err != nil {
			unable(t, "%v (make prereqs installs docker-compose)", err)
		}
		composed(t, l, "_", program)
	})
	t.Run("v2", func(t *testing.T) {
		composed(t, l, "-", built(t, l, "compose"))
	})
}

// composed joins the parts of a container's name with sep.
func composed(t *testing.T, l *lab.Lab, sep, program string) {
	s := solo(t, l, nil)
	home := t.TempDir()
	try := func(args ...string) (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		all := s.Command(append([]string{program, "-p", "app", "-f", "testdata/compose/compose.yml"}, args...)...)
		cmd := exec.CommandContext(ctx, all[0], all[1:]...)
		cmd.Env = append(os.Environ(), "DOCKER_HOST=unix://"+s.Socket, "HOME="+home)
		cmd.WaitDelay = time.Second
		var both bytes.Buffer
		cmd.Stdout, cmd.Stderr = &both, &both
		err := cmd.Run()
		return both.String(), err
	}
	run := func(args ...string) string {
		t.Helper()
		out, err := try(args...)
		if err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
		return out
	}
	says := func(out string, patterns ...string) {
		t.Helper()
		for _, p := range patterns {
			if !regexp.MustCompile("(?m)" + p).MatchString(out) {
				t.Errorf("there is no %q in\n%s", p, out)
			}
		}
	}
	run("pull")
	run("up", "-d")
	web, store, client := "app"+sep+"web"+sep+"1", "app"+sep+"store"+sep+"1", "app"+sep+"client"+sep+"1"
	says(run("ps"), web+" .*Up", store+" .*Up", client+" .*Up.*127.0.0.1:8080->80/tcp")
	eventually(t, "the client has read from the web", func() error {
		if out := run("logs", "client"); !strings.Contains(out, "client is done") {
			return fmt.Errorf("its log is %s", out)
		}
		return nil
	})
	says(run("logs", "--no-color"), `web.*\| web is up`, `store.*\| store is up`, `client.*\| kept`)
	says(run("exec", "-T", "web", "sh", "-c", "echo $TIER; cat /data/page"), "^web", "^kept")
	says(run("exec", "-T", "web", "ping", "-c", "1", "database"), "1 packets received")
	if out, err := try("exec", "-T", "client", "ping", "-c", "1", "-W", "1", "store"); err == nil {
		t.Errorf("a service of another network was reached:\n%s", out)
	}
	if out, err := try("exec", "-T", "web", "sh", "-c", "exit 4"); err == nil || err.Error() != "exit status 4" {
		t.Errorf("the exit code of exec: %v %s", err, out)
	}
	says(run("run", "--rm", "-T", "web", "echo", "once"), "^once")
	run("stop", "-t", "2", "store")
	run("start", "store")
	run("up", "-d", "--scale", "store=2")
	says(run("ps"), "app"+sep+"store"+sep+"2 .*Up")
	if got := must(t, s, "ps", "-q", "--filter", "label=com.docker.compose.service=store"); len(strings.Fields(got)) != 2 {
		t.Errorf("containers of store: %q", got)
	}
	run("restart", "-t", "1", "web")
	run("config")
	says(run("top", "store"), "sleep|sh")
	says(run("images"), "busybox")
	run("kill", "web")
	run("rm", "-f", "web")
	run("down", "-v", "-t", "1")
	for kind, args := range map[string][]string{
		"containers": {"ps", "-aq"}, "networks": {"network", "ls", "-q", "--filter", "type=custom"}, "volumes": {"volume", "ls", "-q"},
	} {
		if got := must(t, s, args...); got != "" {
			t.Errorf("%s are left: %s", kind, got)
		}
	}
}
