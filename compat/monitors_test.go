package compat

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"shoal.dev/shoal/lab"
)

// TestDockerPySwarm runs testdata/dockerpyswarm.py, which asserts itself: docker-py's calls of swarms.
func TestDockerPySwarm(t *testing.T) {
	t.Parallel()
	dockerPy(t, open(t), "testdata/dockerpyswarm.py")
}

// monitors is where Prometheus answers in a host's network.
const monitors = "127.0.0.1:9090"

// discovery has Prometheus ask the swarm for everything that it can ask for.
const discovery = `
global: {scrape_interval: 1s, scrape_timeout: 1s}
scrape_configs:
- {job_name: nodes, dockerswarm_sd_configs: [{host: "unix://SOCKET", role: nodes, refresh_interval: 1s}]}
- {job_name: services, dockerswarm_sd_configs: [{host: "unix://SOCKET", role: services, refresh_interval: 1s}]}
- job_name: tasks
  dockerswarm_sd_configs: [{host: "unix://SOCKET", role: tasks, refresh_interval: 1s, filters: [{name: service, values: [web]}]}]
`

// target is what Prometheus has discovered, as its HTTP API says.
type target struct {
	ScrapePool       string            `json:"scrapePool"`
	DiscoveredLabels map[string]string `json:"discoveredLabels"`
}

// TestPrometheus sees that Debian's Prometheus discovers the nodes, services and tasks of a swarm, and what becomes of them.
func TestPrometheus(t *testing.T) {
	t.Parallel()
	l := open(t)
	program, err := exec.LookPath("prometheus")
	if err != nil {
		unable(t, "%v (make prereqs installs prometheus)", err)
	}
	built(t, l, "docker")
	s := solo(t, l, nil)
	must(t, s, "swarm", "init", "--advertise-addr", "eth0")
	must(t, s, "node", "update", "--label-add", "zone=a", s.Name)
	must(t, s, "network", "create", "--driver", "overlay", "back")
	must(t, s, "service", "create", "--quiet", "--name", "web", "--network", "back", "--replicas", "2", "--label", "tier=front", "--publish", "8080:80", "busybox", "sleep", "1000")

	dir := t.TempDir()
	file := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(discovery, "SOCKET", s.Socket)), 0o600); err != nil {
		t.Fatal(err)
	}
	start(t, s, filepath.Join(dir, "log"), program, "--config.file="+file, "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+monitors, "--log.level=warn")
	found := func(pool string, want int, labels ...string) func() error {
		return func() error { return discovered(t.Context(), s, pool, want, labels) }
	}
	eventually(t, "the node is discovered", found("nodes", 1,
		"__meta_dockerswarm_node_hostname="+s.Name, "__meta_dockerswarm_node_role=manager", "__meta_dockerswarm_node_manager_leader=true", "__meta_dockerswarm_node_label_zone=a",
		"__meta_dockerswarm_node_availability=active", "__meta_dockerswarm_node_status=ready"))
	eventually(t, "the service is discovered", found("services", 1,
		"__meta_dockerswarm_service_name=web", "__meta_dockerswarm_service_mode=replicated", "__meta_dockerswarm_service_label_tier=front",
		"__meta_dockerswarm_service_endpoint_port_publish_mode=ingress", "__meta_dockerswarm_network_name=back"))
	// A task is a target at each of its networks.
	eventually(t, "the tasks are discovered", found("tasks", 2*2,
		"__meta_dockerswarm_task_state=running", "__meta_dockerswarm_task_desired_state=running", "__meta_dockerswarm_service_name=web", "__meta_dockerswarm_node_hostname="+s.Name))
	must(t, s, "service", "scale", "web=3")
	eventually(t, "the third task is discovered", found("tasks", 3*2, "__meta_dockerswarm_task_state=running"))
	must(t, s, "service", "rm", "web")
	eventually(t, "nothing is left of the service", found("services", 0))
}

// start runs a program in a host's network until the test ends. What it prints is in a file.
func start(t *testing.T, s *lab.Solo, log string, program ...string) {
	t.Helper()
	out, err := os.Create(log)
	if err != nil {
		t.Fatal(err)
	}
	args := s.Command(program...)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()
		_ = out.Close()
		if data, err := os.ReadFile(log); err == nil && t.Failed() {
			t.Logf("%s printed:\n%s", program[0], data)
		}
	})
}

// discovered says what Prometheus lacks: so many targets in a pool that all have the labels.
func discovered(ctx context.Context, s *lab.Solo, pool string, want int, labels []string) error {
	c := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
		return lab.Dial(ctx, s.Namespace, "tcp", addr)
	}}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+monitors+"/api/v1/targets?state=active", nil)
	if err != nil {
		return err
	}
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var answer struct {
		Data struct {
			ActiveTargets []target `json:"activeTargets"`
		} `json:"data"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return err
	}
	n := 0
	for _, a := range answer.Data.ActiveTargets {
		if a.ScrapePool != pool {
			continue
		}
		n++
		for _, l := range labels {
			if k, v, _ := strings.Cut(l, "="); a.DiscoveredLabels[k] != v {
				return fmt.Errorf("%s is %q, want %q, of %v", k, a.DiscoveredLabels[k], v, a.DiscoveredLabels)
			}
		}
	}
	if n != want {
		return fmt.Errorf("%d targets of %s, want %d", n, pool, want)
	}
	return nil
}
