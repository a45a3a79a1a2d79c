package containerd

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
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

// A follower that looks while a rotation is under way, wherever it stands, passes no file over, and goes on when it is
// done; a number without a file, which a writer that was killed leaves, does not keep it from what is before or after.
func TestFollowThroughAGap(t *testing.T) {
	for _, gap := range []int{5, 4, 3, 2, 1, 0} { // of the files 0 to 5, of which 0 is the newest
		t.Run(fmt.Sprint(gap), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "log")
			var got []string
			r := &logReader{path: path, o: engine.LogOptions{Stdout: true}, each: func(l engine.LogLine) error {
				got = append(got, strings.TrimSpace(string(l.Line)))
				return nil
			}}
			defer r.close()
			write := func(number, line int) {
				text := fmt.Sprintf(`{"log":"%d\n","stream":"stdout","time":"2026-01-01T00:00:00Z"}`+"\n", line)
				if err := os.WriteFile(r.name(number), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			advance := func(want string) {
				t.Helper()
				if err := r.advance(t.Context()); err != nil {
					t.Fatal(err)
				}
				if s := strings.Join(got, " "); s != want {
					t.Fatalf("read %q; want %q", s, want)
				}
			}
			write(0, 0)
			advance("0")
			for i := 5; i >= 1; i-- { // of five files that came since, the rotation has renamed those up to the gap
				at := 5 - i
				if at >= gap {
					at++
				}
				if i == 5 {
					if err := os.Rename(path, r.name(6)); err != nil {
						t.Fatal(err)
					}
				}
				write(at, i)
			}
			advance("0 1 2 3 4 5")
			if gap == 0 {
				write(0, 6)
				advance("0 1 2 3 4 5 6")
			}
			var all []string
			again := &logReader{path: path, o: r.o, each: func(l engine.LogLine) error {
				all = append(all, strings.TrimSpace(string(l.Line)))
				return nil
			}}
			defer again.close()
			if err := again.advance(t.Context()); err != nil || strings.Join(all, " ") != strings.Join(got, " ") {
				t.Errorf("from the beginning: %q, %v", all, err)
			}
		})
	}
}

// A follower beside a writer that turns its log over with every line misses none and reads none twice.
func TestFollowARushOfRotations(t *testing.T) {
	const lines = 300
	path := filepath.Join(t.TempDir(), "log")
	w, err := shimdata.OpenLog(shimdata.Target{Log: path, MaxSize: 1, MaxFile: lines + 1})
	if err != nil {
		t.Fatal(err)
	}
	wrote := make(chan error, 1)
	go func() {
		in, out := io.Pipe()
		copied := make(chan error, 1)
		go func() { copied <- w.Copy("stdout", in) }()
		for i := range lines {
			fmt.Fprintln(out, i)
		}
		out.Close()
		wrote <- errors.Join(<-copied, w.Close())
	}()
	n := 0
	r := &logReader{path: path, o: engine.LogOptions{Stdout: true}, each: func(l engine.LogLine) error {
		if s := strings.TrimSpace(string(l.Line)); s != fmt.Sprint(n) {
			return fmt.Errorf("read %s; want %d", s, n)
		}
		n++
		return nil
	}}
	defer r.close()
	for over := false; !over; {
		select {
		case err := <-wrote:
			if err != nil {
				t.Fatal(err)
			}
			over = true
		default:
		}
		if err := r.advance(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if n != lines {
		t.Errorf("read %d lines; want %d", n, lines)
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
