package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCount(t *testing.T) {
	tests := []struct {
		name   string
		events []string
		want   string
		says   []string
	}{
		{"one of each", []string{
			`{"Action":"run","Package":"p","Test":"TestA"}`,
			`{"Action":"pass","Package":"p","Test":"TestA"}`,
			`{"Action":"run","Package":"p","Test":"TestB"}`,
			`{"Action":"output","Package":"p","Test":"TestB","Output":"    b_test.go:1: broken\n"}`,
			`{"Action":"fail","Package":"p","Test":"TestB"}`,
			`{"Action":"run","Package":"p","Test":"TestC"}`,
			`{"Action":"output","Package":"p","Test":"TestC","Output":"    c_test.go:1: needs root\n"}`,
			`{"Action":"skip","Package":"p","Test":"TestC"}`,
			`{"Action":"fail","Package":"p"}`,
		}, "1 passed, 1 failed, 1 skipped", []string{"FAIL  p TestB", "broken", "SKIP  p TestC: c_test.go:1: needs root"}},
		{"subtests count, not what holds them", []string{
			`{"Action":"run","Package":"p","Test":"T"}`,
			`{"Action":"run","Package":"p","Test":"T/a"}`,
			`{"Action":"run","Package":"p","Test":"T/a/x"}`,
			`{"Action":"pass","Package":"p","Test":"T/a/x"}`,
			`{"Action":"pass","Package":"p","Test":"T/a"}`,
			`{"Action":"run","Package":"p","Test":"T/b"}`,
			`{"Action":"pass","Package":"p","Test":"T/b"}`,
			`{"Action":"pass","Package":"p","Test":"T"}`,
			`{"Action":"pass","Package":"p"}`,
		}, "2 passed, 0 failed, 0 skipped", []string{"ok    p"}},
		{"a failed subtest counts once", []string{
			`{"Action":"run","Package":"p","Test":"T"}`,
			`{"Action":"run","Package":"p","Test":"T/a"}`,
			`{"Action":"run","Package":"p","Test":"T/a/x"}`,
			`{"Action":"fail","Package":"p","Test":"T/a/x"}`,
			`{"Action":"fail","Package":"p","Test":"T/a"}`,
			`{"Action":"fail","Package":"p","Test":"T"}`,
			`{"Action":"fail","Package":"p"}`,
		}, "0 passed, 1 failed, 0 skipped", nil},
		{"a test that fails after its subtests passed", []string{
			`{"Action":"run","Package":"p","Test":"T"}`,
			`{"Action":"run","Package":"p","Test":"T/a"}`,
			`{"Action":"pass","Package":"p","Test":"T/a"}`,
			`{"Action":"fail","Package":"p","Test":"T"}`,
			`{"Action":"fail","Package":"p"}`,
		}, "1 passed, 1 failed, 0 skipped", nil},
		{"a package that does not build", []string{
			`{"Action":"build-output","ImportPath":"p","Output":"x.go:1: no\n"}`,
			`{"Action":"fail","Package":"p","FailedBuild":"p"}`,
		}, "0 passed, 1 failed, 0 skipped", []string{"x.go:1: no"}},
		{"a package that dies in a test", []string{
			`{"Action":"run","Package":"p","Test":"T"}`,
			`{"Action":"output","Package":"p","Test":"T","Output":"panic: x\n"}`,
			`{"Action":"fail","Package":"p"}`,
		}, "0 passed, 1 failed, 0 skipped", []string{"T did not end", "panic: x"}},
		{"slow ones", []string{
			`{"Action":"pass","Package":"p","Test":"Quick","Elapsed":4.9}`,
			`{"Action":"pass","Package":"p","Test":"Slow","Elapsed":5}`,
			`{"Action":"pass","Package":"p","Test":"Slowest","Elapsed":61.25}`,
			`{"Action":"pass","Package":"p"}`,
		}, "3 passed, 0 failed, 0 skipped", []string{"SLOW    61.2s  p Slowest\nSLOW     5.0s  p Slow\n"}},
		{"no tests", []string{`{"Action":"skip","Package":"p"}`}, "0 passed, 0 failed, 0 skipped", nil},
		{"what is no event is passed on", []string{"go: warning"}, "0 passed, 0 failed, 0 skipped", []string{"go: warning"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			c := newCount(&out)
			if err := c.read(strings.NewReader(strings.Join(tt.events, "\n"))); err != nil {
				t.Fatal(err)
			}
			c.listSlowest()
			c.listSkipped()
			if c.String() != tt.want {
				t.Errorf("%s, want %s", c, tt.want)
			}
			for _, s := range tt.says {
				if !strings.Contains(out.String(), s) {
					t.Errorf("%q is not in the output:\n%s", s, &out)
				}
			}
		})
	}
}

func TestPlan(t *testing.T) {
	root := t.TempDir()
	write := func(name, content string) {
		t.Helper()
		f := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(f), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(f, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("a/a_test.go", "package a\nfunc TestA() {}\n")
	write("a/bubble_test.go", "//go:build !race\n\npackage a\nfunc TestBubble() {}\nfunc FuzzBubble() {}\nfunc helper() {}\n")
	write("lab/lab_test.go", "//go:build linux && (race || !race)\n\npackage lab\nfunc TestLab() {}\n")
	all := []pkg{
		{Dir: filepath.Join(root, "a"), ImportPath: "m/a", TestGoFiles: []string{"a_test.go", "bubble_test.go"}},
		{Dir: filepath.Join(root, "lab"), ImportPath: "m/lab", XTestGoFiles: []string{"lab_test.go"}},
	}
	tests := []struct {
		name        string
		race, short bool
		skip        string
		want        [][]string
	}{
		{"all", true, false, "", [][]string{
			{"-timeout=10m", "-count=1", "-race", "-p=2", "m/a"},
			{"-count=1", "-run", "^(TestBubble|FuzzBubble)$", "m/a"},
			{"-count=1", "-timeout=25m", "-p=1", "-race", "m/lab"},
		}},
		{"no compiler", false, false, "", [][]string{
			{"-timeout=10m", "-count=1", "-p=2", "m/a"},
			{"-count=1", "-timeout=25m", "-p=1", "m/lab"},
		}},
		{"short", false, true, "./lab", [][]string{{"-timeout=10m", "-short", "-p=2", "m/a"}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			passes, err := plan(all, root, tt.race, tt.short, tt.skip)
			if err != nil {
				t.Fatal(err)
			}
			var got [][]string
			for _, p := range passes {
				got = append(got, p.args)
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}
