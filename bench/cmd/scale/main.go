// Command scale measures the control plane without containers, prints the figures and keeps them as JSON.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
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
	allocs := flag.String("memprofile", "", "write a profile of what was allocated to this `file`")
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
	if *allocs != "" {
		runtime.MemProfileRate = 64 << 10 // before anything large is made, as its doc asks
	}
	r := &bench.Report{Command: "scale " + strings.Join(os.Args[1:], " "), When: time.Now(), Machine: bench.ThisMachine()}
	if err := scale.Planning(ctx, o, r); err != nil {
		return err
	}
	if *allocs != "" {
		if err := writeAllocs(*allocs); err != nil {
			return err
		}
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

// writeAllocs writes what was allocated since the start, by where.
func writeAllocs(file string) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	return errors.Join(pprof.Lookup("allocs").WriteTo(f, 0), f.Close())
}
