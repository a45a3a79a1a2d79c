package main

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"shoal.dev/shoal/cmd/shoal/internal/brand"
	"shoal.dev/shoal/compat/transcript"
	"shoal.dev/shoal/internal/doctor"
	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/httpapi"
	"shoal.dev/shoal/internal/httpapi/apitest"
)

func TestMain(m *testing.M) { testscript.Main(m, map[string]func(){"shoal": main}) }

// TestShoal runs the scripts of testdata/shoal with the client against an API in memory.
func TestShoal(t *testing.T) { scripts(t, "testdata/shoal", "shoal") }

// TestBoth runs the scripts of testdata/both with our client, then with the stock docker client: the results must be
// the same.
func TestBoth(t *testing.T) {
	t.Run("shoal", func(t *testing.T) { scripts(t, "testdata/both", "shoal") })
	t.Run("docker", func(t *testing.T) {
		path, err := exec.LookPath("docker")
		if err != nil {
			t.Skip("there is no docker client on this machine")
		}
		scripts(t, "testdata/both", path)
	})
}

func scripts(t *testing.T, dir, client string) {
	t.Helper()
	testscript.Run(t, testscript.Params{
		Dir:   dir,
		Cmds:  transcript.Commands(),
		Setup: func(e *testscript.Env) error { return setup(e, client, nil) },
	})
}

// setup serves an API to a script's client; a nil control is one in memory.
func setup(e *testscript.Env, client string, control httpapi.Control) error {
	sock, err := serve(e, control)
	if err != nil {
		return err
	}
	// A program under the race detector sleeps a second before it ends, which is a minute over all commands.
	e.Vars = append(e.Vars, "GORACE=atexit_sleep_ms=0", "CLI="+client, "SOCK="+sock, "HOME="+filepath.Join(e.WorkDir, "home"), "DOCKER_HOST=unix://"+sock)
	return os.Mkdir(filepath.Join(e.WorkDir, "home"), 0o700)
}

// serve answers with backends in memory on a socket whose path is short enough.
func serve(e *testscript.Env, control httpapi.Control) (string, error) {
	dir, err := os.MkdirTemp("", "shoal")
	if err != nil {
		return "", err
	}
	sock := filepath.Join(dir, "s.sock")
	l, err := net.Listen("unix", sock)
	if err != nil {
		return "", err
	}
	eng, sw := apitest.NewEngine(), apitest.NewSwarm()
	if control == nil {
		control = sw
	}
	jobs, _ := control.(httpapi.Jobs)
	eng.Lines = []engine.LogLine{{Stream: "stdout", Line: []byte("use docker run\n")}, {Stream: "stderr", Line: []byte("a complaint\n")}}
	sick := &apitest.Doctor{Report: doctor.Report{Findings: []doctor.Finding{
		{Check: "daemon", Level: doctor.OK, Found: "shoald 0.1.0 runs, in no swarm"}, {Check: "clock", Level: doctor.Failure, Found: "a minute off", Remedy: "timedatectl set-ntp true"},
	}}}
	s := &http.Server{ReadHeaderTimeout: time.Minute, Handler: httpapi.New(httpapi.Config{
		Containers: eng, Images: eng, Disk: eng, Events: eng, Usage: eng, Host: apitest.Host{}, Swarm: sw, Upkeep: sw, Scheduler: sw, Jobs: jobs, Control: control, TaskLogs: sw, Networks: &apitest.Networks{}, Doctor: sick, Version: "0.1.0",
	})}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	e.Defer(func() {
		s.Close()
		<-done
		os.RemoveAll(dir)
	})
	return sock, nil
}

// allowed is what may say docker in a text of ours, and why.
var allowed = regexp.MustCompile(strings.Join([]string{
	`docker\.io`, `docs\.docker\.com`, `com\.docker\.[\w.]+`, `DOCKER_\w+`, // names that are Docker's
	`Docker Hub`,              // the registry
	`[Dd]ocker content trust`, // a thing of Docker's that is gone
	`Docker image manifest`,   // the format
	`Dockerfile`,
	`Docker API socket`,                  // run --use-api-socket binds /var/run/docker.sock
	`--docker\b`, `\b[Dd]ocker endpoint`, // the name of a flag and of a kind of endpoint in a context
	`(?:,|^ {6,}) *--docker`,
	`/var/run/docker\.sock`,
}, "|"))

var dockerWord = regexp.MustCompile(`(?i)docker`)

