package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// readyWithin is how long a daemon may take from its start until it answers; with a cold page cache it is slow.
	readyWithin = 30 * time.Second
	// deadWithin is how long the kernel may take to end killed processes and empty their cgroups.
	deadWithin = 15 * time.Second
)

// daemonConfig is a host's daemon.json. The keys are those of dockerd's.
type daemonConfig struct {
	Hosts              []string `json:"hosts"`
	DataRoot           string   `json:"data-root"`
	ExecRoot           string   `json:"exec-root"`
	PIDFile            string   `json:"pidfile"`
	InsecureRegistries []string `json:"insecure-registries"`
	RegistryMirrors    []string `json:"registry-mirrors"`
	CgroupParent       string   `json:"cgroup-parent"`
	LogLevel           string   `json:"log-level"`
	Labels             []string `json:"labels"`
}

// writeConfig writes a host's daemon.json and makes its folders.
func writeConfig(h Host, logLevel string) error {
	for _, d := range []string{h.Dir, h.Data, h.Run} {
		if err := os.MkdirAll(d, 0o711); err != nil {
			return err
		}
	}
	if h.bindPath() != h.Socket {
		if err := os.Symlink(h.bindPath(), h.Socket); err != nil {
			return err
		}
	}
	c := daemonConfig{
		Hosts:    []string{"unix://" + h.bindPath()},
		DataRoot: h.Data, ExecRoot: h.Run, PIDFile: h.PIDFile,
		InsecureRegistries: []string{Registry}, RegistryMirrors: []string{"http://" + Registry},
		CgroupParent: h.cgroup(), LogLevel: logLevel, Labels: []string{"lab.host=" + h.Name},
	}
	data, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(h.Config, append(data, '\n'), 0o644)
}

// startDaemon starts shoald on a host whose namespace is there and returns when it answers.
func (l *Lab) startDaemon(ctx context.Context, h Host) error {
	daemon, err := l.daemonOf(h)
	if err != nil {
		return err
	}
	if _, err := os.Stat(nsPath(h.Namespace)); err != nil {
		return fmt.Errorf("network namespace of %s: %w", h.Name, err)
	}
	exited, err := l.spawn(h.Namespace, h.Log, daemon, "--config-file", h.Config)
	if err != nil {
		return fmt.Errorf("start %s on %s: %w", filepath.Base(daemon), h.Name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	err = Wait(ctx, filepath.Base(daemon)+" on "+h.Name+" answers", func(ctx context.Context) error {
		select {
		case err := <-exited:
			return GiveUp(fmt.Errorf("it ended: %v", err))
		default:
			return ping(ctx, h.Socket)
		}
	})
	if err != nil {
		return fmt.Errorf("%w\nThe end of %s:\n%s", err, h.Log, tail(h.Log, 30))
	}
	return nil
}

// daemonFile names the daemon of a host whose daemon is not shoald.
func (h Host) daemonFile() string { return filepath.Join(h.Dir, "daemon") }

// daemonOf is the daemon of a host.
func (l *Lab) daemonOf(h Host) (string, error) {
	if other, err := os.ReadFile(h.daemonFile()); err == nil {
		return string(other), nil
	} else if !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	shoald := l.Shoald
	if !filepath.IsAbs(shoald) {
		shoald = filepath.Join(l.Root, shoald)
	}
	if _, err := os.Stat(shoald); err != nil {
		return "", fmt.Errorf("no daemon to start: %w (make build makes it)", err)
	}
	return shoald, nil
}

// spawn starts a program of the lab in a namespace, as a daemon: a session of its own, no input, its output at the
// end of a file. The channel tells how it ended, if it ends before the caller does.
func (l *Lab) spawn(namespace, log string, args ...string) (<-chan error, error) {
	return l.spawnAs([]string{hostMarker + "=" + portOf(namespace)}, namespace, log, args...)
}

// spawnAs is spawn with variables added to the environment.
func (l *Lab) spawnAs(env []string, namespace, log string, args ...string) (<-chan error, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	// It outlives whoever starts it, so it has no context.
	cmd := command(context.WithoutCancel(context.Background()), namespace, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = l.Root, out, out
	cmd.Env = append(daemonEnv(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	exited := make(chan error, 1)
	go func() { exited <- wait(cmd) }()
	return exited, nil
}

func wait(cmd *exec.Cmd) error {
	if err := cmd.Wait(); err != nil {
		return err
	}
	return errors.New("exit status 0")
}

// daemonEnv is the environment without what points a client somewhere.
func daemonEnv() []string {
	var env []string
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "DOCKER_") && !strings.HasPrefix(v, "NOTIFY_SOCKET=") {
			env = append(env, v)
		}
	}
	return env
}

// ping asks the Engine API at a socket whether it is there.
func ping(ctx context.Context, socket string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if target, err := os.Readlink(socket); err == nil {
		socket = target // the link's own path may be too long for an address
	}
	c := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost/_ping", nil)
	if err != nil {
		return err
	}
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<10)); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("/_ping: %s", resp.Status)
	}
	return nil
}

