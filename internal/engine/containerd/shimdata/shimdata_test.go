package shimdata

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func TestTargetRoundTrip(t *testing.T) {
	for name, want := range map[string]Target{
		"plain":   {Log: "/var/log/x.json", Exit: "/run/x", MaxFile: 1},
		"rotated": {Log: "/a b/ä?&#.json", Exit: "/e=1&f", MaxSize: 4096, MaxFile: 3},
		"no log":  {Exit: "/run/x", MaxFile: 1},
		"options": {Log: "/l", Exit: "/e", MaxFile: 5, MaxSize: 9, Compress: true, Buffer: 7, Attrs: json.RawMessage(`{"a":"b&c=d"}`)},
	} {
		got, ours, err := ParseTarget(want.URL())
		if d := cmp.Diff(want, got); d != "" || !ours || err != nil {
			t.Errorf("%s: %s: ours %v, %v (-want +got):\n%s", name, want.URL(), ours, err, d)
		}
	}
	for _, s := range []string{"jsonlog:///x", "jsonlog:///x?exit=/e&max-size=-1", "jsonlog:///x?exit=/e&max-size=x", "jsonlog:///x?exit=/e&max-file=0", "jsonlog:///x?exit=/e&buffer=-1", "jsonlog:///x?exit=/e&attrs={"} {
		if _, ours, err := ParseTarget(s); !ours || err == nil {
			t.Errorf("%s: ours %v, %v; want an error", s, ours, err)
		}
	}
	for _, s := range []string{"", "/path", "file:///x", "fifo:///x", "%"} {
		if _, ours, err := ParseTarget(s); ours || err != nil {
			t.Errorf("%s: ours %v, %v; want it left alone", s, ours, err)
		}
	}
}

func FuzzParseTarget(f *testing.F) {
	f.Add(Target{Log: "/l", Exit: "/e", MaxSize: 9, MaxFile: 2}.URL())
	f.Add("jsonlog:///x?exit=%zz")
	f.Fuzz(func(t *testing.T, s string) {
		got, ours, err := ParseTarget(s)
		if !ours || err != nil {
			return
		}
		if again, _, err := ParseTarget(got.URL()); err != nil || again.Exit != got.Exit || again.Log != got.Log || again.MaxSize != got.MaxSize {
			t.Errorf("%q is %+v, and that is %+v (%v)", s, got, again, err)
		}
	})
}

func TestExit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "exit.json")
	if _, err := ReadExit(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no record: %v", err)
	}
	want := Exit{Pid: 7, Code: 137, At: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), OOMKilled: true}
	for range 2 { // the second replaces the first
		if err := WriteExit(path, want); err != nil {
			t.Fatal(err)
		}
	}
	got, err := ReadExit(path)
	if d := cmp.Diff(want, got); d != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, d)
	}
	if left, _ := os.ReadDir(filepath.Dir(path)); len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadExit(path); err == nil {
		t.Error("half a record was read")
	}
}

func readLog(t *testing.T, path string) []Entry {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var all []Entry
	for line := range bytes.Lines(b) {
		var e Entry
		if err := json.Unmarshal(line, &e); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		all = append(all, e)
	}
	return all
}

func TestCopy(t *testing.T) {
	long := strings.Repeat("ä", maxChunk) // twice as many bytes, and cut in the middle of a letter
	for name, test := range map[string]struct {
		in   string
		want []string
	}{
		"nothing":          {"", nil},
		"lines":            {"a\nb\n", []string{"a\n", "b\n"}},
		"no newline":       {"a\nb", []string{"a\n", "b"}},
		"empty lines":      {"\n\n", []string{"\n", "\n"}},
		"quotes and marks": {"<\"&\x00\n", []string{"<\"&\x00\n"}},
		"long line":        {"x" + long + "\n", nil},
	} {
		for how, wrap := range map[string]func(io.Reader) io.Reader{"at once": func(r io.Reader) io.Reader { return r }, "byte by byte": iotest.OneByteReader} {
			path := filepath.Join(t.TempDir(), "sub", "log")
			w, err := OpenLog(Target{Log: path})
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(w.Copy("stdout", wrap(strings.NewReader(test.in))), w.Close()); err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, e := range readLog(t, path) {
				if e.Stream != "stdout" || time.Since(e.Time) > time.Minute || !utf8.ValidString(e.Log) || len(e.Log) > maxChunk+utf8.UTFMax {
					t.Errorf("%s, %s: entry %.80q of %d bytes, %s, %s", name, how, e.Log, len(e.Log), e.Stream, e.Time)
				}
				got = append(got, e.Log)
			}
			if strings.Join(got, "") != test.in || test.want != nil && !cmp.Equal(test.want, got) {
				t.Errorf("%s, %s: %.200q; want %.200q", name, how, got, test.want)
			}
		}
	}
}

