// Command scale measures the control plane without containers, prints the figures and keeps them as JSON.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime/pprof"
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
		fmt.Fprintln(os.Stderr, "scale:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
	runs := flag.Int("runs", 5, "how often each is measured")
	only := flag.String("only", "", "measure only what matches this `expression`")
	results := flag.String("results", filepath.Join("bench", "results"), "`folder` for the JSON; empty: keep nothing")
	profile := flag.String("cpuprofile", "", "write a CPU profile to this `file`")
	flag.Parse()
	o := scale.Options{Runs: *runs, Out: os.Stderr}
	if *only != "" {
		if o.Only, err = regexp.Compile(*only); err != nil {
			return err
		}
	}
	if *profile != "" {
		f, err := os.Create(*profile)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	r := &bench.Report{Command: "scale " + strings.Join(os.Args[1:], " "), When: time.Now(), Machine: bench.ThisMachine()}
	if err := scale.Planning(ctx, o, r); err != nil {
		return err
	}
	if err := r.Print(os.Stdout); err != nil {
		return err
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
