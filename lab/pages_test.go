package lab_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"shoal.dev/shoal/lab"
)

// A page of docs/patterns is run as it stands: the commands of its ```console blocks in order, on a new lab of three
// hosts without a swarm. The prompt says where: "$ " and "node1$ " are the first host, "node2$ " the second, and so on,
// "client$ " the outside client; a line that ends with a backslash goes on. What follows, up to the next prompt, is
// what the command prints: white space is one blank, "…" in a line stands for anything, and a line with "…" alone for
// any lines. A line "$ NAME=$(…)" keeps a value for the lines after it. A command that only asks (ls, ps, inspect, logs,
// curl …) is asked again for a while until it answers as the page says; any other must do so at once.
type command struct {
	line int
	host int // 0 is the client
	text string
	want []string
}

var (
	prompt     = regexp.MustCompile(`^(node([0-9]+)|client)?\$ (.*)$`)
	assignment = regexp.MustCompile(`^([A-Z][A-Z0-9_]*)=(.*)$`)
	question   = regexp.MustCompile(`\b(ls|ps|inspect|explain|logs|info|curl|service schedule|service autoscale)\b`)
)

// askAgainFor is how long a page's question may go without the answer that the page shows.
const askAgainFor = 90 * time.Second

// parsePage returns the commands of a page.
func parsePage(text string) ([]command, error) {
	var all []command
	inside, goesOn := false, false
	for i, line := range strings.Split(text, "\n") {
		switch {
		case !inside:
			inside = strings.TrimSpace(line) == "```console"
			continue
		case strings.TrimSpace(line) == "```":
			inside, goesOn = false, false
			continue
		}
		last := len(all) - 1
		if goesOn {
			all[last].text += "\n" + line
			goesOn = strings.HasSuffix(line, `\`)
			continue
		}
		m := prompt.FindStringSubmatch(line)
		switch {
		case m != nil:
			c := command{line: i + 1, host: 1, text: m[3]}
			if m[1] == "client" {
				c.host = 0
			} else if m[2] != "" {
				if _, err := fmt.Sscan(m[2], &c.host); err != nil {
					return nil, err
				}
			}
			all, goesOn = append(all, c), strings.HasSuffix(line, `\`)
		case last < 0:
			return nil, fmt.Errorf("line %d: output before the first command", i+1)
		default:
			all[last].want = append(all[last].want, line)
		}
	}
	if inside {
		return nil, fmt.Errorf("a console block does not end")
	}
	return all, nil
}

// matches compares what a command printed with what its page says.
func matches(want []string, got string) error {
	clean := func(lines []string) []string {
		var out []string
		for _, l := range lines {
			if l = strings.Join(strings.Fields(l), " "); l != "" {
				out = append(out, l)
			}
		}
		return out
	}
	w := clean(want)
	var pattern strings.Builder
	pattern.WriteString(`^`)
	for _, line := range w {
		if line == "…" {
			pattern.WriteString(`(?:[^\n]*\n)*`)
			continue
		}
		for i, part := range strings.Split(line, "…") {
			if i > 0 {
				pattern.WriteString(`[^\n]*?`)
			}
			pattern.WriteString(regexp.QuoteMeta(part))
		}
		pattern.WriteString("\n")
	}
	pattern.WriteString(`$`)
	re, err := regexp.Compile(pattern.String())
	if err != nil {
		return err
	}
	g := clean(strings.Split(got, "\n"))
	text := ""
	if len(g) > 0 {
		text = strings.Join(g, "\n") + "\n"
	}
	if !re.MatchString(text) {
		return fmt.Errorf("the page says\n\t%s\nand it printed\n\t%s", strings.Join(w, "\n\t"), strings.Join(g, "\n\t"))
	}
	return nil
}

// runPage runs the commands of a page on a lab.
func runPage(ctx context.Context, l *lab.Lab, all []command) error {
	env := append(os.Environ(), "PATH="+filepath.Join(l.Root, "bin")+":"+os.Getenv("PATH"), "DOCKER_CONFIG="+filepath.Join(l.Dir(), "client"))
	once := func(ctx context.Context, c command) (string, error) {
		cmd := l.Command(ctx, c.host, "sh", "-c", c.text)
		cmd.Env = env
		if c.host > 0 {
			cmd.Env = append(cmd.Env, "DOCKER_HOST=unix://"+l.Host(c.host).Socket)
		}
		out, err := cmd.CombinedOutput()
		if _, exited := err.(*exec.ExitError); exited {
			err = nil // what it printed tells; a page may show a refusal
		}
		return string(out), err
	}
	for _, c := range all {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
		err := func() error {
			if m := assignment.FindStringSubmatch(c.text); m != nil {
				out, err := once(ctx, command{host: c.host, text: `printf %s "` + m[2] + `"`})
				env = append(env, m[1]+"="+out)
				return err
			}
			if !question.MatchString(c.text) {
				out, err := once(ctx, c)
				if err != nil {
					return err
				}
				return matches(c.want, out)
			}
			ctx, cancel := context.WithTimeout(ctx, askAgainFor)
			defer cancel()
			return lab.Wait(ctx, "it answers as the page says", func(ctx context.Context) error {
				out, err := once(ctx, c)
				if err != nil {
					return err
				}
				return matches(c.want, out)
			})
		}()
		cancel()
		if err != nil {
			return fmt.Errorf("line %d: %s: %w", c.line, c.text, err)
		}
	}
	return nil
}

func TestPages(t *testing.T) {
	pages, err := filepath.Glob(filepath.Join("..", "docs", "patterns", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	if len(pages) == 0 {
		t.Fatal("docs/patterns has no pages")
	}
	for _, p := range pages {
		t.Run(strings.TrimSuffix(filepath.Base(p), ".md"), func(t *testing.T) {
			text, err := os.ReadFile(p)
			if err != nil {
				t.Fatal(err)
			}
			all, err := parsePage(string(text))
			if err != nil {
				t.Fatal(err)
			}
			if len(all) == 0 {
				return // a page without commands, such as the index
			}
			w := newWorld(t, 3)
			if err := runPage(t.Context(), w.Lab, all); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestParsePage(t *testing.T) {
	all, err := parsePage("# A\n\n```console\n$ shoal a \\\n    b\nout 1\nnode2$ shoal c\nclient$ curl x\nout 2\nout 3\n```\n\n```\n$ not run\n```\n")
	if err != nil {
		t.Fatal(err)
	}
	want := "[{4 1 shoal a \\\n    b [out 1]} {7 2 shoal c []} {8 0 curl x [out 2 out 3]}]"
	if got := fmt.Sprint(all); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	for _, bad := range []string{"```console\nout\n```", "```console\n$ x\n"} {
		if _, err := parsePage(bad); err == nil {
			t.Errorf("no error for %q", bad)
		}
	}
}

func TestMatches(t *testing.T) {
	tests := []struct {
		name, want, got string
		ok              bool
	}{
		{"same", "a b\nc", "a b\nc\n", true},
		{"columns", "ID   NAME\nx    y", "ID NAME\nx            y\n", true},
		{"other", "a", "b", false},
		{"more than the page says", "a", "a\nb", false},
		{"less", "a\nb", "a", false},
		{"nothing", "", "", true},
		{"nothing, and something", "", "a", false},
		{"part of a line", "id … end", "id x y end", true},
		{"not over lines", "id … end", "id x\ny end", false},
		{"any lines", "a\n…\nz", "a\nb\nc\nz", true},
		{"no lines", "a\n…\nz", "a\nz", true},
		{"any lines, wrong end", "a\n…\nz", "a\nb", false},
		{"no pattern but ours", "a.c (x)", "abc (x)", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := matches(strings.Split(tt.want, "\n"), tt.got); (err == nil) != tt.ok {
				t.Errorf("matches: %v", err)
			}
		})
	}
}
