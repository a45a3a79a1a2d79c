package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"
)

// What is measured of services, stacks and their logs; the sizes are those of the project's targets.
const (
	otherImage    = "hello:2"
	updateTasks   = 20
	updateAtATime = 5
	updateMonitor = time.Second
	stackServices = 50
	stackReplicas = 2
	logTasks      = 20
	logLines      = 100_000
)

// rolling makes the service that is updated, with both images on every node.
func rolling(ctx context.Context, g *rig, _ *Report) error {
	for _, c := range g.clients {
		if err := pull(ctx, c, otherImage); err != nil {
			return err
		}
	}
	spec := replicated("rolling", updateTasks)
	spec.UpdateConfig = &swarm.UpdateConfig{Parallelism: updateAtATime, Monitor: updateMonitor, Order: swarm.UpdateOrderStopFirst}
	res, err := g.clients[0].ServiceCreate(ctx, client.ServiceCreateOptions{Spec: spec})
	if err != nil {
		return err
	}
	return g.running(ctx, 1, res.ID, updateTasks, nil)
}

// update measures a rolling update from the request until the service says that it is complete.
func update(ctx context.Context, g *rig, r *Report, run int) error {
	c := g.clients[0]
	s, err := c.ServiceInspect(ctx, "rolling", client.ServiceInspectOptions{})
	if err != nil {
		return err
	}
	spec := s.Service.Spec
	spec.TaskTemplate.ContainerSpec.Image = []string{otherImage, helloImage}[run%2]
	begin := time.Now()
	if _, err := c.ServiceUpdate(ctx, s.Service.ID, client.ServiceUpdateOptions{Version: s.Service.Version, Spec: spec}); err != nil {
		return err
	}
	err = poll(ctx, pace(updateTasks), func() error {
		now, err := c.ServiceInspect(ctx, s.Service.ID, client.ServiceInspectOptions{})
		if err != nil {
			return err
		}
		// The status of the update before is there until this one begins.
		st, old := now.Service.UpdateStatus, s.Service.UpdateStatus
		if st == nil || st.State != swarm.UpdateStateCompleted || old != nil && old.StartedAt != nil && st.StartedAt.Equal(*old.StartedAt) {
			return fmt.Errorf("the update is %+v", st)
		}
		return nil
	})
	if err != nil {
		return err
	}
	r.add(fmt.Sprintf("rolling update of %d tasks, %d at a time, %s monitored", updateTasks, updateAtATime, updateMonitor), "s", time.Since(begin).Seconds())
	return g.running(ctx, 1, s.Service.ID, updateTasks, nil)
}

// stack measures from the start of the stock client's stack deploy until all tasks of the stack run. What it leaves is
// removed before the next.
func stack(ctx context.Context, g *rig, r *Report, _ int) error {
	dir, err := os.MkdirTemp("", "bench-stack-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var file strings.Builder
	file.WriteString("services:\n")
	for i := range stackServices {
		fmt.Fprintf(&file, "  s%02d:\n    image: %s\n    deploy: {replicas: %d}\n", i, helloImage, stackReplicas)
	}
	compose := filepath.Join(dir, "stack.yaml")
	if err := os.WriteFile(compose, []byte(file.String()), 0o644); err != nil {
		return err
	}
	docker := func(args ...string) error {
		cmd := exec.CommandContext(ctx, filepath.Join(g.lab.Root, "bin", "clients", "docker"), args...)
		cmd.Env = append(os.Environ(), "DOCKER_HOST=unix://"+g.host(1).Socket, "DOCKER_CONFIG="+dir)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("docker %s: %w: %s", strings.Join(args, " "), err, out)
		}
		return nil
	}
	begin := time.Now()
	if err := docker("stack", "deploy", "--detach", "--compose-file", compose, "bench"); err != nil {
		return err
	}
	deployed := time.Since(begin)
	tasks := stackServices * stackReplicas
	if err := g.runningOf(ctx, 1, client.Filters{}.Add("label", "com.docker.stack.namespace=bench"), tasks, nil); err != nil {
		return err
	}
	r.add(fmt.Sprintf("stack deploy of %d services until %d tasks run", stackServices, tasks), "s", time.Since(begin).Seconds())
	r.add("its client's part of that", "s", deployed.Seconds())
	if err := docker("stack", "rm", "bench"); err != nil {
		return err
	}
	if err := g.emptied(ctx, "com.docker.stack.namespace=bench"); err != nil {
		return err
	}
	return poll(ctx, 100*time.Millisecond, func() error {
		left, err := g.clients[0].NetworkList(ctx, client.NetworkListOptions{Filters: client.Filters{}.Add("name", "bench_default")})
		if err == nil && len(left.Items) > 0 {
			err = errors.New("the stack's network is still there")
		}
		return err
	})
}

// writing makes the service whose tasks have written their lines.
func writing(ctx context.Context, g *rig, _ *Report) error {
	spec := replicated("writing", logTasks)
	script := fmt.Sprintf("yes %s | head -n %d; exec sleep 100000", strings.Repeat("x", logLine-1), logLines/logTasks)
	spec.TaskTemplate.ContainerSpec.Image, spec.TaskTemplate.ContainerSpec.Command = shellImage, []string{"sh", "-c", script}
	res, err := g.clients[0].ServiceCreate(ctx, client.ServiceCreateOptions{Spec: spec})
	if err != nil {
		return err
	}
	if err := g.running(ctx, 1, res.ID, logTasks, nil); err != nil {
		return err
	}
	for _, c := range g.clients {
		all, err := c.ContainerList(ctx, client.ContainerListOptions{Filters: client.Filters{}.Add("label", "com.docker.swarm.service.id="+res.ID)})
		if err != nil {
			return err
		}
		for _, task := range all.Items {
			err := poll(ctx, 100*time.Millisecond, func() error {
				_, n, err := readLog(ctx, c, task.ID, "all", 0)
				if err == nil && n != logLines/logTasks*logLine {
					err = fmt.Errorf("a task has written %d bytes", n)
				}
				return err
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// quiet is how long no line may come until a log is taken for all that there is: Docker 20.10 does not always end it.
const quiet = 5 * time.Second

// serviceLogs measures the reading of a service's whole log through the API, up to the last line that comes.
func serviceLogs(ctx context.Context, g *rig, r *Report, _ int) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	begin := time.Now()
	body, err := g.clients[0].ServiceLogs(ctx, "writing", client.ServiceLogsOptions{ShowStdout: true})
	if err != nil {
		return err
	}
	defer body.Close()
	lines := counter{over: time.AfterFunc(quiet, cancel)}
	if _, err := stdcopy.StdCopy(&lines, &lines, body); err != nil && ctx.Err() == nil {
		return err
	}
	if lines.n == 0 {
		return errors.New("the log has no lines")
	}
	name := fmt.Sprintf("service logs of %d tasks, %d lines", logTasks, logLines)
	r.add(name, "1000 lines/s", float64(lines.n)/1000/lines.last.Sub(begin).Seconds())
	r.add(name+": that came", "", float64(lines.n))
	return nil
}

// counter counts lines.
type counter struct {
	n    int
	last time.Time   // when the newest came
	over *time.Timer // goes off when none comes any more
}

func (c *counter) Write(p []byte) (int, error) {
	c.n += bytes.Count(p, []byte{'\n'})
	c.last = time.Now()
	c.over.Reset(quiet)
	return len(p), nil
}
