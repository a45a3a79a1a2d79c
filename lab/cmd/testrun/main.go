// Command testrun runs the repository's tests in the order that they need and counts them.
//
// It decides what runs with the race detector and what without (test files that say !race: large synctest bubbles
// crash under it before Go 1.27), that the lab's tests run alone and last, since they measure time, and what counts: a
// test without subtests, or a subtest without further ones, is one; a package that does not build or dies is one that
// failed. It ends with the line "N passed, N failed, N skipped", and with status 1 if anything failed or nothing ran.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"go/ast"
	"go/build/constraint"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// pkg is what `go list` says of a package.
type pkg struct {
	Dir, ImportPath           string
	TestGoFiles, XTestGoFiles []string
}

// pass is one call of go test.
type pass struct {
	title string
	args  []string
}

func main() {
	race := flag.Bool("race", false, "with the race detector, where a C compiler is there for it; and without the cache")
	short := flag.Bool("short", false, "only what needs neither root nor a lab")
	skip := flag.String("skip", "", "leave out the package in this `folder`")
	countFile := flag.String("count", filepath.Join("bin", "test-count"), "write the last line into this `file` as well")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	c := newCount(os.Stdout)
	err := run(ctx, c, *race, *short, *skip)
	if err != nil {
		fmt.Fprintln(os.Stderr, "testrun:", err)
	}
	c.listSlowest()
	c.listSkipped()
	line := c.String()
	fmt.Println(line)
	if !*short {
		if werr := writeCount(*countFile, line); werr != nil {
			fmt.Fprintln(os.Stderr, "testrun:", werr)
			os.Exit(1)
		}
	}
	if err != nil || c.failed > 0 || c.passed == 0 {
		os.Exit(1)
	}
}

func writeCount(file, line string) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return os.WriteFile(file, []byte(line+"\n"), 0o644)
}

func run(ctx context.Context, c *count, race, short bool, skip string) error {
	if race && !hasCompiler(ctx) {
		fmt.Println("The race detector needs a C compiler and there is none: running without it.")
		race = false
	}
	all, err := list(ctx)
	if err != nil {
		return err
	}
	wd, err := os.Getwd()
	if err != nil {
		return err
	}
	passes, err := plan(all, wd, race, short, skip)
	if err != nil {
		return err
	}
	for _, p := range passes {
		fmt.Printf("== %s\n", p.title)
		if err := goTest(ctx, c, p.args); err != nil {
			return err
		}
	}
	return nil
}

// hasCompiler says whether cgo, and with it the race detector, works here.
func hasCompiler(ctx context.Context) bool {
	out, err := exec.CommandContext(ctx, "go", "env", "CC").Output()
	if err != nil {
		return false
	}
	cc := strings.Fields(string(out))
	if len(cc) == 0 {
		return false
	}
	_, err = exec.LookPath(cc[0])
	return err == nil
}

// list returns the packages that have tests.
func list(ctx context.Context) ([]pkg, error) {
	cmd := exec.CommandContext(ctx, "go", "list", "-e", "-json=Dir,ImportPath,TestGoFiles,XTestGoFiles", "./...")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	var all []pkg
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, fmt.Errorf("go list: %w", err)
		}
		if len(p.TestGoFiles)+len(p.XTestGoFiles) > 0 {
			all = append(all, p)
		}
	}
}

// plan says which packages are tested how and when.
func plan(all []pkg, root string, race, short bool, skip string) ([]pass, error) {
	var first, last []string
	var bubbles []pass
	for _, p := range all {
		dir, err := filepath.Rel(root, p.Dir)
		if err != nil {
			return nil, err
		}
		switch {
		case skip != "" && dir == filepath.Clean(skip):
			continue
		case dir == "lab":
			last = append(last, p.ImportPath)
		default:
			first = append(first, p.ImportPath)
		}
		if !race {
			continue
		}
		names, err := withoutRace(p)
		if err != nil {
			return nil, err
		}
		if len(names) > 0 {
			bubbles = append(bubbles, pass{"without the race detector: " + p.ImportPath,
				[]string{"-count=1", "-run", "^(" + strings.Join(names, "|") + ")$", p.ImportPath}})
		}
	}
	flags := []string{"-timeout=10m"}
	title := "unit tests"
	if short {
		flags = append(flags, "-short")
	} else {
		flags = append(flags, "-count=1")
		title = "all but the lab"
	}
	if race {
		flags = append(flags, "-race")
		title += ", with the race detector"
	}
	var passes []pass
	if len(first) > 0 {
		passes = append(passes, pass{title, slices.Concat(flags, []string{"-p=2"}, first)})
	}
	passes = append(passes, bubbles...)
	if len(last) > 0 {
		flags := []string{"-count=1", "-timeout=25m", "-p=1"}
		if race {
			flags = append(flags, "-race")
		}
		passes = append(passes, pass{"the lab", slices.Concat(flags, last)})
	}
	return passes, nil
}

// withoutRace returns the tests of a package that the race detector's build leaves out.
func withoutRace(p pkg) ([]string, error) {
	var names []string
	for _, f := range slices.Concat(p.TestGoFiles, p.XTestGoFiles) {
		file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, f), nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		if !excludedByRace(file) {
			continue
		}
		for _, d := range file.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if ok && fn.Recv == nil && (strings.HasPrefix(fn.Name.Name, "Test") || strings.HasPrefix(fn.Name.Name, "Fuzz")) && fn.Name.Name != "TestMain" {
				names = append(names, fn.Name.Name)
			}
		}
	}
	return names, nil
}

// excludedByRace says whether the tag race takes a file out of the build.
func excludedByRace(file *ast.File) bool {
	for _, g := range file.Comments {
		if g.Pos() > file.Package {
			break
		}
		for _, c := range g.List {
			if !constraint.IsGoBuild(c.Text) {
				continue
			}
			expr, err := constraint.Parse(c.Text)
			if err != nil {
				continue
			}
			with := expr.Eval(func(string) bool { return true })
			without := expr.Eval(func(tag string) bool { return tag != "race" })
			return without && !with
		}
	}
	return false
}

// goTest runs go test and counts. An error means that it could not be run; tests that fail are in the count.
func goTest(ctx context.Context, c *count, args []string) error {
	cmd := exec.CommandContext(ctx, "go", append([]string{"test", "-json"}, args...)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = time.Minute
	cmd.Stderr = os.Stderr
	if slices.Contains(args, "-race") {
		cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	before := c.failed
	readErr := c.read(out)
	err = cmd.Wait()
	if readErr != nil {
		return readErr
	}
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || c.failed == before) {
		return fmt.Errorf("go test %s: %w", strings.Join(args, " "), err)
	}
	return nil
}
