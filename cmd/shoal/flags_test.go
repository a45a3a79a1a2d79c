package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"text/template"
	"time"

	"github.com/docker/cli/cli/command"
	"github.com/docker/cli/cli/command/commands"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/swarm"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/httpapi"
	"shoal.dev/shoal/internal/httpapi/apitest"
	"shoal.dev/shoal/internal/store"
)

// arrival is what became of a service's flags: the newest task's container as the engine was asked for it, and the records.
type arrival struct {
	Container *container.InspectResponse
	Files     []string // where the engine put secrets and configs
	Service   *cluster.Service
	Task      *cluster.Task
	Tasks     int // that are meant to run
	Auth      map[string]string
}

// TestServiceFlags says of every flag of `service create` and `service update` where it arrives, with both clients: the
// tables are checked against the commands of docker/cli, so that a new flag fails here until it has a row.
func TestServiceFlags(t *testing.T) {
	t.Run("tables", func(t *testing.T) {
		var create, update []string
		for _, rows := range createFlags {
			for _, r := range rows {
				create = append(create, r.args)
			}
		}
		for args := range createRefusals {
			create = append(create, args)
		}
		for _, rows := range updateFlags {
			for _, r := range rows {
				update = append(update, r.args)
			}
		}
		for args := range updateRefusals {
			update = append(update, args)
		}
		dc, err := command.NewDockerCli(command.WithCombinedStreams(io.Discard))
		if err != nil {
			t.Fatal(err)
		}
		root := &cobra.Command{}
		commands.AddCommands(root, dc)
		for name, args := range map[string][]string{"create": create, "update": update} {
			c, _, err := root.Find([]string{"service", name})
			if err != nil {
				t.Fatal(err)
			}
			have := map[string]bool{}
			for _, a := range strings.FieldsFunc(strings.Join(args, " "), func(r rune) bool { return r == ' ' || r == '=' }) {
				have[a] = true
			}
			c.Flags().VisitAll(func(f *pflag.Flag) {
				if !have["--"+f.Name] && f.Name != "help" {
					t.Errorf("service %s --%s has no row", name, f.Name)
				}
			})
		}
	})
	t.Run("shoal", func(t *testing.T) { newFlagTest(t, "shoal").run() })
	t.Run("docker", func(t *testing.T) {
		path, err := exec.LookPath("docker")
		if err != nil {
			t.Skip("there is no docker client on this machine")
		}
		newFlagTest(t, path).run()
	})
}

// flagTest is a client and a swarm.
type flagTest struct {
	*testing.T
	*nodes
	client, work, sock string
	help               map[string]string // of a command
}

// nets are the host's networks and the one that a service calls "host".
type nets struct{ *hostNetworks }

type hostNetworks = apitest.Networks

func (n nets) Network(ctx context.Context, ref, scope string, verbose bool) (*network.Inspect, error) {
	if ref != cluster.HostNetwork {
		return n.hostNetworks.Network(ctx, ref, scope, verbose)
	}
	i := &network.Inspect{}
	i.ID, i.Name, i.Driver, i.Scope = ref, ref, "host", "swarm"
	return i, nil
}

// api serves the swarm on a socket whose path is short enough.
func (w *nodes) api(t *testing.T) string {
	dir, err := os.MkdirTemp("", "shoal")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	sock := filepath.Join(dir, "s.sock")
	l, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	eng, sw := apitest.NewEngine(), apitest.NewSwarm()
	s := &http.Server{ReadHeaderTimeout: time.Minute, Handler: httpapi.New(httpapi.Config{
		Containers: eng, Images: eng, Events: eng, Usage: eng, Host: apitest.Host{}, Swarm: sw, Control: w.control, Networks: nets{&apitest.Networks{}}, Version: "0.1.0",
	})}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Close()
		<-done
	})
	return sock
}