// DaemonPID returns the process id of the shoald of host n, and an error if it does not run.
func (l *Lab) DaemonPID(n int) (int, error) {
	h, err := l.host(n)
	if err != nil {
		return 0, err
	}
	data, err := os.ReadFile(h.PIDFile)
	if err != nil {
		return 0, fmt.Errorf("shoald on %s does not run: %w", h.Name, err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return 0, fmt.Errorf("%s: %w", h.PIDFile, err)
	}
	// After a crash the number may be another process's by now.
	if !alive(pid) || !isDaemon(pid) {
		return 0, fmt.Errorf("shoald on %s does not run (process %d is gone)", h.Name, pid)
	}
	return pid, nil
}

// scope is the processes of a host.
func (h Host) scope() (scope, error) {
	s := scope{cgroup: h.cgroup(), marks: []string{h.Name}}
	ino, err := inode(h.Namespace)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return s, err
	}
	if err == nil {
		s.namespaces = []uint64{ino}
	}
	return s, nil
}

// Kill takes the power from host n: its link goes first, so that nothing tells the others, then every process of it,
// and what it had mounted.
func (l *Lab) Kill(ctx context.Context, n int) error {
	h, err := l.host(n)
	if err != nil {
		return err
	}
	if h.off() {
		return fmt.Errorf("host %d is off already: make lab-start NODE=%d boots it", n, n)
	}
	if err := setLink(ctx, h.Namespace, false); err != nil {
		return err
	}
	if err := os.WriteFile(h.offFile(), nil, 0o644); err != nil {
		return err
	}
	return h.clear(ctx)
}

// clear ends everything of a host and removes what does not outlast a loss of power.
func (h Host) clear(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, deadWithin)
	defer cancel()
	s, err := h.scope()
	if err != nil {
		return err
	}
	if err := killAll(ctx, s); err != nil {
		return err
	}
	if err := unmountBelow(h.Run, h.Data); err != nil {
		return err
	}
	if err := removeCgroups(ctx, h.cgroup()); err != nil {
		return err
	}
	return os.RemoveAll(h.Run)
}

func (h Host) off() bool {
	_, err := os.Stat(h.offFile())
	return err == nil
}

// Start boots host n after [Lab.Kill], with its data and with nothing else: its network is made anew. On a host that
// has power but whose daemon has died it starts the daemon only, as the host's service manager would, and leaves the
// containers alone.
func (l *Lab) Start(ctx context.Context, n int) error {
	h, err := l.host(n)
	if err != nil {
		return err
	}
	if pid, err := l.DaemonPID(n); err == nil && !h.off() {
		return fmt.Errorf("host %d is running: its shoald is process %d", n, pid)
	}
	if h.off() {
		if err := h.boot(ctx); err != nil {
			return err
		}
	}
	return l.startDaemon(ctx, h)
}

// boot makes a host's network and folders as they are after power came.
func (h Host) boot(ctx context.Context) error {
	if err := removeNamespace(ctx, h.Namespace); err != nil {
		return err
	}
	if err := makeHost(ctx, h.Namespace, h.Addr); err != nil {
		return err
	}
	if err := os.MkdirAll(h.Run, 0o711); err != nil {
		return err
	}
	if err := os.Remove(h.offFile()); err != nil && !os.IsNotExist(err) {
		return err
	}
	return nil
}

// Cut cuts the link of host n and leaves its processes alone.
func (l *Lab) Cut(ctx context.Context, n int) error { return l.link(ctx, n, false) }

// Heal mends the link of host n.
func (l *Lab) Heal(ctx context.Context, n int) error { return l.link(ctx, n, true) }

func (l *Lab) link(ctx context.Context, n int, up bool) error {
	h, err := l.host(n)
	if err != nil {
		return err
	}
	if h.off() {
		return fmt.Errorf("host %d is off: make lab-start NODE=%d boots it and mends its link", n, n)
	}
	return setLink(ctx, h.Namespace, up)
}
