package escape

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func TestParse(t *testing.T) {
	for in, want := range map[string]string{
		"": "\x10\x11", "ctrl-p,ctrl-q": "\x10\x11", "a": "a", "a,b,c": "abc", "ctrl-A,Z": "\x01Z", "ctrl-@": "\x00",
		"ctrl-[,ctrl-\\,ctrl-],ctrl-^,ctrl-_": "\x1b\x1c\x1d\x1e\x1f",
	} {
		if got, err := Parse(in); err != nil || string(got) != want {
			t.Errorf("Parse(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
	for _, in := range []string{",", "ab", "ctrl-", "ctrl-1", "ctrl-aa", "a,", "é"} {
		if got, err := Parse(in); err == nil {
			t.Errorf("Parse(%q) = %q", in, got)
		}
	}
}

func TestReader(t *testing.T) {
	for _, c := range []struct {
		name, keys, in, out string
		detached            bool
	}{
		{"nothing special", "\x10\x11", "hello", "hello", false},
		{"the keys", "\x10\x11", "one\x10\x11two", "one", true},
		{"a beginning, then something else", "\x10\x11", "a\x10b", "a\x10b", false},
		{"a beginning at the end", "\x10\x11", "a\x10", "a\x10", false},
		{"the first key twice", "\x10\x11", "\x10\x10\x11", "\x10", true},
		{"a beginning within a beginning", "aab", "aaab", "a", true},
		{"a long overlap", "abab!", "ababab!x", "ab", true},
		{"one key", "q", "xq", "x", true},
		{"no keys", "", "xq", "xq", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			for name, in := range map[string]io.Reader{"at once": strings.NewReader(c.in), "byte by byte": iotest.OneByteReader(strings.NewReader(c.in))} {
				var out bytes.Buffer
				_, err := io.Copy(&out, NewReader(in, []byte(c.keys)))
				if out.String() != c.out || errors.Is(err, ErrDetached) != c.detached || err != nil && !c.detached {
					t.Errorf("%s: %q, %v; want %q, detached %v", name, out.String(), err, c.out, c.detached)
				}
			}
		})
	}
}

// FuzzReader compares with looking for the keys in the whole.
func FuzzReader(f *testing.F) {
	f.Add([]byte("a\x10\x11b"), []byte("\x10\x11"))
	f.Add([]byte("aaab"), []byte("aab"))
	f.Fuzz(func(t *testing.T, in, keys []byte) {
		want, _, found := bytes.Cut(in, keys)
		if len(keys) == 0 {
			want, found = in, false
		}
		var out bytes.Buffer
		_, err := io.Copy(&out, NewReader(iotest.OneByteReader(bytes.NewReader(in)), keys))
		if !bytes.Equal(out.Bytes(), want) || errors.Is(err, ErrDetached) != found {
			t.Errorf("%q in %q: %q, %v; want %q, %v", keys, in, out.Bytes(), err, want, found)
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add("ctrl-p,ctrl-q")
	f.Fuzz(func(t *testing.T, s string) {
		if keys, err := Parse(s); err == nil && len(keys) == 0 {
			t.Errorf("Parse(%q) gave no keys", s)
		}
	})
}
