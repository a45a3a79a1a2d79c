// Package transcript runs scripts of client commands and keeps what the clients printed, so that two clients can be
// compared command by command.
//
// It decides the dialect of the scripts, which is testscript's (github.com/rogpeppe/go-internal) with the commands
// below, and what of an output counts: not IDs, times and what a client calls itself. It starts no daemon.
//
//	exec $CLI ARGS...              runs the client, as testscript's exec does any program
//	status CODE COMMAND ARGS...    is `! exec` that wants one exit code
//	eventually COMMAND ARGS...     repeats a command until it succeeds, within 10 seconds
package transcript

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

const (
	// patience is how long eventually waits.
	patience = 10 * time.Second
	// bound is how long a recorded client may take.
	bound = 30 * time.Second
)

// Commands are the commands beside testscript's own.
func Commands() map[string]func(*testscript.TestScript, bool, []string) {
	return map[string]func(*testscript.TestScript, bool, []string){"status": status, "eventually": eventually}
}

func status(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: status CODE COMMAND ARGS...")
	}
	err := ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || strconv.Itoa(exit.ExitCode()) != args[0] {
		ts.Fatalf("%v ends with %v, want exit code %s", args[1:], err, args[0])
	}
}

func eventually(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 1 {
		ts.Fatalf("usage: eventually COMMAND ARGS...")
	}
	// What was tried in vain is no part of the transcript.
	was := ts.Getenv(envFile)
	ts.Setenv(envFile, "")
	defer ts.Setenv(envFile, was)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); ; <-tick.C {
		err := ts.Exec(args[0], args[1:]...)
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%v: not after %s: %v", args, patience, err)
		}
	}
}

// Names of the variables that tell [Record] what to run and where to write.
const (
	envClient = "TRANSCRIPT_CLIENT"
	envFile   = "TRANSCRIPT_FILE"
)

// Env is what a script's environment needs for [Record].
func Env(client, file string) []string {
	return []string{envClient + "=" + client, envFile + "=" + file}
}

// Record is the main function of a program that runs a client in its own place and writes down what it was asked, what
// it printed and how it ended.
func Record() {
	var out, errs locked
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Getenv(envClient), os.Args[1:]...)
	cmd.WaitDelay = time.Second
	cmd.Stdin = os.Stdin
	cmd.Stdout, cmd.Stderr = io.MultiWriter(os.Stdout, &out), io.MultiWriter(os.Stderr, &errs)
	code := 0
	if err := cmd.Run(); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			_, _ = io.WriteString(os.Stderr, err.Error()+"\n")
		}
		if code = cmd.ProcessState.ExitCode(); ctx.Err() != nil {
			_, _ = io.WriteString(io.MultiWriter(os.Stderr, &errs), "the client was killed: it ran for "+bound.String()+"\n")
		}
	}
	if file := os.Getenv(envFile); file != "" {
		text := "$ " + strings.Join(os.Args[1:], " ") + "\n" + out.String() + section("stderr", errs.String()) + "exit " + strconv.Itoa(code) + "\n"
		if err := appendTo(file, text); err != nil {
			_, _ = io.WriteString(os.Stderr, err.Error()+"\n")
			code = 125
		}
	}
	os.Exit(code)
}

func section(name, text string) string {
	if text == "" {
		return ""
	}
	return "[" + name + "]\n" + strings.TrimSuffix(text, "\n") + "\n"
}

func appendTo(file, text string) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// locked is a buffer that a command's two copying goroutines may share.
type locked struct {
	mu sync.Mutex
	strings.Builder
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Builder.Write(p)
}

// noise is what differs between two runs of the same commands. The order counts.
var noise = []struct {
	what *regexp.Regexp
	to   string
}{
	{regexp.MustCompile(`\b[0-9a-f]{64}\b`), "ID"},
	{regexp.MustCompile(`\b[0-9a-f]{12}\b`), "ID"},
	{regexp.MustCompile(`\b[0-9a-z]{25}\b`), "ID"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[0-9.]*(Z|[+-]\d\d:\d\d)`), "TIME"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[0-9.]* [+-]\d{4} \w+`), "TIME"},
	{regexp.MustCompile(`\bsolo-[0-9a-f]+\b`), "HOST"},
	{regexp.MustCompile(`\b\d\d:\d\d(:\d\d)?\b`), "CLOCK"},
	{regexp.MustCompile(`(Less than a second|About a minute|\d+ (seconds?|minutes?))( ago)?`), "AGO"},
	{regexp.MustCompile(`\d+(\.\d+)?(%| ?[kMG]?i?B\b)`), "N"},
	{regexp.MustCompile(`\b\d{3,}(\.\d+)?\b`), "NUMBER"}, // process IDs, seconds since 1970
	{regexp.MustCompile(`\b[a-z]+_[a-z]+(_[0-9a-f]{4})?\b`), "NAME"},
	{regexp.MustCompile(`(?i)shoald?`), "docker"},
	{regexp.MustCompile(`(?i)docker`), "docker"},
	{regexp.MustCompile(`-{2,}`), "--"}, // rules of tables, as long as what they are under
	{regexp.MustCompile(`[ \t]+`), " "}, // columns are as wide as what is in them
}

// Same is a transcript without what differs between two runs, or between a client of ours and the stock one.
func Same(text string) string {
	for _, n := range noise {
		text = n.what.ReplaceAllString(text, n.to)
	}
	return text
}
