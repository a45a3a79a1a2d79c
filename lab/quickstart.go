package lab

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// session is a user's session on a lab: each command is shown as it would be typed, then what it printed.
type session struct {
	l     *Lab
	start time.Time
}

// Quickstart makes a lab of three hosts and runs the README's first session on it: a swarm, a service, an answer on
// every host with the client's own address, and the loss of a host. The lab stays.
func (l *Lab) Quickstart(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	s := &session{l: l, start: time.Now()}
	steps := []struct {
		title string
		do    func(context.Context) error
	}{
		{"Three hosts, each with a shoald, a registry and a client outside", func(ctx context.Context) error { return l.Up(ctx, Options{Nodes: 3}) }},
		{"One command makes a swarm, one on each other host joins it", s.swarm},
		{"A service of three tasks, published on port 8080 of every host", s.service},
		{"Every host answers, whichever runs a task, and the task sees the client's own address", s.answers},
		{"A host loses its power: its tasks come back on the others", s.loss},
	}
	for i, st := range steps {
		l.say("\n%d. %s", i+1, st.title)
		begin := time.Now()
		if err := st.do(ctx); err != nil {
			return fmt.Errorf("quickstart, step %d (%s): %w", i+1, st.title, err)
		}
		l.say("   ✓ %.1f s", time.Since(begin).Seconds())
	}
	l.say(`
The swarm is up after %.0f s, and stays up. Try

   bin/shoal -H unix://.lab/node1/shoal.sock node ls
   make shell NODE=1        a shell on the first host: shoal service ps hello
   make shell NODE=0        a shell on the client: curl 198.18.0.2:8080
   make lab-start NODE=3    boot the host that lost its power
   make down                remove everything`, time.Since(s.start).Seconds())
	return nil
}

// shoal runs the client on host n and returns what it printed on its standard output.
func (s *session) shoal(ctx context.Context, n int, args ...string) (string, error) {
	socket, err := filepath.Rel(s.l.Root, s.l.Host(n).Socket)
	if err != nil {
		return "", err
	}
	s.l.say("$ bin/shoal -H unix://%s %s", socket, strings.Join(args, " "))
	out, err := s.l.Shoal(ctx, n, args...)
	s.show(out)
	return out, err
}

// progress matches what a client draws over on a terminal: only the last of such lines is worth a line here.
var progress = regexp.MustCompile(`^(overall progress: |verify: Waiting |\d+/\d+: )`)

// show prints what a command printed, indented, without the steps of a progress that another step follows.
func (s *session) show(out string) {
	lines := strings.Split(out, "\n")
	for i, line := range lines {
		if progress.MatchString(line) && i+1 < len(lines) {
			continue
		}
		s.l.say("  %s", strings.TrimRight(line, " "))
	}
}

// Shoal runs bin/shoal against host n and returns its standard output, without white space at the end. The error
// holds what it said on its standard error.
func (l *Lab) Shoal(ctx context.Context, n int, args ...string) (string, error) {
	socket, err := filepath.Rel(l.Root, l.Host(n).Socket)
	if err != nil {
		return "", err
	}
	return l.client(ctx, filepath.Join("bin", "shoal"), socket, args...)
}

// client runs a client of the Engine API in the clone's folder.
func (l *Lab) client(ctx context.Context, program, socket string, args ...string) (string, error) {
	if !filepath.IsAbs(program) {
		program = filepath.Join(l.Root, program)
	}
	cmd := exec.CommandContext(ctx, program, append([]string{"-H", "unix://" + socket}, args...)...)
	cmd.Dir = l.Root
	cmd.Env = append(daemonEnv(), "DOCKER_CONFIG="+filepath.Join(l.Dir(), "client"))
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	text := strings.TrimSpace(string(out))
	if err != nil {
		return text, &ClientError{Args: args, Output: strings.TrimSpace(errs.String()), Err: err}
	}
	return text, nil
}

// ClientError is a command of a client that failed.
type ClientError struct {
	Args   []string
	Output string // what it said on its standard error
	Err    error
}

func (e *ClientError) Error() string {
	return fmt.Sprintf("%s: %v: %s", strings.Join(e.Args, " "), e.Err, e.Output)
}

func (e *ClientError) Unwrap() error { return e.Err }

func (s *session) swarm(ctx context.Context) error {
	first := s.l.Host(1)
	if _, err := s.shoal(ctx, 1, "swarm", "init", "--advertise-addr", first.Addr); err != nil {
		return err
	}
	token, err := s.shoal(ctx, 1, "swarm", "join-token", "-q", "worker")
	if err != nil {
		return err
	}
	for n := 2; n <= 3; n++ {
		if _, err := s.shoal(ctx, n, "swarm", "join", "--token", token, first.Addr+":2377"); err != nil {
			return err
		}
	}
	_, err = s.shoal(ctx, 1, "node", "ls")
	return err
}

