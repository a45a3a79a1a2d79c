package containerd

import (
	"compress/gzip"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/engine/containerd/shimdata"
)

// A log of at most three files that is turned over, and so loses its oldest, between the look for the tail and its
// reading still gives the tail, and what came since.
func TestTailThroughRotations(t *testing.T) {
	for _, test := range []struct {
		tail, turns int
		first       int // line of what must be there
		compressed  bool
	}{
		{tail: 0, turns: 0, first: 30}, {tail: 5, turns: 0, first: 25}, {tail: 15, turns: 0, first: 15}, {tail: 30, turns: 0, first: 0}, {tail: 99, turns: 0, first: 0},
		{tail: 5, turns: 1, first: 25}, {tail: 15, turns: 1, first: 15}, {tail: 25, turns: 1, first: 5}, {tail: 15, turns: 2, first: 15}, {tail: 5, turns: 3, first: 25},
		{tail: 15, turns: 1, first: 15, compressed: true}, {tail: 25, turns: 0, first: 5, compressed: true},
	} {
		t.Run(fmt.Sprintf("%+v", test), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "log")
			line := 0
			write := func() {
				f, err := os.Create(path)
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				for range 10 {
					fmt.Fprintf(f, `{"log":"%d\n","stream":"stdout","time":"2026-01-01T00:00:00Z"}`+"\n", line)
					line++
				}
			}
			turn := func() {
				for i := 1; i >= 0; i-- {
					from := (&logReader{path: path}).name(i)
					for _, form := range []string{"", shimdata.Compressed} {
						if err := os.Rename(from+form, fmt.Sprintf("%s.%d%s", path, i+1, form)); err != nil && !os.IsNotExist(err) {
							t.Fatal(err)
						}
					}
				}
				write()
			}
			write()
			turn()
			turn()
			if test.compressed {
				compress(t, path+".1")
				compress(t, path+".2")
			}
			var got []string
			r := &logReader{path: path, o: engine.LogOptions{Stdout: true}, each: func(l engine.LogLine) error {
				got = append(got, strings.TrimSpace(string(l.Line)))
				return nil
			}}
			defer r.close()
			if err := r.seekTail(test.tail); err != nil {
				t.Fatal(err)
			}
			for range test.turns {
				turn()
			}
			if err := r.advance(t.Context()); err != nil {
				t.Fatal(err)
			}
			least := test.tail
			if least > 30 {
				least = 30
			}
			if len(got) < least || len(got) > 0 && got[0] != fmt.Sprint(test.first) {
				t.Errorf("%d lines, want at least %d from %d on: %q", len(got), least, test.first, got)
			}
		})
	}
}

func compress(t *testing.T, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(path + shimdata.Compressed)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z := gzip.NewWriter(f)
	z.Comment = path
	if _, err := z.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}
