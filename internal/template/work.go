package template

import (
	"errors"
	"fmt"
	"strings"
	"text/template"
	"text/template/parse"
)

// A template may loop over a number, call itself and double a variable. These bounds end what was not meant to end: far
// above what a configuration file needs, and below what a manager would notice.
const (
	// maxOutput is how many bytes a template, or a function in one, may give.
	maxOutput = 4 << 20
	// maxWork is how many steps a template may take. A step is a run through a block, or 64 bytes of a function's result.
	maxWork = 1 << 16
	// maxFormat is the longest format of printf, and maxWidth the most digits of a width in it.
	maxFormat, maxWidth = 64 << 10, 4
)

var (
	errTooLarge = fmt.Errorf("the template gives more than %d bytes", maxOutput)
	errTooMuch  = fmt.Errorf("the template takes more than %d steps", maxWork)
	errWidth    = errors.New("printf: the format is too long or has too wide a field")
)

// work is what a template may still do.
type work struct{ left int }

func (w *work) spend(n int) error {
	if w.left -= n; w.left < 0 {
		return errTooMuch
	}
	return nil
}

// step counts one run through a block.
func (w *work) step() (string, error) { return "", w.spend(1) }

func (w *work) result(s string) (string, error) {
	if len(s) > maxOutput {
		return "", errTooLarge
	}
	return s, w.spend(len(s) / 64)
}

// functions are Swarm's join, text/template's functions that make text, with their results counted, and the step.
func (w *work) functions() template.FuncMap {
	counted := func(f func(...any) string) func(...any) (string, error) {
		return func(args ...any) (string, error) { return w.result(f(args...)) }
	}
	return template.FuncMap{
		"shoalStep": w.step,
		"join": func(s ...string) (string, error) {
			if len(s) == 0 {
				return "", nil
			}
			return w.result(strings.Join(s[1:], s[0]))
		},
		"print":    counted(fmt.Sprint),
		"println":  counted(fmt.Sprintln),
		"html":     counted(template.HTMLEscaper),
		"js":       counted(template.JSEscaper),
		"urlquery": counted(template.URLQueryEscaper),
		"printf": func(format string, args ...any) (string, error) {
			if !narrow(format) {
				return "", errWidth
			}
			return w.result(fmt.Sprintf(format, args...))
		},
	}
}

// narrow says whether a format makes little text of little: no width comes from an argument or has many digits.
func narrow(format string) bool {
	if len(format) > maxFormat {
		return false
	}
	digits, in := 0, false
	for _, c := range format {
		switch {
		case c == '%':
			in, digits = !in, 0
		case !in:
		case c == '*':
			return false
		case c >= '0' && c <= '9':
			if digits++; digits > maxWidth {
				return false
			}
		case strings.ContainsRune("+-# .[]", c):
			digits = 0
		default:
			in = false
		}
	}
	return true
}

// count has every block of the template begin with a step.
func (w *work) count(t *template.Template) {
	probe := template.Must(template.New("").Funcs(template.FuncMap{"shoalStep": w.step}).Parse("{{shoalStep}}"))
	step := probe.Root.Nodes[0]
	for _, d := range t.Templates() {
		if d.Tree != nil && d.Root != nil {
			countList(d.Root, step)
		}
	}
}

func countList(l *parse.ListNode, step parse.Node) {
	if l == nil {
		return
	}
	for _, n := range l.Nodes {
		switch n := n.(type) {
		case *parse.IfNode:
			countList(n.List, step)
			countList(n.ElseList, step)
		case *parse.RangeNode:
			countList(n.List, step)
			countList(n.ElseList, step)
		case *parse.WithNode:
			countList(n.List, step)
			countList(n.ElseList, step)
		}
	}
	l.Nodes = append([]parse.Node{step}, l.Nodes...)
}