func (s *session) service(ctx context.Context) error {
	for _, args := range [][]string{
		{"service", "create", "--name", "hello", "--replicas", "3", "--publish", "8080:80", "hello:1"},
		{"service", "ls"},
		{"service", "ps", "hello"},
		{"service", "scale", "hello=6"},
	} {
		if _, err := s.shoal(ctx, 1, args...); err != nil {
			return err
		}
	}
	return nil
}

// answers asks every host from the client until it has seen several tasks answer. A task may take new connections a
// moment after the swarm says that it runs.
func (s *session) answers(ctx context.Context) error {
	if _, err := exec.LookPath("curl"); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	seen := map[string]bool{}
	for n := 1; n <= 3; n++ {
		url := "http://" + s.l.Host(n).Addr + ":8080"
		s.l.say("$ ip netns exec %s curl -s %s", ClientNamespace, url)
		var last string
		err := Wait(ctx, "two tasks answer on "+url, func(ctx context.Context) error {
			here := map[string]string{}
			for range 8 {
				out, err := s.l.Command(ctx, 0, "curl", "-sS", "--max-time", "3", url).CombinedOutput()
				if err != nil {
					return fmt.Errorf("%w: %s", err, strings.TrimSpace(string(out)))
				}
				a := parseAnswer(string(out))
				if a["client"] != ClientAddr {
					return GiveUp(fmt.Errorf("the task saw the client's address as %q, not %s", a["client"], ClientAddr))
				}
				here[a["hostname"]] = string(out)
				seen[a["hostname"]] = true
				last = fmt.Sprintf("hello %s from task %s to client %s", a["version"], a["hostname"], a["client"])
			}
			if len(here) < 2 {
				return fmt.Errorf("only %q answered", slices.Collect(maps.Keys(here)))
			}
			last += fmt.Sprintf(" (%d different tasks in 8 answers)", len(here))
			return nil
		})
		if err != nil {
			return err
		}
		s.show(last)
	}
	s.l.say("  %d of 6 tasks have answered, on 3 hosts", len(seen))
	return nil
}

// parseAnswer reads the lines "name: value" of an answer of hello.
func parseAnswer(out string) map[string]string {
	a := map[string]string{}
	for line := range strings.Lines(out) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), ": "); ok {
			a[k] = v
		}
	}
	return a
}

// loss kills the third host and waits until six tasks run on the other two.
func (s *session) loss(ctx context.Context) error {
	s.l.say("$ make lab-kill NODE=3")
	if err := s.l.Kill(ctx, 3); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	err := Wait(ctx, "six tasks run on the hosts that are left", func(ctx context.Context) error {
		tasks, err := s.l.Tasks(ctx, 1, "hello")
		if err != nil {
			return err
		}
		running := 0
		for _, t := range tasks {
			if t.Node != "node3" && t.Desired == "Running" && strings.HasPrefix(t.State, "Running") {
				running++
			}
		}
		if running != 6 {
			return fmt.Errorf("%d run", running)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if _, err := s.shoal(ctx, 1, "node", "ls"); err != nil {
		return err
	}
	_, err = s.shoal(ctx, 1, "service", "ps", "hello", "--filter", "desired-state=running")
	return err
}

// Task is a line of `service ps`.
type Task struct {
	ID, Name, Image, Node, Desired, State, Error string
}

// Tasks lists the tasks of a service with their history, as host n shows them.
func (l *Lab) Tasks(ctx context.Context, n int, service string) ([]Task, error) {
	const format = "{{.ID}}|{{.Name}}|{{.Image}}|{{.Node}}|{{.DesiredState}}|{{.CurrentState}}|{{.Error}}"
	out, err := l.Shoal(ctx, n, "service", "ps", "--no-trunc", "--format", format, service)
	if err != nil {
		return nil, err
	}
	var tasks []Task
	for line := range strings.Lines(out) {
		f := strings.SplitN(strings.TrimSpace(line), "|", 7)
		if len(f) != 7 {
			return nil, errors.New("service ps printed " + line)
		}
		tasks = append(tasks, Task{f[0], f[1], f[2], f[3], f[4], f[5], f[6]})
	}
	return tasks, nil
}

// CheckBuilt says what is missing for a lab: programs of ours and of the distribution.
func (l *Lab) CheckBuilt() error {
	for _, f := range []string{"bin/shoal", "bin/shoald", "bin/containerd-shim-shoal-v1", "bin/shoal-init", "bin/lab", "bin/images"} {
		if _, err := os.Stat(filepath.Join(l.Root, f)); err != nil {
			return fmt.Errorf("%w (make build images makes it)", err)
		}
	}
	for _, p := range []string{"ip", "nsenter", "unshare", "nft", "runc", "curl"} {
		if _, err := exec.LookPath(p); err != nil {
			return fmt.Errorf("%w (make prereqs installs it)", err)
		}
	}
	return nil
}
