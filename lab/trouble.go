package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// Freeze stops the daemon of host n where it is, as a host does that swaps, is suspended or moved while it runs: its
// connections stay open and nothing answers. Thaw lets it go on, without its knowing that time has passed.
func (l *Lab) Freeze(n int) error { return l.signal(n, syscall.SIGSTOP) }

// Thaw lets a daemon go on that [Lab.Freeze] stopped.
func (l *Lab) Thaw(n int) error { return l.signal(n, syscall.SIGCONT) }

// KillDaemon kills the daemon of host n with SIGKILL and leaves the containers alone. [Lab.Start] starts it again.
func (l *Lab) KillDaemon(ctx context.Context, n int) error {
	return l.endDaemon(ctx, n, syscall.SIGKILL)
}

// StopDaemon ends the daemon of host n as its service manager would, with SIGTERM.
func (l *Lab) StopDaemon(ctx context.Context, n int) error {
	return l.endDaemon(ctx, n, syscall.SIGTERM)
}

func (l *Lab) signal(n int, s syscall.Signal) error {
	pid, err := l.DaemonPID(n)
	if err != nil {
		return err
	}
	return syscall.Kill(pid, s)
}

func (l *Lab) endDaemon(ctx context.Context, n int, s syscall.Signal) error {
	pid, err := l.DaemonPID(n)
	if err != nil {
		return err
	}
	if err := syscall.Kill(pid, s); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, deadWithin)
	defer cancel()
	err = Wait(ctx, fmt.Sprintf("the daemon of host %d ends", n), func(context.Context) error {
		if alive(pid) {
			return fmt.Errorf("process %d is there", pid)
		}
		return nil
	})
	if err != nil {
		_ = syscall.Kill(pid, syscall.SIGQUIT) // its log then says what it waits for
	}
	return err
}

// Weather is what a bad link does to packets.
type Weather struct {
	// Loss is the percentage of packets that are lost, at random, in each direction.
	Loss int
	// Rate is how much passes towards the host, as tc writes it (4mbit); what waits for longer than 0.3 s is lost. Empty is no limit.
	Rate string
}

const weatherTable = "lab_weather"

// Worsen makes the link of host n a bad one, until [Lab.Clear] or until its power is lost.
func (l *Lab) Worsen(ctx context.Context, n int, w Weather) error {
	if err := l.Clear(ctx, n); err != nil {
		return err
	}
	h := l.Host(n)
	for _, end := range []struct{ namespace, dev string }{{FabricNamespace, portOf(h.Namespace)}, {h.Namespace, "eth0"}} {
		table := weatherTable + "_" + end.dev
		rules := fmt.Sprintf("add table netdev %[1]s; add chain netdev %[1]s in { type filter hook ingress device %[2]s priority 0; }; "+
			"add rule netdev %[1]s in numgen random mod 100 < %[3]d drop", table, end.dev, w.Loss)
		if err := run(ctx, "ip", "netns", "exec", end.namespace, "nft", rules); err != nil {
			return err
		}
	}
	if w.Rate == "" {
		return nil
	}
	return run(ctx, "tc", "-n", FabricNamespace, "qdisc", "replace", "dev", portOf(h.Namespace), "root", "tbf",
		"rate", w.Rate, "burst", "64kb", "latency", "300ms")
}

// Clear makes the link of host n a good one again. Where it is one, it changes nothing.
func (l *Lab) Clear(ctx context.Context, n int) error {
	h, err := l.host(n)
	if err != nil {
		return err
	}
	for _, end := range []struct{ namespace, dev string }{{FabricNamespace, portOf(h.Namespace)}, {h.Namespace, "eth0"}} {
		table := weatherTable + "_" + end.dev
		// To add what is there is no error, to delete what is not is one.
		if err := run(ctx, "ip", "netns", "exec", end.namespace, "nft", fmt.Sprintf("add table netdev %[1]s; delete table netdev %[1]s", table)); err != nil {
			return err
		}
	}
	if err := run(ctx, "tc", "-n", FabricNamespace, "qdisc", "replace", "dev", portOf(h.Namespace), "root", "pfifo"); err != nil {
		return err
	}
	return run(ctx, "tc", "-n", FabricNamespace, "qdisc", "del", "dev", portOf(h.Namespace), "root")
}

func (h Host) disk() string { return filepath.Join(h.Dir, "disk") }

// SmallDisk gives what the daemon of host n keeps of its swarm a disk of its own, of so many bytes, in memory. The daemon must
// not be in a swarm yet. The disk keeps what is on it while the host is without power.
func (l *Lab) SmallDisk(n int, bytes int) error {
	h, err := l.host(n)
	if err != nil {
		return err
	}
	if err := os.Mkdir(h.disk(), 0o700); err != nil {
		return err
	}
	if err := syscall.Mount("none", h.disk(), "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700", bytes)); err != nil {
		return fmt.Errorf("a disk for %s: %w", h.Name, err)
	}
	swarm := filepath.Join(h.Data, "swarm")
	if err := os.Remove(swarm); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.Symlink(h.disk(), swarm)
}

// FillDisk fills the disk of [Lab.SmallDisk] to its last byte; FreeDisk makes room again.
func (l *Lab) FillDisk(n int) error {
	f, err := os.OpenFile(l.ballast(n), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	block := make([]byte, 4<<10)
	for err == nil {
		_, err = f.Write(block)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		return err
	}
	return nil
}

// FreeDisk undoes [Lab.FillDisk].
func (l *Lab) FreeDisk(n int) error { return os.Remove(l.ballast(n)) }

func (l *Lab) ballast(n int) string { return filepath.Join(l.Host(n).disk(), "ballast") }