// TestHelp reads the help of every command there is.
func TestHelp(t *testing.T) {
	prepareEnvironment()
	var out bytes.Buffer
	dc, err := command.NewDockerCli(command.WithCombinedStreams(&out))
	if err != nil {
		t.Fatal(err)
	}
	root, _, _ := newRoot(dc)
	n := 0
	var visit func(c *cobra.Command)
	visit = func(c *cobra.Command) {
		n++
		out.Reset()
		if err := c.Help(); err != nil {
			t.Errorf("%s: %v", c.CommandPath(), err)
		}
		for line := range strings.Lines(out.String()) {
			if dockerWord.MatchString(allowed.ReplaceAllString(line, "")) {
				t.Errorf("%s --help says: %s", c.CommandPath(), line)
			}
		}
		for _, child := range c.Commands() {
			visit(child)
		}
	}
	visit(root)
	if n < 150 {
		t.Errorf("only %d commands", n)
	}
}

// TestTexts reads what help does not show: hidden commands and flags, notes of deprecation, examples.
func TestTexts(t *testing.T) {
	prepareEnvironment()
	dc, err := command.NewDockerCli(command.WithCombinedStreams(&bytes.Buffer{}))
	if err != nil {
		t.Fatal(err)
	}
	root, _, texts := newRoot(dc)
	texts().Tree(root)
	var visit func(c *cobra.Command)
	visit = func(c *cobra.Command) {
		all := []string{c.Use, c.Short, c.Long, c.Example, c.Deprecated, c.Annotations["aliases"], c.Annotations["additionalHelp"]}
		all = append(all, strings.Split(c.Flags().FlagUsages(), "\n")...)
		for _, s := range all {
			if dockerWord.MatchString(allowed.ReplaceAllString(s, "")) {
				t.Errorf("%s says: %s", c.CommandPath(), s)
			}
		}
		for _, child := range c.Commands() {
			visit(child)
		}
	}
	visit(root)
}

// TestWrapped fails when docker/cli has moved a command whose output is changed.
func TestWrapped(t *testing.T) {
	dc, err := command.NewDockerCli(command.WithCombinedStreams(&bytes.Buffer{}))
	if err != nil {
		t.Fatal(err)
	}
	root, _, texts := newRoot(dc)
	if missing := brand.NewCli(dc, texts).Wrap(root); len(missing) > 0 {
		t.Errorf("there are no commands %q any more", missing)
	}
}

func TestText(t *testing.T) {
	dc, err := command.NewDockerCli(command.WithCombinedStreams(&bytes.Buffer{}))
	if err != nil {
		t.Fatal(err)
	}
	_, _, texts := newRoot(dc)
	for in, want := range map[string]string{
		"docker image ls, docker image list, docker images": "shoal image ls, shoal image list, shoal images",
		apitest.NotManager:                                 strings.ReplaceAll(apitest.NotManager, "docker", "shoal"),
		"Use `docker service ps x` to check":               "Use `shoal service ps x` to check",
		"docker: no such image\n\nRun 'docker run --help'": "shoal: no such image\n\nRun 'shoal run --help'",
		"run docker --debug swarm init":                    "run shoal --debug swarm init",
		"image docker.io/library/docker":                   "image docker.io/library/docker",
		"com.docker.swarm.task docker-compose":             "com.docker.swarm.task docker-compose",
		"/usr/bin/docker run":                              "/usr/bin/docker run",
		"Docker Hub":                                       "Docker Hub",
		"Cannot connect to the Docker daemon at unix:///run/shoal.sock. Is the docker daemon running?": "Cannot connect to the Shoal daemon at unix:///run/shoal.sock. Is shoald running?",
		// What docker/cli prints where this test does not come by.
		"To login with a different account, run 'docker logout' followed by 'docker login'":                              "To login with a different account, run 'shoal logout' followed by 'shoal login'",
		"run the `docker swarm unlock`\ncommand and provide":                                                             "run the `shoal swarm unlock`\ncommand and provide",
		"No images found matching \"ls\": did you mean \"docker image ls\"?\n":                                           "No images found matching \"ls\": did you mean \"shoal image ls\"?\n",
		`this node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm`: `this node is not a swarm manager. Use "shoal swarm init" or "shoal swarm join" to connect this node to swarm`,
	} {
		if got := texts().Text(in); got != want {
			t.Errorf("%q becomes %q, want %q", in, got, want)
		}
	}
	status := cli.StatusError{StatusCode: 125, Status: "docker: x"}
	renamed := texts().Error(status)
	var got cli.StatusError
	if renamed.Error() != "shoal: x" || !errors.As(renamed, &got) || got.StatusCode != 125 {
		t.Errorf("the error becomes %v with code %d", renamed, got.StatusCode)
	}
}

func TestExitCode(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		want int
	}{
		"none":     {nil, 0},
		"an error": {errors.New("exit code test: this line is expected"), 1},
		"a status": {cli.StatusError{StatusCode: 126}, 126},
		"SIGINT":   {signalled{2}, 130},
		"SIGTERM":  {signalled{15}, 143},
		"canceled": {context.Canceled, 1},
	} {
		if got := exitCode(t.Context(), c.err); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

var _ httpapi.Control = (*apitest.Swarm)(nil)
