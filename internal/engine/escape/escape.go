// Package escape finds detach keys in what a user types at a container's terminal.
//
// It decides the notation of key sequences, which is Docker's (letters, and ctrl- with a letter or one of @ [ \ ] ^ _,
// separated by commas), and which bytes reach the container. It owns nothing.
package escape

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Default is the sequence that an empty one stands for.
const Default = "ctrl-p,ctrl-q"

// ErrDetached is what a Reader returns after the keys.
var ErrDetached = errors.New("read escape sequence")

// Parse reads a key sequence; "" is Default.
func Parse(keys string) ([]byte, error) {
	if keys == "" {
		keys = Default
	}
	var out []byte
	for key := range strings.SplitSeq(keys, ",") {
		name, ctrl := strings.CutPrefix(strings.ToLower(key), "ctrl-")
		switch {
		case !ctrl && len(key) == 1:
			out = append(out, key[0])
		case ctrl && len(name) == 1 && name[0] >= 'a' && name[0] <= 'z':
			out = append(out, name[0]-'a'+1)
		case ctrl && len(name) == 1 && strings.Contains(`[\]^_`, name):
			out = append(out, name[0]-'['+27)
		case ctrl && name == "@":
			out = append(out, 0)
		default:
			return nil, fmt.Errorf("unknown character: '%s'", key)
		}
	}
	return out, nil
}

// Reader passes on what r gives until it has given keys, and then ErrDetached. A beginning of the sequence is held back
// until it is clear that it is none.
type Reader struct {
	r       io.Reader
	keys    []byte
	matched int
	buf     []byte
	out     []byte // still to be passed on
	err     error  // after out
}

// NewReader reads from r. An empty sequence never matches.
func NewReader(r io.Reader, keys []byte) *Reader {
	return &Reader{r: r, keys: keys, buf: make([]byte, 32<<10)}
}

// Read implements io.Reader.
func (r *Reader) Read(p []byte) (int, error) {
	for len(r.out) == 0 {
		if r.err != nil {
			return 0, r.err
		}
		n, err := r.r.Read(r.buf)
		r.err = err
		r.scan(r.buf[:n])
		if err != nil && !errors.Is(r.err, ErrDetached) {
			r.out = append(r.out, r.keys[:r.matched]...)
			r.matched = 0
		}
	}
	n := copy(p, r.out)
	r.out = r.out[n:]
	return n, nil
}

func (r *Reader) scan(b []byte) {
	r.out = r.out[:0]
	if len(r.keys) == 0 {
		r.out = append(r.out, b...)
		return
	}
	for _, c := range b {
		// On a mismatch the longest end of what was held that still begins the sequence stays held.
		for r.matched > 0 && c != r.keys[r.matched] {
			held := r.keys[:r.matched]
			keep := r.matched - 1
			for keep > 0 && !bytes.HasSuffix(held, r.keys[:keep]) {
				keep--
			}
			r.out = append(r.out, held[:r.matched-keep]...)
			r.matched = keep
		}
		if c != r.keys[r.matched] {
			r.out = append(r.out, c)
			continue
		}
		if r.matched++; r.matched == len(r.keys) {
			r.err = ErrDetached
			r.matched = 0
			return
		}
	}
}
