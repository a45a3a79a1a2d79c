package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// run runs a command to its end. An error carries the command and what it printed.
func run(ctx context.Context, name string, args ...string) error {
	_, err := output(ctx, name, args...)
	return err
}

// output is run that returns what the command printed, without white space at the end.
func output(ctx context.Context, name string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	text := strings.TrimSpace(string(out))
	if err != nil {
		return text, fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, text)
	}
	return text, nil
}

// ip runs iproute2's ip for each of the commands, until one fails.
func ip(ctx context.Context, commands ...string) error {
	for _, c := range commands {
		if err := run(ctx, "ip", strings.Fields(c)...); err != nil {
			return err
		}
	}
	return nil
}

// Wait asks cond every 20 ms until it returns nil or ctx ends; then it returns what cond last said while there was
// time, with what was waited for. A cond that cannot come true any more ends the wait by [GiveUp].
func Wait(ctx context.Context, what string, cond func(context.Context) error) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	start := time.Now()
	var last error
	for {
		err := cond(ctx)
		if err == nil {
			return nil
		}
		// What the end of ctx did to cond says nothing about what was waited for.
		if ctx.Err() == nil || last == nil {
			last = err
		}
		var final giveUp
		if errors.As(err, &final) {
			return fmt.Errorf("%s: %w", what, final.error)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: not after %s: %w", what, time.Since(start).Round(100*time.Millisecond), last)
		case <-tick.C:
		}
	}
}

type giveUp struct{ error }

func (g giveUp) Unwrap() error { return g.error }

// GiveUp wraps an error that no waiting mends.
func GiveUp(err error) error { return giveUp{err} }

// nsPath is the file that names a network namespace.
func nsPath(namespace string) string { return filepath.Join("/run/netns", namespace) }

// command returns a command that runs on a host: with its network and its hostname, and with the machine's files,
// processes and cgroups. (`ip netns exec` would mount a /sys of its own over the cgroups.) The process that it starts
// is the named program itself, so its process id is the one that the caller sees.
func command(ctx context.Context, namespace string, args ...string) *exec.Cmd {
	enter := []string{"--net=" + nsPath(namespace), "unshare", "--uts", "sh", "-c", `hostname "$0" && exec "$@"`,
		portOf(namespace)}
	return exec.CommandContext(ctx, "nsenter", append(enter, args...)...)
}

// Command returns a command that runs on host n, or in the outside client's namespace if n is 0.
func (l *Lab) Command(ctx context.Context, n int, args ...string) *exec.Cmd {
	namespace := ClientNamespace
	if n > 0 {
		namespace = l.Host(n).Namespace
	}
	cmd := command(ctx, namespace, args...)
	cmd.Dir = l.Root
	return cmd
}

// tail returns the last lines of a file, for a message about what failed.
func tail(file string, lines int) string {
	data, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
