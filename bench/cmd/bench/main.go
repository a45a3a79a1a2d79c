// Command bench measures Shoal on a lab that it makes and removes, prints the figures and keeps them as JSON.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"shoal.dev/shoal/bench"
	"shoal.dev/shoal/lab"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
	runs := flag.Int("runs", 5, "how often each is measured")
	only := flag.String("only", "", "measure only what matches this `expression`: containers, memory, logs, ps, pull, idle, start, creations, leader, failover, membership, worker, traffic")
	peer := flag.Bool("peer", true, "measure Debian's Docker beside Shoal, fetched into bin/peer")
	results := flag.String("results", filepath.Join("bench", "results"), "`folder` for the JSON")
	keep := flag.Bool("keep", false, "leave the last lab up")
	flag.Parse()
	o := bench.Options{Runs: *runs, Out: os.Stderr}
	if *only != "" {
		if o.Only, err = regexp.Compile(*only); err != nil {
			return err
		}
	}
	root, err := lab.FindRoot()
	if err != nil {
		return err
	}
	l, err := lab.Open(root)
	if err != nil {
		return err
	}
	if err := l.CheckBuilt(); err != nil {
		return err
	}
	if *peer {
		docker, err := bench.Docker(ctx, filepath.Join(root, "bin", "peer"))
		if err != nil {
			return fmt.Errorf("%w (with -peer=false Shoal is measured alone)", err)
		}
		o.Sides = []bench.Side{{Name: "Shoal"}, docker}
	}
	if !*keep {
		defer func() {
			if derr := l.Down(context.WithoutCancel(ctx)); err == nil {
				err = derr
			}
		}()
	}
	r := &bench.Report{Command: "bench " + strings.Join(os.Args[1:], " "), When: time.Now(), Machine: bench.ThisMachine()}
	if err := bench.Run(ctx, l, o, r); err != nil {
		return err
	}
	if err := r.Print(os.Stdout); err != nil {
		return err
	}
	file, err := r.Save(*results)
	if err != nil {
		return err
	}
	fmt.Println("\nkept in", file)
	if len(r.Failed) > 0 {
		return fmt.Errorf("%d measurements gave no figure", len(r.Failed))
	}
	return nil
}