func newFlagTest(t *testing.T, client string) *flagTest {
	w := newNodes(t)
	t.Cleanup(w.stop)
	f := &flagTest{T: t, nodes: w, client: client, work: t.TempDir(), sock: w.api(t), help: map[string]string{}}
	for name, text := range map[string]string{"env": "B=file\n", "config.json": `{"auths": {"https://index.docker.io/v1/": {"auth": "YWRhOmxvdmVsYWNl"}}}`} {
		if err := os.WriteFile(filepath.Join(f.work, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"create", "update"} {
		f.help[name], _ = f.cli("", "service", name, "--help")
	}
	f.must("", "swarm", "init")
	for _, n := range []string{"1", "2"} {
		f.must("bytes", "secret", "create", "s"+n, "-")
		f.must("bytes", "config", "create", "c"+n, "-")
	}
	return f
}

// cli runs the client and returns what it says.
func (f *flagTest) cli(stdin string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(f.Context(), time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, f.client, args...)
	c.Env = append(os.Environ(), "DOCKER_HOST=unix://"+f.sock, "DOCKER_CONFIG="+f.work, "GORACE=atexit_sleep_ms=0")
	c.Stdin = strings.NewReader(stdin)
	out, err := c.CombinedOutput()
	return string(out), err
}

func (f *flagTest) must(stdin string, args ...string) {
	f.Helper()
	if out, err := f.cli(stdin, args...); err != nil {
		f.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// known are the rows of flags that the client has: a stock client may be older than the one that is linked in.
func (f *flagTest) known(command string, rows []row) []row {
	return slices.DeleteFunc(slices.Clone(rows), func(r row) bool { return !f.has(command, r.args) })
}

func (f *flagTest) has(command, args string) bool {
	return !slices.ContainsFunc(strings.Fields(args), func(a string) bool {
		name, _, _ := strings.Cut(a, "=")
		return strings.HasPrefix(a, "--") && !strings.Contains(f.help[command], " "+name+" ") && !strings.Contains(f.help[command], " "+name+"\n")
	})
}

func (f *flagTest) args(command string, rows []row) []string {
	args := []string{"service", command}
	for _, r := range rows {
		args = append(args, strings.Fields(strings.ReplaceAll(r.args, "$WORK", f.work))...)
	}
	return args
}

func (f *flagTest) run() {
	for name, rows := range createFlags {
		rows = f.known("create", rows)
		f.must("", append(f.args("create", rows), "hello:1", "one")...)
		f.arrive(name, "create", rows)
	}
	for i, rows := range updateFlags {
		rows = f.known("update", rows)
		f.must("", append(f.args("update", rows), "all")...)
		f.arrive("all", fmt.Sprint("update ", i+1), rows)
	}
	refused := func(command string, refusals map[string]string, last ...string) {
		for args, want := range refusals {
			if !f.has(command, args) {
				continue
			}
			out, err := f.cli("", slices.Concat([]string{"service", command, "--detach"}, strings.Fields(args), last)...)
			if err == nil || !strings.Contains(out, want) {
				f.Errorf("service %s %s: %v, %s", command, args, err, out)
			}
		}
	}
	refused("create", createRefusals, "--name", "refused", "--no-resolve-image", "hello:1")
	refused("update", updateRefusals, "job")
	if _, ok := f.store.Snapshot().ServiceByName("refused"); ok {
		f.Error("a service was made of what was refused")
	}
}

// arrive waits until every row of a service has arrived.
func (f *flagTest) arrive(service, what string, rows []row) {
	f.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		var wrong []string
		a := f.look(service)
		for _, r := range rows {
			if r.at == "" {
				continue
			}
			if got := a.show(r.at); got != r.want {
				wrong = append(wrong, fmt.Sprintf("service %s: %s: %s is %s, want %s", what, r.args, r.at, got, r.want))
			}
		}
		if len(wrong) == 0 {
			return
		}
		if time.Now().After(deadline) {
			f.Fatal(strings.Join(wrong, "\n"))
		}
		<-time.After(20 * time.Millisecond)
	}
}

// look finds the newest task of a service that has a container.
func (f *flagTest) look(service string) *arrival {
	snap := f.store.Snapshot()
	a := &arrival{Container: &container.InspectResponse{Config: &container.Config{}, HostConfig: &container.HostConfig{}}, Task: &cluster.Task{}}
	a.Service, _ = snap.ServiceByName(service)
	if a.Service == nil {
		f.Fatalf("there is no service %s", service)
	}
	found := false
	for t := range snap.TasksByService(a.Service.ID) {
		if !t.WantsToRun() {
			continue
		}
		a.Tasks++
		has := !cluster.Before(t.Status.State, swarm.TaskStateReady)
		if t.Follows(a.Service) && (has || !found) && (has != found || t.CreatedAt.After(a.Task.CreatedAt)) {
			a.Task, found = t, has
		}
	}
	if auth, ok := store.Get[*cluster.Credentials](snap, a.Service.ID); ok {
		a.Auth = auth.Auth
	}
	eng := f.engines[a.Task.NodeID]
	if eng == nil || !found {
		return a
	}
	if c, err := eng.Inspect(f.Context(), a.Task.Name()+"."+a.Task.ID); err == nil {
		a.Container = c
		for _, file := range eng.Files(c.ID) {
			a.Files = append(a.Files, file.Target)
		}
	}
	return a
}

// show is a template over the arrival; what it asks for and is not there is what the template says of that.
func (a *arrival) show(text string) string {
	t, err := template.New("").Funcs(template.FuncMap{
		"has": func(list []string, s string) bool { return slices.Contains(list, s) },
		"json": func(v any) (string, error) {
			b, err := json.Marshal(v)
			return string(b), err
		},
	}).Parse(text)
	if err != nil {
		return err.Error()
	}
	var b bytes.Buffer
	if err := t.Execute(&b, a); err != nil {
		return err.Error()
	}
	return b.String()
}
