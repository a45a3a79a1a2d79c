// Command hollow measures one manager of a swarm of many nodes that have no containers. It needs root and starts itself
// again in a network namespace and a mount namespace of its own.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"shoal.dev/shoal/bench"
	"shoal.dev/shoal/bench/scale"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "hollow:", err)
		os.Exit(1)
	}
}

// alone is set in the environment of the process that has namespaces of its own.
const alone = "SHOAL_BENCH_ALONE"

func run(ctx context.Context) error {
	if len(os.Args) == 4 && os.Args[1] == scale.ManagerCommand {
		return scale.RunManager(ctx, os.Args[2], os.Args[3])
	}
	o := scale.HollowOptions{Out: os.Stderr}
	flag.IntVar(&o.Nodes, "nodes", 200, "how many nodes join")
	flag.IntVar(&o.Services, "services", 10_000, "how many services there are")
	flag.IntVar(&o.Tasks, "tasks", 100_000, "how many tasks they have in all")
	flag.IntVar(&o.Runs, "runs", 5, "how often each answer is measured")
	flag.StringVar(&o.Profile, "profile", "", "`folder` for profiles of the manager")
	results := flag.String("results", filepath.Join("bench", "results"), "`folder` for the JSON; empty: keep nothing")
	flag.Parse()
	if os.Getenv(alone) == "" {
		self, err := os.Executable()
		if err != nil {
			return err
		}
		c := exec.CommandContext(ctx, self, os.Args[1:]...)
		c.Stdout, c.Stderr, c.Env = os.Stdout, os.Stderr, append(os.Environ(), alone+"=1")
		c.Cancel = func() error { return c.Process.Signal(syscall.SIGTERM) }
		c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS}
		return c.Run()
	}
	r := &bench.Report{Command: "hollow " + strings.Join(os.Args[1:], " "), When: time.Now(), Machine: bench.ThisMachine()}
	err := scale.Hollow(ctx, o, r)
	if perr := r.Print(os.Stdout); err != nil || perr != nil {
		return errors.Join(err, perr)
	}
	if *results == "" {
		return nil
	}
	file, err := r.Save(*results)
	if err != nil {
		return err
	}
	fmt.Println("\nkept in", file)
	return nil
}
