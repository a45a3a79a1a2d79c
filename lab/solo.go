package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// soloPrefix begins the namespaces of hosts beside the lab. [Lab.Down] leaves them alone.
const soloPrefix = prefix + "solo-"

// soloRegistry is where a solo's registry listens: an address that is reached without TLS by default.
const soloRegistry = "127.0.0.1:5000"

// soloAddr is the address of a solo's eth0, which leads nowhere.
const soloAddr = "198.18.1.1"

// Solo is one host beside the lab, for tests of one engine: it has a network namespace, folders and a cgroup of its
// own, no link to any other host, and a registry of its own on [Solo.Registry], which is also docker.io's mirror. Any
// number of them may be there at a time, and next to a lab.
type Solo struct {
	Host
	Registry string // host and port, as in the name of an image
	l        *Lab
	cgroup   string
}

// NewSolo makes a host of that name, which must be unique on the machine and at most twelve characters, and starts a
// shoald on it. settings are keys of daemon.json beside those that place the daemon. Close it after use, even if it
// could not be made.
func (l *Lab) NewSolo(ctx context.Context, name string, settings map[string]any) (*Solo, error) {
	dir := filepath.Join(os.TempDir(), "solo-"+name)
	s := &Solo{l: l, Registry: soloRegistry, cgroup: "/shoal-solo/" + name, Host: Host{
		Name: "solo-" + name, Namespace: soloPrefix + name, Addr: soloAddr, Dir: dir, Socket: filepath.Join(dir, "s.sock"),
		Log: filepath.Join(dir, "shoald.log"), PIDFile: filepath.Join(dir, "pid"), Data: filepath.Join(dir, "data"),
		Run: filepath.Join(dir, "r"), Config: filepath.Join(dir, "daemon.json"),
	}}
	if _, err := os.Stat(nsPath(s.Namespace)); err == nil {
		return s, fmt.Errorf("there is a network namespace %s already", s.Namespace)
	}
	for _, d := range []string{s.Data, s.Run} {
		if err := os.MkdirAll(d, 0o711); err != nil {
			return s, err
		}
	}
	if err := makeNamespace(ctx, s.Namespace); err != nil {
		return s, err
	}
	n := "-n " + s.Namespace
	// Both ends of the wire are here: not every kernel has dummy interfaces.
	err := ip(ctx, n+" link add eth0 type veth peer name end", n+" addr add "+soloAddr+"/24 dev eth0", n+" link set eth0 up", n+" link set end up")
	if err != nil {
		return s, err
	}
	if err := s.startRegistry(ctx); err != nil {
		return s, err
	}
	if err := s.Configure(settings); err != nil {
		return s, err
	}
	return s, s.Start(ctx)
}

// Configure writes daemon.json: the keys that place the daemon, and settings over them.
func (s *Solo) Configure(settings map[string]any) error {
	all := map[string]any{
		"hosts": []string{"unix://" + s.Socket}, "data-root": s.Data, "exec-root": s.Run, "pidfile": s.PIDFile, "cgroup-parent": s.cgroup,
		"registry-mirrors": []string{"http://" + s.Registry},
	}
	for k, v := range settings {
		all[k] = v
	}
	data, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(s.Config, append(data, '\n'), 0o644)
}

// Start starts the daemon and returns when it answers on its socket.
func (s *Solo) Start(ctx context.Context) error {
	exited, err := s.spawn(s.Log, filepath.Join(s.l.Root, s.l.Shoald), "--config-file", s.Config)
	if err != nil {
		return err
	}
	return s.up(ctx, "shoald", s.Log, exited, func(ctx context.Context) error { return ping(ctx, s.Socket) })
}

func (s *Solo) startRegistry(ctx context.Context) error {
	log := filepath.Join(s.Dir, "registry.log")
	exited, err := s.spawn(log, filepath.Join(s.l.Root, "bin", "lab"), "registry", "-listen", s.Registry, "-images", filepath.Join(s.l.Root, s.l.Images))
	if err != nil {
		return err
	}
	return s.up(ctx, "the registry", log, exited, func(ctx context.Context) error {
		c, err := Dial(ctx, s.Namespace, "tcp", s.Registry)
		if err != nil {
			return err
		}
		return c.Close()
	})
}

// spawn starts a program without the lab's mark, by which a lab that goes would end it.
func (s *Solo) spawn(log string, args ...string) (<-chan error, error) {
	return s.l.spawnAs(nil, s.Namespace, log, args...)
}

func (s *Solo) up(ctx context.Context, what, log string, exited <-chan error, answers func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	err := Wait(ctx, what+" on "+s.Name+" answers", func(ctx context.Context) error {
		select {
		case err := <-exited:
			return GiveUp(fmt.Errorf("it ended: %v", err))
		default:
			return answers(ctx)
		}
	})
	if err != nil {
		return fmt.Errorf("%w\nThe end of %s:\n%s", err, log, tail(log, 30))
	}
	return nil
}

// Signal sends the daemon a signal.
func (s *Solo) Signal(sig syscall.Signal) error {
	data, err := os.ReadFile(s.PIDFile)
	if err != nil {
		return err
	}
	var pid int
	if _, err := fmt.Sscan(strings.TrimSpace(string(data)), &pid); err != nil {
		return fmt.Errorf("%s: %w", s.PIDFile, err)
	}
	return syscall.Kill(pid, sig)
}

// Command is a command and its arguments that run in the host's network, with the machine's files.
func (s *Solo) Command(args ...string) []string {
	return append([]string{"nsenter", "--net=" + nsPath(s.Namespace)}, args...)
}

// Close ends everything of the host and removes it: processes, mounts, cgroups, the namespace and the files.
func (s *Solo) Close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*deadWithin)
	defer cancel()
	all := scope{cgroup: s.cgroup}
	if ino, err := inode(s.Namespace); err == nil {
		all.namespaces = []uint64{ino}
	}
	err := killAll(ctx, all)
	if err == nil {
		err = unmountBelow(s.Dir)
	}
	if err == nil {
		err = removeCgroups(ctx, s.cgroup)
	}
	if _, gone := os.Stat(nsPath(s.Namespace)); gone == nil {
		err = errors.Join(err, ip(ctx, "netns del "+s.Namespace))
	}
	if err != nil {
		return err // what is still mounted must not be emptied
	}
	return os.RemoveAll(s.Dir)
}
