package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// event is a line of go test -json (go doc test2json).
type event struct {
	Action, Package, ImportPath, Test, Output, FailedBuild string
	Elapsed                                                float64
}

// key names a test of a package; without a test, the package itself.
type key struct{ pkg, test string }

// count is what was seen of all passes so far.
type count struct {
	out                     io.Writer
	passed, failed, skipped int
	reasons                 []string // of what was skipped
	output                  map[key]*strings.Builder
	parents                 map[key]bool // tests with subtests
	bad                     map[key]bool // tests that failed, and all above them
	tests                   map[string]int
	times                   []timed
}

// timed is how long a test took that counts.
type timed struct {
	name string
	took time.Duration
}

func newCount(out io.Writer) *count {
	return &count{out: out, output: map[key]*strings.Builder{}, parents: map[key]bool{}, bad: map[key]bool{}, tests: map[string]int{}}
}

func (c *count) String() string {
	return fmt.Sprintf("%d passed, %d failed, %d skipped", c.passed, c.failed, c.skipped)
}

// read counts the events of one go test.
func (c *count) read(r io.Reader) error {
	s := bufio.NewScanner(r)
	s.Buffer(nil, 16<<20)
	for s.Scan() {
		var e event
		if err := json.Unmarshal(s.Bytes(), &e); err != nil {
			// Not ours: what go itself has to say.
			fmt.Fprintln(c.out, s.Text())
			continue
		}
		c.add(e)
	}
	return s.Err()
}

func (c *count) add(e event) {
	k := key{e.Package, e.Test}
	switch e.Action {
	case "build-output":
		io.WriteString(c.out, e.Output)
	case "output":
		c.buffer(k).WriteString(e.Output)
	case "run":
		if up, ok := k.parent(); ok {
			c.parents[up] = true
		}
	case "pass", "fail", "skip":
		if e.Test == "" {
			c.endPackage(e)
		} else {
			c.endTest(e, k)
		}
		delete(c.output, k)
	}
}

func (k key) parent() (key, bool) {
	i := strings.LastIndexByte(k.test, '/')
	if i < 0 {
		return key{}, false
	}
	return key{k.pkg, k.test[:i]}, true
}

func (c *count) buffer(k key) *strings.Builder {
	b := c.output[k]
	if b == nil {
		b = &strings.Builder{}
		c.output[k] = b
	}
	return b
}

func (c *count) endTest(e event, k key) {
	if e.Action == "fail" {
		fmt.Fprintf(c.out, "FAIL  %s %s\n%s", e.Package, e.Test, indent(c.buffer(k).String()))
	}
	// A test with subtests counts through them, unless it failed by itself.
	if c.parents[k] && (e.Action != "fail" || c.bad[k]) {
		c.markBad(e, k)
		return
	}
	c.tests[e.Package]++
	c.times = append(c.times, timed{e.Package + " " + e.Test, time.Duration(e.Elapsed * float64(time.Second))})
	switch e.Action {
	case "pass":
		c.passed++
	case "fail":
		c.failed++
		c.markBad(e, k)
	case "skip":
		c.skipped++
		c.reasons = append(c.reasons, fmt.Sprintf("%s %s: %s", e.Package, e.Test, reason(c.buffer(k).String())))
	}
}

// markBad remembers that a test failed, for it and for all above it.
func (c *count) markBad(e event, k key) {
	if e.Action != "fail" {
		return
	}
	c.bad[key{k.pkg, ""}] = true
	for up, ok := k.parent(); ok; up, ok = up.parent() {
		c.bad[up] = true
	}
}

func (c *count) endPackage(e event) {
	took := time.Duration(e.Elapsed * float64(time.Second)).Round(10 * time.Millisecond)
	k := key{e.Package, ""}
	word := "ok  "
	if e.Action == "fail" {
		word = "FAIL"
		if !c.bad[k] { // it did not build, or died outside of a test
			c.failed++
		}
		io.WriteString(c.out, indent(c.buffer(k).String()))
		for t, b := range c.output { // tests that were running when it died
			if t.pkg == e.Package && t.test != "" {
				fmt.Fprintf(c.out, "FAIL  %s %s did not end\n%s", t.pkg, t.test, indent(b.String()))
				delete(c.output, t)
			}
		}
	}
	fmt.Fprintf(c.out, "%s  %-60s %4d tests  %v\n", word, e.Package, c.tests[e.Package], took)
	// The same package may run again in a later pass.
	delete(c.bad, k)
	delete(c.tests, e.Package)
}

// listSkipped prints why tests were skipped.
func (c *count) listSkipped() {
	for _, r := range c.reasons {
		fmt.Fprintln(c.out, "SKIP ", r)
	}
}

// shown is how many of the slowest tests are listed, slow from how long on.
const (
	shown = 15
	slow  = 5 * time.Second
)

// listSlowest prints where the time goes. Tests that run beside each other each have all of theirs.
func (c *count) listSlowest() {
	slices.SortStableFunc(c.times, func(a, b timed) int { return cmp.Compare(b.took, a.took) })
	for _, t := range c.times[:min(shown, len(c.times))] {
		if t.took >= slow {
			fmt.Fprintf(c.out, "SLOW  %6.1fs  %s\n", t.took.Seconds(), t.name)
		}
	}
}

// reason is what a test said when it was skipped.
func reason(output string) string {
	var said []string
	for line := range strings.Lines(output) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "=== ") || strings.HasPrefix(line, "--- ") {
			continue
		}
		said = append(said, line)
	}
	if len(said) == 0 {
		return "it gives no reason"
	}
	return strings.Join(said, " ")
}

func indent(s string) string {
	var b strings.Builder
	for line := range strings.Lines(s) {
		if t := strings.TrimSpace(line); t == "PASS" || t == "FAIL" || strings.HasPrefix(t, "=== ") {
			continue
		}
		b.WriteString("      " + line)
	}
	return b.String()
}
