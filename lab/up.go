package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// Options says what lab to make. The zero value is three hosts.
type Options struct {
	Nodes    int
	LogLevel string // of the daemons; "info" if empty
	// Daemons names, by the number of the host, another daemon than shoald to compare it with: an absolute path. It is
	// started as shoald is, with --config-file and a file of the keys that dockerd knows.
	Daemons map[int]string
}

// Up makes a lab: it removes the one before, whichever clone it came from, makes the network, the registry and the
// hosts, and returns when every shoald answers. There is no swarm yet. What fails leaves the rest for a look; [Lab.Down]
// removes it.
func (l *Lab) Up(ctx context.Context, o Options) error {
	if o.Nodes == 0 {
		o.Nodes = 3
	}
	if o.Nodes < 1 || o.Nodes > MaxNodes {
		return fmt.Errorf("a lab has 1 to %d hosts, not %d", MaxNodes, o.Nodes)
	}
	if o.LogLevel == "" {
		o.LogLevel = "info"
	}
	unlock, err := lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := l.down(ctx); err != nil {
		return fmt.Errorf("remove the lab before: %w", err)
	}
	if err := os.MkdirAll(l.runDir(), 0o711); err != nil {
		return err
	}
	// By this file a later clone finds ours.
	if err := os.WriteFile(filepath.Join(l.runDir(), "lab"), []byte(l.Dir()), 0o644); err != nil {
		return err
	}
	if err := os.MkdirAll(l.Dir(), 0o755); err != nil {
		return err
	}
	hosts := make([]Host, o.Nodes)
	for i := range hosts {
		hosts[i] = l.Host(i + 1)
		if err := writeConfig(hosts[i], o.LogLevel); err != nil {
			return err
		}
		if d := o.Daemons[i+1]; d != "" {
			if err := os.WriteFile(hosts[i].daemonFile(), []byte(d), 0o644); err != nil {
				return err
			}
		}
	}
	if err := makeFabric(ctx); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return makeHost(ctx, ClientNamespace, ClientAddr) })
	g.Go(func() error {
		if err := makeHost(ctx, RegistryNamespace, RegistryAddr); err != nil {
			return err
		}
		return l.startRegistry(ctx)
	})
	for _, h := range hosts {
		g.Go(func() error {
			if err := h.boot(ctx); err != nil {
				return err
			}
			return l.startDaemon(ctx, h)
		})
	}
	return g.Wait()
}

// Down removes every lab of the machine: processes, mounts, cgroups, namespaces and files, also those of a lab that
// was only half made, or made by another clone. Without a lab it does nothing.
func (l *Lab) Down(ctx context.Context) error {
	unlock, err := lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	return l.down(ctx)
}

func (l *Lab) down(ctx context.Context) error {
	names, err := namespaces()
	if err != nil {
		return err
	}
	s := scope{cgroup: cgroupRoot, marks: []string{""}}
	for _, n := range names {
		if ino, err := inode(n); err == nil {
			s.namespaces = append(s.namespaces, ino)
		}
	}
	dead, cancel := context.WithTimeout(ctx, deadWithin)
	defer cancel()
	if err := killAll(dead, s); err != nil {
		return err
	}
	dirs, err := labDirs()
	if err != nil {
		return err
	}
	dirs = append(dirs, l.Dir())
	if err := unmountBelow(append(dirs, runRoot)...); err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		// The fabric goes last: with a port goes the link, and with the link what a dead connection still holds.
		for _, n := range names {
			if n != FabricNamespace {
				if err := removeNamespace(gctx, n); err != nil {
					return err
				}
			}
		}
		return removeNamespace(gctx, FabricNamespace)
	})
	g.Go(func() error {
		ctx, cancel := context.WithTimeout(gctx, deadWithin)
		defer cancel()
		return removeCgroups(ctx, cgroupRoot)
	})
	for _, d := range dirs {
		g.Go(func() error { return os.RemoveAll(d) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return removeRunDirs()
}

// labDirs returns the folders .lab of all clones that have made a lab since the machine booted.
func labDirs() ([]string, error) {
	files, err := filepath.Glob(filepath.Join(runRoot, "*", "lab"))
	if err != nil {
		return nil, err
	}
	var dirs []string
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		// Only what a lab can have made is removed.
		if d := strings.TrimSpace(string(data)); filepath.IsAbs(d) && filepath.Base(d) == ".lab" {
			dirs = append(dirs, d)
		}
	}
	return dirs, nil
}

// removeRunDirs empties runRoot but for the lock, which somebody may be waiting for.
func removeRunDirs() error {
	entries, err := os.ReadDir(runRoot)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := os.RemoveAll(filepath.Join(runRoot, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// lock keeps two commands from making and removing the lab at once. It waits for its turn until ctx ends.
func lock(ctx context.Context) (unlock func(), err error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("the lab makes network namespaces and containers, which needs root: run it as root or with sudo")
	}
	if err := os.MkdirAll(runRoot, 0o711); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(runRoot, "lock"), os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	err = Wait(ctx, "another command is making or removing the lab", func(context.Context) error {
		return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	})
	if err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}

// Status is the state of one host.
type Status struct {
	Host  Host
	State string // "up", "cut" (no link), "off" (no power) or "daemon dead"
	PID   int    // of its shoald; 0 if it does not run
}

// Status returns the state of every host, as seen from outside of them.
func (l *Lab) Status(ctx context.Context) ([]Status, error) {
	hosts, err := l.Hosts()
	if err != nil {
		return nil, err
	}
	var all []Status
	for _, h := range hosts {
		st := Status{Host: h, State: "up"}
		if h.off() {
			st.State = "off"
		} else if up, err := linkUp(ctx, h.Namespace); err != nil {
			st.State = "half made"
		} else if st.PID, err = l.DaemonPID(h.N); err != nil {
			st.State = "daemon dead"
		} else if !up {
			st.State = "cut"
		}
		all = append(all, st)
	}
	return all, nil
}