func TestRotation(t *testing.T) {
	for _, files := range []int{1, 2, 3} {
		dir := t.TempDir()
		w, err := OpenLog(Target{Log: filepath.Join(dir, "log"), MaxSize: 300, MaxFile: files})
		if err != nil {
			t.Fatal(err)
		}
		var in strings.Builder
		for i := range 60 {
			in.WriteString(strings.Repeat("x", i%20) + "\n")
		}
		if err := errors.Join(w.Copy("stderr", iotest.OneByteReader(strings.NewReader(in.String()))), w.Close()); err != nil {
			t.Fatal(err)
		}
		found, err := os.ReadDir(dir)
		if err != nil || len(found) != files {
			t.Fatalf("%d files, %v; want %d", len(found), err, files)
		}
		var kept strings.Builder
		for _, name := range []string{"log.2", "log.1", "log"}[3-files:] {
			if st, err := os.Stat(filepath.Join(dir, name)); err != nil || st.Size() > 300 {
				t.Errorf("%s: %v, %v", name, st, err)
			}
			for _, e := range readLog(t, filepath.Join(dir, name)) {
				kept.WriteString(e.Log)
			}
		}
		if !strings.HasSuffix(in.String(), kept.String()) || kept.Len() == 0 {
			t.Errorf("%d files hold %q, which is not the end of what was written", files, kept.String())
		}
	}
}

// Files that are full are compressed, keep their identity, and are renamed and dropped as the others are.
func TestCompression(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "log")
	w, err := OpenLog(Target{Log: path, MaxSize: 300, MaxFile: 3, Compress: true, Attrs: json.RawMessage(`{"tag":"x"}`)})
	if err != nil {
		t.Fatal(err)
	}
	first, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	id, err := IdentityOf(first)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Copy("stdout", iotest.OneByteReader(strings.NewReader("one\ntwo\nthree\nfour\n"))); err != nil {
		t.Fatal(err)
	}
	w.compressing.Wait()
	zipped := func(name string) (*gzip.Reader, string) {
		t.Helper()
		f, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		z, err := gzip.NewReader(f)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(z)
		if err != nil {
			t.Fatal(err)
		}
		return z, string(b)
	}
	z, text := zipped("log.1.gz")
	if Identity(z.Comment) != id || !strings.Contains(text, `{"log":"one\n","stream":"stdout","attrs":{"tag":"x"},"time":"`) {
		t.Errorf("log.1.gz is %q, %s; want %q", z.Comment, text, id)
	}
	var in strings.Builder
	for range 40 {
		in.WriteString("more and more\n")
	}
	if err := errors.Join(w.Copy("stdout", iotest.OneByteReader(strings.NewReader(in.String()))), w.Close()); err != nil {
		t.Fatal(err)
	}
	found, err := filepath.Glob(filepath.Join(dir, "*"))
	want := []string{path, path + ".1.gz", path + ".2.gz"}
	if d := cmp.Diff(want, found); d != "" || err != nil {
		t.Errorf("files (-want +got):\n%s %v", d, err)
	}
}

// A disk that takes nothing holds up nobody who said so, and costs lines, not order.
func TestBuffer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	w, err := OpenLog(Target{Log: path, Buffer: 4096})
	if err != nil {
		t.Fatal(err)
	}
	w.mu.Lock() // the disk hangs
	var in strings.Builder
	for i := range 10000 {
		fmt.Fprintln(&in, i)
	}
	if err := w.Copy("stdout", iotest.OneByteReader(strings.NewReader(in.String()))); err != nil {
		t.Fatal(err)
	}
	w.mu.Unlock()
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	got := readLog(t, path)
	if len(got) == 0 || len(got) > 200 {
		t.Fatalf("%d entries were kept", len(got))
	}
	last := -1
	for _, e := range got {
		n, err := strconv.Atoi(strings.TrimSpace(e.Log))
		if err != nil || n <= last {
			t.Fatalf("%q follows %d, %v", e.Log, last, err)
		}
		last = n
	}
}
